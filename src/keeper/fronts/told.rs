//! What fronts have told, and what that means for generations, status and metrics.

use super::{Front, Fronts, Stage};
use crate::api::FrontStatus;
use crate::id::{FrontId, GenerationId};
use crate::keeper::lane_probe;
use crate::keeper::totals::Totals;
use crate::link::Report;
use std::path::{Path, PathBuf};

impl Fronts {
    /// Every lane of every front that serves does so from this cell or a later one.
    pub fn has_acknowledged(&self, seq: u64) -> bool {
        let serving = self
            .living
            .values()
            .filter(|front| front.stage != Stage::Starting);
        serving
            .map(|front| front.report.as_ref())
            .all(|report| report.is_some_and(|r| r.seq >= seq))
    }

    /// No front can hold a lease on the generation, which left the cell with number `left_at`.
    pub fn is_drained(&self, generation: GenerationId, left_at: u64) -> bool {
        self.living.values().all(|front| match &front.report {
            None => false,
            Some(report) => {
                // Of one that was told of the generation, and has not said what it serves from since,
                // nobody knows.
                let never_knew = front.first_seq >= left_at;
                let is_free = report
                    .leases
                    .get(&generation)
                    .is_none_or(|&leases| leases == 0);
                is_free && (never_knew || report.seq >= left_at)
            }
        })
    }

    /// Requests in flight on the generation, as last reported.
    pub fn leases(&self, generation: GenerationId) -> u64 {
        self.reports()
            .filter_map(|report| report.leases.get(&generation))
            .sum()
    }

    /// Every front serves from the cell as it is now, and nothing is in flight on any but what waits for
    /// a generation.
    pub fn is_quiet(&self) -> bool {
        let is_quiet = |front: &Front| {
            let report = front.report.as_ref();
            report.is_some_and(|it| it.seq >= self.cell.seq && it.in_flight <= it.held)
        };
        !self.living.is_empty() && self.living.values().all(is_quiet)
    }

    /// Requests that a worker has, as last reported.
    pub fn in_flight(&self) -> u64 {
        let busy = |report: &Report| report.in_flight.saturating_sub(report.held);
        self.reports().map(busy).sum()
    }

    /// As last reported.
    pub fn tunnels(&self) -> u64 {
        self.reports().map(|report| report.tunnels).sum()
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        let reports = self.living.values();
        reports.filter_map(|front| front.report.as_ref())
    }

    /// The sockets on which the serving front's lanes answer the keeper.
    pub fn probes(&self, runtime_directory: &Path) -> Vec<(FrontId, PathBuf)> {
        let serving = self
            .living
            .values()
            .filter(|front| front.stage == Stage::Serving);
        serving
            .flat_map(|front| {
                (0..front.lanes).map(|lane| {
                    (
                        front.id,
                        lane_probe::path(runtime_directory, front.id, lane),
                    )
                })
            })
            .collect()
    }

    /// Counters of all fronts, dead ones included.
    pub fn counters(&self) -> Totals {
        let mut totals = self.totals.clone();
        for report in self.reports() {
            totals.add(&report.counters);
        }
        totals
    }

    /// For the control API.
    pub fn status(&self) -> Vec<FrontStatus> {
        let status = |front: &Front| {
            let report = front.report.clone().unwrap_or_default();
            FrontStatus {
                id: front.id,
                pid: front.pid,
                state: front.stage.word().into(),
                connections: report.connections,
                settled: report.settled,
                tunnels: report.tunnels,
                in_flight: report.in_flight,
                held: report.held,
                usage: report.usage,
            }
        };
        self.living.values().map(status).collect()
    }

    /// Process ids, for the handover to a scope.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.living.values().map(|front| front.pid)
    }
}
