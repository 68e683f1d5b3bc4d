//! How long a client may keep us waiting in one direction: not at once for longer than a timeout,
//! and not in all for longer than that and what its bytes are worth at `rate_min`. A byte now and
//! then resets a timeout; it does not hold a connection for ever.
//!
//! The timeouts are `body_timeout` and `write_timeout`.

use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// The waits of one body, or of one response.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The wait of now.
    since: Cell<Option<Instant>>,
    /// Those before it.
    waited: Cell<Duration>,
    bytes: Cell<u64>,
}

impl Patience {
    /// Another body or response begins. A wait that goes on is not forgiven: else requests that
    /// are sent ahead would buy time for answers that are not taken.
    pub(super) fn begin(&self) {
        if self.since.get().is_none() {
            self.waited.set(Duration::ZERO);
            self.bytes.set(0);
        }
    }

    /// Nothing came, or nothing was taken.
    pub(super) fn waits(&self, now: Instant) {
        if self.since.get().is_none() {
            self.since.set(Some(now));
        }
    }

    /// So many bytes came, or were taken.
    pub(super) fn moved(&self, bytes: usize, now: Instant) {
        if let Some(since) = self.since.take() {
            let waited = now.saturating_duration_since(since);
            let waited = self.waited.get().saturating_add(waited);
            self.waited.set(waited);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.set(self.bytes.get().saturating_add(bytes));
    }

    /// When the wait of now, if there is one, will have been too long.
    pub(super) fn ends(&self, timeout: Duration, rate_min: u64) -> Option<Instant> {
        let since = self.since.get()?;
        let left = match self.bytes.get().checked_div(rate_min) {
            None => timeout,
            Some(earned) => timeout
                .saturating_add(Duration::from_secs(earned))
                .saturating_sub(self.waited.get())
                .min(timeout),
        };
        Some(since + left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Sends `bytes` every `pause`; for how long it is borne with, within an hour.
    async fn borne_with(rate_min: u64, bytes: usize, pause: Duration) -> Option<Duration> {
        let patience = Patience::default();
        patience.begin();
        let began = Instant::now();
        while began.elapsed() < Duration::from_hours(1) {
            patience.waits(Instant::now());
            let ends = patience.ends(TIMEOUT, rate_min).unwrap();
            tokio::time::advance(pause).await;
            if ends <= Instant::now() {
                return Some(ends.duration_since(began));
            }
            patience.moved(bytes, Instant::now());
            assert_eq!(patience.ends(TIMEOUT, rate_min), None);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_borne_with_for_the_timeout_in_all() {
        let now_and_then = borne_with(100, 1, Duration::from_secs(29)).await;
        assert_eq!(now_and_then, Some(TIMEOUT));
        let each_second = borne_with(100, 1, Duration::from_secs(1)).await;
        assert_eq!(each_second, Some(TIMEOUT));
        let without_a_rate = borne_with(0, 1, Duration::from_secs(29)).await;
        assert_eq!(without_a_rate, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_to_the_rate_is_borne_with_but_never_beyond_the_timeout_at_once() {
        let slow = borne_with(100, 2500, Duration::from_secs(25)).await;
        assert_eq!(slow, None);
        let half_as_fast = borne_with(100, 1250, Duration::from_secs(25)).await;
        let half_as_fast = half_as_fast.unwrap();
        assert!(
            half_as_fast >= TIMEOUT && half_as_fast <= 2 * TIMEOUT,
            "{half_as_fast:?}"
        );
        let much_but_late = borne_with(100, 1 << 20, Duration::from_secs(31)).await;
        assert_eq!(much_but_late, Some(TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_not_forgiven_by_the_next_request() {
        let patience = Patience::default();
        patience.waits(Instant::now());
        tokio::time::advance(Duration::from_secs(20)).await;
        patience.begin();
        patience.moved(1, Instant::now());
        patience.waits(Instant::now());
        let left = patience.ends(TIMEOUT, 100).unwrap() - Instant::now();
        assert_eq!(left, Duration::from_secs(10));
        patience.moved(1, Instant::now());
        patience.begin();
        patience.waits(Instant::now());
        let left = patience.ends(TIMEOUT, 100).unwrap() - Instant::now();
        assert_eq!(left, TIMEOUT);
    }
}
