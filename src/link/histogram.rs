//! Durations, counted by bounds: what a front or the keeper measures, and what adds up.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Upper bounds of what a request meets, in seconds: its duration, and how long it was held.
pub const REQUEST_BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0,
];

/// Upper bounds of what a generation meets, in seconds: boot, swap and drain.
pub const LIFECYCLE_BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0,
];

/// Counts per bound, not cumulated, and one for what is beyond the last. Empty: nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// One per bound, and one more.
    pub counts: Vec<u64>,
    /// Sum of all, in microseconds.
    pub micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn count(&mut self, bounds: &[f64], took: Duration) {
        let seconds = took.as_secs_f64();
        let index = bounds.partition_point(|bound| *bound < seconds);
        if self.counts.len() <= bounds.len() {
            self.counts.resize(bounds.len().saturating_add(1), 0);
        }
        if let Some(count) = self.counts.get_mut(index) {
            *count = count.saturating_add(1);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros = self.micros.saturating_add(micros);
    }

    /// Adds what another process or lane counted.
    pub fn add(&mut self, more: &Self) {
        if self.counts.len() < more.counts.len() {
            self.counts.resize(more.counts.len(), 0);
        }
        for (sum, more) in self.counts.iter_mut().zip(&more.counts) {
            *sum = sum.saturating_add(*more);
        }
        self.micros = self.micros.saturating_add(more.micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_at_the_first_bound_that_holds_it_and_adds_up() {
        let mut one = Histogram::default();
        one.count(&[0.1, 1.0], Duration::from_millis(100));
        one.count(&[0.1, 1.0], Duration::from_secs(7));
        assert_eq!(
            (one.counts.as_slice(), one.micros),
            (&[1, 0, 1][..], 7_100_000)
        );
        let mut sum = Histogram::default();
        sum.add(&one);
        sum.add(&one);
        assert_eq!(
            (sum.counts.as_slice(), sum.micros),
            (&[2, 0, 2][..], 14_200_000)
        );
    }
}
