//! What the clients counted, and the one line of JSON it becomes.

use crate::kinds::Kind;
use gapless::verify::Broken;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Of how many losses the circumstances are told.
const LOSSES_TOLD: usize = 10;

/// The one line of JSON.
#[derive(Debug, Serialize)]
pub struct Report {
    pub seconds: f64,
    pub ok: u64,
    pub lost: u64,
    /// Requests that found no listening socket; also counted as lost.
    pub refused: u64,
    pub lost_by_kind: BTreeMap<Kind, u64>,
    /// The first few.
    pub losses: Vec<Loss>,
    /// Connections that the server closed though nothing was wrong.
    pub closed: u64,
    pub closed_by: BTreeMap<&'static str, u64>,
    pub connects: u64,
    pub idle: IdleCount,
    /// The longest that the beginning of an answer was late.
    pub stall: Stall,
    pub latency_ms: BTreeMap<Kind, Latency>,
    pub versions: BTreeMap<String, u64>,
    pub pids: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
pub struct Loss {
    /// Since the client began.
    pub at_ms: u128,
    pub kind: Kind,
    pub reason: String,
    /// Of the answer.
    pub bytes_seen: usize,
    /// Answers that this connection had before.
    pub answers: u64,
    pub connection_age_ms: u128,
}

#[derive(Debug, Default, Serialize)]
pub struct IdleCount {
    pub opened: u64,
    /// Of the one request at the end.
    pub answered: u64,
    pub closed: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Stall {
    pub ms: u128,
    pub at_ms: u128,
    pub kind: Option<Kind>,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// See the module.
pub struct Tally {
    began: Instant,
    ok: u64,
    refused: u64,
    lost_by_kind: BTreeMap<Kind, u64>,
    losses: Vec<Loss>,
    closed_by: BTreeMap<&'static str, u64>,
    pub connects: u64,
    pub idle: IdleCount,
    stall: Stall,
    latencies: BTreeMap<Kind, Vec<Duration>>,
    versions: BTreeMap<String, u64>,
    pids: BTreeSet<String>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            ok: 0,
            refused: 0,
            lost_by_kind: BTreeMap::new(),
            losses: Vec::new(),
            closed_by: BTreeMap::new(),
            connects: 0,
            idle: IdleCount::default(),
            stall: Stall::default(),
            latencies: BTreeMap::new(),
            versions: BTreeMap::new(),
            pids: BTreeSet::new(),
        }
    }

    /// A good answer: after `took`, its beginning `late` later than it had to be.
    pub fn ok(&mut self, kind: Kind, version: String, pid: String, took: Duration, late: Duration) {
        self.ok += 1;
        self.latencies.entry(kind).or_default().push(took);
        *self.versions.entry(version).or_default() += 1;
        if !pid.is_empty() {
            self.pids.insert(pid);
        }
        if late.as_millis() > self.stall.ms {
            let at_ms = self.began.elapsed().as_millis();
            self.stall = Stall {
                ms: late.as_millis(),
                at_ms,
                kind: Some(kind),
            };
        }
    }

    /// A request that was lost, on a connection opened at `opened` with `answers` before it.
    pub fn lost(
        &mut self,
        kind: Kind,
        why: &Broken,
        bytes_seen: usize,
        (opened, answers): (Instant, u64),
    ) {
        *self.lost_by_kind.entry(kind).or_default() += 1;
        if matches!(why, Broken::Connect(_)) {
            self.refused += 1;
        }
        if self.losses.len() < LOSSES_TOLD {
            self.losses.push(Loss {
                at_ms: self.began.elapsed().as_millis(),
                kind,
                reason: why.to_string(),
                bytes_seen,
                answers,
                connection_age_ms: opened.elapsed().as_millis(),
            });
        }
    }

    pub fn closed(&mut self, how: &'static str) {
        *self.closed_by.entry(how).or_default() += 1;
    }

    pub fn report(self) -> Report {
        Report {
            seconds: self.began.elapsed().as_secs_f64(),
            ok: self.ok,
            lost: self.lost_by_kind.values().sum(),
            refused: self.refused,
            lost_by_kind: self.lost_by_kind,
            losses: self.losses,
            closed: self.closed_by.values().sum(),
            closed_by: self.closed_by,
            connects: self.connects,
            idle: self.idle,
            stall: self.stall,
            latency_ms: self
                .latencies
                .into_iter()
                .map(|(kind, all)| (kind, spread(all)))
                .collect(),
            versions: self.versions,
            pids: self.pids,
        }
    }
}

fn spread(mut all: Vec<Duration>) -> Latency {
    all.sort_by_key(|took| Reverse(*took));
    let ms = |took: Option<&Duration>| took.map_or(0.0, |took| took.as_secs_f64() * 1000.0);
    Latency {
        count: all.len(),
        p50: ms(all.get(all.len() / 2)),
        p99: ms(all.get(all.len() / 100)),
        p999: ms(all.get(all.len() / 1000)),
        max: ms(all.first()),
    }
}
