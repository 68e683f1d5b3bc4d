//! A message with connections on their way to the next front.

#![no_main]

use std::os::fd::OwnedFd;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let fds = std::iter::repeat_with(null).take((input.0 % 4).into());
    gapless::front::fuzzing::unpack(input.1.to_vec(), fds.collect());
});
