//! The restart budget: so many respawns per interval, as OTP's intensity and period.

use super::Moment;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Counts respawns over a sliding interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    spent: VecDeque<Moment>,
}

impl Budget {
    /// Spends one if fewer than `burst` were spent within the last `interval`.
    pub fn take(&mut self, now: Moment, burst: u32, interval: Duration) -> bool {
        while self
            .spent
            .front()
            .is_some_and(|&first| now - first >= interval)
        {
            self.spent.pop_front();
        }
        let is_left = u32::try_from(self.spent.len()).is_ok_and(|spent| spent < burst);
        if is_left {
            self.spent.push_back(now);
        }
        is_left
    }
}

/// `delay_min` doubled `failures - 1` times, at most `delay_max`, less up to a quarter of jitter.
pub fn backoff(failures: u32, delay_min: Duration, delay_max: Duration, jitter: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let full = delay_min.saturating_mul(1_u32 << doublings).min(delay_max);
    let thousandths = u32::try_from(jitter % 250).unwrap_or(0);
    full.saturating_sub(full.saturating_mul(thousandths) / 1000)
}
