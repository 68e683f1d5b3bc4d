//! Counting, per lane; the main thread adds lanes up when the keeper asks.

use crate::link::{Counters, REQUEST_BOUNDS};
use std::collections::BTreeMap;
use std::time::Duration;

/// Empty, with a place for every bound.
pub(super) fn fresh() -> Counters {
    Counters {
        duration_counts: vec![0; REQUEST_BOUNDS.len().saturating_add(1)],
        ..Counters::default()
    }
}

/// A response was sent whole.
pub(super) fn finished(counters: &mut Counters, status: u16, took: Duration) {
    let class = usize::from(status / 100).saturating_sub(1);
    if let Some(count) = counters.responses.get_mut(class) {
        *count = count.saturating_add(1);
    }
    let seconds = took.as_secs_f64();
    let bound = REQUEST_BOUNDS.partition_point(|bound| *bound < seconds);
    if let Some(count) = counters.duration_counts.get_mut(bound) {
        *count = count.saturating_add(1);
    }
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    counters.duration_micros = counters.duration_micros.saturating_add(micros);
}

/// One more of `cause`.
pub(super) fn count(causes: &mut BTreeMap<String, u64>, cause: &str) {
    match causes.get_mut(cause) {
        Some(count) => *count = count.saturating_add(1),
        None => drop(causes.insert(cause.to_owned(), 1)),
    }
}

/// `total` += `part`.
pub(super) fn add(total: &mut Counters, part: &Counters) {
    total.connections_accepted = total
        .connections_accepted
        .saturating_add(part.connections_accepted);
    total.connections_inherited = total
        .connections_inherited
        .saturating_add(part.connections_inherited);
    total.held = total.held.saturating_add(part.held);
    total.retries = total.retries.saturating_add(part.retries);
    total.tunnels_ended = total.tunnels_ended.saturating_add(part.tunnels_ended);
    total.access_dropped = total.access_dropped.saturating_add(part.access_dropped);
    total.duration_micros = total.duration_micros.saturating_add(part.duration_micros);
    add_each(&mut total.responses, &part.responses);
    add_each(&mut total.duration_counts, &part.duration_counts);
    add_causes(&mut total.connections_refused, &part.connections_refused);
    total.hold.add(&part.hold);
    add_causes(&mut total.refusals, &part.refusals);
    add_causes(&mut total.lost, &part.lost);
    for (generation, served) in &part.served {
        total.add_served(*generation, *served);
    }
}

fn add_each(total: &mut [u64], part: &[u64]) {
    for (total, part) in total.iter_mut().zip(part) {
        *total = total.saturating_add(*part);
    }
}

fn add_causes(total: &mut BTreeMap<String, u64>, part: &BTreeMap<String, u64>) {
    for (cause, count) in part {
        let sum = total.entry(cause.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_at_the_first_bound_that_holds_it() {
        let mut counters = fresh();
        finished(&mut counters, 200, Duration::from_millis(1));
        finished(&mut counters, 503, Duration::from_mins(1));
        assert_eq!(counters.duration_counts[0], 1);
        assert_eq!(counters.duration_counts[REQUEST_BOUNDS.len()], 1);
        assert_eq!(counters.responses, [0, 1, 0, 0, 1]);
        assert_eq!(counters.duration_micros, 60_001_000);
    }

    #[test]
    fn a_status_out_of_range_is_not_counted() {
        let mut counters = fresh();
        finished(&mut counters, 999, Duration::ZERO);
        assert_eq!(counters.responses, [0; 5]);
    }

    #[test]
    fn lanes_add_up() {
        let mut one = fresh();
        count(&mut one.lost, "cut");
        finished(&mut one, 200, Duration::ZERO);
        let mut total = fresh();
        add(&mut total, &one);
        add(&mut total, &one);
        assert_eq!(total.lost["cut"], 2);
        assert_eq!(total.responses[1], 2);
    }
}
