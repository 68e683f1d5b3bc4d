//! The only place that writes to standard output and standard error.
//!
//! Whoever reads our output may go away (`gapless status | head`), and what was done stays done. That an answer
//! could not be written otherwise, as on a full disk, is told and fails a command that does nothing else.
//! Colours go where they are wanted: terminals, unless NO_COLOR says otherwise.

use crate::config::Look;
use anstream::{AutoStream, ColorChoice};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that was to be said is not where it should be.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Writes a text and ends its line, on standard output.
pub(super) fn say(text: &str) {
    said(try_say(text));
}

/// What came of writing to standard output: that it failed is told once, unless the reader left.
pub(super) fn said(result: io::Result<()>) {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::BrokenPipe
        && !IS_LOST.swap(true, Ordering::Relaxed)
    {
        complain(&format!(
            "gapless: cannot write to standard output: {error}"
        ));
    }
}

/// See [`said`].
pub(super) fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// The same, for who goes on as long as somebody reads.
pub(super) fn try_say(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush())
}

/// Somebody looks on, and what was written can be written over.
pub(super) fn is_screen() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && !is_dumb
}

/// Writes a text over what is on the screen. Where colours are not wanted, the cursor moves all the
/// same.
pub(super) fn redraw(text: &str) -> io::Result<()> {
    let text = match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => anstream::adapter::strip_str(text).to_string(),
        ColorChoice::Auto | ColorChoice::AlwaysAnsi | ColorChoice::Always => text.to_owned(),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(frame(&text).as_bytes())?;
    stdout.flush()
}

/// Home; every line with what is right of it cleared; the rest cleared. So nothing flickers.
fn frame(text: &str) -> String {
    let lines = text.replace('\n', "\x1b[K\n");
    format!("\x1b[H{lines}\x1b[K\n\x1b[J")
}

/// Columns of the screen.
pub(super) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 80 } else { columns }
}

/// Replaces what stands on the line of the cursor, which stays there.
pub(super) fn draw_line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(
        stdout,
        "\r{text}\x1b[K{}",
        if text.is_empty() { "" } else { "\r" }
    )?;
    stdout.flush()
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
    fn a_frame_leaves_nothing_of_the_one_before() {
        assert_eq!(frame("a\nb"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn an_apps_line_cannot_move_the_cursor() {
        assert_eq!(
            printable("\u{1b}[31mred\u{1b}[0m\tx\u{9b}2J\r\n"),
            "red x\u{fffd}2J"
        );
    }
}
