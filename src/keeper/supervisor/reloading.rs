//! A reload from the request to the answer: read the configuration, begin a generation, tell whoever
//! waits what became of it.

use super::{Keeper, Readiness, log_up, now};
use crate::api::{ReloadOutcome, Step, Verdict};
use crate::causes::chain;
use crate::config::{self, Config, ConfigError, ConfigSource};
use crate::diagnosis::Diagnosis;
use crate::id::GenerationId;
use crate::keeper::plan::{Decision, Event, Moment, Terms, Why};
use crate::keeper::release::Release;
use crate::link::LIFECYCLE_BOUNDS;
use crate::release::{ReleaseId, StoreError};
use crate::steps;
use crate::systemd::{message_id, notify};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Fronts have so long to acknowledge a cell before its outcome is told all the same: one that is
/// hung is being replaced, and must not hold up a deploy.
const TELLING: Duration = Duration::from_secs(2);

/// What is to be begun.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// What the configuration says, and the store calls current.
    Current,
    /// A release that is to be current if it becomes live.
    Release(ReleaseId),
}

/// What is wanted cannot be begun; nothing was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the store of releases cannot be used")]
    Store(#[from] StoreError),
    #[error("this gapless runs without a store of releases; deploy to one that systemd started")]
    NoStore,
    #[error("[app] directory in {0} says where the app is; remove that line, and deploy again")]
    Elsewhere(String),
    #[error("cannot create the shared directory {}", path.display())]
    Shared {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl BeginError {
    fn summary(&self) -> String {
        match self {
            Self::Config(error) => error.summary(),
            Self::Store(_) | Self::NoStore | Self::Elsewhere(_) | Self::Shared { .. } => {
                chain(self)
            }
        }
    }

    /// What is wrong, by its name.
    fn code(&self) -> &'static str {
        match self {
            // As the exit code is called.
            Self::Config(_) => "config-invalid",
            Self::Store(_) | Self::NoStore | Self::Shared { .. } => Diagnosis::StoreUnusable.code(),
            Self::Elsewhere(_) => Diagnosis::DirectoryConfigured.code(),
        }
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(error) => error.to_string().lines().map(str::to_owned).collect(),
            Self::Store(_) | Self::NoStore | Self::Elsewhere(_) | Self::Shared { .. } => Vec::new(),
        }
    }
}

/// Where the answer goes.
pub(super) enum Answer {
    /// To a reload: what became of it.
    Once(oneshot::Sender<ReloadOutcome>),
    /// To a deploy: all that happens.
    Steps(mpsc::Sender<Step>),
}

impl Answer {
    /// Who asked may have left; that changes nothing.
    pub(super) fn decided(self, outcome: ReloadOutcome) -> Option<mpsc::Sender<Step>> {
        match self {
            Self::Once(answer) => {
                drop(answer.send(outcome));
                None
            }
            Self::Steps(steps) => {
                drop(steps.try_send(Step::Decided(outcome)));
                Some(steps)
            }
        }
    }
}

/// In the state directory: what releases share.
const SHARED: &str = "shared";

/// Who waits for the decision about a generation.
pub(super) struct Waiter {
    pub(super) generation: GenerationId,
    /// What a deploy brings; none: a reload waits.
    pub(super) deploys: Option<ReleaseId>,
    asked: Moment,
    pub(super) answer: Answer,
    /// Of its steps.
    pub(super) has_told_start: bool,
    pub(super) has_told_health: bool,
}

/// Who waits for those that were superseded.
pub(super) struct Finishing {
    pub(super) generations: Vec<GenerationId>,
    /// What is live now, and is to be current.
    pub(super) deployed: Option<ReleaseId>,
    pub(super) steps: mpsc::Sender<Step>,
}

/// A decided generation of which nobody was told yet.
pub(super) struct Untold {
    id: GenerationId,
    outcome: ReloadOutcome,
    decided: Moment,
    pub(super) until: Moment,
}

/// Why nothing was begun.
pub(super) struct Reason {
    pub(super) cause: String,
    /// Its name, for `gapless explain`.
    pub(super) code: Option<&'static str>,
    /// What is likely to mend it.
    pub(super) cure: Option<String>,
}

impl Reason {
    pub(super) fn named(cause: String, code: Option<&'static str>) -> Self {
        Self {
            cause,
            code,
            cure: None,
        }
    }
}

impl Keeper {
    /// Reads configuration and files as they are now.
    pub(super) fn configuration(&self, wanted: &Wanted) -> Result<Config, BeginError> {
        let store = self.options.store.as_ref();
        let release = match (wanted, store) {
            (Wanted::Current, None) => None,
            (Wanted::Current, Some(store)) => match store.current()? {
                Some(id) => Some(store.source(&id)?),
                None => None,
            },
            (Wanted::Release(_), None) => return Err(BeginError::NoStore),
            (Wanted::Release(id), Some(store)) => Some(store.source(id)?),
        };
        let config = config::load(&ConfigSource {
            may_be_bare: store.is_some() && release.is_none() && self.memory.plan.is_idle(),
            release,
            ..self.options.source.clone()
        })?;
        if matches!(wanted, Wanted::Release(_)) && config.app.release.is_none() {
            let file = self.options.source.file.as_ref();
            let file = file.map_or_else(String::new, |file| file.display().to_string());
            return Err(BeginError::Elsewhere(file));
        }
        self.make_shared(&config)?;
        Ok(config)
    }

    /// What releases share belongs to the app's user, which is ours.
    fn make_shared(&self, config: &Config) -> Result<(), BeginError> {
        let Some(state) = self
            .state_directory()
            .filter(|_| config.app.release.is_some())
        else {
            return Ok(());
        };
        for name in &config.app.shared {
            let path = state.join(SHARED).join(name);
            std::fs::create_dir_all(&path).map_err(|source| BeginError::Shared { path, source })?;
        }
        Ok(())
    }

    /// A reload, a deploy, or the first start.
    pub(super) fn begin_generation(&mut self, wanted: &Wanted, answer: Option<Answer>) {
        let config = self.configuration(wanted);
        self.begin_configured(config, wanted, answer);
    }

    pub(super) fn begin_configured(
        &mut self,
        config: Result<Config, BeginError>,
        wanted: &Wanted,
        answer: Option<Answer>,
    ) {
        let asked = now();
        let config = match config {
            Ok(config) if config.app.command.is_empty() => return self.greet(&config, answer),
            Ok(config) if !self.memory.plan.is_stopping() => config,
            Ok(_) => {
                let why = Reason::named("gapless is stopping".into(), None);
                return self.refuse(Verdict::Stopping, why, Vec::new(), answer);
            }
            Err(error) => {
                let summary = error.summary();
                tracing::error!(name: message_id::CONFIG_INVALID.name, error = %chain(&error), "configuration is invalid, nothing was started: {summary}");
                let why = Reason::named(summary, Some(error.code()));
                return self.refuse(Verdict::ConfigInvalid, why, error.lines(), answer);
            }
        };
        self.use_settings(&config);
        let (deploys, terms) = self.take_in(&config, wanted);
        if let Some(answer) = answer {
            let generation = GenerationId(self.memory.plan.next_generation());
            self.waiters.push(Waiter {
                generation,
                deploys,
                asked,
                answer,
                has_told_start: false,
                has_told_health: false,
            });
        }
        self.said.forget_degraded();
        self.events.push_back(Event::Begin(terms));
    }

    pub(super) fn take_in(
        &mut self,
        config: &Config,
        wanted: &Wanted,
    ) -> (Option<ReleaseId>, Terms) {
        let deploys = match wanted {
            Wanted::Release(id) => Some(id.clone()),
            Wanted::Current => {
                self.has_nothing = false;
                None
            }
        };
        let release = Release::new(config);
        let terms = release.terms(self.memory.next_release, deploys.is_some());
        self.memory
            .releases
            .insert(self.memory.next_release, release);
        self.memory.next_release += 1;
        (deploys, terms)
    }

    pub(super) fn use_settings(&mut self, config: &Config) {
        self.use_level(&config.log.level);
        if config.http != self.memory.http || config.log.access != self.memory.access {
            self.memory.http = config.http.clone();
            self.memory.access = config.log.access;
            steps::reached(steps::Step::SettingsTaken);
            self.bear_front();
        }
    }

    /// There is nothing to run yet: clients are told so, and so is whoever asked.
    fn greet(&mut self, config: &Config, answer: Option<Answer>) {
        self.use_settings(config);
        self.has_nothing = true;
        let next = self.deploy_command();
        tracing::info!("nothing is deployed yet; next: {next}");
        let cause = format!("nothing is deployed yet; next: {next}");
        let why = Reason::named(cause, Some("nothing_deployed"));
        self.refuse(Verdict::ConfigInvalid, why, Vec::new(), answer);
        // That is no failure, and STATUS says it already.
        self.memory.last_outcome = None;
    }

    /// From now on keeper and fronts log at this level. It changes nothing that a front does to
    /// requests, so no front is replaced for it.
    pub(super) fn use_level(&mut self, level: &str) {
        if let Err(error) = self.options.level.set(level) {
            tracing::error!(level, error = %chain(&error), "log level not changed: {}", chain(&error));
            return;
        }
        if self.memory.log_level == level {
            return;
        }
        tracing::info!(
            name: message_id::LEVEL_CHANGED.name,
            level, was = self.memory.log_level,
            "log level is {level} now, it was {}", self.memory.log_level
        );
        level.clone_into(&mut self.memory.log_level);
        self.fronts.use_level(level);
        self.is_dirty = true;
    }

    pub(super) fn refuse(
        &mut self,
        verdict: Verdict,
        why: Reason,
        last_lines: Vec<String>,
        answer: Option<Answer>,
    ) {
        let outcome = self.not_begun(verdict, why, last_lines);
        if let Some(answer) = answer {
            drop(answer.decided(outcome.clone()));
        }
        // What waited for it begins now.
        self.events.push_back(Event::Postpone(Duration::ZERO));
        self.outcome_is_told();
        self.fronts.totals.decided();
        self.memory.last_outcome = Some(outcome);
        self.is_dirty = true;
    }

    pub(super) fn not_begun(
        &self,
        verdict: Verdict,
        why: Reason,
        last_lines: Vec<String>,
    ) -> ReloadOutcome {
        ReloadOutcome {
            generation: None,
            verdict,
            cause: why.cause,
            code: why.code.map(str::to_owned),
            cure: why.cure,
            last_lines,
            elapsed_ms: 0,
            live: self.memory.plan.live().map(|live| live.id),
            release: None,
        }
    }

    /// Once it is written down: a reload that systemd knows of outlives this keeper.
    pub(super) fn say_reloading(&mut self) {
        if std::mem::take(&mut self.has_heard_reload) {
            self.is_reloading = true;
            log_up("reloading", notify::reloading());
        }
    }

    /// systemd learns the end of a first start and of a reload by signal by READY=1.
    pub(super) fn outcome_is_told(&mut self) {
        if self.readiness == Readiness::Undecided {
            self.readiness = Readiness::Decided;
        }
        self.reload_is_told();
    }

    pub(super) fn reload_is_told(&mut self) {
        self.say_reloading();
        if std::mem::take(&mut self.is_reloading) {
            log_up("ready", notify::ready());
        }
    }

    pub(super) fn decided(&mut self, id: GenerationId, decision: Decision) {
        let (verdict, cause) = match decision {
            Decision::Live => {
                self.fronts.totals.swaps += 1;
                self.has_nothing = false;
                tracing::info!(name: message_id::LIVE.name, generation = %id, "{id} is live");
                (Verdict::Live, "live".to_owned())
            }
            Decision::Superseded(newer) => {
                let waiting = self
                    .waiters
                    .iter_mut()
                    .filter(|waiter| waiter.generation == id);
                waiting.for_each(|waiter| waiter.generation = newer);
                return;
            }
            Decision::Failed(why) => (verdict(why), self.why_failed(id, why)),
        };
        if self.crews.get(&id).is_none_or(|crew| !crew.is_repeating) {
            // Somebody tried something new.
            self.said.forget_degraded();
        }
        let (code, cure, last_lines) = match (decision, self.crews.get(&id)) {
            (Decision::Failed(_), Some(crew)) => {
                (crew.diagnosis, crew.cure.clone(), crew.last_lines.clone())
            }
            (Decision::Live | Decision::Superseded(_) | Decision::Failed(_), _) => {
                (None, None, Vec::new())
            }
        };
        let release = self
            .crews
            .get(&id)
            .and_then(|crew| crew.release.app.release.clone());
        let began = self
            .memory
            .plan
            .generation(id)
            .map_or_else(now, |generation| generation.began);
        let outcome = ReloadOutcome {
            generation: Some(id),
            verdict,
            cause,
            code: code.map(|it| it.code().to_owned()),
            cure,
            last_lines,
            elapsed_ms: millis(now() - began),
            live: self.memory.plan.live().map(|live| live.id),
            release,
        };
        if verdict == Verdict::Live {
            let boot = &mut self.fronts.totals.boot;
            boot.count(&LIFECYCLE_BOUNDS, now() - began);
        }
        self.fronts.totals.decided();
        self.memory.last_outcome = Some(outcome.clone());
        self.untold.push_back(Untold {
            id,
            outcome,
            decided: now(),
            until: now() + TELLING,
        });
    }

    /// An outcome is told when it is true for whoever asks next: every front serves accordingly.
    pub(super) fn tell_outcomes(&mut self) {
        let is_served = self.fronts.has_acknowledged(self.fronts.cell().seq);
        while let Some(next) = self
            .untold
            .pop_front_if(|next| is_served || next.until <= now())
        {
            if next.outcome.verdict == Verdict::Live {
                let took = now() - next.decided;
                self.fronts.totals.swap.count(&LIFECYCLE_BOUNDS, took);
                self.is_dirty = true;
            }
            let (told, waiting): (Vec<Waiter>, Vec<Waiter>) = std::mem::take(&mut self.waiters)
                .into_iter()
                .partition(|w| w.generation == next.id);
            self.waiters = waiting;
            for waiter in told {
                let elapsed_ms = millis(now() - waiter.asked);
                let steps = waiter.answer.decided(ReloadOutcome {
                    elapsed_ms,
                    ..next.outcome.clone()
                });
                if let Some(steps) = steps.filter(|_| next.outcome.verdict == Verdict::Live) {
                    let generations = self.memory.plan.generations().filter(|it| it.id < next.id);
                    let generations = generations.map(|it| it.id).collect();
                    self.finishing.push(Finishing {
                        generations,
                        deployed: waiter.deploys,
                        steps,
                    });
                }
            }
            self.outcome_is_told();
        }
    }

    fn why_failed(&mut self, id: GenerationId, why: Why) -> String {
        let boot = self
            .memory
            .plan
            .generation(id)
            .map_or(Duration::ZERO, |g| g.terms.boot);
        self.fronts.totals.failed_starts += 1;
        let Some(crew) = self.crews.get_mut(&id) else {
            return why.to_string();
        };
        if why == Why::StartTimedOut {
            crew.explain_lateness(boot);
        }
        let cause = crew.cause.clone().unwrap_or_else(|| why.to_string());
        let last = crew.last_lines.last().map_or("", String::as_str);
        let cure = crew.cure.as_deref().unwrap_or_default();
        let next = if cure.is_empty() { "" } else { "; next: " };
        if crew.is_repeating {
            tracing::debug!(generation = %id, cause, cure, last, "{id} failed to start: {cause}");
        } else {
            tracing::error!(name: message_id::START_FAILED.name, generation = %id, cause, cure, last, "{id} failed to start: {cause}{next}{cure}");
        }
        cause
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn verdict(why: Why) -> Verdict {
    match why {
        Why::StartTimedOut => Verdict::TimedOut,
        Why::Stopped => Verdict::Stopping,
        Why::StartFailed | Why::Superseded | Why::Drained | Why::CutOff | Why::Died => {
            Verdict::Unhealthy
        }
    }
}
