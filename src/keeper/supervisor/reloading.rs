//! A reload from the request to the answer: read the configuration, begin a generation, tell whoever
//! waits what became of it.

use super::{Keeper, Readiness, log_up, now};
use crate::api::{ReloadOutcome, Verdict};
use crate::causes::chain;
use crate::config::{self, Config, ConfigError};
use crate::id::GenerationId;
use crate::keeper::plan::{Decision, Event, Moment, Why};
use crate::keeper::release::Release;
use crate::link::LIFECYCLE_BOUNDS;
use crate::systemd::{message_id, notify};
use std::time::Duration;
use tokio::sync::oneshot;

/// Fronts have so long to acknowledge a cell before its outcome is told all the same: one that is
/// hung is being replaced, and must not hold up a deploy.
const TELLING: Duration = Duration::from_secs(2);

/// Who waits for the decision about a generation.
pub(super) struct Waiter {
    generation: GenerationId,
    asked: Moment,
    answer: oneshot::Sender<ReloadOutcome>,
}

/// A decided generation of which nobody was told yet.
pub(super) struct Untold {
    id: GenerationId,
    outcome: ReloadOutcome,
    decided: Moment,
    pub(super) until: Moment,
}

impl Keeper {
    /// A reload, or the first start: reads configuration and files as they are now.
    pub(super) fn begin_generation(
        &mut self,
        config: Result<Config, ConfigError>,
        answer: Option<oneshot::Sender<ReloadOutcome>>,
    ) {
        let asked = now();
        let config = match config {
            Ok(config) if !self.plan.is_stopping() => config,
            Ok(_) => {
                let cause = "gapless is stopping".into();
                return self.refuse(Verdict::Stopping, cause, Vec::new(), answer);
            }
            Err(error) => {
                tracing::error!(name: message_id::CONFIG_INVALID.name, error = %chain(&error), "configuration is invalid, nothing was started: {}", error.summary());
                let lines = error.to_string().lines().map(str::to_owned).collect();
                return self.refuse(Verdict::ConfigInvalid, error.summary(), lines, answer);
            }
        };
        self.use_level(&config.log.level);
        if config.http != self.http || config.log.access != self.access {
            self.http = config.http.clone();
            self.access = config.log.access;
            self.bear_front();
        }
        let release = Release::new(&config);
        let terms = release.terms(self.next_release);
        self.releases.insert(self.next_release, release);
        self.next_release += 1;
        if let Some(answer) = answer {
            let generation = GenerationId(self.plan.next_generation());
            self.waiters.push(Waiter {
                generation,
                asked,
                answer,
            });
        }
        self.degraded = None;
        self.events.push_back(Event::Begin(terms));
    }

    /// From now on keeper and fronts log at this level. It changes nothing that a front does to
    /// requests, so no front is replaced for it.
    pub(super) fn use_level(&mut self, level: &str) {
        if let Err(error) = self.options.level.set(level) {
            tracing::error!(level, error = %chain(&error), "log level not changed: {}", chain(&error));
            return;
        }
        if self.log_level == level {
            return;
        }
        tracing::info!(
            name: message_id::LEVEL_CHANGED.name,
            level, was = self.log_level,
            "log level is {level} now, it was {}", self.log_level
        );
        level.clone_into(&mut self.log_level);
        self.fronts.use_level(level);
        self.is_dirty = true;
    }

    fn refuse(
        &mut self,
        verdict: Verdict,
        cause: String,
        last_lines: Vec<String>,
        answer: Option<oneshot::Sender<ReloadOutcome>>,
    ) {
        let outcome = ReloadOutcome {
            generation: None,
            verdict,
            cause,
            last_lines,
            elapsed_ms: 0,
            live: self.plan.live().map(|live| live.id),
        };
        if let Some(answer) = answer {
            drop(answer.send(outcome.clone()));
        }
        self.outcome_is_told();
        self.fronts.totals.decided();
        self.last_outcome = Some(outcome);
        self.is_dirty = true;
    }

    pub(super) fn reload_by_signal(&mut self) {
        self.is_reloading = true;
        tracing::info!(name: message_id::RELOAD_ASKED.name, "reload asked for by signal");
        log_up("reloading", notify::reloading());
        let config = config::load(&self.options.source);
        self.begin_generation(config, None);
    }

    /// systemd learns the end of a first start and of a reload by signal by READY=1.
    pub(super) fn outcome_is_told(&mut self) {
        if self.readiness == Readiness::Undecided {
            self.readiness = Readiness::Decided;
        }
        if std::mem::take(&mut self.is_reloading) {
            log_up("ready", notify::ready());
        }
    }

    pub(super) fn decided(&mut self, id: GenerationId, decision: Decision) {
        let (verdict, cause) = match decision {
            Decision::Live => {
                self.fronts.totals.swaps += 1;
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
            self.degraded = None;
        }
        let last_lines = match (decision, self.crews.get(&id)) {
            (Decision::Failed(_), Some(crew)) => crew.last_lines.clone(),
            (Decision::Live | Decision::Superseded(_) | Decision::Failed(_), _) => Vec::new(),
        };
        let began = self
            .plan
            .generation(id)
            .map_or_else(now, |generation| generation.began);
        let outcome = ReloadOutcome {
            generation: Some(id),
            verdict,
            cause,
            last_lines,
            elapsed_ms: millis(now() - began),
            live: self.plan.live().map(|live| live.id),
        };
        if verdict == Verdict::Live {
            let boot = &mut self.fronts.totals.boot;
            boot.count(&LIFECYCLE_BOUNDS, now() - began);
        }
        self.fronts.totals.decided();
        self.last_outcome = Some(outcome.clone());
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
                // Who asked may have left; that does not change the outcome.
                drop(waiter.answer.send(ReloadOutcome {
                    elapsed_ms,
                    ..next.outcome.clone()
                }));
            }
            self.outcome_is_told();
        }
    }

    fn why_failed(&mut self, id: GenerationId, why: Why) -> String {
        let boot = self
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
        if crew.is_repeating {
            tracing::debug!(generation = %id, cause, last, "{id} failed to start: {cause}");
        } else {
            tracing::error!(name: message_id::START_FAILED.name, generation = %id, cause, last, "{id} failed to start: {cause}");
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
