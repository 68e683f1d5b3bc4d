//! From waiting to live: who may start, who may be swapped in, who has to make way.
//!
//! # Why a generation settles
//!
//! A version that says READY=1 and dies right after would otherwise be live for that moment, and its
//! requests lost. Swapping back would need a way from Draining to Live, and requests would already have
//! failed. So it has to live for `settle` (a second) before the swap.
//!
//! # Why a swap waits for a drain
//!
//! Two generations may drain. When a third reload is ready before the oldest is done, cutting it lost 44 of
//! 2,551 requests (ten reloads in two seconds, requests of up to two seconds). So the swap waits, at most
//! to the drain limit of the oldest; the live generation serves on meanwhile, and nothing is lost.
//!
//! # When a swap is told
//!
//! READY=1, the exit code and the answer of `/reload` wait until every lane serves from the new cell (two
//! seconds at most, for a front that hangs): a swap is told when it is true.

use super::{DRAINING_MAX, Decision, Effect, Generation, Moment, Phase, Plan, STOPPING_MAX};
use crate::id::{GenerationId, Slot};

impl Plan {
    pub(super) fn in_phase(&self, phase: Phase) -> Option<GenerationId> {
        self.generations
            .values()
            .find(|g| g.phase == phase)
            .map(|g| g.id)
    }

    /// A superseded generation may drain beside those that do.
    pub(super) fn has_room_to_drain(&self) -> bool {
        let draining = self
            .generations
            .values()
            .filter(|g| g.phase.is_draining())
            .count();
        self.live().is_none() || draining < DRAINING_MAX
    }

    pub(super) fn swap_settled(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.has_room_to_drain()
            && let Some(id) = self.in_phase(Phase::Settled)
        {
            self.swap(now, id, effects);
        }
    }

    /// With a fixed port the live generation has to go first; it is what to go back to.
    pub(super) fn make_way(&mut self, now: Moment, id: GenerationId) {
        let port = self
            .generation(id)
            .and_then(|generation| generation.terms.fixed_port);
        let is_in_the_way = |live: &&Generation| port.is_some() && live.terms.fixed_port == port;
        let Some(live) = self.live().filter(is_in_the_way) else {
            return;
        };
        if !self.has_room_to_drain() {
            return;
        }
        let (old, terms) = (live.id, live.terms.clone());
        self.drain(now, old);
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.fallback = Some(terms);
        }
    }

    pub(super) fn start_waiting(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(id) = self.in_phase(Phase::Waiting) else {
            return;
        };
        self.make_way(now, id);
        if !self.may_start(id) {
            return;
        }
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        // Waiting => Starting
        generation.phase = Phase::Starting;
        for index in 0..generation.terms.workers {
            generation.boot(Slot(index), now);
            effects.push(Effect::Spawn(id, Slot(index)));
        }
    }

    pub(super) fn may_start(&self, id: GenerationId) -> bool {
        let others = || {
            self.generations
                .values()
                .filter(move |other| other.id != id)
        };
        let stopping = others().filter(|other| other.phase.is_stopping()).count();
        let port = self
            .generation(id)
            .and_then(|generation| generation.terms.fixed_port);
        let is_taken = port.is_some() && others().any(|other| other.terms.fixed_port == port);
        stopping <= STOPPING_MAX && !is_taken && !self.is_stopping()
    }

    // Settled => Live, the one place where a generation becomes live.
    pub(super) fn swap(&mut self, now: Moment, id: GenerationId, effects: &mut Vec<Effect>) {
        if let Some(old) = self.live().map(|live| live.id) {
            self.drain(now, old);
        }
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.phase = Phase::Live;
            generation.fallback = None;
            generation.terms.is_trial = false;
        }
        self.failures = 0;
        effects.push(Effect::Decided(id, Decision::Live));
    }

    // Live => Draining
    pub(super) fn drain(&mut self, now: Moment, id: GenerationId) {
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.phase = Phase::Draining {
                until: now + generation.terms.drain,
                cut: false,
            };
            generation.give_up_respawns();
        }
    }
}
