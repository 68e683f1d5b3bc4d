//! A message with connections on their way to the next front.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::front::fuzzing::parcel(bytes));
