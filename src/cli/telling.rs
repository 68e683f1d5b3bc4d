//! How a deploy or rollback is told: step by step as it happens, and for programs as one object at
//! its end.
//!
//! On a terminal, what is waited for stands below the steps with its time, and is written over.

mod waiting;

use super::absence;
use super::deploy::DeployError;
use super::output::{complain, is_screen, printable, say, say_json, width};
use super::{CliError, Exit};
use crate::api::{ReloadOutcome, Verdict};
use crate::causes::chain;
use crate::id::GenerationId;
use crate::release::{ReleaseId, Store};
use serde::Serialize;
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use waiting::Waiting;

/// Of a step: its name, its text and its time, where there is room for them.
const STEP_COLUMNS: usize = 9;
const TEXT_COLUMNS: usize = 56;
const OTHER_COLUMNS: usize = 21;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A person who looks on.
    Screen,
    /// A file or a pipe.
    Pipe,
    /// A program: the steps go to standard error.
    Program,
}

/// One step that was done.
#[derive(Debug, Serialize)]
struct Told {
    step: &'static str,
    text: String,
    seconds: f64,
}

/// `--json` of deploy and rollback; gapless(1) has it. Only extended, never changed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// `deploy`, `rollback`
    pub command: &'static str,
    /// The instance.
    pub name: String,
    pub outcome: Outcome,
    /// The exit code.
    pub exit: u8,
    /// Why it is not live.
    pub cause: Option<String>,
    pub release: Option<ReleaseId>,
    /// What was given to deploy.
    pub from: Option<PathBuf>,
    /// `directory`, `tar`, …
    pub kind: Option<String>,
    /// By what it was found how to run it, where it was looked for.
    pub detected: Option<String>,
    /// What runs, where it was found or given.
    pub run: Option<Vec<String>>,
    /// Begun for this.
    pub generation: Option<GenerationId>,
    /// Serves at the end.
    pub live: Option<GenerationId>,
    /// In the store, at the end.
    pub current: Option<ReleaseId>,
    pub previous: Option<ReleaseId>,
    /// Answered meanwhile.
    pub requests: Option<u64>,
    /// Lost of them.
    pub lost: Option<u64>,
    /// What the app wrote last.
    pub last_lines: Vec<String>,
    pub seconds: f64,
    steps: Vec<Told>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// Nothing was begun.
    #[default]
    Refused,
    /// It is not known: gapless ended, or does not answer, or something newer came between.
    Undecided,
    /// It serves.
    Live,
    /// It did, and was worse than the one before, which serves again.
    TakenBack,
    /// It died or could not be started.
    Unhealthy,
    /// It was not ready in time.
    TimedOut,
    /// Its configuration is invalid.
    ConfigInvalid,
    /// gapless is stopping.
    Stopping,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Live => Self::Live,
            Verdict::Unhealthy => Self::Unhealthy,
            Verdict::TimedOut => Self::TimedOut,
            Verdict::ConfigInvalid => Self::ConfigInvalid,
            Verdict::Stopping => Self::Stopping,
        }
    }
}

/// See the module.
pub(super) struct Telling {
    reader: Reader,
    began: Instant,
    waiting: RefCell<Option<Waiting>>,
    report: RefCell<Report>,
}

impl Telling {
    pub fn new(command: &'static str, name: String, is_json: bool) -> Self {
        let reader = match (is_json, is_screen()) {
            (true, _) => Reader::Program,
            (false, true) => Reader::Screen,
            (false, false) => Reader::Pipe,
        };
        let report = Report {
            command,
            name,
            ..Report::default()
        };
        Self {
            reader,
            began: Instant::now(),
            waiting: RefCell::new(None),
            report: RefCell::new(report),
        }
    }

    /// When the command began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// What is waited for from now on: `starting`.
    pub fn await_step(&self, what: &str) {
        if self.reader == Reader::Screen {
            // The one before is cleared before the next one draws.
            drop(self.waiting.take());
            self.waiting.replace(Some(Waiting::begin(what.to_owned())));
        }
    }

    /// It is done: `  staged    20261121-1  38 files, 12MB             0.2 s`.
    pub fn step(&self, step: &'static str, text: &str, took: Duration) {
        let (text, seconds) = (printable(text), took.as_secs_f64());
        let columns = match self.reader {
            Reader::Screen => width().saturating_sub(OTHER_COLUMNS).min(TEXT_COLUMNS),
            Reader::Pipe | Reader::Program => TEXT_COLUMNS,
        };
        self.line(&format!(
            "  {step:<STEP_COLUMNS$} {text:<columns$} {seconds:>6.1} s"
        ));
        self.report.borrow_mut().steps.push(Told {
            step,
            text,
            seconds,
        });
    }

    /// Anything else that there is to say.
    pub fn line(&self, text: &str) {
        drop(self.waiting.take());
        match self.reader {
            Reader::Screen | Reader::Pipe => say(text),
            Reader::Program => complain(text),
        }
    }

    /// For programs.
    pub fn note(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.report.borrow_mut());
    }

    /// How it was decided.
    pub fn decided(&self, outcome: &ReloadOutcome) {
        self.note(|report| {
            report.outcome = outcome.verdict.into();
            report.cause = Some(outcome.cause.clone()).filter(|_| outcome.verdict != Verdict::Live);
            report.generation = outcome.generation;
            report.live = outcome.live;
            report.last_lines = outcome.last_lines.iter().map(|it| printable(it)).collect();
        });
    }

    /// The end, whatever it is.
    pub fn conclude(self, result: Result<Exit, CliError>, store: &Store) -> Result<Exit, CliError> {
        drop(self.waiting.take());
        if self.reader != Reader::Program {
            return result;
        }
        let result = result.map_err(absence::explained);
        let mut report = self.report.into_inner();
        let exit = match &result {
            Ok(exit) => *exit,
            Err(error) => {
                report.cause = Some(chain(error));
                if matches!(error, CliError::Deploy(DeployError::Superseded(_))) {
                    report.outcome = Outcome::Undecided;
                }
                error.exit()
            }
        };
        report.exit = exit.code();
        report.current = store.current().unwrap_or(None);
        report.previous = store.previous().unwrap_or(None);
        report.seconds = self.began.elapsed().as_secs_f64();
        say_json(&report);
        result
    }
}
