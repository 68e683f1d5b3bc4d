//! Carrying out what the plan says.

use super::{End, Keeper, Readiness, log_up, now};
use crate::causes::chain;
use crate::id::FrontId;
use crate::id::{GenerationId, Slot};
use crate::keeper::crew::Crew;
use crate::keeper::death::Death;
use crate::keeper::fronts::Birth;
use crate::keeper::happening::{Felt, WorkerLife};
use crate::keeper::notice::{Notice, Said};
use crate::keeper::plan::{Aim, Effect, Event, Generation, Phase, Why};
use crate::keeper::reaper::Ending;
use crate::keeper::release::Release;
use crate::keeper::totals::Milestone;
use crate::keeper::{limits, listeners};
use crate::link::{LIFECYCLE_BOUNDS, Target};
use crate::steps::{self, Step};
use crate::systemd::{message_id, notify};
use std::path::Path;
use std::time::Duration;

/// A front that died this young is replaced with a delay.
const FRONT_YOUNG: Duration = Duration::from_secs(1);
/// Between two tries to start a front that dies young.
const FRONT_DELAY_MIN: Duration = Duration::from_millis(50);
const FRONT_DELAY_MAX: Duration = Duration::from_secs(5);

impl Keeper {
    /// Lets the plan take all that happened, carries out what it says, and brings fronts, state and
    /// status into line with it.
    pub(super) fn work(&mut self) {
        loop {
            while let Some(event) = self.events.pop_front() {
                let first = self.begin_again(&event);
                for event in first.into_iter().chain([event]) {
                    for effect in self.memory.plan.step(now(), event) {
                        self.carry_out(&effect);
                    }
                }
                self.is_dirty = true;
            }
            self.serve_target();
            self.find_drained();
            self.find_left();
            self.find_quiet();
            self.tell_steps();
            self.tell_outcomes();
            self.find_arrived();
            if self.events.is_empty() {
                break;
            }
        }
        self.say_degraded();
        self.look_at_recent();
        if self.is_dirty {
            let wanted: std::collections::BTreeSet<u64> = self.memory.plan.releases().collect();
            self.memory
                .releases
                .retain(|release, _| wanted.contains(release));
            self.save_state();
            self.say_reloading();
            self.say_status();
        }
    }

    fn carry_out(&mut self, effect: &Effect) {
        match *effect {
            Effect::Begun(id) => self.begun(id),
            Effect::Spawn(id, slot) => self.spawn(id, slot),
            Effect::Terminate(id) => {
                self.measure_drain(id);
                self.with_crew(id, Crew::terminate);
            }
            Effect::Kill(id) => {
                tracing::warn!(generation = %id, "{id} did not end in time, killing it");
                self.with_crew(id, Crew::kill);
            }
            Effect::EndWorker(id, slot) => self.with_crew(id, |crew| crew.end_worker(slot)),
            Effect::Vacated(id, slot) => {
                if let Some(crew) = self.crews.get_mut(&id) {
                    crew.vacate(slot, &self.yard);
                }
            }
            Effect::KillWorker(id, slot) => {
                if let Some(crew) = self.crews.get_mut(&id) {
                    crew.kill_worker(slot);
                }
            }
            Effect::Cut(id) => self.fronts.cut(id),
            Effect::Decided(id, decision) => self.decided(id, decision),
            Effect::Gone(id, why) => self.gone(id, why),
            Effect::DrainFronts => {
                self.fronts.drain();
                if self.fronts.is_empty() {
                    self.events.push_back(Event::FrontsGone);
                }
            }
            Effect::EndFronts => self.fronts.end(),
            Effect::Finished => self.end = Some(End::Finished),
        }
    }

    fn begun(&mut self, id: GenerationId) {
        // Before anything of it is there: whoever asked for it gets it from the next keeper, too.
        self.save_state();
        self.is_dirty = true;
        let Some(terms) = self
            .memory
            .plan
            .generation(id)
            .map(|generation| &generation.terms)
        else {
            return;
        };
        let Some(release) = self.memory.releases.get(&terms.release).cloned() else {
            return;
        };
        let cgroup = self.group.as_ref().and_then(|group| match group.create(&id.to_string()) {
            Ok(path) => Some(path),
            Err(error) => {
                tracing::warn!(generation = %id, %error, "no control group for {id}, its processes are ended one by one: {error}");
                None
            }
        });
        self.limit(&release, cgroup.as_deref());
        let is_repeating = self.memory.plan.is_repeating(id);
        if !is_repeating {
            tracing::info!(name: message_id::BEGUN.name, generation = %id, release = release.label, "{id} begins: release {}", release.label);
        }
        let mut crew = Crew::new(id, release, cgroup, &self.yard);
        crew.is_repeating = is_repeating;
        self.crews.insert(id, crew);
        let written = self.counter.as_ref().map_or(Ok(()), |it| it.write(id));
        let is_news = self.counter_said.is_news(written.is_err());
        if let Some(error) = written.err().filter(|_| is_news) {
            tracing::warn!(error = %chain(&error), "generation number not written, it may be used again after a reboot: {}", chain(&error));
        }
    }

    /// A limit that is not in force is told at once, and in every status until one is.
    fn limit(&mut self, release: &Release, cgroup: Option<&Path>) {
        let applied = limits::apply(&release.limits, self.group.as_ref(), cgroup);
        let unlimited = applied.err().map(|error| error.to_string());
        if let Some(why) = unlimited
            .as_ref()
            .filter(|_| unlimited != self.memory.unlimited)
        {
            tracing::error!(why = %why, "[limits] are not in force: {why}");
        }
        self.memory.unlimited = unlimited;
    }

    /// What is tried again and again is told once.
    pub(super) fn hush(&mut self, id: GenerationId) {
        if let Some(crew) = self.crews.get_mut(&id) {
            crew.is_repeating = self.memory.plan.is_repeating(id);
        }
    }

    fn spawn(&mut self, id: GenerationId, slot: Slot) {
        self.hush(id);
        let Some(crew) = self.crews.get_mut(&id) else {
            return;
        };
        let is_live = |generation: &&Generation| generation.phase == Phase::Live;
        if let Some(live) = self.memory.plan.generation(id).filter(is_live) {
            let why = live
                .hung_beside(slot)
                .map_or_else(|| crew.take_death(slot), Death::of_hung);
            self.fronts.totals.respawned(why);
            let why = why.word();
            tracing::info!(name: message_id::WORKER_RESPAWNED.name, generation = %id, worker = %slot, why, "{id} {slot} is started again: {why}");
        }
        if let Err(error) = crew.start(slot, &self.yard, now()) {
            if crew.is_repeating {
                tracing::debug!(generation = %id, worker = %slot, error = %chain(&error), "{id} {slot} not started: {}", chain(&error));
            } else {
                tracing::error!(generation = %id, worker = %slot, error = %chain(&error), "{id} {slot} not started: {}", chain(&error));
            }
            self.events.push_back(Event::WorkerExited(id, slot));
        }
    }

    fn gone(&mut self, id: GenerationId, why: Why) {
        let crew = self.crews.remove(&id);
        if crew.as_ref().is_some_and(|crew| crew.is_repeating) {
            tracing::debug!(generation = %id, why = %why, "{id} is gone: {why}");
        } else {
            tracing::info!(name: message_id::GONE.name, generation = %id, why = %why, "{id} is gone: {why}");
        }
        self.yard.deposits.abandon(id);
        if let Some(crew) = crew {
            crew.forget();
            crew.bury(&self.yard);
        }
        steps::reached(Step::GenerationGone);
    }

    /// The cell follows the plan and the workers.
    fn serve_target(&mut self) {
        let target = match self.memory.plan.aim() {
            Aim::Hold => Target::Hold,
            Aim::Refuse => Target::Refuse,
            Aim::Live(generation) => {
                let plan = self.memory.plan.generation(generation);
                let serving = plan.map(Generation::serving).unwrap_or_default();
                let crew = self.crews.get(&generation);
                let is_paused = self.memory.standing.pause.is_some();
                let backends = crew
                    .filter(|_| !is_paused)
                    .map(|crew| crew.backends(|slot| serving.contains(&slot)))
                    .unwrap_or_default();
                Target::Live {
                    generation,
                    backends,
                }
            }
        };
        if target == Target::Refuse {
            self.crews.values().for_each(Crew::turn_away);
        }
        let is_bare = self.is_bare();
        if !self.fronts.serve(target, is_bare) {
            return;
        }
        steps::reached(Step::CellServed);
        self.is_dirty = true;
        let (seq, live) = (
            self.fronts.cell().seq,
            self.memory.plan.live().map(|live| live.id),
        );
        if let Some(id) =
            live.filter(|id| self.memory.milestone.is_none_or(|it| it.generation != *id))
        {
            self.memory.milestone = Some(Milestone::set(id, &self.fronts.counters()));
            self.yard.deposits.settle(id);
        }
        for (id, crew) in &mut self.crews {
            let is_live = live == Some(*id);
            match (is_live, crew.left_cell_at) {
                (true, _) => (crew.left_cell_at, crew.superseded) = (None, None),
                (false, None) => {
                    (crew.left_cell_at, crew.superseded) = (Some(seq), Some(now()));
                    if self
                        .memory
                        .plan
                        .generation(*id)
                        .is_some_and(|it| it.phase.is_draining())
                    {
                        tracing::info!(name: message_id::DRAINING.name, generation = %id, "{id} finishes its requests");
                    }
                }
                (false, Some(_)) => {}
            }
        }
    }

    /// A superseded generation is told to end: its drain is over.
    fn measure_drain(&mut self, id: GenerationId) {
        let is_over = self
            .memory
            .plan
            .generation(id)
            .is_some_and(|generation| generation.phase.has_drained());
        let superseded = self.crews.get(&id).and_then(|crew| crew.superseded);
        if let Some(since) = superseded.filter(|_| is_over) {
            let took = now() - since;
            self.fronts.totals.drain.count(&LIFECYCLE_BOUNDS, took);
        }
    }

    fn find_drained(&mut self) {
        let draining = self
            .memory
            .plan
            .generations()
            .filter(|g| g.phase.is_draining())
            .map(|g| g.id);
        for id in draining.collect::<Vec<_>>() {
            let left_at = self.crews.get(&id).and_then(|crew| crew.left_cell_at);
            if left_at.is_some_and(|seq| self.fronts.is_drained(id, seq)) {
                tracing::info!(name: message_id::DRAINED.name, generation = %id, "{id} has finished its requests");
                self.events.push_back(Event::Drained(id));
            }
        }
    }

    /// Hung workers that left the cell are ended when no front sends them anything more.
    fn find_left(&mut self) {
        if !self.fronts.has_acknowledged(self.fronts.cell().seq) {
            return;
        }
        for generation in self.memory.plan.generations() {
            let left = generation
                .slots()
                .filter(|(_, state)| state.awaits_fronts());
            let left = left.map(|(slot, _)| Event::LeftCell(generation.id, slot));
            self.events.extend(left);
        }
    }

    pub(super) fn felt(&mut self, life: WorkerLife, felt: &Felt) {
        if let Some(crew) = self.crews.get_mut(&life.generation)
            && let Some(pulse) = crew.felt(life, felt)
        {
            let event = Event::WorkerPulse(life.generation, life.slot, pulse);
            self.events.push_back(event);
        }
    }

    pub(super) fn notices(&mut self, life: WorkerLife, said: Said) {
        let Some(crew) = self.crews.get_mut(&life.generation) else {
            return;
        };
        if let Some(keeping) = said.keeping {
            let number = crew.release.worker_number(life.slot);
            self.yard.deposits.heed(life, number, keeping);
            self.is_dirty = true;
        }
        let of_concern = crew.said(life, said.notices, &self.yard);
        for notice in of_concern {
            match notice {
                Notice::ExtendTimeout(by) => {
                    self.events
                        .push_back(Event::BootExtended(life.generation, life.slot, by));
                }
                Notice::WatchdogTrigger => self.felt(life, &Felt::Silent),
                Notice::Ready
                | Notice::Reloading
                | Notice::Stopping
                | Notice::Status(_)
                | Notice::Watchdog => {}
            }
        }
    }

    /// Starts a front; the older ones retire when it is ready.
    pub(super) fn bear_front(&mut self) {
        if self.memory.plan.is_stopping() {
            return;
        }
        let cgroup = self
            .group
            .as_ref()
            .and_then(|group| group.create(&FrontId(self.fronts.next()).to_string()).ok());
        let birth = Birth {
            name: &self.options.name,
            http: &self.memory.http,
            log_level: &self.memory.log_level,
            access: self.memory.access,
            listeners: self.listeners.iter().map(|listener| &listener.fd).collect(),
            closing: self.closing.iter().map(|listener| &listener.fd).collect(),
            runtime_directory: &self.options.runtime_directory,
            cgroup: cgroup.as_deref(),
            orphaned: self.orphaned(),
            is_upgrade: self.is_arriving(),
            env: &self.env,
            now: now(),
        };
        if let Err(error) = self.fronts.bear(&birth) {
            tracing::error!(error = %chain(&error), "no new front, trying again: {}", chain(&error));
            self.delay_front();
        } else if !self.closing.is_empty() {
            self.closing.clear();
            listeners::keep_open_only(&self.listeners);
        }
        // Not at the end of the turn: clients are with it from now on, and a keeper that dies while
        // it starts workers must leave it to the next.
        self.save_state();
        steps::reached(Step::FrontRemembered);
        self.is_dirty = true;
    }

    pub(super) fn front_exited(&mut self, id: FrontId, ending: Ending) {
        steps::reached(Step::FrontExited);
        let stops = self.memory.plan.is_stopping();
        let directory = &self.options.runtime_directory;
        let Some(exited) = self.fronts.exited(id, directory, stops, now()) else {
            return;
        };
        steps::reached(Step::FrontBuried);
        if !exited.has_estate || stops {
            self.discard_front(id);
        }
        if self.memory.plan.is_stopping() {
            if self.fronts.is_empty() {
                self.events.push_back(Event::FrontsGone);
            }
            return;
        }
        if !exited.was_wanted {
            tracing::info!(front = %id, why = %ending, "{id} is gone");
            return;
        }
        self.fronts.totals.front_deaths += 1;
        tracing::error!(name: message_id::FRONT_DIED.name, front = %id, why = %ending, lost = exited.in_flight, settled = exited.settled, "{id} {ending}, {} connections of it go on and {} are lost, starting another front; the app goes on", exited.settled, exited.in_flight);
        if self.fronts.has_any_current() {
            return;
        }
        if now() - exited.born < FRONT_YOUNG {
            self.young_fronts = self.young_fronts.saturating_add(1);
            self.delay_front();
        } else {
            self.young_fronts = 0;
            self.bear_front();
        }
    }

    fn discard_front(&self, id: FrontId) {
        if let Some(group) = &self.group {
            group.discard(&id.to_string());
        }
    }

    /// Their trustees live in the groups of the dead fronts.
    pub(super) fn close_estates(&mut self) {
        for id in self.fronts.close_estates(now()) {
            self.discard_front(id);
            self.is_dirty = true;
        }
    }

    fn delay_front(&mut self) {
        let doublings = self.young_fronts.min(10);
        let delay = FRONT_DELAY_MIN
            .saturating_mul(1_u32 << doublings)
            .min(FRONT_DELAY_MAX);
        self.front_due = Some(now() + delay);
    }

    /// READY=1 as soon as the first start is decided one way or the other.
    pub(super) fn say_ready_if_decided(&mut self) {
        if self.readiness == Readiness::Decided {
            self.readiness = Readiness::Said;
            log_up("ready", notify::ready());
        }
    }

    fn with_crew(&self, id: GenerationId, act: impl FnOnce(&Crew)) {
        if let Some(crew) = self.crews.get(&id) {
            act(crew);
        }
    }
}
