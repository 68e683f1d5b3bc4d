//! What the keeper says of itself: one sentence for systemd, the whole picture for the control API.

mod recent;

use super::admin::Health;
use super::crew::Crew;
use super::limits;
use super::listeners;
use super::plan::{Aim, Generation, Phase, SlotState};
use super::supervisor::{Keeper, now};
use super::totals::Totals;
use crate::api::{AppState, GenerationStatus, Status, Verdict, WorkerStatus};
use crate::exec::cage::{self, Cage};
use crate::id::{GenerationId, Slot};
use crate::systemd::{message_id, notify};
use recent::{Counted, Recent};
use std::path::Path;
use std::time::Duration;

/// A round asks every lane, and each has 5 s to answer.
const LANES_LATE: Duration = Duration::from_secs(15);

/// What was said of it, so that it is said once; and what is to be said next is told by.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The last STATUS=.
    status: String,
    /// The sentence with which the app became degraded: not a new one at every try.
    degraded: Option<String>,
    is_degraded: bool,
    recent: Recent,
}

impl Said {
    /// The next sentence may be another.
    pub(super) fn forget_degraded(&mut self) {
        self.degraded = None;
    }
}

impl Keeper {
    /// STATUS=, when it changed.
    pub(super) fn say_status(&mut self) {
        let sentence = self.sentence();
        if sentence == self.said.status {
            return;
        }
        if let Err(error) = notify::status(&sentence) {
            tracing::debug!(%error, "STATUS= not sent, continuing");
        }
        self.said.status = sentence;
    }

    /// Keeps what the state of the app is told by.
    pub(super) fn look_at_recent(&mut self) {
        let live = self.memory.plan.live().map(|live| live.id);
        let fronts = &self.fronts;
        self.said
            .recent
            .look(now(), live, |live| Counted::of(&fronts.counters(), live));
    }

    /// With the reason where it is not in the summary.
    fn state(&self, totals: &Totals) -> (AppState, Option<String>) {
        match (self.memory.plan.aim(), self.memory.plan.live()) {
            (Aim::Refuse, _) => (AppState::Failing, None),
            (Aim::Live(_), Some(live)) => {
                let counted = Counted::of(totals, live.id);
                match self.said.recent.trouble(now(), counted) {
                    Some((state, why)) => (state, Some(why)),
                    None if self.memory.plan.is_degraded() => (AppState::Degraded, None),
                    None => (AppState::Healthy, None),
                }
            }
            // Requests wait: for a respawn, a start, or the first deploy.
            (Aim::Hold | Aim::Live(_), _) => (AppState::Degraded, None),
        }
    }

    /// That every try fails is said once, and once that it is over.
    pub(super) fn say_degraded(&mut self) {
        let is_degraded = self.memory.plan.is_degraded() && !self.memory.plan.is_stopping();
        if is_degraded == self.said.is_degraded {
            if is_degraded && self.said.degraded.is_none() {
                self.said.degraded = Some(self.sentence());
            }
            return;
        }
        self.said.is_degraded = is_degraded;
        self.said.degraded = None;
        if is_degraded {
            let sentence = self.sentence();
            tracing::error!(name: message_id::DEGRADED.name, "{sentence}");
            self.said.degraded = Some(sentence);
        } else if !self.memory.plan.is_stopping() {
            tracing::info!(name: message_id::HEALED.name, "no longer degraded: {}", self.sentence());
        }
    }

    /// One true sentence.
    fn sentence(&self) -> String {
        if self.memory.plan.is_stopping() {
            return "Stopping: finishing requests".into();
        }
        if let Some(sentence) = &self.said.degraded {
            return sentence.clone();
        }
        if self.is_bare() {
            return format!("Nothing is deployed yet; next: {}", self.deploy_command());
        }
        if self.memory.plan.is_degraded() {
            return format!(
                "Degraded, trying again less and less often: {}",
                self.serving()
            );
        }
        self.serving()
    }

    fn cage(&self) -> Option<Cage> {
        let live = self
            .memory
            .plan
            .live()
            .and_then(|live| self.crews.get(&live.id));
        let is_off = live.is_some_and(|crew| !crew.release.app.landlock);
        let cage = if is_off { Cage::Off } else { cage::possible() };
        (!self.yard.is_foreground).then_some(cage)
    }

    fn serving(&self) -> String {
        let serving = match self.memory.plan.aim() {
            Aim::Live(id) => {
                let live = self.memory.plan.generation(id);
                let workers = live.map_or(0, |live| live.terms.workers);
                let well = live.map_or(0, Generation::well);
                if u32::try_from(well).is_ok_and(|well| well >= workers) {
                    format!("Serving {id}")
                } else {
                    format!("Serving {id} with {well} of {workers} workers, respawning")
                }
            }
            Aim::Hold => "Nothing is live yet, requests wait".into(),
            Aim::Refuse => "Nothing is live, requests get 503".into(),
        };
        let coming = self
            .memory
            .plan
            .coming()
            .map(|coming| format!("; starting {}{}", coming.id, self.lateness(coming.id)));
        let drained = self
            .is_drained()
            .then(|| "; drained, /readyz says 503".to_owned());
        let held = self.memory.standing.pause.map(|_| {
            let app = self.app_option();
            format!("; new requests wait until gapless{app} resume, or until its time is over")
        });
        let unlimited = self.memory.unlimited.as_ref();
        let unlimited = unlimited.map(|why| format!("; [limits] are not in force: {why}"));
        let draining = self
            .memory
            .plan
            .generations()
            .filter(|g| g.phase.is_draining());
        let draining: Vec<_> = draining.map(|g| g.id.to_string()).collect();
        let draining = (!draining.is_empty())
            .then(|| format!("; finishing requests on {}", draining.join(", ")));
        [
            Some(serving),
            coming,
            draining,
            drained,
            held,
            unlimited,
            self.failure(),
            self.death(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn lateness(&self, coming: GenerationId) -> String {
        let late = self.crews.get(&coming).and_then(Crew::late);
        late.map_or_else(String::new, |seen| format!(": {seen}"))
    }

    fn is_drained(&self) -> bool {
        self.memory.standing.drained_since_unix_seconds.is_some()
    }

    /// What went wrong with the newest request for a generation, if it did.
    fn failure(&self) -> Option<String> {
        let outcome = self.memory.last_outcome.as_ref()?;
        if outcome.verdict == Verdict::Live {
            return None;
        }
        let which = match outcome.generation {
            Some(id) => format!("{id} failed"),
            None => "reload refused".into(),
        };
        let retry = self
            .memory
            .plan
            .retry_at()
            .filter(|_| !self.memory.plan.is_degraded())
            .map(|at| format!(", next try in {:.1} s", (at - now()).as_secs_f64()));
        let cause = outcome.cause.lines().next().unwrap_or_default();
        Some(format!("; {which}: {cause}{}", retry.unwrap_or_default()))
    }

    /// How the last worker of a degraded generation died.
    fn death(&self) -> Option<String> {
        let live = self
            .memory
            .plan
            .live()
            .filter(|_| self.memory.plan.is_degraded())?;
        let cause = self.crews.get(&live.id)?.cause.as_ref()?;
        Some(format!("; {}: {cause}", live.id))
    }

    /// Answer to `GET /healthz` and `GET /readyz`. Over a respawn within its budget, a reload and a
    /// restart of the unit it stays ready: requests are served or held, and none is refused.
    pub(super) fn health(&self) -> Health {
        let is_stopping = self.memory.plan.is_stopping();
        let is_late = !self.rounds.has_answer_within(LANES_LATE, now());
        // Once one was live, the next one takes its place; with a fixed port, requests wait for that.
        let is_exchanging = self.fronts.totals.swaps > 0;
        Health {
            alive: if is_late && !is_stopping {
                Err("no front answers")
            } else {
                Ok(())
            },
            ready: match self.memory.plan.aim() {
                _ if is_stopping => Err("stopping"),
                _ if self.is_drained() => Err("drained; gapless undrain ends it"),
                Aim::Refuse => Err("the app is down, requests get 503"),
                Aim::Hold if self.is_bare() => Err("nothing is deployed yet"),
                Aim::Hold if !is_exchanging => Err("nothing is live yet, requests wait"),
                Aim::Live(_) | Aim::Hold if !self.fronts.has_any_current() => {
                    Err("no front serves")
                }
                Aim::Live(_) | Aim::Hold => Ok(()),
            },
        }
    }

    /// Answer to `GET /status`.
    pub(super) fn status(&self) -> Status {
        let live = self.memory.plan.live().map(|live| live.id);
        let counters = self.fronts.counters();
        let (state, because) = self.state(&counters);
        Status {
            name: self.name().into(),
            gapless_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: (now() - self.began()).as_secs(),
            healthy: state == AppState::Healthy,
            state: Some(state),
            because,
            summary: self.sentence(),
            listeners: [self.listeners(), &self.admin]
                .into_iter()
                .flat_map(listeners::status)
                .collect(),
            generations: self
                .memory
                .plan
                .generations()
                .map(|g| self.generation_status(g))
                .collect(),
            fronts: self.fronts.status(),
            requests: counters.requests(),
            last_outcome: self.memory.last_outcome.clone(),
            limits_obstacle: limits::obstacle(self.own_group())
                .err()
                .map(|error| error.to_string()),
            limits_not_in_force: self.memory.unlimited.clone(),
            landlock: self.cage(),
            last_upgrade: self.memory.upgrade.as_ref().map(|it| it.outcome.clone()),
            drained_since_unix_seconds: self.memory.standing.drained_since_unix_seconds,
            served_live: live.map(|live| counters.served_by(live)),
            served_before: live.and_then(|live| counters.served_before(live)),
            hold: self.hold_status(),
            state_directory: self.state_directory().map(Path::to_owned),
        }
    }

    fn generation_status(&self, generation: &Generation) -> GenerationStatus {
        let crew = self.crews.get(&generation.id);
        let worker = |(slot, state): (Slot, &SlotState)| -> Option<WorkerStatus> {
            crew.map(|crew| crew.status(slot, slot_word(state), &self.yard, now()))
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
            release: crew
                .map(|crew| crew.release.label.clone())
                .unwrap_or_default(),
            directory: app.map(|app| app.directory.clone()).unwrap_or_default(),
            command: app.map(|app| app.command.clone()).unwrap_or_default(),
            console: app.and_then(|app| app.console.clone()).unwrap_or_default(),
            workers: generation
                .slots()
                .filter(|(slot, _)| !generation.is_spare(*slot))
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
        SlotState::Ready { pulse, .. } => pulse.word(),
        SlotState::Leaving { .. } => "leaving",
        SlotState::Respawn { .. } => "waiting to respawn",
        SlotState::Ended => "ended",
    }
}
