//! A release on its way from the store to live: asks the keeper, tells each step, moves `current`,
//! and makes room. What deploy and rollback have in common.

use super::client::{self, ANSWER_LIMIT};
use super::deploy::DeployError;
use super::instance::Instance;
use super::output::{printable, say};
use super::status::{grouped, memory};
use super::{CliError, ClientError, Exit, bake, reload};
use crate::api::{ReloadOutcome, Status, Step, Verdict};
use crate::id::GenerationId;
use crate::release::{Lock, ReleaseId, State, Store};
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
    /// When it began, for the last line.
    pub began: Instant,
    /// Lost requests and all, before.
    pub before: Status,
}

/// One line of the story: `  staged    20261121-1  38 files, 12MB             0.2 s`.
pub(super) fn tell(step: &str, text: &str, took: Duration) {
    let seconds = took.as_secs_f64();
    say(&format!(
        "  {step:<9} {:<56} {seconds:>6.1} s",
        printable(text)
    ));
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
pub(super) fn bring_live(site: &Site, id: &ReleaseId, lock: Lock) -> Result<Exit, CliError> {
    let mut story = Story {
        site,
        id,
        lock: Some(lock),
        last: Instant::now(),
        ended: None,
    };
    let exit = match story.follow() {
        Err(
            CliError::Client(ClientError::Broken { .. }) | CliError::Deploy(DeployError::Undecided),
        ) => {
            tell(
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
        (Some(time), Some(lock)) if exit == Exit::Done => bake::watch(site, id, time, lock),
        _ => Ok(exit),
    }
}

struct Story<'a> {
    site: &'a Site,
    id: &'a ReleaseId,
    lock: Option<Lock>,
    last: Instant,
    ended: Option<Result<Exit, CliError>>,
}

impl Story<'_> {
    fn follow(&mut self) -> Result<Exit, CliError> {
        let path = format!("/deploy/{}", self.id);
        let mut lines = client::follow(&self.site.instance, &path)?;
        loop {
            match (lines.next(), self.ended.take()) {
                (Ok(Some(line)), ended) => {
                    self.ended = ended;
                    self.hear(&line);
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
        let Ok(step) = serde_json::from_str::<Step>(line) else {
            return;
        };
        let took = self.last.elapsed();
        match step {
            Step::Prepared { command } => tell("prepared", &command.join(" "), took),
            Step::Started {
                generation,
                workers,
            } => tell(
                "started",
                &format!("{generation}, {}", plural(workers, "worker")),
                took,
            ),
            Step::Healthy {
                generation,
                endpoints,
            } => {
                let answers = if endpoints.len() == 1 {
                    "answers"
                } else {
                    "answer"
                };
                let text = format!("{generation} {answers} at {}", endpoints.join(", "));
                tell("healthy", &text, took);
            }
            Step::Decided(outcome) => self.ended = Some(self.decided(&outcome)),
            Step::Drained { generations } => self.drained(&generations),
        }
        self.last = Instant::now();
    }

    fn decided(&mut self, outcome: &ReloadOutcome) -> Result<Exit, CliError> {
        let Site {
            instance,
            store,
            verb,
            ..
        } = self.site;
        if outcome.verdict != Verdict::Live {
            if outcome.verdict != Verdict::Stopping {
                let state = State::Failed(outcome.cause.clone());
                store.mark(self.id, state).map_err(DeployError::from)?;
            }
            let unit = instance.name.unit();
            say(reload::render_failed(outcome, &unit, verb).trim_end());
            self.make_room();
            self.lock = None;
            return Ok(reload::exit(outcome.verdict));
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
        store
            .make_current(self.id, unix_seconds())
            .map_err(DeployError::from)?;
        tell(
            "swapped",
            &format!("{live} serves, release {} is current", self.id),
            took,
        );
        self.make_room();
        // What is left is to wait for requests; that keeps nobody else from deploying. A bake does.
        if self.site.bake.is_none() {
            self.lock = None;
        }
        Ok(Exit::Done)
    }

    /// That there is none is no failure of the deploy; the next one tries again.
    fn make_room(&self) {
        let Ok(status) = status(&self.site.instance) else {
            return;
        };
        let running = status
            .generations
            .iter()
            .filter_map(|it| it.release.parse().ok());
        let busy: BTreeSet<ReleaseId> = running.chain([self.id.clone()]).collect();
        let keep = usize::try_from(self.site.keep).unwrap_or(usize::MAX);
        match self.site.store.prune(keep, &busy) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                let names: Vec<_> = removed.iter().map(ToString::to_string).collect();
                tell("removed", &names.join(", "), Duration::ZERO);
            }
            Err(error) => super::output::complain(&format!(
                "gapless: old releases stay for now: {}",
                crate::causes::chain(&error)
            )),
        }
    }

    fn drained(&self, generations: &[GenerationId]) {
        let took = self.last.elapsed();
        if !generations.is_empty() {
            let names: Vec<_> = generations.iter().map(ToString::to_string).collect();
            let verb = if names.len() == 1 { "has" } else { "have" };
            let text = format!("{} {verb} finished all requests", names.join(" and "));
            tell("drained", &text, took);
        }
        let lost = self.lost().map_or_else(String::new, |(lost, all)| {
            format!(": {lost} of {} lost", plural(all, "request"))
        });
        let green = Style::new().fg_color(Some(AnsiColor::Green.into())).bold();
        let seconds = self.site.began.elapsed().as_secs_f64();
        let back = match self.site.store.previous() {
            Ok(Some(_)) => {
                let app = self.site.instance.name.option();
                format!("  Back: sudo gapless{app} rollback")
            }
            Ok(None) | Err(_) => String::new(),
        };
        say(&format!(
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
