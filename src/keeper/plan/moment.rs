//! A point in time that the next keeper understands too.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// Time since boot (`CLOCK_MONOTONIC`), so that a deadline written down by one keeper means the
/// same to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(Duration);

impl Moment {
    /// `since_boot` as `clock_gettime(CLOCK_MONOTONIC)` says it.
    pub fn new(since_boot: Duration) -> Self {
        Self(since_boot)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

impl Sub for Moment {
    type Output = Duration;
    /// Zero when `earlier` is not earlier.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
