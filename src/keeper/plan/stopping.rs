//! The stop of gapless itself: first the fronts finish, then the workers end.

use super::{Effect, Moment, Phase, Plan, Stop, Why};
use std::time::Duration;

impl Plan {
    pub(super) fn stop(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.is_stopping() {
            return;
        }
        self.retry = None;
        let live = self
            .generations
            .values_mut()
            .find(|generation| generation.phase == Phase::Live);
        let drain = live.map_or(Duration::ZERO, |live| {
            live.give_up_respawns();
            live.terms.drain
        });
        self.stop = Some(Stop::Fronts { until: now + drain });
        effects.push(Effect::DrainFronts);
        // Waiting | Starting | Settling | Settled => Stopping(Stopped)
        if let Some(id) = self.coming().map(|generation| generation.id) {
            self.fail(now, id, Why::Stopped, effects);
        }
    }

    pub(super) fn stop_now(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.stop(now, effects);
        effects.push(Effect::EndFronts);
        self.stop = Some(Stop::Workers);
        let ids: Vec<_> = self.generations.keys().copied().collect();
        for id in ids {
            self.end(now, id, Why::Stopped, effects);
            if let Some(generation) = self.generations.get_mut(&id)
                && let Phase::Stopping { killed, .. } = &mut generation.phase
                && !std::mem::replace(killed, true)
            {
                effects.push(Effect::Kill(id));
            }
        }
    }

    pub(super) fn fronts_gone(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if !self.is_stopping() {
            return;
        }
        self.stop = Some(Stop::Workers);
        let ids: Vec<_> = self.generations.keys().copied().collect();
        for id in ids {
            self.end(now, id, Why::Stopped, effects);
        }
    }
}
