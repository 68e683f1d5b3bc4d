//! The bytes of a WebSocket, cut into two pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    gapless::front::fuzzing::frames(input.1, input.0.into());
});
