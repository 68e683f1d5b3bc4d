//! The last lines of a worker, for whoever must say why it failed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// As many as fit on a screen beside the cause.
const LINES_MAX: usize = 20;

/// Of a line: enough to understand it, and 20 of them are no burden.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Questions that may wait; beyond that, one is answered with "not settled".
const QUESTIONS_MAX: usize = 16;

/// A question: answered when everything written before it has been read.
pub(super) type Question = oneshot::Sender<()>;

/// The last lines of one worker; clones share them.
#[derive(Clone, Debug)]
pub struct Tail {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

/// The writing end, for the pump.
#[derive(Debug)]
pub(super) struct Feed {
    shared: Arc<Shared>,
    pub(super) questions: mpsc::Receiver<Question>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<VecDeque<String>>,
}

pub(super) fn tail() -> (Tail, Feed) {
    let shared = Arc::new(Shared::default());
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let tail = Tail {
        shared: Arc::clone(&shared),
        questions,
    };
    let feed = Feed {
        shared,
        questions: asked,
    };
    (tail, feed)
}

impl Tail {
    /// The last 20 lines at most, oldest first.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.shared.lines.lock();
        let lines = lines.unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// Waits until everything that the worker wrote before this call has been read (a last line
    /// without its line break included); false when that took longer than `deadline`.
    pub async fn settled(&self, deadline: Duration) -> bool {
        let (question, answer) = oneshot::channel();
        // Closed: the end of the pipe was read, so there is nothing left to come.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.questions.try_send(question) {
            return false;
        }
        // A dropped question, too, means that the pump has read to the end.
        tokio::time::timeout(deadline, answer).await.is_ok()
    }
}

impl Feed {
    pub(super) fn push(&self, line: &str) {
        let lines = self.shared.lines.lock();
        let mut lines = lines.unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        let end = line.floor_char_boundary(LINE_BYTES_MAX);
        let cut = line.get(..end).filter(|_| end < line.len());
        lines.push_back(cut.map_or_else(|| line.to_owned(), |part| format!("{part}…")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_lines_are_kept() {
        let (tail, feed) = tail();
        for number in 0..50 {
            feed.push(&number.to_string());
        }
        assert_eq!(tail.lines().len(), LINES_MAX);
        assert_eq!(tail.lines().last().unwrap(), "49");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pump_that_does_not_answer_in_time_is_not_settled() {
        let (tail, feed) = tail();
        assert!(!tail.settled(Duration::from_secs(1)).await);
        drop(feed);
        assert!(tail.settled(Duration::from_secs(1)).await);
    }
}
