//! Counters of all fronts together, living and dead.

use super::death::Death;
use crate::api::{RequestTotals, ServedLive};
use crate::id::GenerationId;
use crate::link::{Counters, Histogram};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Cause of what was in flight on a front that died: no front counts it among its responses.
const FRONT_DIED: &str = "front_died";

/// Sums that only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Summed over fronts.
    pub counters: Counters,
    /// Unix time at which this began to count, in seconds.
    pub since_unix_seconds: u64,
    /// Workers respawned.
    pub respawns: u64,
    /// Fronts that ended though they were wanted.
    pub front_deaths: u64,
    /// Generations that went live.
    pub swaps: u64,
    /// Generations that failed to.
    pub failed_starts: u64,
    /// Those of `respawns` whose reason is known, by [`Death::word`](super::death::Death::word).
    #[serde(default)]
    pub respawns_by: BTreeMap<String, u64>,
    /// From the beginning of a generation until it was live.
    #[serde(default)]
    pub boot: Histogram,
    /// From the decision until every lane served from the new cell.
    #[serde(default)]
    pub swap: Histogram,
    /// From when a generation left the cell until its last request was over.
    #[serde(default)]
    pub drain: Histogram,
    /// The state could not be written down.
    #[serde(default)]
    pub state_failures: u64,
    /// Unix time of the last decision about a start or reload, in seconds; 0 for none.
    #[serde(default)]
    pub decided_unix_seconds: u64,
}

impl Totals {
    /// Nothing yet; counting from now.
    pub fn beginning() -> Self {
        Self {
            since_unix_seconds: unix_seconds(),
            ..Self::default()
        }
    }

    /// A worker was started again, because the one before met this end.
    pub fn respawned(&mut self, death: Death) {
        self.respawns += 1;
        *self.respawns_by.entry(death.word().into()).or_default() += 1;
    }

    /// A start or reload was decided.
    pub fn decided(&mut self) {
        self.decided_unix_seconds = unix_seconds();
    }

    /// Adds the counters of one front.
    pub fn add(&mut self, more: &Counters) {
        let sum = &mut self.counters;
        sum.connections_accepted += more.connections_accepted;
        sum.connections_inherited += more.connections_inherited;
        sum.held += more.held;
        sum.retries += more.retries;
        sum.tunnels_ended += more.tunnels_ended;
        sum.access_dropped += more.access_dropped;
        sum.duration_micros += more.duration_micros;
        sum.hold.add(&more.hold);
        for (sum, more) in sum.responses.iter_mut().zip(more.responses) {
            *sum += more;
        }
        if sum.duration_counts.len() < more.duration_counts.len() {
            sum.duration_counts.resize(more.duration_counts.len(), 0);
        }
        for (sum, more) in sum.duration_counts.iter_mut().zip(&more.duration_counts) {
            *sum += more;
        }
        for (cause, more) in &more.connections_refused {
            let sum = sum.connections_refused.entry(cause.clone());
            *sum.or_default() += more;
        }
        for (cause, more) in &more.refusals {
            *sum.refusals.entry(cause.clone()).or_default() += more;
        }
        for (cause, more) in &more.lost {
            *sum.lost.entry(cause.clone()).or_default() += more;
        }
    }

    /// Adds the counters of a front that is gone; what it had in flight is lost.
    pub fn bury(&mut self, last: &Counters, in_flight: u64) {
        self.add(last);
        if in_flight > 0 {
            *self.counters.lost.entry(FRONT_DIED.into()).or_default() += in_flight;
        }
    }

    /// For the status.
    pub fn requests(&self) -> RequestTotals {
        let died = self.counters.lost.get(FRONT_DIED).copied().unwrap_or(0);
        RequestTotals {
            total: self.counters.responses.iter().sum::<u64>() + died,
            lost: self.counters.lost.values().sum(),
            retries: self.counters.retries,
            held: self.counters.held,
            since_unix_seconds: self.since_unix_seconds,
        }
    }
}

impl Totals {
    /// Requests, and those of them that failed: answered with 5xx, or not to the end.
    pub fn served(&self) -> (u64, u64) {
        let unanswered = ["app_died_mid_response", FRONT_DIED]
            .into_iter()
            .filter_map(|cause| self.counters.lost.get(cause))
            .sum::<u64>();
        let [.., server_errors] = self.counters.responses;
        (
            self.requests().total,
            server_errors.saturating_add(unanswered),
        )
    }
}

/// What all fronts had served when a generation became live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// Which.
    pub generation: GenerationId,
    requests: u64,
    failed: u64,
}

impl Milestone {
    /// Now.
    pub fn set(generation: GenerationId, totals: &Totals) -> Self {
        let (requests, failed) = totals.served();
        Self {
            generation,
            requests,
            failed,
        }
    }

    /// What was served since.
    pub fn since(&self, totals: &Totals) -> ServedLive {
        let (requests, failed) = totals.served();
        ServedLive {
            generation: self.generation,
            requests: requests.saturating_sub(self.requests),
            failed: failed.saturating_sub(self.failed),
        }
    }
}

pub(super) fn unix_seconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}
