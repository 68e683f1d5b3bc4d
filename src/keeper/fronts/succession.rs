//! Of old fronts and new ones: what an upgrade waits for, and what becomes of those that it made old.

use super::{Fronts, QUEUE, Stage};
use crate::id::FrontId;
use crate::keeper::plan::Moment;
use crate::link::ToFront;
use std::time::Duration;

/// For a front that is told to end at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Fronts {
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
        fronts.all(|front| front.letters.capacity() == QUEUE)
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
