//! How many connections each lane has, so that none has much more than its share.
//!
//! The kernel wakes every lane for a connection that comes, and the first has it: often the same one for
//! a whole burst, as it is awake then. Its core works and the others do not, and it reaches its part of
//! a limit long before all together reach the limit. So a lane that has more than the emptiest gives
//! what it accepts to that one. That costs two messages between threads; so where connections come and
//! go by the thousand, only when it has far more. Requests touch nothing of this.
//!
//! The main thread gives the connection on. It already counts what is on its way to a lane, so no front
//! ends too early. Where connections come and go by the thousand, a lane gives 16 of them in 100 ms, and
//! more only when it is far ahead. A lane that takes nothing gets eight at most. What a burst in one lane
//! costs, and what was tried, is in tests/bench/NOTES.md.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// By so much of what the emptiest lane has may another have more: to be exact would have too many
/// connections change their lane.
const LEAD_PART: u64 = 4;

/// And by so many when it gave [`GIVEN_FREELY`] within [`A_WHILE`].
const LEAD_IN_A_RUSH: u64 = 16;
const GIVEN_FREELY: u32 = 16;
const A_WHILE: Duration = Duration::from_millis(100);

/// So many may be on their way to a lane. One that takes none hangs, and clients would hang with it.
const GIVEN_MAX: u64 = 8;

/// Of one lane; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count {
    /// With those on their way.
    connections: AtomicU64,
    on_their_way: AtomicU64,
}

impl Count {
    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    fn grows(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    fn shrinks(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one lane has, and what the others have beside it.
#[derive(Debug)]
pub(super) struct Share {
    own: Arc<Count>,
    /// By number of lane.
    all: Arc<[Arc<Count>]>,
    lane: usize,
    /// So many since then.
    given: Cell<Option<(Instant, u32)>>,
}

impl Share {
    pub(super) fn of_each(lanes: usize) -> impl Iterator<Item = Self> {
        let all: Arc<[Arc<Count>]> = (0..lanes).map(|_| Arc::default()).collect();
        let each: Vec<_> = all.iter().map(Arc::clone).enumerate().collect();
        each.into_iter().map(move |(lane, own)| Self {
            own,
            all: Arc::clone(&all),
            lane,
            given: Cell::new(None),
        })
    }

    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    /// A connection of this lane begins.
    pub(super) fn grows(&self) {
        self.own.grows();
    }

    /// A connection of this lane ended.
    pub(super) fn shrinks(&self) {
        self.own.shrinks();
    }

    /// Who should have what this lane accepted, if not itself.
    pub(super) fn give(&self) -> Option<Given> {
        let counts = self.all.iter().map(|count| (count, count.connections()));
        let (lane, (emptiest, fewest)) =
            counts.enumerate().min_by_key(|(_, (_, fewest))| *fewest)?;
        let (since, given) = self.given_lately();
        let rush = if given < GIVEN_FREELY {
            0
        } else {
            LEAD_IN_A_RUSH
        };
        let enough = fewest
            .saturating_add(fewest / LEAD_PART)
            .saturating_add(rush);
        if self.own.connections() <= enough {
            return None;
        }
        let to = Given::to(emptiest, lane)?;
        self.given.set(Some((since, given.saturating_add(1))));
        Some(to)
    }

    fn given_lately(&self) -> (Instant, u32) {
        let now = Instant::now();
        let lately = self
            .given
            .get()
            .filter(|(since, _)| now.duration_since(*since) < A_WHILE);
        lately.unwrap_or((now, 0))
    }
}

/// A connection on its way to another lane, until that has it.
#[derive(Debug)]
pub(super) struct Given {
    to: Arc<Count>,
    lane: usize,
}

impl Given {
    fn to(emptiest: &Arc<Count>, lane: usize) -> Option<Self> {
        if emptiest.on_their_way.load(Ordering::Relaxed) >= GIVEN_MAX {
            return None;
        }
        emptiest.on_their_way.fetch_add(1, Ordering::Relaxed);
        emptiest.grows();
        Some(Self {
            to: Arc::clone(emptiest),
            lane,
        })
    }

    pub(super) fn lane(&self) -> usize {
        self.lane
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.to.shrinks();
        self.to.on_their_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of lanes with so many connections each.
    fn with(counts: &[u64]) -> Vec<Share> {
        let shares: Vec<Share> = Share::of_each(counts.len()).collect();
        for (share, count) in shares.iter().zip(counts) {
            (0..*count).for_each(|_| share.grows());
        }
        shares
    }

    fn receiver(share: &Share) -> Option<usize> {
        share.give().map(|given| given.lane())
    }

    #[test]
    fn who_has_more_gives_to_the_emptiest() {
        assert_eq!(receiver(&with(&[0, 0])[0]), None);
        assert_eq!(receiver(&with(&[1, 2, 0])[0]), Some(2));
        assert_eq!(receiver(&with(&[1, 2, 0])[2]), None);
        assert_eq!(receiver(&with(&[2, 1])[0]), Some(1));
        assert_eq!(receiver(&with(&[9])[0]), None, "the only one");
    }

    #[test]
    fn where_all_have_many_a_few_more_stay() {
        assert_eq!(receiver(&with(&[100, 80])[0]), None);
        assert_eq!(receiver(&with(&[101, 80])[0]), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_rush_only_who_has_far_more_gives() {
        let shares = with(&[17, 1]);
        for _ in 0..GIVEN_FREELY {
            assert_eq!(receiver(&shares[0]), Some(1));
        }
        assert_eq!(receiver(&shares[0]), None);
        shares[0].grows();
        assert_eq!(receiver(&shares[0]), Some(1));
        shares[0].shrinks();
        tokio::time::advance(A_WHILE).await;
        assert_eq!(receiver(&shares[0]), Some(1));
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_is_there() {
        let shares = with(&[1, 0]);
        let given = shares[0].give();
        assert!(given.is_some());
        assert_eq!(receiver(&shares[0]), None);
        // It left before it was there.
        drop(given);
        assert_eq!(receiver(&shares[0]), Some(1));
        shares[1].grows();
        assert_eq!(receiver(&shares[0]), None);
        shares[1].shrinks();
        assert_eq!(receiver(&shares[0]), Some(1));
    }

    #[test]
    fn a_lane_that_takes_nothing_gets_a_few() {
        let shares = with(&[1_000, 0]);
        let given: Vec<Given> = (0..100).filter_map(|_| shares[0].give()).collect();
        assert_eq!(u64::try_from(given.len()), Ok(GIVEN_MAX));
    }
}
