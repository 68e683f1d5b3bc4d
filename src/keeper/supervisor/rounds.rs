//! What the keeper does by the clock: feeds systemd's watchdog, asks the lanes, asks for time.

use super::{Keeper, Readiness, log_up, now};
use crate::causes::chain;
use crate::id::FrontId;
use crate::keeper::happening::{Happening, Outbox};
use crate::keeper::lane_probe;
use crate::keeper::lifetime::{Lifetime, WRITTEN_EVERY};
use crate::keeper::plan::Moment;
use crate::systemd::{message_id, notify};
use std::path::PathBuf;
use std::time::Duration;

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

impl Keeper {
    pub(super) fn beat_interval(&self) -> Duration {
        self.watchdog
            .map_or(ROUND, |watchdog| (watchdog / 3).min(ROUND))
    }

    pub(super) fn beat(&mut self) {
        let is_starting = self.readiness != Readiness::Said || self.memory.plan.coming().is_some();
        if is_starting || self.memory.plan.is_stopping() {
            log_up("more time", notify::extend_timeout(MORE_TIME));
        }
        self.fronts.kill_late(now(), FRONT_BOOT);
        self.tell_dropped_entries();
        let is_due = |(_, at): &(Lifetime, Moment)| now() - *at >= WRITTEN_EVERY;
        if self.lifetime.as_ref().is_some_and(is_due) {
            self.write_lifetime();
        }
        // What they use is known to them alone.
        self.fronts.ask();
        self.close_estates();
        while self.probing.try_join_next().is_some() {}
        if !self.probing.is_empty() {
            return;
        }
        let limit = self
            .watchdog
            .map_or(ANSWER, |watchdog| (watchdog / 3).min(ANSWER));
        let probes = self.fronts.probes(&self.options.runtime_directory);
        if probes.is_empty() {
            // No front serves: its replacement, or the end, is under way within its own limits.
            log_up("watchdog", notify::watchdog());
        } else {
            self.probing
                .spawn_local(ask_lanes(probes, limit, self.yard.outbox.clone()));
        }
    }

    pub(super) fn write_lifetime(&mut self) {
        let totals = self.fronts.counters();
        let Some((lifetime, at)) = &mut self.lifetime else {
            return;
        };
        *at = now();
        let written = lifetime.write(&totals);
        let is_news = self.lifetime_said.is_news(written.is_err());
        if let Some(error) = written.err().filter(|_| is_news) {
            tracing::warn!(error = %chain(&error), "after a reboot the counters will be older: {}", chain(&error));
        }
    }

    /// The keeper says it, because a front must not wait for the journal that is busy.
    fn tell_dropped_entries(&mut self) {
        let dropped = self.fronts.counters().counters.access_dropped;
        let (told, at) = self.dropped_told;
        if dropped > told && at.is_none_or(|at| now() - at >= TELL_AGAIN) {
            tracing::warn!(name: message_id::ACCESS_DROPPED.name, entries = dropped - told, "{} entries of the access log were dropped, the journal or stdout is too slow for them; log a share: access = \"1%\" in [log]", dropped - told);
            self.dropped_told = (dropped, Some(now()));
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
