//! Of old fronts and new ones: what an upgrade waits for, and what becomes of those that it made old.

use super::{Fronts, QUEUE, Stage};
use crate::id::FrontId;
use crate::keeper::plan::Moment;

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

    /// Ends fronts that an upgrade made old, and that have had their time since.
    pub fn cut_late(&mut self, now: Moment) {
        for front in self.living.values_mut() {
            if front.ends.take_if(|ends| *ends <= now).is_some() {
                let report = front.report.clone().unwrap_or_default();
                tracing::warn!(front = %front.id, in_flight = report.in_flight, tunnels = report.tunnels, "{} did not end within upgrade_drain, cutting {} requests and {} tunnels", front.id, report.in_flight, report.tunnels);
                front.is_cut = true;
                front.kill();
            }
        }
    }

    /// When the next of them is due.
    pub fn deadline(&self) -> Option<Moment> {
        self.living.values().filter_map(|front| front.ends).min()
    }
}
