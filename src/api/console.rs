//! What is said of a console.

use serde::{Deserialize, Serialize};

/// The longest `TERM`.
const TERM_BYTES_MAX: usize = 64;

/// A line of the answer to `POST /console/NUMBER`: [`Began`](Self::Began) and, when that has become true, how it
/// ended; or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleStep {
    /// It has the terminal.
    Began,
    /// By exit(3), with this status.
    Exited {
        /// The status.
        code: i32,
    },
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
    },
    /// Nobody knows how it ended.
    Lost,
    /// No console was opened.
    Refused {
        /// Which kind of reason.
        reason: ConsoleRefusal,
        /// What there is to say of it; often nothing.
        detail: String,
    },
}

/// Why no console was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleRefusal {
    /// No worker runs.
    NothingLive,
    /// The release has no `[app] console`.
    NotConfigured,
    /// As many as there may be are open.
    TooMany,
    /// The terminal is none for this service.
    Terminal,
    /// No process could be started.
    Failed,
}

/// Whether a text can be the `TERM` of a console: nothing that a path, a shell or a URL has a meaning for.
pub fn is_term(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
    !text.is_empty() && text.len() <= TERM_BYTES_MAX && text.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_a_short_plain_word() {
        for term in ["xterm-256color", "screen.xterm", "eterm+a", &"x".repeat(64)] {
            assert!(is_term(term), "{term}");
        }
        for term in ["", "a b", "../x", "a&b", "x\u{1b}[", "ä", &"x".repeat(65)] {
            assert!(!is_term(term), "{term}");
        }
    }
}
