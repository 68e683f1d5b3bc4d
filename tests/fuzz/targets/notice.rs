//! What an app says to its NOTIFY_SOCKET.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::keeper::fuzzing::notice(bytes));
