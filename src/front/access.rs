//! The access log: an entry for a request, written once, when the request has ended.
//!
//! As fields to the journal, or as lines to stdout where no journal listens. A lane never waits for
//! either: what is not taken at once is dropped and counted. What could be secret is left out:
//! bodies, cookies, `Authorization`, and queries unless they were asked for.
//!
//! Failures are logged by default: what a worker was asked for and the client did not get. A line for each
//! request costs about half as much CPU as the request (17 µs without, 24 µs with, and then journald stores
//! it), and buries the lifecycle; no line at all hides what somebody looks for. Entries go to journald past
//! our other log, by a socket that never blocks: a lane that waits for a log is a lane that serves nobody.
//! What is not taken is counted (`gapless_access_log_dropped_total`), and the keeper says so once a minute.

mod account;
mod lines;
mod shape;

pub(super) use account::Account;
pub(super) use lines::Lines;

use super::proxy::Client;
use crate::config::{AccessConfig, AccessWanted};
use crate::systemd::entries::Entries;
use crate::systemd::journal;
use hyper::HeaderMap;
use shape::Shape;
use std::cell::Cell;
use std::io;

/// Where entries go, and which.
#[derive(Debug)]
pub(super) struct AccessLog {
    config: AccessConfig,
    sink: Sink,
    /// What the last requests left over for the sample, in millionths of an entry.
    share: Cell<u32>,
    dropped: Cell<u64>,
}

#[derive(Debug)]
enum Sink {
    Journal { entries: Entries, name: String },
    Lines(Lines),
    Nowhere,
}

/// One in a million, times a million.
const WHOLE: u32 = 1_000_000;

impl AccessLog {
    /// Of one lane; `lines` is there where no journal listens, `name` is the instance.
    pub(super) fn new(config: AccessConfig, lines: Option<Lines>, name: &str) -> Self {
        let sink = match (config.wanted, lines) {
            (AccessWanted::Off, _) => Sink::Nowhere,
            (AccessWanted::Errors | AccessWanted::Share { .. }, Some(lines)) => Sink::Lines(lines),
            (AccessWanted::Errors | AccessWanted::Share { .. }, None) => to_journal(name),
        };
        Self {
            config,
            sink,
            share: Cell::new(0),
            dropped: Cell::new(0),
        }
    }

    /// Whether requests have to be remembered for it.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.sink, Sink::Nowhere)
    }

    /// Entries that nobody took.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Even shares, without chance: every hundredth of "1%".
    fn is_in_sample(&self) -> bool {
        let AccessWanted::Share { per_million } = self.config.wanted else {
            return false;
        };
        let share = self.share.get().saturating_add(per_million);
        self.share.set(share % WHOLE);
        share >= WHOLE
    }

    /// A head that nobody can read, so that there is no request to remember: who sent it, and what
    /// was answered.
    pub(super) fn refused_head(&self, client: &Client, outcome: &'static str) {
        if self.is_on() && self.is_in_sample() {
            let from = client.origin.claim(&HeaderMap::new()).client(&[]);
            self.write(&Shape::of_refused_head(&client.progress, from, outcome));
        }
    }

    fn write(&self, shape: &Shape<'_>) {
        let is_taken = match &self.sink {
            Sink::Nowhere => true,
            Sink::Journal { entries, name } => entries.send(&shape.entry(name)).is_ok(),
            Sink::Lines(lines) => lines.put(shape.line(self.config.format)),
        };
        if !is_taken {
            self.dropped.set(self.dropped.get().saturating_add(1));
        }
    }
}

fn to_journal(name: &str) -> Sink {
    match Entries::new() {
        Ok(entries) => Sink::Journal {
            entries,
            name: name.to_owned(),
        },
        Err(error) => {
            tracing::error!(%error, "no access log of a lane, continuing: {error}");
            Sink::Nowhere
        }
    }
}

/// The writer of lines, where the journal does not take entries.
///
/// # Errors
/// When its thread cannot be started.
pub(super) fn lines_for(config: AccessConfig) -> io::Result<Option<(Lines, lines::Writer)>> {
    if config.wanted == AccessWanted::Off || journal::is_connected() {
        return Ok(None);
    }
    lines::start(io::stdout()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccessFormat;

    fn log(wanted: &str) -> AccessLog {
        let config = AccessConfig {
            wanted: AccessWanted::parse(wanted).unwrap(),
            has_query: false,
            format: AccessFormat::Json,
        };
        AccessLog::new(config, None, "test")
    }

    #[test]
    fn a_share_is_even() {
        let log = log("30%");
        let sample: Vec<bool> = (0..20).map(|_| log.is_in_sample()).collect();
        assert_eq!(sample.iter().filter(|is_in| **is_in).count(), 6);
        let longest = sample.split(|is_in| *is_in).map(<[bool]>::len).max();
        assert!(longest <= Some(3), "{sample:?}");
    }

    #[test]
    fn everything_and_nothing_are_shares_too() {
        assert!((0..10).all(|_| log("all").is_in_sample()));
        assert!(!(0..10).any(|_| log("errors").is_in_sample()));
        assert!(!log("off").is_on() && log("errors").is_on());
    }
}
