//! The line of what is waited for, with its time, drawn by a thread until something has happened.

use crate::cli::output::{draw_line, width};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

/// What is over by then needs no line.
const EVERY: Duration = Duration::from_millis(100);

/// Dropped, the line is gone.
pub(super) struct Waiting {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    pub fn begin(what: String) -> Self {
        let began = Instant::now();
        let (stop, stopped) = channel::<()>();
        let draw = move || {
            let mut is_drawn = false;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                // Who closed the terminal will not see that it cannot be written to either.
                let line = line(&what, began.elapsed(), width());
                is_drawn |= draw_line(&line).is_ok();
            }
            if is_drawn {
                drop(draw_line(""));
            }
        };
        // Without a thread there is no line, and nothing is lost by that.
        let thread = std::thread::Builder::new().spawn(draw).ok();
        Self {
            stop: Some(stop),
            thread,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Never as wide as the screen: a line that wraps cannot be written over. On a narrow one the text
/// makes way for the time.
fn line(what: &str, elapsed: Duration, width: usize) -> String {
    let room = width.saturating_sub(1);
    let columns = room
        .saturating_sub(super::OTHER_COLUMNS)
        .min(super::TEXT_COLUMNS);
    let (what, columns) = (format!("{what} ..."), columns + super::STEP_COLUMNS + 1);
    let seconds = elapsed.as_secs_f64();
    let line = format!("  {what:<columns$.columns$} {seconds:>6.1} s");
    line.chars().take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_narrower_than_the_screen() {
        let wide = line("starting", Duration::from_millis(1234), 80);
        assert!(wide.starts_with("  starting ... "), "{wide}");
        assert!(wide.ends_with("   1.2 s"), "{wide}");
        for width in [0, 1, 10, 30, 79, 80, 300] {
            let line = line("waiting until it is healthy", Duration::from_secs(9), width);
            assert!(line.chars().count() < width.max(1), "{width}: {line}");
        }
        for width in 22..120 {
            let line = line("waiting until it is healthy", Duration::from_secs(9), width);
            assert!(line.ends_with("   9.0 s"), "{width}: {line}");
        }
    }
}
