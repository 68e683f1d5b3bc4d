//! A release on its way from the store to live: asks the keeper, tells each step, moves `current`,
//! and makes room. What deploy and rollback have in common.

use super::client::{self, ANSWER_LIMIT};
use super::deploy::DeployError;
use super::instance::Instance;
use super::reload::Asked;
use super::status::{grouped, memory};
use super::telling::{Outcome, Telling};
use super::{CliError, ClientError, Exit, bake, boot, reload};
use crate::api::{ReloadOutcome, Status, Step, Verdict};
use crate::causes::chain;
use crate::id::GenerationId;
use crate::release::{Lock, ReleaseId, State, Store, StoreError};
use crate::steps::{self, reached};
use anstyle::{AnsiColor, Style};
use hyper::Method;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// What is worked on.
pub(super) struct Site {
    /// Whom to ask.
    pub instance: Instance,
    /// Where releases are.
    pub store: Store,
    /// `deploy` or `rollback`.
    pub verb: &'static str,
    /// Releases that stay.
    pub keep: u32,
    /// To be watched for so long once it serves.
    pub bake: Option<Duration>,
    /// This is the way back from another release.
    pub back: Option<Back>,
    /// Lost requests and all, before.
    pub before: Status,
    /// What `previous` named before.
    pub previous: Option<ReleaseId>,
    /// Nothing was current before.
    pub is_first: bool,
}

/// From a release that fails more than the one before it did.
pub(super) struct Back {
    /// Which.
    pub from: ReleaseId,
    /// What `previous` named before that came.
    pub previous: Option<ReleaseId>,
    /// What was seen.
    pub why: String,
}

/// Now, for manifests.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Blocks until it is decided, and, if it is live, until what it superseded has finished.
///
/// A keeper that ends in the middle is followed by another, which begins with what is current: that
/// one is asked again.
pub(super) fn bring_live(
    site: &Site,
    id: &ReleaseId,
    lock: Lock,
    telling: &Telling,
) -> Result<Exit, CliError> {
    site.store.prepare(id).map_err(DeployError::from)?;
    let mut story = Story {
        site,
        id,
        telling,
        lock: Some(lock),
        last: Instant::now(),
        ended: None,
    };
    let exit = match story.follow() {
        Err(
            CliError::Client(ClientError::Broken { .. }) | CliError::Deploy(DeployError::Undecided),
        ) => {
            telling.step(
                "restarted",
                "gapless itself; asking the next keeper",
                story.last.elapsed(),
            );
            client::wait_until_back(&site.instance)?;
            story.last = Instant::now();
            story.follow()?
        }
        ended => ended?,
    };
    match (site.bake, story.lock.take()) {
        (Some(time), Some(lock)) if exit == Exit::Done => {
            bake::watch(site, id, time, lock, telling)
        }
        _ => Ok(exit),
    }
}

struct Story<'a> {
    site: &'a Site,
    id: &'a ReleaseId,
    telling: &'a Telling,
    lock: Option<Lock>,
    last: Instant,
    ended: Option<Result<Exit, CliError>>,
}

impl Story<'_> {
    fn follow(&mut self) -> Result<Exit, CliError> {
        let path = format!("/deploy/{}", self.id);
        self.telling
            .note(|report| report.outcome = Outcome::Undecided);
        self.telling.await_step("starting");
        let mut lines = client::follow(&self.site.instance, &path)?;
        reached(steps::Step::KeeperAsked);
        loop {
            match (lines.next(), self.ended.take()) {
                (Ok(Some(line)), ended) => {
                    self.ended = ended;
                    self.hear(&line);
                    // What did not become live waits for nobody's requests.
                    if let Some(ended) = self.ended.take_if(|it| !matches!(it, Ok(Exit::Done))) {
                        return ended;
                    }
                }
                // Whatever happens after the decision does not change it.
                (Ok(None) | Err(_), Some(ended)) => return ended,
                (Ok(None), None) => return Err(DeployError::Undecided.into()),
                (Err(error), None) => return Err(error.into()),
            }
        }
    }

    fn hear(&mut self, line: &str) {
        // A newer keeper may have more to say than we know.
        let Ok(step) = client::understand::<Step>(line.as_bytes()) else {
            return;
        };
        let took = self.last.elapsed();
        match step {
            Step::Prepared { command } => {
                reached(steps::Step::ErrandHeard);
                self.telling.step("prepared", &command.join(" "), took);
                self.telling.await_step("starting");
            }
            Step::Started {
                generation,
                workers,
            } => {
                reached(steps::Step::StartHeard);
                let text = format!("{generation}, {}", plural(workers, "worker"));
                self.telling.step("started", &text, took);
                self.telling.await_step("waiting until it is healthy");
            }
            Step::Waiting { generation, seen } => {
                self.telling
                    .step("waiting", &format!("{generation} {seen}"), took);
                self.telling.await_step("waiting until it is healthy");
            }
            Step::Healthy {
                generation,
                endpoints,
            } => {
                reached(steps::Step::HealthHeard);
                let answers = if endpoints.len() == 1 {
                    "answers"
                } else {
                    "answer"
                };
                let text = format!("{generation} {answers} at {}", endpoints.join(", "));
                self.telling.step("healthy", &text, took);
                self.telling.await_step("swapping");
            }
            Step::Decided(outcome) => self.ended = Some(self.decided(&outcome)),
            Step::Drained { generations } => self.drained(&generations),
        }
        self.last = Instant::now();
    }

    fn decided(&mut self, outcome: &ReloadOutcome) -> Result<Exit, CliError> {
        reached(steps::Step::SwapHeard);
        self.telling.decided(outcome);
        if outcome.verdict != Verdict::Live {
            return Ok(self.failed(outcome));
        }
        if outcome.release.as_deref() != Some(self.id.as_str()) {
            let live = outcome.release.clone().unwrap_or_default();
            return Err(DeployError::Superseded(live).into());
        }
        let took = self.last.elapsed();
        let live = outcome
            .generation
            .map(|it| it.to_string())
            .unwrap_or_default();
        self.remember_live()?;
        let text = format!("{live} serves, release {} is current", self.id);
        self.telling.step("swapped", &text, took);
        let name = &self.site.instance.name;
        boot::see_to_it(name, self.site.is_first, self.telling);
        // What is left is to wait for requests; that keeps nobody else from deploying. A bake does,
        // and may need what would have to go now.
        if self.site.bake.is_none() {
            make_room(self.site, self.id, self.telling);
            self.lock = None;
        }
        self.telling.await_step("draining");
        Ok(Exit::Done)
    }

    fn failed(&mut self, outcome: &ReloadOutcome) -> Exit {
        let store = &self.site.store;
        if outcome.verdict != Verdict::Stopping {
            let state = State::Failed(outcome.cause.clone());
            self.tolerate(store.mark(self.id, state));
        }
        self.tolerate(store.sweep());
        let instance = &self.site.instance;
        let asked = Asked {
            instance,
            app: &instance.name.option(),
            verb: self.site.verb,
            // What cannot be read is told elsewhere.
            is_bare: matches!(store.current(), Ok(None)),
        };
        let text = reload::render_failed(outcome, &asked);
        self.telling.line(text.trim_end());
        make_room(self.site, self.id, self.telling);
        self.lock = None;
        reload::exit(outcome.verdict)
    }

    /// In the store: the next start begins with it.
    fn remember_live(&self) -> Result<(), DeployError> {
        let store = &self.site.store;
        let unmoved = |source| DeployError::Unmoved {
            id: self.id.clone(),
            app: self.site.instance.name.option(),
            source,
        };
        if let Some(back) = &self.site.back {
            let before = back.previous.as_ref();
            store.go_back(self.id, before).map_err(unmoved)?;
            self.tolerate(store.mark_taken_back(&back.from, &back.why));
            self.tolerate(store.sweep());
        } else {
            store.make_current(self.id).map_err(unmoved)?;
        }
        // What takes room on the disk comes last, and is made up for by the next deploy.
        self.tolerate(store.mark(self.id, State::Healthy(unix_seconds())));
        Ok(())
    }

    /// It serves, or it does not; that it could not be noted changes neither.
    fn tolerate(&self, noted: Result<(), StoreError>) {
        if let Err(error) = noted {
            let text = format!("  not noted: {}", chain(&error));
            self.telling.line(&text);
        }
    }

    fn drained(&self, generations: &[GenerationId]) {
        reached(steps::Step::DrainHeard);
        let took = self.last.elapsed();
        if !generations.is_empty() {
            let names: Vec<_> = generations.iter().map(ToString::to_string).collect();
            let verb = if names.len() == 1 { "has" } else { "have" };
            let text = format!("{} {verb} finished all requests", names.join(" and "));
            self.telling.step("drained", &text, took);
        }
        let lost = self.lost().map_or_else(String::new, |(lost, all)| {
            self.telling.note(|report| {
                (report.requests, report.lost) = (Some(all), Some(lost));
            });
            format!(": {lost} of {} lost", plural(all, "request"))
        });
        let green = Style::new().fg_color(Some(AnsiColor::Green.into())).bold();
        let seconds = self.telling.began().elapsed().as_secs_f64();
        let back = match self.site.store.previous() {
            Ok(Some(_)) => {
                let app = self.site.instance.name.option();
                format!("  Back: sudo gapless{app} rollback")
            }
            Ok(None) | Err(_) => String::new(),
        };
        self.telling.line(&format!(
            "{green}{} is live{green:#} after {seconds:.1} s{lost}.{back}",
            self.id
        ));
    }

    /// Since this command began.
    fn lost(&self) -> Option<(u64, u64)> {
        let now = status(&self.site.instance).ok()?.requests;
        let before = &self.site.before.requests;
        let lost = now.lost.saturating_sub(before.lost);
        Some((lost, now.total.saturating_sub(before.total)))
    }
}

/// That there is none is no failure of the deploy; the next one tries again.
pub(super) fn make_room(site: &Site, id: &ReleaseId, telling: &Telling) {
    let Ok(status) = status(&site.instance) else {
        return;
    };
    let running = status
        .generations
        .iter()
        .filter_map(|it| it.release.parse().ok());
    let busy: BTreeSet<ReleaseId> = running.chain([id.clone()]).collect();
    let keep = usize::try_from(site.keep).unwrap_or(usize::MAX);
    match site.store.prune(keep, &busy) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => {
            let names: Vec<_> = removed.iter().map(ToString::to_string).collect();
            telling.step("removed", &names.join(", "), Duration::ZERO);
        }
        Err(error) => {
            telling.line(&format!("  old releases stay for now: {}", chain(&error)));
        }
    }
}

/// Asks once.
pub(super) fn status(instance: &Instance) -> Result<Status, CliError> {
    let answer = client::ask(instance, Method::GET, "/status", Some(ANSWER_LIMIT))?;
    Ok(answer.read()?)
}

/// `38 KiB`, `12 MiB`
pub(super) fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB {
        format!("{} KiB", bytes.div_ceil(1024))
    } else {
        memory(bytes)
    }
}

/// `1 worker`, `2 workers`
pub(super) fn plural(count: impl Into<u64>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{} {what}s", grouped(count)),
    }
}
