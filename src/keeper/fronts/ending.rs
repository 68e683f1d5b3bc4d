//! The end of fronts: told, killed, or by themselves; and what is counted of it.

use super::{Front, Fronts, Stage, estate};
use crate::id::FrontId;
use crate::keeper::lane_probe;
use crate::keeper::plan::Moment;
use crate::keeper::reaper;
use crate::keeper::stored;
use crate::link::ToFront;
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;

/// What a front left behind.
#[derive(Clone, Copy, Debug)]
pub struct Exited {
    /// It was neither retiring nor draining: another one must take its place.
    pub was_wanted: bool,
    /// When it was born.
    pub born: Moment,
    /// Requests and tunnels that ended with it: busy slots, or else those of its last report.
    pub in_flight: u64,
    /// Connections that go on.
    pub settled: u64,
    /// Its trustee is to pass some on.
    pub has_estate: bool,
}

impl Fronts {
    /// Stop accepting, finish, end.
    pub fn drain(&mut self) {
        self.forget_estates();
        for id in self.ids() {
            if let Some(front) = self.living.get_mut(&id) {
                front.stage = Stage::Draining;
                front.bequeathing.clear();
            }
            self.tell(id, ToFront::Drain, Vec::new());
        }
    }

    /// End now, by word and by SIGKILL.
    pub fn end(&mut self) {
        self.living.values().for_each(Front::kill);
    }

    /// A front that hangs is ended; its exit brings the next.
    pub fn kill(&mut self, id: FrontId) {
        if let Some(front) = self.living.get(&id) {
            front.kill();
        }
    }

    /// Ends a front whose lanes did not come up in time.
    pub fn kill_late(&mut self, now: Moment, limit: Duration) {
        for front in self.living.values() {
            if front.stage == Stage::Starting && now - front.born > limit {
                tracing::error!(front = %front.id, limit_s = limit.as_secs(), "{} has no lanes in time, replacing it", front.id);
                front.kill();
            }
        }
    }

    /// The process is gone; its counters are added to the totals. Says whether it was to serve. Unless
    /// gapless `stops`, others get what it left.
    pub fn exited(
        &mut self,
        id: FrontId,
        runtime_directory: &Path,
        stops: bool,
        now: Moment,
    ) -> Option<Exited> {
        let front = self.living.remove(&id)?;
        lane_probe::forget(runtime_directory, id, front.lanes);
        for thing in ["pidfd", "link"] {
            self.left_in_store.push(stored::of_front(id, thing));
        }
        let was_wanted = front.is_current();
        let left = self.left_behind(id, front.bequest, stops, now);
        let report = front.report.unwrap_or_default();
        // A tunnel broke off as a request does.
        let in_flight = match left {
            Some(left) if !(front.is_cut || stops) => left.busy.saturating_add(report.tunnels),
            Some(_) | None if was_wanted || front.is_cut => {
                report.in_flight.saturating_add(report.tunnels)
            }
            Some(_) | None => 0,
        };
        self.totals.bury(&report.counters, in_flight);
        Some(Exited {
            was_wanted,
            born: front.born,
            in_flight,
            settled: left.unwrap_or_default().settled,
            has_estate: left.is_some_and(|left| left.has_estate()),
        })
    }

    /// The state says that they are dead. Before, a keeper that ended would have left a front of which
    /// the next one can find nothing, and so would close what it left.
    pub fn forget_dead(&mut self) {
        for name in std::mem::take(&mut self.left_in_store) {
            stored::forget(&name);
        }
    }

    /// Forgets everything in the fd store.
    pub fn forget(&self) {
        let of_living = |id: &FrontId| ["pidfd", "link"].map(|thing| stored::of_front(*id, thing));
        let living = self.living.keys().flat_map(of_living);
        let left = self.living.keys().copied().chain(self.estates());
        let all = living.chain(left.flat_map(estate::names));
        for name in all.chain(self.left_in_store.iter().cloned()) {
            stored::forget(&name);
        }
    }
}

impl Front {
    pub(super) fn kill(&self) {
        if let Err(error) = reaper::signal(&self.pidfd, Signal::KILL) {
            tracing::error!(front = %self.id, %error, "cannot end {}: {error}", self.id);
        }
    }
}
