//! What is deployed: staged, or refused with what is wrong; and nothing outside of its directory.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::release::fuzzing::archive(bytes));
