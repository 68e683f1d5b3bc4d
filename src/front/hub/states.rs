//! What the lanes have told, and what that means for all together.

use super::super::lane::{LaneState, Mode};
use super::super::tally;
use crate::id::GenerationId;
use crate::link::{Cell, Report, Target};
use std::collections::BTreeSet;

/// The latest state of each lane.
#[derive(Debug)]
pub(super) struct States {
    lanes: Vec<Option<LaneState>>,
}

impl States {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            lanes: (0..lanes).map(|_| None).collect(),
        }
    }

    pub(super) fn put(&mut self, state: LaneState) {
        if let Some(place) = self.lanes.get_mut(state.lane) {
            *place = Some(state);
        }
    }

    /// Every lane has told something, so it runs.
    pub(super) fn are_known(&self) -> bool {
        self.lanes.iter().all(Option::is_some)
    }

    /// Every lane has answered the order to tell with this number.
    pub(super) fn have_told(&self, number: u64) -> bool {
        let mut lanes = self.lanes.iter();
        lanes.all(|state| state.as_ref().is_some_and(|state| state.told == number))
    }

    /// Every lane is in `mode`, has taken what it was `given`, and has no connection left.
    pub(super) fn are_empty(&self, mode: Mode, given: &[u64]) -> bool {
        self.lanes.iter().zip(given).all(|(state, given)| {
            state.as_ref().is_some_and(|state| {
                state.mode == mode && state.adopted == *given && state.report.connections == 0
            })
        })
    }

    /// Those that are open, and those of what the lanes were `given` that are on their way.
    pub(super) fn connections(&self, given: &[u64]) -> u64 {
        let of_a_lane = |(state, given): (&Option<LaneState>, &u64)| {
            state.as_ref().map_or(*given, |state| {
                let on_their_way = given.saturating_sub(state.adopted);
                on_their_way.saturating_add(state.report.connections)
            })
        };
        self.lanes.iter().zip(given).map(of_a_lane).sum()
    }

    /// All lanes together; the cell that all of them serve from.
    pub(super) fn total(&self) -> Report {
        let seqs = self
            .lanes
            .iter()
            .map(|state| state.as_ref().map_or(0, |s| s.report.seq));
        let mut total = Report {
            seq: seqs.min().unwrap_or(0),
            counters: tally::fresh(),
            ..Report::default()
        };
        for report in self.lanes.iter().flatten().map(|state| &state.report) {
            for (id, leases) in &report.leases {
                let sum = total.leases.entry(*id).or_default();
                *sum = sum.saturating_add(*leases);
            }
            total.connections = total.connections.saturating_add(report.connections);
            total.settled = total.settled.saturating_add(report.settled);
            total.tunnels = total.tunnels.saturating_add(report.tunnels);
            total.held = total.held.saturating_add(report.held);
            total.in_flight = total.in_flight.saturating_add(report.in_flight);
            tally::add(&mut total.counters, &report.counters);
        }
        total
    }
}

/// The generations with leases that are not in the cell.
pub(super) fn superseded(cell: Option<&Cell>, report: &Report) -> BTreeSet<GenerationId> {
    let live = match cell.map(|cell| &cell.target) {
        Some(Target::Live { generation, .. }) => Some(*generation),
        Some(Target::Hold | Target::Refuse) | None => None,
    };
    report
        .leases
        .keys()
        .copied()
        .filter(|id| Some(*id) != live)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lane: usize, seq: u64, leases: &[(u64, u64)]) -> LaneState {
        let leases = leases
            .iter()
            .map(|(id, count)| (GenerationId(*id), *count))
            .collect();
        let report = Report {
            seq,
            leases,
            ..Report::default()
        };
        LaneState {
            lane,
            told: seq,
            adopted: 0,
            mode: Mode::Serving,
            report,
        }
    }

    #[test]
    fn a_front_serves_from_the_oldest_cell_of_its_lanes() {
        let mut states = States::new(2);
        states.put(state(0, 5, &[(1, 2)]));
        assert_eq!((states.are_known(), states.total().seq), (false, 0));
        states.put(state(1, 4, &[(1, 1), (2, 1)]));
        let total = states.total();
        assert_eq!((states.are_known(), total.seq), (true, 4));
        assert_eq!(total.leases[&GenerationId(1)], 3);
        assert!(!states.have_told(5));
    }

    #[test]
    fn only_the_live_generation_is_not_superseded() {
        let mut states = States::new(1);
        states.put(state(0, 1, &[(1, 1), (2, 1)]));
        let target = Target::Live {
            generation: GenerationId(2),
            backends: Vec::new(),
        };
        let cell = Cell {
            seq: 1,
            target,
            is_bare: false,
        };
        let old = superseded(Some(&cell), &states.total());
        assert_eq!(old, BTreeSet::from([GenerationId(1)]));
        assert_eq!(superseded(None, &states.total()).len(), 2);
    }

    #[test]
    fn a_lane_with_connections_on_their_way_is_not_empty() {
        let mut states = States::new(1);
        states.put(state(0, 1, &[]));
        assert!(states.are_empty(Mode::Serving, &[0]));
        assert!(!states.are_empty(Mode::Serving, &[1]));
        assert!(!states.are_empty(Mode::Retiring, &[0]));
    }
}
