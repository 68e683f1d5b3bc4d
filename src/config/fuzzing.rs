//! What the fuzzer of gapless.toml calls; see tests/fuzz.

use super::ConfigSource;
use super::load::parse;

/// gapless.toml: read, or refused with problems that can be shown.
///
/// # Panics
/// When they cannot.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Err(error) = parse(text, &ConfigSource::default()) {
        assert!(!format!("{error:?}").is_empty(), "nothing is shown");
    }
}

#[cfg(test)]
mod tests {
    use crate::replay::corpus;

    #[test]
    fn what_was_found_stays_found() {
        corpus("config", super::config);
    }
}
