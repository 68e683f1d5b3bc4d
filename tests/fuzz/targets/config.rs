//! gapless.toml: read, or refused with problems that can be shown.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = gapless::config::fuzzing::read(text) {
        assert!(!format!("{error:?}").is_empty());
    }
});
