//! What the fuzzer of gapless.toml calls; see tests/fuzz.

use super::load::parse;
use super::{ConfigError, ConfigSource};

/// Reads `text` as the file. The configuration that comes out is kept to itself: only the way there
/// is of interest, and that what is wrong can be shown.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(text: &str) -> Result<(), ConfigError> {
    parse(text, &ConfigSource::default()).map(drop)
}
