//! What was counted, and the line of JSON it becomes.

use crate::connection::Broken;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The line of JSON; times in microseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    seconds: f64,
    requests: usize,
    lost: u64,
    losses: BTreeMap<String, u64>,
    /// Connections that the server had closed when they were to be used again; nothing is lost by it.
    reopened: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// The longest time without any answer.
    stall_us: u64,
}

/// See the module.
pub struct Tally {
    began: Instant,
    last_answer: Instant,
    stall: Duration,
    took_us: Vec<u64>,
    losses: BTreeMap<String, u64>,
    pub reopened: u64,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            last_answer: Instant::now(),
            stall: Duration::ZERO,
            took_us: Vec::new(),
            losses: BTreeMap::new(),
            reopened: 0,
        }
    }

    pub fn begin(&mut self) {
        *self = Self::new();
    }

    /// A whole answer to what was, or should have been, asked at `since`.
    pub fn answered(&mut self, since: Instant) {
        let now = Instant::now();
        self.stall = self.stall.max(now - self.last_answer);
        self.last_answer = now;
        self.took_us.push(microseconds(now - since));
    }

    pub fn lost(&mut self, why: &Broken) {
        *self.losses.entry(why.to_string()).or_default() += 1;
    }

    pub fn lost_in_all(&self) -> u64 {
        self.losses.values().sum()
    }

    pub fn report(&self) -> Report {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        let of_ten_thousand = |share: usize| {
            let at = (sorted.len() * share / 10_000).min(sorted.len().saturating_sub(1));
            sorted.get(at).copied().unwrap_or(0)
        };
        Report {
            seconds: self.began.elapsed().as_secs_f64(),
            requests: sorted.len(),
            lost: self.lost_in_all(),
            losses: self.losses.clone(),
            reopened: self.reopened,
            p50_us: of_ten_thousand(5000),
            p99_us: of_ten_thousand(9900),
            p999_us: of_ten_thousand(9990),
            max_us: of_ten_thousand(10_000),
            stall_us: microseconds(self.stall),
        }
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
