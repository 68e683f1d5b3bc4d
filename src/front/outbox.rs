//! What the front owes the keeper. Pure: it remembers what to say, not how.
//!
//! A full link delays words and never loses one: what is owed stays owed until it was sent, and a
//! report is made when it is sent, so that any number of reasons for one becomes one report.

use crate::link::{FromFront, Report};
use std::collections::VecDeque;

/// What one message will say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ready,
    Acknowledged(u64),
    Report,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    owes_ready: bool,
    /// Applied by every lane, in order. Grows only by what the keeper sends and does not read.
    acknowledged: VecDeque<u64>,
    owes_report: bool,
}

impl Outbox {
    pub(super) fn owe_ready(&mut self) {
        self.owes_ready = true;
    }

    pub(super) fn owe_acknowledged(&mut self, seq: u64) {
        self.acknowledged.push_back(seq);
    }

    pub(super) fn owe_report(&mut self) {
        self.owes_report = true;
    }

    /// The next word, if any. An acknowledgement goes before the report that shows its effect.
    fn next(&self) -> Option<Word> {
        if self.owes_ready {
            return Some(Word::Ready);
        }
        if let Some(&seq) = self.acknowledged.front() {
            return Some(Word::Acknowledged(seq));
        }
        self.owes_report.then_some(Word::Report)
    }

    /// The next message, if any; `report` makes the report of this moment.
    pub(super) fn message(&self, report: impl FnOnce() -> Report) -> Option<FromFront> {
        Some(match self.next()? {
            Word::Ready => FromFront::Ready,
            Word::Acknowledged(seq) => FromFront::Acknowledged { seq },
            Word::Report => FromFront::Report(report()),
        })
    }

    /// `message` was sent: it is not owed any more.
    pub(super) fn sent(&mut self, message: &FromFront) {
        match message {
            FromFront::Ready => self.owes_ready = false,
            FromFront::Acknowledged { seq } => self.acknowledged.retain(|owed| owed != seq),
            FromFront::Report(_) => self.owes_report = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_out_in_order_and_once() {
        let mut outbox = Outbox::default();
        outbox.owe_report();
        outbox.owe_acknowledged(3);
        outbox.owe_acknowledged(4);
        outbox.owe_ready();
        let mut said = Vec::new();
        while let Some(message) = outbox.message(Report::default) {
            outbox.sent(&message);
            said.push(message);
        }
        let expected = [
            FromFront::Ready,
            FromFront::Acknowledged { seq: 3 },
            FromFront::Acknowledged { seq: 4 },
            FromFront::Report(Report::default()),
        ];
        assert_eq!(said, expected);
    }
}
