//! The bytes of a WebSocket, cut into two pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::front::fuzzing::frames(bytes));
