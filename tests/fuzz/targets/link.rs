//! Messages of the link, both ways: what is understood is understood the same again.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::link::fuzzing::link(bytes));
