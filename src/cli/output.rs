//! The only place that writes to standard output and standard error.
//!
//! Never fails a command: who reads our output may go away (`gapless status | head`), and what was
//! done stays done. Colours go where they are wanted: terminals, unless NO_COLOR says otherwise.

use crate::config::Look;
use anstream::{AutoStream, ColorChoice};
use std::io::{self, Write};

/// Writes a text and ends its line, on standard output.
pub(super) fn say(text: &str) {
    let mut stdout = anstream::stdout().lock();
    tolerate(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// Writes a value as one line of JSON, on standard output.
pub(super) fn say_json<T: serde::Serialize>(value: &T) {
    match serde_json::to_string(value) {
        Ok(text) => say(&text),
        Err(error) => complain(&format!("gapless: cannot write JSON: {error}")),
    }
}

/// Writes a text and ends its line, on standard error.
pub(super) fn complain(text: &str) {
    tolerate(writeln!(anstream::stderr().lock(), "{text}"));
}

/// There is nobody left to tell about it.
pub(super) fn tolerate(result: io::Result<()>) {
    drop(result);
}

/// How errors are drawn on standard error.
pub(super) fn look() -> Look {
    match AutoStream::choice(&io::stderr()) {
        ColorChoice::Never => Look::Plain,
        ColorChoice::Auto | ColorChoice::AlwaysAnsi | ColorChoice::Always => Look::Drawn,
    }
}

/// A line of somebody else's, safe for a terminal: no escape sequences, no control characters.
pub(super) fn printable(line: &str) -> String {
    let stripped = anstream::adapter::strip_str(line).to_string();
    let visible = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    stripped.trim_end().chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_line_cannot_move_the_cursor() {
        assert_eq!(
            printable("\u{1b}[31mred\u{1b}[0m\tx\u{9b}2J\r\n"),
            "red x\u{fffd}2J"
        );
    }
}
