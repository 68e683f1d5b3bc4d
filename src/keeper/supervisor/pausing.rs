//! Holding all new requests, for a migration: until told, at most until its time is over.
//!
//! The cell keeps its generation and gets no workers, as while all of them respawn: so requests wait
//! in the fronts with the patience that they always have, and everything else goes on.
//!
//! Fronts of any version know a cell without workers. Tunnels stay, and every decision of the plan goes on.
//! The answer to `gapless hold` comes when every front reports that cell or a later one, and nothing is in
//! flight but what waits. If whoever asked leaves before that, or the time ends, requests go on: nobody
//! began to migrate. A keeper that dies meanwhile leaves the fronts holding. The next one goes on with the
//! same end, and the command asks it again.

use super::{Keeper, now};
use crate::api::{HoldOutcome, HoldStatus, HoldVerdict};
use crate::keeper::plan::Moment;
use crate::keeper::standing::Pause;
use crate::keeper::totals::unix_seconds;
use crate::systemd::message_id;
use std::time::Duration;
use tokio::sync::oneshot;

/// Fronts tell by themselves each second; who waits for the last request should not wait for that.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Who waits until nothing is in flight.
pub(super) struct Quieting {
    asked: Moment,
    /// When fronts are asked again.
    next: Moment,
    answer: oneshot::Sender<HoldOutcome>,
}

impl Keeper {
    /// New requests wait from now on; told again, the time begins anew.
    pub(super) fn pause(&mut self, limit: Duration, answer: oneshot::Sender<HoldOutcome>) {
        let now = now();
        if self.memory.plan.is_stopping() {
            return self.tell_hold(answer, HoldVerdict::Stopping, now);
        }
        let before = self.memory.standing.pause;
        self.memory.standing.pause = Some(Pause {
            since: before.map_or(now, |pause| pause.since),
            until: now + limit,
            is_told: before.is_some_and(|pause| pause.is_told),
        });
        let limit_s = limit.as_secs_f64();
        let app = self.app_option();
        tracing::info!(name: message_id::HELD.name, limit_s, "new requests wait, for {limit_s} s at most, until gapless{app} resume");
        self.quieting.push(Quieting {
            asked: now,
            next: now,
            answer,
        });
    }

    /// Requests go on; whoever still waited for silence is told.
    pub(super) fn resume(&mut self, answer: oneshot::Sender<HoldOutcome>) {
        let verdict = match self.memory.standing.pause {
            Some(_) => HoldVerdict::Resumed,
            None => HoldVerdict::NotHeld,
        };
        let since = self
            .memory
            .standing
            .pause
            .map_or_else(now, |pause| pause.since);
        self.end_pause(HoldVerdict::Resumed, "by command");
        self.tell_hold(answer, verdict, since);
    }

    pub(super) fn end_pause(&mut self, verdict: HoldVerdict, why: &str) {
        if let Some(pause) = self.memory.standing.pause.take() {
            let held_s = (now() - pause.since).as_secs_f64();
            tracing::info!(name: message_id::RESUMED.name, why, held_s, "requests go on after {held_s:.1} s: {why}");
        }
        for Quieting { asked, answer, .. } in std::mem::take(&mut self.quieting) {
            self.tell_hold(answer, verdict, asked);
        }
    }

    /// When [`Keeper::pass_pause`] has something to do.
    pub(super) fn pause_deadline(&self) -> Option<Moment> {
        let next = self.quieting.iter().map(|it| it.next);
        next.chain(self.memory.standing.pause.map(|pause| pause.until))
            .min()
    }

    pub(super) fn pass_pause(&mut self) {
        let now = now();
        let Some(pause) = self.memory.standing.pause else {
            return;
        };
        if pause.until <= now {
            return self.end_pause(HoldVerdict::TimedOut, "its time is over");
        }
        let had_any = !self.quieting.is_empty();
        self.quieting.retain(|it| !it.answer.is_closed());
        // Nobody was told that a migration may begin, and nobody is left to be told.
        if had_any && self.quieting.is_empty() && !pause.is_told {
            return self.end_pause(HoldVerdict::Resumed, "who asked for it has left");
        }
        let mut is_due = false;
        for waiting in self.quieting.iter_mut().filter(|it| it.next <= now) {
            waiting.next = now + ASK_EVERY;
            is_due = true;
        }
        if is_due {
            self.fronts.ask();
        }
    }

    /// Whoever waits for it is told that nothing is in flight any more.
    pub(super) fn find_quiet(&mut self) {
        if self.quieting.is_empty() || !self.fronts.is_quiet() {
            return;
        }
        if let Some(pause) = &mut self.memory.standing.pause {
            pause.is_told = true;
        }
        // Whoever is told of it finds it with the next keeper, too.
        self.save_state();
        for Quieting { asked, answer, .. } in std::mem::take(&mut self.quieting) {
            self.tell_hold(answer, HoldVerdict::Quiet, asked);
        }
    }

    fn tell_hold(&self, answer: oneshot::Sender<HoldOutcome>, verdict: HoldVerdict, since: Moment) {
        let elapsed = now() - since;
        // Who asked may have left.
        drop(answer.send(HoldOutcome {
            verdict,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            in_flight: self.fronts.in_flight(),
            tunnels: self.fronts.tunnels(),
            patience_ms: u64::try_from(self.memory.http.hold.as_millis()).unwrap_or(u64::MAX),
            hold: self.hold_status(),
        }));
    }

    /// For the status.
    pub(in crate::keeper) fn hold_status(&self) -> Option<HoldStatus> {
        let pause = self.memory.standing.pause?;
        let now = now();
        let left = (pause.until - now).as_millis().div_ceil(1000);
        Some(HoldStatus {
            since_unix_seconds: unix_seconds().saturating_sub((now - pause.since).as_secs()),
            until_unix_seconds: unix_seconds()
                .saturating_add(u64::try_from(left).unwrap_or(u64::MAX)),
            is_quiet: self.fronts.is_quiet(),
        })
    }
}
