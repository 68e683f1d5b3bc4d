//! gapless.toml: read, or refused with problems that can be shown.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::config::fuzzing::config(bytes));
