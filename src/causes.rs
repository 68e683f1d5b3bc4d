//! An error in words, with all that caused it.

use std::error::Error;

/// In one line: `cannot start a front: cannot watch process 7: out of fds`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
