//! A level of our log, or directives as in RUST_LOG.
//!
//! A level is no setting of a front. A front is born with what it does to requests; the level changes
//! nothing there. So keeper and fronts take a new level while they serve (reload, or `gapless log-level`
//! until the next reload). What the access log holds is a setting: a change brings a new front.

use tracing_subscriber::EnvFilter;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What would be a level.
pub(super) const CHOICES: &str = "write off, error, warn, info, debug or trace; parts can differ";

/// Text that is no level.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// A word that is none.
    #[error("{0:?} is no level: {CHOICES}, as in info,gapless::front=debug")]
    Word(String),
    /// What stands behind a `=`, or around it.
    #[error("{0:?} cannot be read: {CHOICES}, as in info,gapless::front=debug")]
    Directive(String, #[source] tracing_subscriber::filter::ParseError),
}

impl LevelError {
    /// The level that is probably meant.
    pub(super) fn proposal(&self) -> Option<&'static str> {
        match self {
            Self::Word(word) => LEVELS
                .into_iter()
                .find(|level| strsim::damerau_levenshtein(word, level) <= 2),
            Self::Directive(..) => None,
        }
    }

    /// What is wrong with it.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Word(word) => format!("{word:?} is no level"),
            Self::Directive(_, error) => error.to_string(),
        }
    }
}

/// The level, if it is one. `EnvFilter` takes any single word for the name of a module at level
/// trace, so `inof` would log everything of nothing.
///
/// # Errors
/// [`LevelError`]
pub fn parse_level(text: &str) -> Result<String, LevelError> {
    let odd = text
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains('=') && !LEVELS.contains(part));
    if let Some(odd) = odd {
        return Err(LevelError::Word(odd.to_owned()));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(LevelError::Directive(text.to_owned(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_not_taken_for_a_module() {
        assert_eq!(parse_level("debug").unwrap(), "debug");
        assert!(parse_level("warn,gapless::front=debug").is_ok());
        let error = parse_level("inof").unwrap_err();
        assert_eq!(error.proposal(), Some("info"));
        assert!(error.to_string().contains("gapless::front=debug"));
        assert!(parse_level("gapless=loud").is_err());
        assert!(parse_level("").is_err());
    }
}
