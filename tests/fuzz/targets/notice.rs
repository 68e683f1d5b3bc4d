//! What an app says to its NOTIFY_SOCKET.

#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| gapless::keeper::fuzzing::notice(datagram));
