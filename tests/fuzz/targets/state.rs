//! The kept state, whatever became of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::keeper::fuzzing::state(bytes));
