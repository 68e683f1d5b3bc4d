//! What a client says about itself; the first byte says whether it is trusted.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::front::fuzzing::forwarded(bytes));
