//! What the keeper says of itself: one sentence for systemd, the whole picture for the control API.

use super::listeners;
use super::plan::{Aim, Generation, Phase, SlotState};
use super::supervisor::{Keeper, now};
use crate::api::{GenerationStatus, Status, Verdict, WorkerStatus};
use crate::id::Slot;
use crate::systemd::notify;

impl Keeper {
    /// STATUS=, when it changed.
    pub(super) fn say_status(&mut self) {
        let sentence = self.sentence();
        if sentence == self.status {
            return;
        }
        if let Err(error) = notify::status(&sentence) {
            tracing::debug!(%error, "STATUS= not sent, continuing");
        }
        self.status = sentence;
    }

    /// One true sentence.
    fn sentence(&self) -> String {
        if self.plan.is_stopping() {
            return "Stopping: finishing requests".into();
        }
        let serving = match self.plan.aim() {
            Aim::Live(id) => {
                let live = self.plan.generation(id);
                let slots = live.map(|live| live.slots.as_slice()).unwrap_or_default();
                let ready = slots.iter().filter(|slot| slot.is_ready()).count();
                if ready == slots.len() {
                    format!("Serving {id}")
                } else {
                    format!(
                        "Serving {id} with {ready} of {} workers, respawning",
                        slots.len()
                    )
                }
            }
            Aim::Hold => "Nothing is live yet, requests wait".into(),
            Aim::Refuse => "Nothing is live, requests get 503".into(),
        };
        let coming = self
            .plan
            .coming()
            .map(|coming| format!("; starting {}", coming.id));
        let draining = self.plan.generations().filter(|g| g.phase.is_draining());
        let draining: Vec<_> = draining.map(|g| g.id.to_string()).collect();
        let draining = (!draining.is_empty())
            .then(|| format!("; finishing requests on {}", draining.join(", ")));
        [Some(serving), coming, draining, self.failure()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// What went wrong with the newest request for a generation, if it did.
    fn failure(&self) -> Option<String> {
        let outcome = self.last_outcome.as_ref()?;
        if outcome.verdict == Verdict::Live {
            return None;
        }
        let which = match outcome.generation {
            Some(id) => format!("{id} failed"),
            None => "reload refused".into(),
        };
        let retry = self
            .plan
            .retry_at()
            .map(|at| format!(", next try in {:.1} s", (at - now()).as_secs_f64()));
        let cause = outcome.cause.lines().next().unwrap_or_default();
        Some(format!("; {which}: {cause}{}", retry.unwrap_or_default()))
    }

    /// Answer to `GET /status`.
    pub(super) fn status(&self) -> Status {
        let is_refused = self
            .last_outcome
            .as_ref()
            .is_some_and(|outcome| outcome.verdict != Verdict::Live);
        Status {
            name: self.name().into(),
            gapless_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: (now() - self.began()).as_secs(),
            healthy: matches!(self.plan.aim(), Aim::Live(_)) && !is_refused,
            summary: self.sentence(),
            listeners: listeners::status(self.listeners()),
            generations: self
                .plan
                .generations()
                .map(|g| self.generation_status(g))
                .collect(),
            fronts: self.fronts.status(),
            requests: self.fronts.counters().requests(),
            last_outcome: self.last_outcome.clone(),
        }
    }

    fn generation_status(&self, generation: &Generation) -> GenerationStatus {
        let crew = self.crews.get(&generation.id);
        let worker = |(index, state): (usize, &SlotState)| -> Option<WorkerStatus> {
            let slot = Slot(u32::try_from(index).ok()?);
            crew.map(|crew| crew.status(slot, slot_word(state), now()))
        };
        let app = crew.map(|crew| &crew.release.app);
        GenerationStatus {
            id: generation.id,
            state: phase_word(generation.phase).into(),
            why: match generation.phase {
                Phase::Stopping { why, .. } => Some(why.to_string()),
                Phase::Waiting
                | Phase::Starting
                | Phase::Settling { .. }
                | Phase::Settled
                | Phase::Live
                | Phase::Draining { .. } => None,
            },
            age_seconds: (now() - generation.began).as_secs(),
            leases: self.fronts.leases(generation.id),
            directory: app.map(|app| app.directory.clone()).unwrap_or_default(),
            command: app.map(|app| app.command.clone()).unwrap_or_default(),
            workers: generation
                .slots
                .iter()
                .enumerate()
                .filter_map(worker)
                .collect(),
        }
    }
}

/// The word for a phase, in status and metrics.
pub(super) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Starting => "starting",
        Phase::Settling { .. } => "settling",
        Phase::Settled => "settled",
        Phase::Live => "live",
        Phase::Draining { .. } => "draining",
        Phase::Stopping { .. } => "stopping",
    }
}

fn slot_word(state: &SlotState) -> &'static str {
    match state {
        SlotState::Empty => "not started",
        SlotState::Booting { .. } => "booting",
        SlotState::Ready { .. } => "ready",
        SlotState::Respawn { .. } => "waiting to respawn",
        SlotState::Ended => "ended",
    }
}
