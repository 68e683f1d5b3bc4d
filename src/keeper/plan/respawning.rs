//! Within the live generation: a dead worker is respawned, a hung one is replaced, and a budget
//! bounds both.
//!
//! Each worker has two places, so that its substitute can be ready before it is ended: the twin of
//! place `n` is `n + workers`. The second ones exist from the first substitute on.
//!
//! # A worker that dies
//!
//! A worker of the live generation that dies is respawned in its place: at once if it had lived for a
//! while, and later each time it dies young. Its other processes end with it, see `keeper::kin`.
//!
//! # A worker that hangs
//!
//! A worker hangs when its WATCHDOG=1 stops, or when `[health] fails` answers in a row are bad. Its
//! substitute is started beside it, in the twin place, with sockets, fds and names of its own. It is
//! adopted, drained and ended as any other worker, and the app sees the same GAPLESS_WORKER in both. When
//! the substitute is ready, the hung worker leaves the cell and every front acknowledges that. Only then
//! SIGTERM is sent, and SIGKILL after `stop`, or after a second if the worker is silent: a request that
//! waits for its answer can be sent again only then.
//!
//! ```text
//! Ready(well | suspected | unhealthy | silent) → Leaving(cell, SIGTERM, SIGKILL) → vacant
//! ```
//!
//! One worker is replaced at a time: if all fail the check at once, it is mostly not their own fault (a
//! database), and a machine has room for one more, not for twice as many. Replacements spend the same
//! budget as respawns. A worker that answers badly serves on until its substitute is ready, and for good if
//! that fails too: it is at least alive. A suspected worker (one bad answer) gets no requests while another
//! one is well. With a fixed port the worker is ended first, and requests wait.
//!
//! # When the budget is spent
//!
//! When the budget is spent, or as many workers in a row died young, the generation is degraded. A worker
//! must then stay ready for `settle` before it serves, requests get 503 while none does, and each further
//! try is logged at `debug`. The generation is no longer degraded when all workers were well for the
//! budget's interval.

use super::place::Farewell;
use super::{Effect, Generation, Moment, Phase, Plan, Pulse, SlotState};
use crate::id::{GenerationId, Slot};
use std::time::Duration;

/// A worker that lived at least this long did not "die young": its respawn is not delayed.
const YOUNG: Duration = Duration::from_secs(1);
/// The fronts have so long to acknowledge that a worker left the cell; a hung front must not keep
/// it alive.
const LEAVING: Duration = Duration::from_secs(2);
/// Between the stop signal and SIGKILL for one that hears nothing: what waits for its answer can be sent
/// again only when it is dead.
const SILENT_GRACE: Duration = Duration::from_secs(1);

impl Plan {
    pub(super) fn worker_pulse(
        &mut self,
        id: GenerationId,
        slot: Slot,
        pulse: Pulse,
        effects: &mut Vec<Effect>,
    ) {
        let is_stopping = self.is_stopping();
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        let is_booting = generation
            .slot(slot)
            .is_some_and(|state| matches!(state, SlotState::Booting { .. }));
        let must_end = match generation.phase {
            Phase::Live if !is_stopping => {
                generation.with(slot, |state| state.feel(pulse));
                is_booting && pulse == Pulse::Silent
            }
            // Starting | Settling | Settled: its exit fails the start.
            Phase::Starting | Phase::Settling { .. } | Phase::Settled => pulse.is_hung(),
            // What is unwell may still finish its requests, what is silent never will.
            Phase::Live | Phase::Draining { .. } => pulse == Pulse::Silent,
            Phase::Waiting | Phase::Stopping { .. } => false,
        };
        if must_end {
            effects.push(Effect::KillWorker(id, slot));
        }
    }

    /// Every front serves from a cell without this worker.
    pub(super) fn left_cell(
        &mut self,
        now: Moment,
        id: GenerationId,
        slot: Slot,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(generation) = self.generations.get_mut(&id)
            && generation.slot(slot).is_some_and(SlotState::awaits_fronts)
        {
            effects.extend(generation.part_from(slot, now));
        }
    }

    /// What is due in the live generation by the clock, or by what was just heard.
    pub(super) fn pass_time_of_live(
        &mut self,
        now: Moment,
        id: GenerationId,
        effects: &mut Vec<Effect>,
    ) {
        let jitter = self.jitter();
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        generation.recover(now);
        generation.replace_hung(now, jitter, effects);
        for slot in generation.all_slots() {
            if generation.is_respawn_due(slot, now) {
                generation.boot(slot, now);
                effects.push(Effect::Spawn(id, slot));
            } else if generation.kill_late(slot, now) {
                effects.push(Effect::KillWorker(id, slot));
            }
        }
    }
}

impl Generation {
    /// The other place of the same worker.
    pub fn twin(&self, slot: Slot) -> Slot {
        let workers = self.terms.workers;
        Slot(if slot.0 < workers {
            slot.0.saturating_add(workers)
        } else {
            slot.0.saturating_sub(workers)
        })
    }

    /// The places that requests are sent to: of what is ready, the best.
    pub fn serving(&self) -> Vec<Slot> {
        let of = |wanted: Pulse| -> Vec<Slot> {
            self.slots()
                .filter(|(_, state)| state.pulse() == Some(wanted))
                .map(|(slot, _)| slot)
                .collect()
        };
        [
            Pulse::Well,
            Pulse::Suspected,
            Pulse::Unwell { is_used: true },
        ]
        .into_iter()
        .map(of)
        .find(|slots| !slots.is_empty())
        .unwrap_or_default()
    }

    /// Workers that are ready and not hung.
    pub fn well(&self) -> usize {
        let is_well = |state: &&SlotState| state.is_ready() && !state.is_hung();
        self.slots.iter().filter(is_well).count()
    }

    /// What is wrong with the worker that one in this place is to take over from, if anything is.
    pub fn hung_beside(&self, slot: Slot) -> Option<Pulse> {
        self.pulse_of(self.twin(slot))
            .filter(|pulse| pulse.is_hung())
    }

    /// How the worker in this place is.
    pub fn pulse_of(&self, slot: Slot) -> Option<Pulse> {
        self.slot(slot).and_then(SlotState::pulse)
    }

    /// The worker in this place is meant to end.
    pub fn is_ending(&self, slot: Slot) -> bool {
        let is_leaving = |state: &SlotState| matches!(state, SlotState::Leaving { .. });
        self.phase.is_stopping() || self.slot(slot).is_some_and(is_leaving)
    }

    /// This place is empty because the worker is in its other one.
    pub fn is_spare(&self, slot: Slot) -> bool {
        let is_over = |slot| self.slot(slot).is_none_or(SlotState::is_over);
        is_over(slot) && (slot.0 >= self.terms.workers || !is_over(self.twin(slot)))
    }

    /// A worker of the live generation ended. True when its place stays empty from now on.
    pub(super) fn lost(&mut self, now: Moment, slot: Slot, jitter: u64) -> bool {
        let twin = self.twin(slot);
        let ready_since = self.slot(slot).and_then(SlotState::ready_since);
        let is_succeeded = match self.slot(twin) {
            Some(SlotState::Booting { .. } | SlotState::Respawn { .. }) => true,
            Some(SlotState::Ready { since, .. }) => ready_since.is_some_and(|was| was <= *since),
            Some(SlotState::Empty | SlotState::Leaving { .. } | SlotState::Ended) | None => false,
        };
        if is_succeeded {
            self.ended(slot);
            return true;
        }
        // Its substitute failed as well: what ails it is probably not its own.
        self.with(twin, SlotState::is_needed);
        self.respawn_later(
            now,
            slot,
            ready_since.map_or(Duration::ZERO, |was| now - was),
            jitter,
        );
        false
    }

    /// The first death of a worker that had lived is answered at once; those that die young wait
    /// longer each time, and longest when the budget is spent.
    fn respawn_later(&mut self, now: Moment, slot: Slot, lived: Duration, jitter: u64) {
        let terms = &self.terms;
        let burst = terms.burst.saturating_mul(terms.workers);
        let is_allowed = self.budget.take(now, burst, terms.interval);
        self.is_spent |= !is_allowed;
        self.young_deaths = if lived < YOUNG || self.is_spent {
            self.young_deaths.saturating_add(1)
        } else {
            0
        };
        // Also when each try takes longer than the interval.
        self.is_spent |= self.young_deaths > burst;
        let delay = match self.young_deaths {
            0 => Duration::ZERO,
            failures => self.terms.delay(failures, jitter),
        };
        self.with(slot, |state| {
            *state = SlotState::Respawn { at: now + delay }
        });
    }

    /// A fresh worker that stayed ready for `settle` serves; the budget is whole again when all
    /// were well for its interval.
    fn recover(&mut self, now: Moment) {
        let settle = self.terms.settle;
        for state in &mut self.slots {
            if let SlotState::Ready { since, pulse } = state
                && *pulse == Pulse::Fresh
                && *since + settle <= now
            {
                *pulse = Pulse::Well;
            }
        }
        if self.heals_at().is_some_and(|at| at <= now) {
            self.is_spent = false;
            self.young_deaths = 0;
        }
    }

    fn heals_at(&self) -> Option<Moment> {
        if !self.is_spent {
            return None;
        }
        let well_since = |slot: Slot| match self.slot(slot)? {
            SlotState::Ready {
                since,
                pulse: Pulse::Well | Pulse::Suspected,
            } => Some(*since),
            SlotState::Ready { .. }
            | SlotState::Empty
            | SlotState::Booting { .. }
            | SlotState::Leaving { .. }
            | SlotState::Respawn { .. }
            | SlotState::Ended => None,
        };
        let all: Option<Vec<Moment>> = (0..self.terms.workers)
            .map(|n| well_since(Slot(n)).or_else(|| well_since(self.twin(Slot(n)))))
            .collect();
        let last = all?.into_iter().max()?;
        Some(last + self.terms.interval)
    }

    /// One at a time: what fails all of them at once is often not their own fault, and twice the
    /// memory of one worker is what a machine has rather than twice the memory of all.
    fn replace_hung(&mut self, now: Moment, jitter: u64, effects: &mut Vec<Effect>) {
        let all = self.all_slots();
        for slot in &all {
            self.replace(now, *slot, effects);
        }
        if self.terms.fixed_port.is_some() {
            return;
        }
        let is_replaced = |slot: &Slot| {
            let twin = self.slot(self.twin(*slot));
            self.slot(*slot).is_some_and(SlotState::is_ready)
                && twin.is_some_and(|twin| twin.is_ready() || twin.is_coming())
        };
        if all.iter().any(is_replaced) {
            return;
        }
        let needs_one = |slot: &&Slot| {
            let twin = self.slot(self.twin(**slot));
            self.slot(**slot).is_some_and(SlotState::is_hung) && twin.is_none_or(SlotState::is_over)
        };
        if let Some(slot) = all.iter().find(needs_one) {
            let since = self.slot(*slot).and_then(SlotState::ready_since);
            let lived = since.map_or(Duration::ZERO, |since| now - since);
            self.make_room_for_twins();
            self.respawn_later(now, self.twin(*slot), lived, jitter);
        }
    }

    /// What has to happen to a ready worker because of itself, or because of its twin.
    fn replace(&mut self, now: Moment, slot: Slot, effects: &mut Vec<Effect>) {
        let (Some(state), twin) = (self.slot(slot).copied(), self.twin(slot)) else {
            return;
        };
        let (Some(pulse), Some(since)) = (state.pulse(), state.ready_since()) else {
            return;
        };
        if self.terms.fixed_port.is_some() {
            // It cannot run twice: requests wait from here on for the next one.
            if pulse.is_hung() {
                self.leave(now, slot);
            }
            return;
        }
        match self.slot(twin).copied() {
            // Well again before its substitute was begun.
            Some(SlotState::Respawn { .. }) if !pulse.is_hung() => {
                self.ended(twin);
                effects.push(Effect::Vacated(self.id, twin));
            }
            // Its substitute is ready.
            Some(SlotState::Ready {
                since: later,
                pulse: others,
            }) if (since, slot) < (later, twin) => {
                if others.is_hung() {
                    self.with(slot, SlotState::is_needed);
                    self.leave(now, twin);
                } else if others != Pulse::Fresh || pulse == Pulse::Silent {
                    self.leave(now, slot);
                }
            }
            Some(_) | None => {}
        }
    }

    // Ready => Leaving
    fn leave(&mut self, now: Moment, slot: Slot) {
        let stop = self.terms.stop;
        self.with(slot, |state| {
            if let SlotState::Ready { since, pulse } = *state {
                let grace = match pulse {
                    Pulse::Silent => SILENT_GRACE.min(stop),
                    Pulse::Well | Pulse::Fresh | Pulse::Suspected | Pulse::Unwell { .. } => stop,
                };
                *state = SlotState::Leaving {
                    since,
                    step: Farewell::Cell,
                    until: now + LEAVING,
                    grace,
                };
            }
        });
    }

    /// The next step of the end of a single worker.
    fn part_from(&mut self, slot: Slot, now: Moment) -> Option<Effect> {
        let id = self.id;
        let Some(SlotState::Leaving {
            step, until, grace, ..
        }) = self.slot_mut(slot)
        else {
            return None;
        };
        match step {
            Farewell::Cell => {
                (*step, *until) = (Farewell::Terminated, now + *grace);
                Some(Effect::EndWorker(id, slot))
            }
            Farewell::Terminated => {
                *step = Farewell::Killed;
                Some(Effect::KillWorker(id, slot))
            }
            Farewell::Killed => None,
        }
    }

    /// Workers that are being ended go on to the next step.
    pub(super) fn pass_farewells(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        for slot in self.all_slots() {
            while let Some(SlotState::Leaving { until, .. }) = self.slot(slot)
                && *until <= now
                && let Some(effect) = self.part_from(slot, now)
            {
                effects.push(effect);
            }
        }
    }

    pub(super) fn farewells_due(&self) -> Option<Moment> {
        let due = self.slots.iter().filter_map(|state| match state {
            SlotState::Leaving {
                step: Farewell::Cell | Farewell::Terminated,
                until,
                ..
            } => Some(*until),
            SlotState::Leaving { .. }
            | SlotState::Empty
            | SlotState::Booting { .. }
            | SlotState::Ready { .. }
            | SlotState::Respawn { .. }
            | SlotState::Ended => None,
        });
        due.min()
    }

    /// When something is due in the live generation, while gapless does not stop.
    pub(super) fn respawns_due(&self) -> Option<Moment> {
        let due = self.slots.iter().filter_map(|state| match state {
            SlotState::Booting { until, .. } => Some(*until),
            SlotState::Respawn { at } => Some(*at),
            SlotState::Ready {
                since,
                pulse: Pulse::Fresh,
            } => Some(*since + self.terms.settle),
            SlotState::Ready { .. }
            | SlotState::Leaving { .. }
            | SlotState::Empty
            | SlotState::Ended => None,
        });
        due.chain(self.heals_at()).min()
    }

    fn make_room_for_twins(&mut self) {
        let places = usize::try_from(self.terms.workers).unwrap_or(usize::MAX);
        let both = places.saturating_mul(2);
        if self.slots.len() < both {
            self.slots.resize(both, SlotState::Empty);
        }
    }
}
