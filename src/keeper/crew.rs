//! A crew: the workers of one generation, with all that the keeper holds for them.
//!
//! A crew decides nothing: it starts a worker when the plan says so, tells the keeper's loop what
//! the worker does, and ends it when the plan says so.

use super::cgroup;
use super::death::Death;
use super::diagnosis::{self, End, Fault};
use super::happening::{Felt, WorkerLife};
use super::kin::Extent;
use super::notice::Notice;
use super::oom::OomKills;
use super::plan::{Moment, Pulse};
use super::reaper::{self, Ending};
use super::release::Release;
use super::spawn::Environment;
use super::stored;
use super::worker::{self, Offer, Place, RememberedWorker, Worker, WorkerError};
use super::yard::Yard;
use crate::api::WorkerStatus;
use crate::causes::chain;
use crate::diagnosis::Diagnosis;
use crate::id::{GenerationId, Slot};
use crate::link::{Backend, Endpoint};
use crate::systemd::message_id;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

/// What the next keeper must know of a crew, beside the kept fds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedCrew {
    /// Which.
    pub id: GenerationId,
    release: Release,
    cgroup: Option<PathBuf>,
    left_cell_at: Option<u64>,
    #[serde(default)]
    superseded: Option<Moment>,
    workers: Vec<RememberedWorker>,
}

/// The workers of one generation.
pub struct Crew {
    id: GenerationId,
    /// What they run.
    pub release: Release,
    cgroup: Option<PathBuf>,
    /// What the NOTIFY_SOCKET of its workers begins with.
    mark: String,
    /// The first cell without this generation, once it was in one.
    pub left_cell_at: Option<u64>,
    /// What happens to it was said before: it is one more try of a degraded app.
    pub is_repeating: bool,
    /// When that was.
    pub superseded: Option<Moment>,
    /// What was seen of a worker that is not ready yet.
    late: Option<String>,
    /// Why it failed, if it did: one sentence.
    pub cause: Option<String>,
    /// Its name.
    pub diagnosis: Option<Diagnosis>,
    /// What is likely to mend it.
    pub cure: Option<String>,
    /// The last lines of the worker that failed.
    pub last_lines: Vec<String>,
    oom: Rc<OomKills>,
    places: BTreeMap<Slot, Place>,
}

impl Crew {
    /// Nobody yet.
    pub fn new(id: GenerationId, release: Release, cgroup: Option<PathBuf>, yard: &Yard) -> Self {
        if let Some(group) = &cgroup {
            yard.oom.watch(group);
        }
        Self {
            id,
            release,
            cgroup,
            mark: worker::mark_of(yard, id),
            left_cell_at: None,
            is_repeating: false,
            superseded: None,
            late: None,
            cause: None,
            diagnosis: None,
            cure: None,
            last_lines: Vec::new(),
            oom: Rc::clone(&yard.oom),
            places: BTreeMap::new(),
        }
    }

    /// Starts the worker of a slot.
    ///
    /// # Errors
    /// [`WorkerError`]; [`Crew::cause`] says it too.
    pub fn start(&mut self, slot: Slot, yard: &Yard, now: Moment) -> Result<(), WorkerError> {
        let place = self.places.entry(slot).or_default();
        let offer = Offer {
            generation: self.id,
            slot,
            release: &self.release,
            cgroup: self.cgroup.as_deref(),
            yard,
            now,
        };
        let started = place.start(&offer).inspect_err(|error| {
            self.cause = Some(format!(
                "worker {slot} could not be started: {}",
                chain(error)
            ));
            self.diagnosis = Some(error.diagnosis());
            self.cure = None;
            self.last_lines.clear();
        });
        let (id, label) = (self.id, &self.release.label);
        match (&started, self.worker(slot).map(|worker| worker.pid)) {
            (Ok(()), Some(pid)) if self.is_repeating => {
                tracing::debug!(generation = %id, worker = %slot, pid, release = label, "{id} {slot} started");
            }
            (Ok(()), Some(pid)) => {
                tracing::info!(generation = %id, worker = %slot, pid, release = label, "{id} {slot} started");
            }
            (Ok(()), None) | (Err(_), _) => {}
        }
        started
    }

    /// Takes over the workers of the previous keeper. Returns the slots whose worker is dead.
    pub fn adopt(
        remembered: RememberedCrew,
        yard: &Yard,
        take: &mut dyn FnMut(&str) -> Option<std::os::fd::OwnedFd>,
    ) -> (Self, Vec<Slot>) {
        let RememberedCrew {
            id,
            release,
            cgroup,
            left_cell_at,
            superseded,
            workers,
        } = remembered;
        let mut crew = Self::new(id, release, cgroup, yard);
        crew.left_cell_at = left_cell_at;
        crew.superseded = superseded;
        let mut dead = Vec::new();
        for worker in workers {
            let slot = worker.slot;
            let (place, adopted) = Place::adopt(worker, id, &crew.release, yard, take);
            if let Err(error) = adopted {
                tracing::warn!(generation = %id, worker = %slot, error = %chain(&error), "{id} {slot} not adopted: {}", chain(&error));
                dead.push(slot);
            } else {
                tracing::info!(name: message_id::ADOPTED.name, generation = %id, worker = %slot, "{id} {slot} adopted");
            }
            crew.places.insert(slot, place);
        }
        let moved = crew
            .pids()
            .find_map(|pid| cgroup::of_process(pid, &id.to_string()));
        if let Some(group) = &moved {
            yard.oom.watch(group);
        }
        crew.cgroup = moved.or(crew.cgroup);
        let extent = crew.extent(true);
        crew.workers().for_each(|worker| worker.end_again(&extent));
        (crew, dead)
    }

    /// For the state.
    pub fn remember(&self) -> RememberedCrew {
        let workers = self
            .places
            .iter()
            .filter_map(|(slot, place)| place.remember(*slot));
        RememberedCrew {
            id: self.id,
            release: self.release.clone(),
            cgroup: self.cgroup.clone(),
            left_cell_at: self.left_cell_at,
            superseded: self.superseded,
            workers: workers.collect(),
        }
    }

    /// The worker answers here. False when that life is over.
    pub fn answers(&mut self, life: WorkerLife, endpoint: Endpoint, yard: &Yard) -> bool {
        let release = self.release.clone();
        let Some(worker) = self.worker_mut(life) else {
            return false;
        };
        worker.answers(life, endpoint, &release, yard);
        true
    }

    /// How well the worker is, with what was just found. None when that is no news, or that life is
    /// over.
    pub fn felt(&mut self, life: WorkerLife, felt: &Felt) -> Option<Pulse> {
        let pulse = self.worker_mut(life)?.felt(felt)?;
        if let Some(place) = self.places.get_mut(&life.slot) {
            place.death = pulse.is_hung().then(|| Death::of_hung(pulse));
        }
        let (id, slot, fails) = (self.id, life.slot, self.release.health.fails);
        match felt {
            Felt::Silent => {
                tracing::warn!(name: message_id::WORKER_HUNG.name, generation = %id, worker = %slot, why = "silent", "{id} {slot} sent no WATCHDOG=1 in time, or says that it hangs, replacing it");
            }
            Felt::Health(Pulse::Unwell { .. }, Some(seen)) => {
                tracing::warn!(name: message_id::WORKER_HUNG.name, generation = %id, worker = %slot, why = %seen, "{id} {slot} failed {fails} health checks in a row, replacing it: {seen}");
            }
            Felt::Health(_, Some(seen)) => {
                tracing::debug!(generation = %id, worker = %slot, why = %seen, "{id} {slot} failed a health check: {seen}");
            }
            Felt::Health(_, None) => {
                tracing::debug!(generation = %id, worker = %slot, "{id} {slot} is well");
            }
            Felt::SpeaksAgain => {
                tracing::info!(generation = %id, worker = %slot, "{id} {slot} sends WATCHDOG=1 again");
            }
        }
        Some(pulse)
    }

    /// The worker said something; returns what concerns the plan.
    pub fn said(&mut self, life: WorkerLife, notices: Vec<Notice>, yard: &Yard) -> Vec<Notice> {
        let health = self.release.health.clone();
        let Some(worker) = self.worker_mut(life) else {
            return Vec::new();
        };
        notices
            .into_iter()
            .filter(|notice| worker.said(notice, life, &health, yard))
            .collect()
    }

    /// The worker ended, as it was told to or not; keeps the cause and the last lines. False when
    /// that life was over.
    pub fn exited(
        &mut self,
        life: WorkerLife,
        ending: Ending,
        is_expected: bool,
        now: Moment,
    ) -> bool {
        let Some(place) = self.places.get_mut(&life.slot) else {
            return false;
        };
        let Some(worker) = place.take(life) else {
            return false;
        };
        for thing in ["pidfd", "notify", "output"] {
            stored::forget(&stored::of_worker(self.id, life.slot, thing));
        }
        let (death, why) = self.oom.explain(self.cgroup.as_deref(), ending);
        place.death = place.death.or(Some(death));
        let lived = now - worker.started;
        let (id, slot, seconds) = (self.id, life.slot, lived.as_secs_f64());
        self.last_lines = worker.tail.lines();
        let end = End {
            ending,
            is_oom: death == Death::Oom,
            lived,
            lines: &self.last_lines,
        };
        let app = &self.release.app;
        let fault = diagnosis::of_end(end, app, &app.command);
        let found = fault.as_ref().map(|fault| format!(": {}", fault.finding()));
        self.cause = Some(format!(
            "worker {slot} {why} after {seconds:.1} s{}",
            found.unwrap_or_default()
        ));
        self.diagnosis = Some(
            fault
                .as_ref()
                .map_or_else(|| of_ending(ending), Fault::diagnosis),
        );
        self.cure = fault.map(|fault| fault.cure());
        if self.is_repeating {
            tracing::debug!(generation = %id, worker = %slot, pid = worker.pid, why = %why, "{id} {slot} {why} after {seconds:.1} s");
        } else if is_expected {
            tracing::info!(generation = %id, worker = %slot, pid = worker.pid, why = %why, "{id} {slot} {why} after {seconds:.1} s");
        } else {
            tracing::warn!(name: message_id::WORKER_DIED.name, generation = %id, worker = %slot, pid = worker.pid, why = %why, "{id} {slot} {why} after {seconds:.1} s");
        }
        true
    }

    /// Why a worker is not ready yet, and what it wrote: for a start that took too long.
    pub fn explain_lateness(&mut self, boot: std::time::Duration) {
        let is_late = |worker: &&Worker| worker.endpoint.is_none();
        let late = self.places.iter().find_map(|(slot, place)| {
            let worker = place.worker.as_ref().filter(is_late)?;
            Some((*slot, worker, worker.why_late(self.release.app.listen)))
        });
        if let Some((slot, worker, fault)) = late {
            let cause = format!(
                "worker {slot} was not ready within {} s: {}",
                boot.as_secs_f64(),
                fault.finding()
            );
            let lines = worker.tail.lines();
            self.diagnosis = Some(fault.diagnosis());
            (self.cause, self.cure, self.last_lines) = (Some(cause), Some(fault.cure()), lines);
        }
    }

    /// What was seen last of one of its workers that is not ready.
    pub fn late(&self) -> Option<&str> {
        self.late.as_deref()
    }

    /// Looks at a worker that is not ready yet. What is seen, if that is news.
    pub fn look_at_late(&mut self, life: WorkerLife) -> Option<&str> {
        let listen = self.release.app.listen;
        let worker = self.worker_mut(life)?;
        if worker.endpoint.is_some() {
            return None;
        }
        let finding = worker.why_late(listen).finding();
        let seen = format!("{} is not ready yet: {finding}", life.slot);
        if self.late.as_ref() == Some(&seen) {
            return None;
        }
        Some(self.late.insert(seen))
    }

    /// Workers that requests may be sent to.
    pub fn backends(&self, is_ready: impl Fn(Slot) -> bool) -> Vec<Backend> {
        let backend = |(slot, place): (&Slot, &Place)| {
            let worker = place.worker.as_ref()?;
            let endpoint = worker.endpoint.clone().filter(|_| is_ready(*slot))?;
            Some(Backend {
                slot: *slot,
                endpoint,
                life: worker.life,
                pid: worker.pid,
            })
        };
        self.places.iter().filter_map(backend).collect()
    }

    /// Nobody will serve soon: what waits in our listening sockets is closed.
    pub fn turn_away(&self) {
        self.places.values().for_each(Place::turn_away);
    }

    /// Every worker is told to end.
    pub fn terminate(&self) {
        let workers: Vec<&Worker> = self.workers().collect();
        worker::end(&workers, &self.release.app, &self.extent(true));
    }

    fn extent(&self, is_whole: bool) -> Extent {
        Extent {
            cgroup: self.cgroup.clone(),
            is_whole,
        }
    }

    /// SIGKILL to every process.
    pub fn kill(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup::kill_all(cgroup)
        {
            tracing::warn!(generation = %self.id, %error, "cannot end the control group of {}, continuing with signals: {error}", self.id);
        }
        let cgroup = self.cgroup.as_deref();
        self.workers().for_each(|worker| worker.kill(cgroup));
        self.kill_scattered();
    }

    /// Without a control group, what a worker left behind in sessions of its own is known by its
    /// NOTIFY_SOCKET, which names this generation of this instance.
    fn kill_scattered(&self) {
        if self.cgroup.is_some() {
            return;
        }
        reaper::kill_with_environment(&self.mark);
    }

    /// One worker is told to end.
    pub fn end_worker(&self, slot: Slot) {
        if let Some(worker) = self.worker(slot) {
            worker::end(&[worker], &self.release.app, &self.extent(false));
        }
    }

    /// How the worker before the next one ended.
    pub fn take_death(&mut self, slot: Slot) -> Death {
        let place = self.places.get_mut(&slot);
        let death = place.and_then(|place| place.death.take());
        death.unwrap_or(Death::Unknown)
    }

    /// SIGKILL to one worker: when nobody said otherwise, because it is late.
    pub fn kill_worker(&mut self, slot: Slot) {
        if let Some(place) = self.places.get_mut(&slot)
            && let Some(worker) = &place.worker
        {
            place.death = place.death.or(Some(Death::Boot));
            worker.kill(self.cgroup.as_deref());
        }
    }

    /// The next worker is in the other place.
    pub fn vacate(&mut self, slot: Slot, yard: &Yard) {
        if let Some(place) = self.places.get_mut(&slot) {
            place.vacate(self.id, slot, yard);
        }
    }

    /// The generation is gone: whatever its workers left behind goes with it.
    pub fn bury(self, yard: &Yard) {
        if let Some(cgroup) = &self.cgroup {
            cgroup::discard(cgroup);
        }
        self.kill_scattered();
        for (slot, place) in self.places {
            place.forget(self.id, slot, yard);
        }
    }

    /// Forgets everything in the fd store.
    pub fn forget(&self) {
        for slot in self.places.keys() {
            for thing in ["pidfd", "notify", "output", "listen"] {
                stored::forget(&stored::of_worker(self.id, *slot, thing));
            }
        }
    }

    /// Process ids of the workers.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.workers().map(|worker| worker.pid)
    }

    /// The worker in a slot, for the status.
    pub fn status(&self, slot: Slot, state: &str, yard: &Yard, now: Moment) -> WorkerStatus {
        let status = match self.places.get(&slot) {
            Some(place) => place.status(slot, state, now),
            None => Place::default().status(slot, state, now),
        };
        let owner = self.release.owner(self.id, slot);
        let kept = yard.deposits.names(owner);
        WorkerStatus { kept, ..status }
    }

    /// Where its workers answer.
    pub fn endpoints(&self) -> Vec<String> {
        let endpoints = self.workers().filter_map(|worker| worker.endpoint.as_ref());
        endpoints.map(ToString::to_string).collect()
    }

    /// What a console of the release gets: that of its first worker. None while nobody works.
    pub fn environment(&self, yard: &Yard, now: Moment) -> Option<Environment> {
        self.places.iter().find_map(|(slot, place)| {
            place.environment_beside(&Offer {
                generation: self.id,
                slot: *slot,
                release: &self.release,
                cgroup: None,
                yard,
                now,
            })
        })
    }

    /// Process ids of the workers, with their slots.
    pub fn pids_by_slot(&self) -> impl Iterator<Item = (Slot, u32)> {
        self.places
            .iter()
            .filter_map(|(slot, place)| Some((*slot, place.worker.as_ref()?.pid)))
    }

    /// Somebody works in the slot.
    pub fn has_worker(&self, slot: Slot) -> bool {
        self.worker(slot).is_some()
    }

    fn worker(&self, slot: Slot) -> Option<&Worker> {
        self.places.get(&slot)?.worker.as_ref()
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.places
            .values()
            .filter_map(|place| place.worker.as_ref())
    }

    fn worker_mut(&mut self, life: WorkerLife) -> Option<&mut Worker> {
        let worker = self.places.get_mut(&life.slot)?.worker.as_mut()?;
        (worker.life == life.life).then_some(worker)
    }
}

/// What a worker died of, where nothing more was found.
fn of_ending(ending: Ending) -> Diagnosis {
    match ending {
        Ending::Signaled { signal, .. } => Diagnosis::of_signal(signal),
        Ending::Exited(_) | Ending::Unknown => Diagnosis::Exited,
    }
}
