//! The arguments of the loader: what is understood is written down the same again.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::exec::fuzzing::arguments(bytes));
