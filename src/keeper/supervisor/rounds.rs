//! What the keeper does by the clock: feeds systemd's watchdog, asks the lanes, asks for time.

use super::{Keeper, Readiness, log_up, now};
use crate::causes::chain;
use crate::id::FrontId;
use crate::keeper::happening::{Happening, Outbox};
use crate::keeper::lane_probe;
use crate::keeper::lifetime::{Lifetime, SaidOnce, WRITTEN_EVERY};
use crate::keeper::plan::Moment;
use crate::systemd::{message_id, notify};
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;

/// Between two rounds when systemd does not want to hear of us more often.
const ROUND: Duration = Duration::from_secs(2);
/// A lane that does not answer within this time hangs; or within a third of systemd's watchdog,
/// which is not fed while a lane is silent: the front must be replaced before the keeper is.
const ANSWER: Duration = Duration::from_secs(5);
/// A front must have its lanes up within this time.
const FRONT_BOOT: Duration = Duration::from_secs(10);
/// Between two warnings of one kind.
const TELL_AGAIN: Duration = Duration::from_mins(1);
/// Asked for at every round of a long start, reload or stop: well above the round itself.
const MORE_TIME: Duration = Duration::from_secs(20);

/// What the keeper knows from one round to the next.
#[derive(Debug)]
pub(in crate::keeper) struct Rounds {
    /// Of systemd.
    watchdog: Option<Duration>,
    probing: JoinSet<()>,
    /// Every lane last answered its probe then. None: one hangs, and its front has to go.
    answered: Option<Moment>,
    /// And when it was last written.
    lifetime: Option<(Lifetime, Moment)>,
    lifetime_said: SaidOnce,
    /// Dropped access log entries that were told of, and when.
    dropped_told: (u64, Option<Moment>),
}

impl Rounds {
    pub(super) fn new(lifetime: Option<Lifetime>, now: Moment) -> Self {
        Self {
            watchdog: notify::watchdog_interval(),
            probing: JoinSet::new(),
            answered: Some(now),
            lifetime: lifetime.map(|lifetime| (lifetime, now)),
            lifetime_said: SaidOnce::default(),
            dropped_told: (0, None),
        }
    }

    pub(super) fn lanes_answered(&mut self, now: Moment) {
        self.answered = Some(now);
    }

    pub(super) fn lane_hangs(&mut self) {
        self.answered = None;
    }

    /// All lanes answered not longer ago than this.
    pub(in crate::keeper) fn has_answer_within(&self, limit: Duration, now: Moment) -> bool {
        self.answered.is_some_and(|at| now - at <= limit)
    }

    /// By the keeper before.
    pub(super) fn was_told_of_dropped(&mut self, entries: u64) {
        self.dropped_told.0 = entries;
    }

    fn a_third_of_the_watchdog(&self, at_most: Duration) -> Duration {
        self.watchdog
            .map_or(at_most, |watchdog| (watchdog / 3).min(at_most))
    }
}

impl Keeper {
    pub(super) fn beat_interval(&self) -> Duration {
        self.rounds.a_third_of_the_watchdog(ROUND)
    }

    pub(super) fn beat(&mut self) {
        let is_starting = self.readiness != Readiness::Said || self.memory.plan.coming().is_some();
        if is_starting || self.memory.plan.is_stopping() {
            log_up("more time", notify::extend_timeout(MORE_TIME));
        }
        self.fronts.kill_late(now(), FRONT_BOOT);
        self.tell_dropped_entries();
        let is_due = |(_, at): &(Lifetime, Moment)| now() - *at >= WRITTEN_EVERY;
        if self.rounds.lifetime.as_ref().is_some_and(is_due) {
            self.write_lifetime();
        }
        // What they use is known to them alone.
        self.fronts.ask();
        self.close_estates();
        while self.rounds.probing.try_join_next().is_some() {}
        if !self.rounds.probing.is_empty() {
            return;
        }
        let limit = self.rounds.a_third_of_the_watchdog(ANSWER);
        let probes = self.fronts.probes(&self.options.runtime_directory);
        if probes.is_empty() {
            // No front serves: its replacement, or the end, is under way within its own limits.
            log_up("watchdog", notify::watchdog());
        } else {
            self.rounds
                .probing
                .spawn_local(ask_lanes(probes, limit, self.yard.outbox.clone()));
        }
    }

    pub(super) fn write_lifetime(&mut self) {
        let totals = self.fronts.counters();
        let Some((lifetime, at)) = &mut self.rounds.lifetime else {
            return;
        };
        *at = now();
        let written = lifetime.write(&totals);
        let is_news = self.rounds.lifetime_said.is_news(written.is_err());
        if let Some(error) = written.err().filter(|_| is_news) {
            tracing::warn!(error = %chain(&error), "after a reboot the counters will be older: {}", chain(&error));
        }
    }

    /// The keeper says it, because a front must not wait for the journal that is busy.
    fn tell_dropped_entries(&mut self) {
        let dropped = self.fronts.counters().counters.access_dropped;
        let (told, at) = self.rounds.dropped_told;
        if dropped > told && at.is_none_or(|at| now() - at >= TELL_AGAIN) {
            tracing::warn!(name: message_id::ACCESS_DROPPED.name, entries = dropped - told, "{} entries of the access log were dropped, the journal or stdout is too slow for them; log a share: access = \"1%\" in [log]", dropped - told);
            self.rounds.dropped_told = (dropped, Some(now()));
        }
    }
}

async fn ask_lanes(probes: Vec<(FrontId, PathBuf)>, limit: Duration, outbox: Outbox) {
    for (id, path) in probes {
        let answer = tokio::time::timeout(limit, lane_probe::ask(&path)).await;
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // A front that has just ended refuses too; its exit is heard elsewhere.
                tracing::debug!(front = %id, %error, "a lane refused its probe");
                return;
            }
            Err(_late) => {
                tracing::error!(front = %id, limit_s = limit.as_secs_f64(), lane = %path.display(), "a lane of {id} did not answer its probe");
                outbox.put(Happening::FrontHung(id)).await;
                return;
            }
        }
    }
    outbox.put(Happening::LanesAnswered).await;
}
