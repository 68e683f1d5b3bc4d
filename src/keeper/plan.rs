//! The plan: every lifecycle decision, as one pure function [`Plan::step`].
//!
//! It has no clock, no io and no runtime, so that a year of deploys and crashes runs in a second of
//! property tests, and so that it can be written down and taken up by the next keeper. What it
//! decides it says as [`Effect`]s; what became of them it hears as [`Event`]s.

mod budget;
mod generation;
mod moment;
mod place;
mod respawning;
mod stopping;
mod swapping;

pub use budget::Budget;
pub use generation::{Generation, Phase, Terms, Why};
pub use moment::Moment;
pub use place::{Pulse, SlotState};

use crate::id::{GenerationId, Slot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Superseded generations may keep draining up to this many; the next swap waits for the oldest.
const DRAINING_MAX: usize = 2;
/// While so many generations are still ending, the next one waits: a storm of reloads must not
/// pile up processes.
const STOPPING_MAX: usize = 2;
/// How long the fronts have to report the end of the requests that were cut, before the workers
/// are ended all the same.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Make a generation of this release the live one.
    Begin(Terms),
    /// The same, but something else is expected to begin first, within this time.
    Await(Terms, Duration),
    /// What waits to begin, and did not fail yet, waits so long from now.
    Postpone(Duration),
    /// A worker said that it is ready, or answered.
    WorkerReady(GenerationId, Slot),
    /// A worker ended, or could not be spawned.
    WorkerExited(GenerationId, Slot),
    /// A worker asked for more time to boot (EXTEND_TIMEOUT_USEC), counted from now.
    BootExtended(GenerationId, Slot, Duration),
    /// A ready worker was found to be well, or not.
    WorkerPulse(GenerationId, Slot, Pulse),
    /// Every front serves from a cell without this worker, which is being ended.
    LeftCell(GenerationId, Slot),
    /// Every front serves from a cell without this generation and holds no lease on it.
    Drained(GenerationId),
    /// Stop: let the fronts finish, then end the workers.
    Stop,
    /// Stop without waiting for anything.
    StopNow,
    /// The last front ended while stopping.
    FrontsGone,
    /// [`Plan::deadline`] passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A generation exists from now on.
    Begun(GenerationId),
    /// Start a worker.
    Spawn(GenerationId, Slot),
    /// Tell every worker of the generation to end.
    Terminate(GenerationId),
    /// SIGKILL to every process of the generation.
    Kill(GenerationId),
    /// Tell one worker to end.
    EndWorker(GenerationId, Slot),
    /// SIGKILL to one worker.
    KillWorker(GenerationId, Slot),
    /// The worker of this place ended, and the next one is in its other place.
    Vacated(GenerationId, Slot),
    /// Tell the fronts to end what still runs on the generation.
    Cut(GenerationId),
    /// The fate of a begun generation is known.
    Decided(GenerationId, Decision),
    /// Every process of it is reaped.
    Gone(GenerationId, Why),
    /// Tell the fronts to stop accepting and to end with their last request.
    DrainFronts,
    /// Tell the fronts to end now.
    EndFronts,
    /// Nothing is left: the keeper may exit.
    Finished,
}

/// What the live cell should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// The ready workers of this generation.
    Live(GenerationId),
    /// Nothing yet: requests wait.
    Hold,
    /// Nothing soon: 503 at once.
    Refuse,
}

/// The fate of a begun generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is live.
    Live,
    /// It never will be.
    Failed(Why),
    /// A newer one took its place; whoever waits should wait for that.
    Superseded(GenerationId),
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stop {
    /// Fronts finish requests, until then at most.
    Fronts { until: Moment },
    /// The cut requests are being reported.
    Cutting { until: Moment },
    /// Workers are ending.
    Workers,
}

/// Nothing is live, and the last start failed or something else comes first: when to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Retry {
    at: Moment,
    terms: Terms,
}

/// All that is decided so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    next: u64,
    generations: BTreeMap<GenerationId, Generation>,
    stop: Option<Stop>,
    retry: Option<Retry>,
    /// Starts that failed in a row while nothing was live.
    failures: u32,
    seed: u64,
}

impl Plan {
    /// `next` is the first generation's number; `seed` makes the jitter.
    pub fn new(next: u64, seed: u64) -> Self {
        Self {
            next,
            generations: BTreeMap::new(),
            stop: None,
            retry: None,
            failures: 0,
            seed: seed | 1,
        }
    }

    /// Takes one event and says what to do, in this order.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Begin(terms) => self.begin(now, terms, None, &mut effects),
            Event::Await(terms, time) => self.wait_with(now + time, terms),
            Event::Postpone(time) => self.postpone(now + time),
            Event::WorkerReady(id, slot) => self.worker_ready(now, id, slot),
            Event::WorkerExited(id, slot) => self.worker_exited(now, id, slot, &mut effects),
            Event::BootExtended(id, slot, by) => {
                self.with_slot(id, slot, |state| state.extend(now + by));
            }
            Event::WorkerPulse(id, slot, pulse) => self.worker_pulse(id, slot, pulse, &mut effects),
            Event::LeftCell(id, slot) => self.left_cell(now, id, slot, &mut effects),
            Event::Drained(id) => self.drained(now, id, &mut effects),
            Event::Stop => self.stop(now, &mut effects),
            Event::StopNow => self.stop_now(now, &mut effects),
            Event::FrontsGone => self.fronts_gone(now, &mut effects),
            Event::Tick => {}
        }
        self.pass_time(now, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    /// When [`Event::Tick`] is due; none: nothing waits.
    pub fn deadline(&self) -> Option<Moment> {
        let is_stopping = self.is_stopping();
        let generations = self
            .generations
            .values()
            .filter_map(|generation| generation.deadline(is_stopping));
        let retry = self.retry.as_ref().map(|retry| retry.at);
        let stop = match self.stop {
            Some(Stop::Fronts { until } | Stop::Cutting { until }) => Some(until),
            Some(Stop::Workers) | None => None,
        };
        generations.chain(retry).chain(stop).min()
    }

    /// All that are not gone, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.generations.values()
    }

    /// One that is not gone.
    pub fn generation(&self, id: GenerationId) -> Option<&Generation> {
        self.generations.get(&id)
    }

    /// The live one.
    pub fn live(&self) -> Option<&Generation> {
        self.generations
            .values()
            .find(|generation| generation.phase == Phase::Live)
    }

    /// The one that is to be live next.
    pub fn coming(&self) -> Option<&Generation> {
        self.generations
            .values()
            .find(|generation| generation.phase.is_coming())
    }

    /// The number that the next generation gets.
    pub fn next_generation(&self) -> u64 {
        self.next
    }

    /// Nothing starts any more.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// When the failed start is tried again, if nothing is live.
    pub fn retry_at(&self) -> Option<Moment> {
        self.retry.as_ref().map(|retry| retry.at)
    }

    /// Nothing runs, and nothing is to.
    pub fn is_idle(&self) -> bool {
        self.live().is_none() && self.coming().is_none() && self.retry.is_none()
    }

    /// Tries follow each other, and are to be told as one: the restart budget is spent.
    pub fn is_degraded(&self) -> bool {
        let next = self.retry.as_ref().map(|retry| &retry.terms);
        let next = next.or(self.coming().map(|coming| &coming.terms));
        match self.live() {
            Some(live) => live.is_spent,
            None => next.is_some_and(|terms| self.has_failed_enough(terms)),
        }
    }

    fn has_failed_enough(&self, terms: &Terms) -> bool {
        self.failures >= terms.burst.max(1)
    }

    /// What happens to this generation was said before: it is one more try.
    pub fn is_repeating(&self, id: GenerationId) -> bool {
        let is_one_more =
            |generation: &Generation| generation.phase == Phase::Live || generation.is_retry;
        self.is_degraded() && self.generation(id).is_some_and(is_one_more)
    }

    /// Releases that may still be started or are running.
    pub fn releases(&self) -> impl Iterator<Item = u64> {
        let fallbacks = self
            .generations
            .values()
            .filter_map(|g| g.fallback.as_ref());
        let running = self
            .generations
            .values()
            .map(|generation| &generation.terms);
        let retried = self.retry.iter().map(|retry| &retry.terms);
        running
            .chain(fallbacks)
            .chain(retried)
            .map(|terms| terms.release)
    }

    fn begin(
        &mut self,
        now: Moment,
        terms: Terms,
        fallback: Option<Terms>,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_stopping() {
            return;
        }
        let retried = self.retry.take().map(|retry| retry.terms);
        let id = GenerationId(self.next);
        self.next = self.next.saturating_add(1);
        let is_first = terms.is_trial && self.live().is_none();
        let mut fallback = fallback.or(retried.filter(|_| is_first));
        // Waiting | Starting | Settling | Settled => Stopping(Superseded)
        if let Some(old) = self.coming().map(|generation| generation.id) {
            // What the superseded one would have gone back to is still what runs last.
            fallback = fallback.or(self.generations.get_mut(&old).and_then(|old| {
                let proven = (is_first && !old.terms.is_trial).then(|| old.terms.clone());
                old.fallback.take().or(proven)
            }));
            self.end(now, old, Why::Superseded, effects);
            effects.push(Effect::Decided(old, Decision::Superseded(id)));
        }
        effects.push(Effect::Begun(id));
        self.generations
            .insert(id, Generation::new(id, terms, fallback, now));
    }

    /// Only a keeper that has just started waits: whoever runs or comes needs nobody to fall back on.
    fn wait_with(&mut self, at: Moment, terms: Terms) {
        if !self.is_stopping() && self.is_idle() {
            self.retry = Some(Retry { at, terms });
        }
    }

    /// What failed comes back at its own time, whoever deploys meanwhile.
    fn postpone(&mut self, at: Moment) {
        if let Some(retry) = self.retry.as_mut().filter(|_| self.failures == 0) {
            retry.at = at;
        }
    }

    fn worker_ready(&mut self, now: Moment, id: GenerationId, slot: Slot) {
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        generation.ready(slot, now);
        if matches!(generation.phase, Phase::Starting)
            && generation.slots.iter().all(SlotState::is_ready)
        {
            // Starting => Settling
            generation.phase = Phase::Settling {
                until: now + generation.terms.settle,
            };
        }
    }

    fn worker_exited(
        &mut self,
        now: Moment,
        id: GenerationId,
        slot: Slot,
        effects: &mut Vec<Effect>,
    ) {
        let is_stopping = self.is_stopping();
        let seed = self.jitter();
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        match generation.phase {
            // Starting | Settling | Settled => Stopping(StartFailed)
            Phase::Starting | Phase::Settling { .. } | Phase::Settled => {
                generation.ended(slot);
                self.fail(now, id, Why::StartFailed, effects);
            }
            Phase::Live if !is_stopping => {
                if generation.lost(now, slot, seed) {
                    effects.push(Effect::Vacated(id, slot));
                }
            }
            Phase::Live | Phase::Waiting | Phase::Draining { .. } | Phase::Stopping { .. } => {
                generation.ended(slot);
            }
        }
    }

    fn drained(&mut self, now: Moment, id: GenerationId, effects: &mut Vec<Effect>) {
        let Some(generation) = self.generations.get(&id) else {
            return;
        };
        // Draining => Stopping(Drained | CutOff)
        if let Phase::Draining { cut, .. } = generation.phase {
            let why = if cut { Why::CutOff } else { Why::Drained };
            self.end(now, id, why, effects);
        }
    }

    /// What is due by the clock alone.
    fn pass_time(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let ids: Vec<_> = self.generations.keys().copied().collect();
        for id in ids {
            self.pass_time_of(now, id, effects);
        }
        match self.stop {
            Some(Stop::Fronts { until }) if until <= now => {
                self.stop = Some(Stop::Cutting {
                    until: now + CUT_GRACE,
                });
                effects.extend(self.generations.keys().copied().map(Effect::Cut));
            }
            Some(Stop::Cutting { until }) if until <= now => {
                effects.push(Effect::EndFronts);
                self.fronts_gone(now, effects);
            }
            Some(Stop::Fronts { .. } | Stop::Cutting { .. } | Stop::Workers) | None => {}
        }
        if self.retry.as_ref().is_some_and(|retry| retry.at <= now)
            && let Some(Retry { terms, .. }) = self.retry.take()
        {
            let id = GenerationId(self.next);
            self.begin(now, terms, None, effects);
            if let Some(again) = self.generations.get_mut(&id) {
                again.is_retry = true;
            }
        }
    }

    fn pass_time_of(&mut self, now: Moment, id: GenerationId, effects: &mut Vec<Effect>) {
        let is_stopping = self.is_stopping();
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        if generation.phase == Phase::Live || generation.phase.is_draining() {
            generation.pass_farewells(now, effects);
        }
        match &mut generation.phase {
            Phase::Waiting | Phase::Settled => {}
            // Starting => Stopping(StartTimedOut)
            Phase::Starting => {
                if generation.slots.iter().any(|slot| slot.is_late(now)) {
                    self.fail(now, id, Why::StartTimedOut, effects);
                }
            }
            // Settling => Settled
            Phase::Settling { until } => {
                if *until <= now {
                    generation.phase = Phase::Settled;
                }
            }
            Phase::Live => {
                if !is_stopping {
                    self.pass_time_of_live(now, id, effects);
                }
            }
            Phase::Draining { until, cut } => {
                if *until > now {
                    return;
                }
                if *cut {
                    // Draining => Stopping(CutOff)
                    self.end(now, id, Why::CutOff, effects);
                } else {
                    (*until, *cut) = (now + CUT_GRACE, true);
                    effects.push(Effect::Cut(id));
                }
            }
            Phase::Stopping {
                kill_at, killed, ..
            } => {
                if *kill_at <= now && !std::mem::replace(killed, true) {
                    effects.push(Effect::Kill(id));
                }
            }
        }
    }

    /// Brings everything that follows from the rest into line: what is gone, what may start.
    fn settle(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.bury(now, effects);
        self.swap_settled(now, effects);
        self.start_waiting(now, effects);
        if self.stop == Some(Stop::Workers) && self.generations.is_empty() {
            effects.push(Effect::Finished);
        }
    }

    fn bury(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        // Draining => Gone: nobody is left to finish anything.
        let dead = |generation: &Generation| generation.slots.iter().all(SlotState::is_over);
        let ids: Vec<_> = self
            .generations
            .values()
            .filter(|g| dead(g))
            .map(|g| g.id)
            .collect();
        for id in ids {
            let Some(generation) = self.generations.get(&id) else {
                continue;
            };
            let why = match generation.phase {
                Phase::Stopping { why, .. } => why,
                Phase::Draining { .. } => Why::Died,
                Phase::Live if self.is_stopping() => Why::Died,
                Phase::Waiting
                | Phase::Starting
                | Phase::Settling { .. }
                | Phase::Settled
                | Phase::Live => continue,
            };
            let gone = self.generations.remove(&id);
            effects.push(Effect::Gone(id, why));
            if let Some(terms) = gone.and_then(|gone| gone.fallback_now(why)) {
                self.begin(now, terms, None, effects);
            }
        }
    }

    /// A start that failed: says so, and tries again later when nothing is live.
    fn fail(&mut self, now: Moment, id: GenerationId, why: Why, effects: &mut Vec<Effect>) {
        let Some(terms) = self
            .generations
            .get(&id)
            .map(|generation| generation.terms.clone())
        else {
            return;
        };
        let has_fallback = self
            .generations
            .get(&id)
            .is_some_and(|generation| generation.fallback.is_some());
        // First: what is wrong with its workers can be seen as long as they run.
        effects.push(Effect::Decided(id, Decision::Failed(why)));
        self.end(now, id, why, effects);
        let is_last_word = has_fallback || terms.is_trial;
        if self.live().is_none() && !is_last_word && !self.is_stopping() {
            self.failures = self.failures.saturating_add(1);
            let delay = terms.delay(self.failures, self.jitter());
            self.retry = Some(Retry {
                at: now + delay,
                terms,
            });
        }
    }

    // any => Stopping(why)
    fn end(&mut self, now: Moment, id: GenerationId, why: Why, effects: &mut Vec<Effect>) {
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        if generation.phase.is_stopping() {
            return;
        }
        generation.give_up_respawns();
        generation.phase = Phase::Stopping {
            why,
            kill_at: now + generation.terms.stop,
            killed: false,
        };
        if generation.slots.iter().any(SlotState::has_process) {
            effects.push(Effect::Terminate(id));
        }
    }

    /// What the cell should hold.
    pub fn aim(&self) -> Aim {
        match self.live() {
            Some(live) if live.is_spent() => Aim::Refuse,
            Some(live) => Aim::Live(live.id),
            None if self.is_stopping() => Aim::Refuse,
            None => match &self.retry {
                Some(retry) if self.has_failed_enough(&retry.terms) => Aim::Refuse,
                Some(_) | None => match self.coming() {
                    Some(coming) if self.has_failed_enough(&coming.terms) => Aim::Refuse,
                    Some(_) | None => Aim::Hold,
                },
            },
        }
    }

    fn with_slot(&mut self, id: GenerationId, slot: Slot, change: impl FnOnce(&mut SlotState)) {
        if let Some(state) = self.generations.get_mut(&id).and_then(|g| g.slot_mut(slot)) {
            change(state);
        }
    }

    /// xorshift64: enough to keep machines from respawning in step.
    fn jitter(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }
}

#[cfg(test)]
mod tests;
