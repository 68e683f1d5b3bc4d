//! Counters of all fronts together, living and dead.

use super::death::Death;
use crate::api::{RequestTotals, ServedLive};
use crate::id::GenerationId;
use crate::link::{Counters, Histogram, Served};
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
        for (generation, served) in &more.served {
            sum.add_served(*generation, *served);
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
    /// What the one served that was live before this generation.
    pub fn served_before(&self, generation: GenerationId) -> Option<ServedLive> {
        let mut earlier = self.counters.served.range(..generation);
        earlier.next_back().map(|(id, _)| self.served_by(*id))
    }

    /// What this generation served.
    pub fn served_by(&self, generation: GenerationId) -> ServedLive {
        let served = self.counters.served.get(&generation);
        let Served { requests, failed } = served.copied().unwrap_or_default();
        ServedLive {
            generation,
            requests,
            failed,
        }
    }
}

/// A generation became live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// Which.
    pub generation: GenerationId,
    /// All that was served until then, and what of it failed: gapless 0.1.0 reads it when an upgrade is
    /// taken back.
    requests: u64,
    failed: u64,
}

impl Milestone {
    /// Now.
    pub fn set(generation: GenerationId, totals: &Totals) -> Self {
        let unanswered = ["app_died_mid_response", FRONT_DIED]
            .into_iter()
            .filter_map(|cause| totals.counters.lost.get(cause))
            .sum::<u64>();
        let [.., server_errors] = totals.counters.responses;
        Self {
            generation,
            requests: totals.requests().total,
            failed: server_errors.saturating_add(unanswered),
        }
    }
}

pub(super) fn unix_seconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: [GenerationId; 3] = [GenerationId(1), GenerationId(2), GenerationId(3)];

    fn counted(generation: GenerationId, requests: u64, failed: u64) -> Counters {
        let mut counters = Counters::default();
        counters.add_served(generation, Served { requests, failed });
        counters
    }

    #[test]
    fn each_generation_has_what_it_served_on_all_fronts_and_the_one_before_is_the_one_before() {
        let mut totals = Totals::default();
        totals.add(&counted(G[0], 10, 10));
        totals.bury(&counted(G[0], 5, 5), 0);
        totals.add(&counted(G[1], 0, 0));
        totals.add(&counted(G[2], 4, 1));
        let live = totals.served_by(G[2]);
        assert_eq!((live.requests, live.failed), (4, 1));
        let before = totals.served_before(G[2]).unwrap();
        assert_eq!((before.generation, before.failed), (G[1], 0));
        let first = totals.served_before(G[1]).unwrap();
        assert_eq!((first.requests, first.failed), (15, 15));
        assert_eq!(totals.served_before(G[0]), None);
    }

    #[test]
    fn what_an_older_front_and_an_older_state_say_is_read() {
        let mut told = serde_json::to_value(Counters::default()).unwrap();
        told.as_object_mut().unwrap().remove("served").unwrap();
        let read: Counters = serde_json::from_value(told).unwrap();
        assert_eq!(read, Counters::default());
    }

    #[test]
    fn a_front_of_many_generations_forgets_the_oldest() {
        let mut counters = Counters::default();
        for id in 1..=100 {
            counters.add_served(GenerationId(id), Served::default());
        }
        assert_eq!(counters.served.len(), 8);
        assert!(counters.served.contains_key(&GenerationId(100)));
    }
}
