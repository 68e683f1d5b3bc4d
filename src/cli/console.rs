//! `gapless console`: becomes the console of the running release, as the app's user.

use super::client::{self, ANSWER_LIMIT};
use super::{CliError, Exit, InstanceName, instance};
use crate::api::{GenerationStatus, Status};
use hyper::Method;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use thiserror::Error;

/// What was said to the worker alone: its sockets, and who watches it.
const OF_THE_WORKER: [&str; 3] = ["LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"];

/// No console was opened.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// No app to talk to.
    #[error(
        "nothing is live: no worker runs that a console could talk to; gapless status says why"
    )]
    NothingLive,
    /// Nobody said what to run.
    #[error(
        "the running release has no console; say in its gapless.toml, or in /etc/gapless, what \
         connects to it: [app] console = [\"bin/app\", \"remote\"], then gapless reload"
    )]
    NotConfigured,
    /// Of another user.
    #[error("only root and the user of the app may have its console; try sudo gapless console")]
    NotAllowed(#[source] io::Error),
    /// The process is not what the keeper says.
    #[error("process {0} is no worker of the app's user; nothing was run")]
    Stranger(u32),
    /// Not to be seen, or not to be run.
    #[error("cannot run {what}; correct [app] console, then gapless reload")]
    Run {
        /// The program.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ConsoleError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotAllowed(_) => Exit::NotAllowed,
            Self::NothingLive | Self::NotConfigured | Self::Stranger(_) | Self::Run { .. } => {
                Exit::Failed
            }
        }
    }
}

/// Returns only when there is none.
pub(super) fn run(name: Option<&InstanceName>) -> Result<Exit, CliError> {
    let instance = instance::find(name)?;
    let answer = client::ask(&instance, Method::GET, "/status", Some(ANSWER_LIMIT))?;
    let status: Status = answer.read()?;
    // Made by systemd, or by who runs it in the foreground: root believes that, and no keeper.
    let directory = instance.socket.parent().unwrap_or(&instance.socket);
    let owner = std::fs::metadata(directory).map_err(ConsoleError::NotAllowed)?;
    Err(open(&status, owner.uid(), owner.gid())?.into())
}

/// Why it could not be run, as else it does not return.
fn open(status: &Status, uid: u32, gid: u32) -> Result<ConsoleError, ConsoleError> {
    let is_live = |generation: &&GenerationStatus| generation.state == "live";
    let live = status.generations.iter().find(is_live);
    let live = live.ok_or(ConsoleError::NothingLive)?;
    let pid = live.workers.iter().find_map(|worker| worker.pid);
    let pid = pid.ok_or(ConsoleError::NothingLive)?;
    let (program, arguments) = live
        .console
        .split_first()
        .ok_or(ConsoleError::NotConfigured)?;
    let of_worker = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    // Anybody may read that of a process; one that just ended has none.
    let said = std::fs::read_to_string(of_worker("status"));
    let said = said.map_err(|_gone| ConsoleError::Stranger(pid))?;
    if !are_all(&said, uid) {
        return Err(ConsoleError::Stranger(pid));
    }
    let environment = std::fs::read(of_worker("environ")).map_err(ConsoleError::NotAllowed)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(variables(&environment))
        .current_dir(&live.directory);
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    if rustix::process::geteuid().is_root() {
        // With no other groups: std clears them.
        command.uid(uid).gid(gid);
    }
    Ok(ConsoleError::Run {
        what: super::output::printable(program),
        source: command.exec(),
    })
}

/// Real, effective, saved and filesystem uid of a process, proc_pid_status(5).
fn are_all(status: &str, uid: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let mut uids = line.unwrap_or_default().split_whitespace().peekable();
    uids.peek().is_some() && uids.all(|known| known.parse() == Ok(uid))
}

/// Of proc_pid_environ(5), but what was for the worker alone.
fn variables(environment: &[u8]) -> Vec<(OsString, OsString)> {
    let pair = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'=')?;
        let (name, value) = entry.split_at(at);
        let is_its_own = |prefix: &str| name.starts_with(prefix.as_bytes());
        let is_for_all = !OF_THE_WORKER.iter().any(|prefix| is_its_own(prefix));
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        is_for_all.then(|| (text(name), text(value.get(1..).unwrap_or_default())))
    };
    environment
        .split(|byte| *byte == 0)
        .filter_map(pair)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_to_the_worker_alone_is_not_passed_on() {
        let environment =
            b"PATH=/bin\0PORT=1\0NOTIFY_SOCKET=/x\0LISTEN_FDS=1\0A=b=c\0WATCHDOG_USEC=1\0";
        let names = variables(environment);
        let expected = [("PATH", "/bin"), ("PORT", "1"), ("A", "b=c")];
        let expected = expected.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(names, expected);
    }

    #[test]
    fn a_process_of_another_user_is_no_worker() {
        assert!(are_all("Name:\tx\nUid:\t7\t7\t7\t7\n", 7));
        for other in ["Uid:\t0\t0\t0\t0", "Uid:\t7\t0\t7\t7", "Uid:\t", ""] {
            assert!(!are_all(other, 7), "{other:?}");
        }
    }
}
