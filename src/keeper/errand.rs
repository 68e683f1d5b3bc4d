//! An errand: the release command, one process of a new release that runs before any worker of it
//! (migrations). The release begins only if it exits with 0.
//!
//! It ends with the keeper, with whoever asked for the deploy, or at its limit: nobody would know
//! what became of one that lives on.
//!
//! It has the app's user, sandbox, environment and credentials, and runs only for a release that was never
//! live.

use super::cgroup;
use super::diagnosis::{self, End};
use super::happening::Happening;
use super::output::{self, OutputError, Source, Tail};
use super::reaper::{self, Ending};
use super::release::Release;
use super::spawn::{self, Orphan, Spawn, SpawnError};
use super::worker;
use super::yard::Yard;
use crate::api::Step;
use crate::id::{GenerationId, Slot};
use crate::poll;
use crate::release::ReleaseId;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Name of its control group.
pub const GROUP: &str = "errand";

/// The longest migration.
pub const LIMIT: Duration = Duration::from_hours(1);
/// After its end, its last lines may still be in the pipe for so long.
const LAST_LINES: Duration = Duration::from_millis(500);

/// It could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// No process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Nobody would read what it writes.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Out of fds.
    #[error("cannot prepare its pipes")]
    Prepare(#[source] io::Error),
}

/// What is to be run.
pub struct Errand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// For this release in the store.
    pub id: ReleaseId,
    /// With its directory and environment.
    pub release: Release,
    /// Under the number that it gets next.
    pub generation: GenerationId,
    /// In this control group, if there is one.
    pub cgroup: Option<PathBuf>,
    /// For whoever asked; closed, it is ended.
    pub steps: mpsc::Sender<Step>,
}

/// An errand that has ended.
#[derive(Debug)]
pub struct Ended {
    /// For this release.
    pub id: ReleaseId,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Who asked.
    pub steps: mpsc::Sender<Step>,
    /// Why the release cannot begin, if it cannot.
    pub failure: Option<String>,
    /// What is likely to mend that.
    pub cure: Option<String>,
    /// What it wrote last.
    pub last_lines: Vec<String>,
}

impl Errand {
    /// Starts it; its end comes as a happening. Returns its pid.
    ///
    /// # Errors
    /// [`ErrandError`]; nothing runs then.
    pub fn start(self, yard: &Yard) -> Result<u32, ErrandError> {
        let (reading, writing) = output::pipe().map_err(ErrandError::Prepare)?;
        let env = worker::environment_of_app(yard, &self.release);
        let child = spawn::spawn(&Spawn {
            command: self.command.iter().map(OsString::from).collect(),
            env: &env,
            directory: &self.release.app.directory,
            fds: Vec::new(),
            output: Some(writing.as_fd()),
            tty: None,
            cgroup: self.cgroup.as_deref(),
            orphan: Orphan::Dies,
            is_caged: yard.cages(&self.release),
        })?;
        let source = Source {
            generation: self.generation,
            slot: Slot(0),
            release: self.release.label.clone(),
        };
        let lines = self.release.lines_per_second_max;
        let tail = yard.output.watch(source, reading, lines)?;
        let watched = poll::watch(child.pidfd).map_err(ErrandError::Prepare)?;
        let (pid, outbox) = (child.pid, yard.outbox.clone());
        tokio::task::spawn_local(async move {
            let ended = self.wait(&watched, pid, tail).await;
            outbox.put(Happening::ErrandEnded(ended)).await;
        });
        Ok(pid)
    }

    async fn wait(self, pidfd: &AsyncFd<OwnedFd>, pid: u32, tail: Tail) -> Ended {
        let program = self.command.first().cloned().unwrap_or_default();
        let began = Instant::now();
        let mut ended = None;
        let mut failure = tokio::select! {
            ending = reaper::ended(pidfd, pid) => {
                let ending = ending.unwrap_or(Ending::Unknown);
                ended = Some(ending);
                failure(&program, ending)
            }
            () = self.steps.closed() => Some(format!("{program} was ended: nobody waits for it any more")),
            () = tokio::time::sleep(LIMIT) => Some(format!("{program} did not end within an hour")),
        };
        // For one that was not waited for, and for what it left behind.
        if let Err(error) = reaper::signal(pidfd, rustix::process::Signal::KILL) {
            tracing::warn!(pid, %error, "cannot end the release command: {error}");
        }
        drop(reaper::ended(pidfd, pid).await);
        if let Some(group) = &self.cgroup {
            cgroup::discard(group);
        }
        if !tail.settled(LAST_LINES).await {
            tracing::debug!(pid, "the last lines of the release command may be missing");
        }
        let last_lines = tail.lines();
        let fault = ended.filter(|_| failure.is_some()).and_then(|ending| {
            let end = End {
                ending,
                is_oom: false,
                lived: began.elapsed(),
                lines: &last_lines,
            };
            diagnosis::of_end(end, &self.release.app, &self.command)
        });
        if let (Some(cause), Some(fault)) = (&mut failure, &fault) {
            *cause = format!("{cause}: {}", fault.finding());
        }
        Ended {
            id: self.id,
            command: self.command,
            steps: self.steps,
            failure,
            cure: fault.map(|fault| fault.cure()),
            last_lines,
        }
    }
}

fn failure(program: &str, ending: Ending) -> Option<String> {
    match ending {
        Ending::Exited(0) => None,
        Ending::Exited(_) | Ending::Signaled { .. } | Ending::Unknown => {
            Some(format!("the release command {program} {ending}"))
        }
    }
}
