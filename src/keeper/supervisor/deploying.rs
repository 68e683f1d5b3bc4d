//! A deploy, where it is more than a reload: the release command before it, and the steps that are
//! told as they happen.

use super::Keeper;
use super::reloading::{Answer, Reason, Wanted};
use crate::api::{Step, Verdict};
use crate::causes::chain;
use crate::config::Config;
use crate::diagnosis::Diagnosis;
use crate::id::GenerationId;
use crate::keeper::control::STEPS;
use crate::keeper::crew::Crew;
use crate::keeper::errand::{self, Ended, Errand};
use crate::keeper::happening::WorkerLife;
use crate::keeper::plan::{Event, Phase};
use crate::keeper::release::Release;
use crate::release::{ReleaseId, State};
use tokio::sync::mpsc;

/// A release command that runs.
pub(super) struct Running {
    pub(super) pid: u32,
    /// For this release.
    pub(super) id: ReleaseId,
}

/// That of the release command, or that it could not be run.
const FAILED: Option<&str> = Some(Diagnosis::ReleaseCommandFailed.code());

impl Keeper {
    pub(super) fn deploy(&mut self, id: &ReleaseId, steps: mpsc::Sender<Step>) {
        let wanted = Wanted::Release(id.clone());
        let config = self.configuration(&wanted);
        let command = config.as_ref().ok().and_then(|config| {
            let command = config.app.release_command.clone();
            command.filter(|_| self.is_new(id) && !self.memory.plan.is_stopping())
        });
        match (config, command) {
            (Ok(config), Some(command)) => self.run_errand(id, &config, command, steps),
            (config, _) => self.begin_configured(config, &wanted, Some(Answer::Steps(steps))),
        }
    }

    /// It was never live: its release command has to run.
    fn is_new(&self, id: &ReleaseId) -> bool {
        let store = self.options.store.as_ref();
        let manifest = store.and_then(|store| store.manifest(id).ok().flatten());
        manifest.is_none_or(|manifest| !matches!(manifest.state, State::Healthy(_)))
    }

    fn run_errand(
        &mut self,
        id: &ReleaseId,
        config: &Config,
        command: Vec<String>,
        steps: mpsc::Sender<Step>,
    ) {
        let asker = steps.clone();
        let refused = if self.errand.is_some() {
            Some("another release command is running".to_owned())
        } else {
            tracing::info!(release = %id, "running the release command of {id}: {}", command.join(" "));
            let cgroup = self.group.as_ref();
            let errand = Errand {
                command,
                id: id.clone(),
                release: Release::new(config),
                generation: GenerationId(self.memory.plan.next_generation()),
                cgroup: cgroup.and_then(|group| group.create(errand::GROUP).ok()),
                steps,
            };
            match errand.start(&self.yard) {
                Ok(pid) => {
                    let id = id.clone();
                    self.errand = Some(Running { pid, id });
                    self.events.push_back(Event::Postpone(errand::LIMIT));
                    None
                }
                Err(error) => Some(chain(&error)),
            }
        };
        if let Some(cause) = refused {
            tracing::error!(release = %id, cause, "release {id} is not begun: {cause}");
            let answer = Some(Answer::Steps(asker));
            self.refuse(
                Verdict::Unhealthy,
                Reason::named(cause, FAILED),
                Vec::new(),
                answer,
            );
        }
    }

    pub(super) fn errand_ended(&mut self, ended: Ended) {
        let Ended {
            id,
            command,
            steps,
            failure,
            cure,
            last_lines,
        } = ended;
        self.errand = None;
        let Some(cause) = failure else {
            drop(steps.try_send(Step::Prepared { command }));
            let wanted = Wanted::Release(id);
            return self.begin_generation(&wanted, Some(Answer::Steps(steps)));
        };
        let last = last_lines.last().map_or("", String::as_str);
        tracing::error!(release = %id, cause, last, "release {id} is not begun: {cause}");
        self.refuse(
            Verdict::Unhealthy,
            Reason {
                cause,
                code: FAILED,
                cure,
            },
            last_lines,
            Some(Answer::Steps(steps)),
        );
    }

    /// A new generation is not ready yet: what is to be seen of it is told while there is time to wait.
    pub(super) fn look_at_late(&mut self, life: WorkerLife) {
        let id = life.generation;
        let phase = self.memory.plan.generation(id).map(|it| it.phase);
        let crew = self.crews.get_mut(&id);
        let Some(seen) = crew
            .filter(|crew| phase == Some(Phase::Starting) && !crew.is_repeating)
            .and_then(|crew| crew.look_at_late(life))
        else {
            return;
        };
        tracing::info!(generation = %id, worker = %life.slot, why = seen, "{id} {seen}");
        for waiter in &self.waiters {
            if let Answer::Steps(steps) = &waiter.answer
                && waiter.generation == id
                // What decides has to have room.
                && steps.capacity() > STEPS / 2
            {
                let seen = seen.to_owned();
                drop(steps.try_send(Step::Waiting {
                    generation: id,
                    seen,
                }));
            }
        }
    }

    /// What there is to tell a deploy before and after its decision.
    pub(super) fn tell_steps(&mut self) {
        let (plan, crews) = (&self.memory.plan, &self.crews);
        for waiter in &mut self.waiters {
            let Answer::Steps(steps) = &waiter.answer else {
                continue;
            };
            let Some(generation) = plan.generation(waiter.generation) else {
                continue;
            };
            let id = generation.id;
            let (has_started, is_healthy) = progress(generation.phase);
            if has_started && !std::mem::replace(&mut waiter.has_told_start, true) {
                let workers = generation.terms.workers;
                drop(steps.try_send(Step::Started {
                    generation: id,
                    workers,
                }));
            }
            if is_healthy && !std::mem::replace(&mut waiter.has_told_health, true) {
                let endpoints = crews.get(&id).map(Crew::endpoints).unwrap_or_default();
                drop(steps.try_send(Step::Healthy {
                    generation: id,
                    endpoints,
                }));
            }
        }
        self.finishing.retain(|finishing| {
            let mut all = finishing.generations.iter();
            let is_draining = |id: &GenerationId| {
                plan.generation(*id)
                    .is_some_and(|it| it.phase.is_draining())
            };
            if all.any(is_draining) {
                return true;
            }
            let generations = finishing.generations.clone();
            drop(finishing.steps.try_send(Step::Drained { generations }));
            false
        });
    }
}

/// Whether its workers are started, and whether all are ready.
fn progress(phase: Phase) -> (bool, bool) {
    match phase {
        Phase::Waiting | Phase::Stopping { .. } => (false, false),
        Phase::Starting => (true, false),
        Phase::Settling { .. } | Phase::Settled | Phase::Live | Phase::Draining { .. } => {
            (true, true)
        }
    }
}
