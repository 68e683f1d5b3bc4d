//! Where requests end, cut into two pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| {
    gapless::front::fuzzing::requests(input.1, input.0.into());
});
