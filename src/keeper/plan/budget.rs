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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(30);

    proptest! {
        #[test]
        fn delays_double_from_the_first_to_the_longest_with_up_to_a_quarter_of_jitter(
            failures in 1_u32..10_000, jitter in any::<u64>(),
        ) {
            let full = MIN.saturating_mul(1 << failures.min(20).saturating_sub(1)).min(MAX);
            let delay = backoff(failures, MIN, MAX, jitter);
            prop_assert!(delay <= full && delay >= full.mul_f64(0.75), "{delay:?} of {full:?}");
        }

        #[test]
        fn two_machines_rarely_wait_for_the_same_time(one in any::<u64>(), other in any::<u64>()) {
            let delays = [one, other].map(|jitter| backoff(9, MIN, MAX, jitter));
            prop_assert_eq!(delays[0] == delays[1], one % 250 == other % 250);
        }
    }
}
