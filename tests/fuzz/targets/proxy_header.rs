//! What a load balancer says before the first byte of HTTP.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gapless::front::fuzzing::proxy_header(bytes));
