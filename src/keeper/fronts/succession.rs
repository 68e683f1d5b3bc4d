//! Of old fronts and new ones: what an upgrade waits for, and what becomes of those that it made old.
//!
//! Two old fronts are there at most: the third upgrade waits for the oldest, which ends with its last
//! request and tunnel. With `[http] upgrade_drain` its tunnels are told to end in the last part of that
//! time, and what is left is cut by the keeper.
//!
//! When another front becomes ready, every older one gets it as its heir, also one that retires already:
//! its former heir could not end while connections might still come.

use super::{Front, Fronts, QUEUE, Stage};
use crate::id::FrontId;
use crate::keeper::plan::Moment;
use crate::link::{self, ToFront};
use crate::steps::{self, Step};
use std::time::Duration;

/// For a front that is told to end at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Fronts {
    /// A front is ready: the older ones hand over to it. False when it is not known any more.
    pub fn ready(&mut self, id: FrontId, now: Moment) -> bool {
        let Some(front) = self.living.get_mut(&id) else {
            return false;
        };
        if front.stage != Stage::Starting {
            for (old, sending) in std::mem::take(&mut front.bequeathing) {
                self.tell(old, ToFront::Retire, vec![sending]);
            }
            return true;
        }
        front.stage = Stage::Serving;
        steps::reached(Step::FrontReady);
        tracing::info!(front = %id, "{id} serves");
        let older: Vec<_> = self.living.range(..id).map(|(id, _)| *id).collect();
        for old in older {
            self.retire(old, id, now);
        }
        self.pass_estates_on();
        true
    }

    /// A keeper that ended perhaps wrote down that fronts retire, or was about to, and told them
    /// nothing, or not all: so the older ones are told again.
    pub fn retire_again(&mut self, now: Moment) {
        let serving = |(_, front): &(&FrontId, &Front)| front.stage == Stage::Serving;
        let Some(heir) = self.living.iter().rfind(serving).map(|(id, _)| *id) else {
            return;
        };
        let older: Vec<_> = self.living.range(..heir).map(|(id, _)| *id).collect();
        for old in older {
            self.retire(old, heir, now);
        }
    }

    /// Sends the idle connections of `old` to `new`, now and as they become idle. One that retires
    /// already gets the new heir: its former one could not end while it may still get connections.
    fn retire(&mut self, old: FrontId, new: FrontId, now: Moment) {
        let is_done = |front: &Front| front.stage == Stage::Draining;
        if self.living.get(&old).is_none_or(is_done) {
            return;
        }
        let (receiving, sending) = match link::pair() {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(front = %old, %error, "no fds to hand connections over, {old} serves them to their end: {error}");
                return;
            }
        };
        let is_upgrade = self.living.get(&new).is_some_and(|front| front.is_upgrade);
        let mut keeps_tunnels = false;
        if let Some(front) = self.living.get_mut(&old) {
            // One whose tunnels have been given their window already ends them.
            if is_upgrade && front.stage != Stage::Retiring {
                front.keeps_tunnels = true;
                front.ends = front.http.upgrade_drain.map(|limit| now + limit);
            }
            keeps_tunnels = front.keeps_tunnels;
            (front.stage, front.heir) = (Stage::Retiring, Some(new));
            // It waits for what others would send.
            front.bequeathing.clear();
        }
        if keeps_tunnels {
            self.tell(old, ToFront::KeepTunnels, Vec::new());
        }
        tracing::info!(front = %old, to = %new, "{old} retires, its connections move to {new}");
        // What is sent to nobody is lost with whoever dies meanwhile. So the heir has its end before
        // the other one is told, and says so by the answer to Hello, which comes in its turn.
        self.tell(new, ToFront::Inherit, vec![receiving]);
        self.tell(new, ToFront::Hello, Vec::new());
        if let Some(heir) = self.living.get_mut(&new) {
            heir.bequeathing.push((old, sending));
        }
    }

    /// How many hand over to younger ones, or finish what they have.
    pub fn retiring(&self) -> usize {
        let fronts = self.living.values();
        fronts
            .filter(|front| front.stage == Stage::Retiring)
            .count()
    }

    /// Nothing waits to be told to any front.
    pub fn has_said_all(&self) -> bool {
        let mut fronts = self.living.values();
        fronts.all(|front| {
            let has_letters = front.letters.capacity() != QUEUE || front.is_speaking.get();
            !has_letters && front.bequeathing.is_empty()
        })
    }

    /// A front is on its way to serve.
    pub fn is_any_starting(&self) -> bool {
        let mut fronts = self.living.values();
        fronts.any(|front| front.stage == Stage::Starting)
    }

    /// This front, or a younger one, serves.
    pub fn serves_since(&self, id: FrontId) -> bool {
        let mut fronts = self.living.range(id..);
        fronts.any(|(_, front)| front.stage == Stage::Serving)
    }

    /// This front, or a younger one, lives.
    pub fn lives_since(&self, id: FrontId) -> bool {
        self.living.range(id..).next().is_some()
    }

    /// Ends fronts that an upgrade made old, and that have had their time since. They are told first:
    /// then they say what they had, and what is lost is counted as it is.
    pub fn cut_late(&mut self, now: Moment) {
        let mut told = Vec::new();
        for front in self.living.values_mut() {
            if front.ends.take_if(|ends| *ends <= now).is_none() {
                continue;
            }
            if front.is_cut {
                front.kill();
                continue;
            }
            tracing::warn!(front = %front.id, "{} did not end within upgrade_drain, what it still serves is cut", front.id);
            (front.is_cut, front.ends) = (true, Some(now + LAST_WORDS));
            told.push(front.id);
        }
        for id in told {
            self.tell(id, ToFront::End, Vec::new());
        }
    }

    /// When the next of them is due.
    pub fn deadline(&self) -> Option<Moment> {
        self.living.values().filter_map(|front| front.ends).min()
    }
}
