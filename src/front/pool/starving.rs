//! Whether idle connections keep requests from being served.
//!
//! Many app servers give each connection a process or thread for as long as it is open: uWSGI, Puma
//! without its queue, most prefork servers. There, a connection that lies in a pool holds a worker, and
//! who comes by a fresh one waits in the backlog until it goes. Nothing tells such a server from a slow
//! one but the outcome: where a fresh connection waits for an answer for [`PATIENCE`] while others lie
//! idle, those are closed, in the other lanes as well; and where it waits for [`ROTATION`], what comes
//! back is not kept. If closing brings the answer at once, again and again, it is such a server, and
//! nothing is kept for it any more. If it brings nothing, the server is slow, and is left alone.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// So long a fresh connection may wait while others lie idle.
pub(super) const PATIENCE: Duration = Duration::from_millis(25);

/// Between two looks at those who wait for something else.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// So long it may wait while others are used again and again.
const ROTATION: Duration = Duration::from_millis(100);

/// A worker that was waited for answers within that, if the app is quick.
const TAKEN_WITHIN: Duration = Duration::from_millis(3);

/// So many connections are closed in vain for those who wait; then they wait for something else.
const VAIN_MAX: u32 = 8;

/// So many answers in a row that came of it are no accident.
const LEARNED_BY: u32 = 5;

/// Of one worker, in one lane.
#[derive(Debug, Default)]
pub(super) struct Starving {
    /// Fresh connections without a byte of an answer.
    waiting: Cell<u32>,
    /// When the first of them came, or one was answered.
    since: Cell<Option<Instant>>,
    /// Idle connections were closed, and nobody was answered since.
    freed: Cell<Option<Instant>>,
    vain: Cell<u32>,
    learned: Cell<u32>,
}

/// A fresh connection that has not been answered.
#[derive(Debug)]
pub(super) struct Waiting(Rc<Starving>);

impl Starving {
    /// True: nobody watches for those who wait yet.
    pub(super) fn wait(self: &Rc<Self>) -> (Waiting, bool) {
        let is_first = self.waiting.get() == 0;
        self.waiting.set(self.waiting.get().saturating_add(1));
        if is_first {
            self.since.set(Some(Instant::now()));
            self.vain.set(0);
        }
        (Waiting(Rc::clone(self)), is_first)
    }

    /// A connection that came back is to be closed.
    pub(super) fn takes_back_none(&self, now: Instant) -> bool {
        let is_overdue = self.is_overdue(now, ROTATION);
        if is_overdue {
            self.vain.set(self.vain.get().saturating_add(1));
        }
        is_overdue || self.is_known()
    }

    /// Idle connections are to be closed.
    pub(super) fn wants_idle(&self, now: Instant) -> bool {
        self.is_overdue(now, PATIENCE)
    }

    /// Somebody waits too long, and closing something may help.
    fn is_overdue(&self, now: Instant, limit: Duration) -> bool {
        let since = self.since.get().filter(|_| self.waiting.get() > 0);
        self.vain.get() < VAIN_MAX
            && since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    /// Another one when somebody was answered.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since.get()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Idle connections were closed for them.
    pub(super) fn frees(&self, now: Instant) {
        if self.freed.replace(Some(now)).is_some() {
            self.learned.set(0);
        }
        self.vain.set(self.vain.get().saturating_add(1));
    }

    fn is_known(&self) -> bool {
        self.learned.get() >= LEARNED_BY
    }

    fn answered(&self, now: Instant) {
        self.since.set(Some(now));
        let Some(freed) = self.freed.take() else {
            return;
        };
        if self.is_known() {
            return;
        }
        if now.saturating_duration_since(freed) > TAKEN_WITHIN {
            return self.learned.set(0);
        }
        self.vain.set(0);
        self.learned.set(self.learned.get().saturating_add(1));
        if self.is_known() {
            tracing::info!(
                "the app serves one connection for each of its workers: connections to it are not kept"
            );
        }
    }
}

impl Waiting {
    /// The first byte came.
    pub(super) fn end(self) {
        self.0.answered(Instant::now());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waiting = &self.0.waiting;
        waiting.set(waiting.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(time: Duration) -> Instant {
        tokio::time::advance(time).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_of_one_connection_for_each_worker_is_known_soon() {
        let starving = Rc::new(Starving::default());
        let waiting: Vec<_> = (0..LEARNED_BY).map(|_| starving.wait()).collect();
        assert!(waiting[0].1 && !waiting[1].1);
        assert!(!starving.wants_idle(Instant::now()), "it may be slow");
        for (waiting, _) in waiting {
            let now = pass(PATIENCE).await;
            assert!(starving.wants_idle(now) && !starving.takes_back_none(now));
            starving.frees(now);
            waiting.end();
        }
        assert!(!starving.is_waiting());
        assert!(starving.takes_back_none(pass(Duration::from_mins(1)).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_keeps_its_connections() {
        let starving = Rc::new(Starving::default());
        let (waiting, _) = starving.wait();
        let mut closed = 0;
        for _ in 0..100 {
            let now = pass(PATIENCE).await;
            if starving.wants_idle(now) {
                starving.frees(now);
                closed += 1;
            }
            closed += u32::from(starving.takes_back_none(now));
        }
        assert_eq!(closed, VAIN_MAX);
        pass(TAKEN_WITHIN * 2).await;
        waiting.end();
        let (_next, _) = starving.wait();
        assert!(!starving.takes_back_none(Instant::now()));
        assert!(!starving.is_known());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_while_others_take_turns_gets_the_place_of_one() {
        let starving = Rc::new(Starving::default());
        let (_waiting, _) = starving.wait();
        assert!(!starving.takes_back_none(pass(PATIENCE).await));
        assert!(starving.takes_back_none(pass(ROTATION).await));
    }
}
