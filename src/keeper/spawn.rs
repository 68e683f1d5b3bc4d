//! Starts processes: workers and fronts, through the chain loader.
//!
//! A child inherits exactly the fds named here, stdin from /dev/null, its output to us, and a whole
//! environment that was made for it. Never spawn anywhere but on the main thread: PDEATHSIG follows
//! the parent thread.

mod image;
mod tracer;

pub use tracer::refuse_tracer;

use crate::exec::{Chain, FIRST_FD, OWN_IMAGE};
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A whole environment.
pub type Environment = BTreeMap<OsString, OsString>;

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Program and arguments. The program is looked up in the PATH of `env`. Never empty.
    pub command: Vec<OsString>,
    /// All of it; nothing of ours is added but LISTEN_*.
    pub env: &'a Environment,
    /// Working directory.
    pub directory: &'a Path,
    /// Become the fds 3, 4, … in this order; LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES tell the
    /// child of them, if there are any. Names without a colon.
    pub fds: Vec<(&'a str, BorrowedFd<'a>)>,
    /// stdout and stderr; none: ours.
    pub output: Option<BorrowedFd<'a>>,
    /// A terminal that becomes its controlling terminal, its stdin, stdout and stderr.
    pub tty: Option<&'a Path>,
    /// cgroup directory to join before the program runs.
    pub cgroup: Option<&'a Path>,
    /// What becomes of the child when we die.
    pub orphan: Orphan,
    /// For what is not ours: apart from our processes.
    pub is_caged: bool,
}

/// What becomes of a child when the keeper dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// It lives on, for the next keeper to adopt.
    LivesOn,
    /// It is killed with us: where no next keeper can come.
    Dies,
}

/// A process that we started and must reap.
#[derive(Debug)]
pub struct Child {
    /// Also the id of its session and process group, once the loader has run.
    pub pid: u32,
    /// Close-on-exec.
    pub pidfd: OwnedFd,
}

/// Nothing was started, or it was ended again.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// chdir(2) failed.
    #[error(
        "cannot enter {}; let the user of the service read it and what is above it, or put the \
         app below /srv or /opt",
        directory.display()
    )]
    Directory {
        /// Where it was to run.
        directory: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// fork or the exec of our own image failed.
    #[error(
        "cannot start a process in {}; check that TasksMax=, LimitNPROC= and the memory of the \
         service suffice",
        directory.display()
    )]
    Start {
        /// Where it was to run.
        directory: PathBuf,
        /// What fork(2), chdir(2) or execve(2) said.
        #[source]
        source: io::Error,
    },
    /// An fd for the child could not be duplicated.
    #[error("cannot start a process: out of fds; raise LimitNOFILE= of the service")]
    Fds(#[source] io::Error),
    /// The child runs, but cannot be watched; it was killed.
    #[error("cannot watch process {pid}, so it was ended again; raise LimitNOFILE= of the service")]
    Watch {
        /// The process that was started.
        pid: u32,
        /// What pidfd_open(2) said.
        #[source]
        source: io::Error,
    },
}

/// Starts it. That the program itself exists shows only later, by the child's output and its exit
/// code 126 or 127.
///
/// # Errors
/// [`SpawnError`]; nothing is left running then.
pub fn spawn(what: &Spawn<'_>) -> Result<Child, SpawnError> {
    let image = image::for_child(end_of(what.fds.len())).map_err(SpawnError::Fds)?;
    let _occupied = occupy(what.fds.len()).map_err(SpawnError::Fds)?;
    let start = |image: &Path| {
        let mut command = command(what, image).map_err(SpawnError::Fds)?;
        let started = command.spawn();
        started.map_err(|source| refused(what.directory, source))
    };
    let mut child = match start(&image.path) {
        // Where a security module forbids what lies in memory. If it is the directory, that is said again.
        Err(error) if image.is_copy() => {
            let child = start(Path::new(OWN_IMAGE))?;
            image::give_up(&error);
            child
        }
        started => started?,
    };
    // Nobody else reaps, so the pid is still the child's, even if it has ended.
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Child {
            pid: child.id(),
            pidfd,
        }),
        Err(error) => {
            let ended = child.kill().and_then(|()| child.wait());
            if let Err(error) = ended {
                tracing::error!(%error, pid = child.id(), "cannot end an unwatched process: {error}");
            }
            Err(SpawnError::Watch {
                pid: child.id(),
                source: error.into(),
            })
        }
    }
}

/// Our own image can always be executed, so what is not allowed or not there is the directory.
fn refused(directory: &Path, source: io::Error) -> SpawnError {
    let directory = directory.to_owned();
    let is_about_it = matches!(
        source.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    );
    if is_about_it {
        SpawnError::Directory { directory, source }
    } else {
        SpawnError::Start { directory, source }
    }
}

fn command(what: &Spawn<'_>, image: &Path) -> io::Result<Command> {
    let mut command = Command::new(image);
    command
        .arg0("gapless")
        .args(chain(what).to_args())
        .env_clear()
        .env("PWD", what.directory)
        .envs(what.env)
        .current_dir(what.directory)
        .stdin(Stdio::null());
    if let Some(output) = what.output {
        command.stdout(output.try_clone_to_owned()?);
        command.stderr(output.try_clone_to_owned()?);
    }
    let mappings = (FIRST_FD..)
        .zip(&what.fds)
        .map(|(child_fd, (_, fd))| {
            let parent_fd = fd.try_clone_to_owned()?;
            Ok(FdMapping {
                parent_fd,
                child_fd,
            })
        })
        .collect::<io::Result<_>>()?;
    command
        .fd_mappings(mappings)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(command)
}

/// Holds every free number below the highest that the child's fds take. std opens a pipe to hear of
/// a failed exec; were it one of these numbers, the child's fd would replace it, the failure would go
/// unheard, and its bytes would be written into that fd.
fn occupy(fds: usize) -> io::Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    let end = end_of(fds);
    loop {
        let next = OwnedFd::from(std::fs::File::open("/dev/null")?);
        if next.as_raw_fd() >= end {
            return Ok(held);
        }
        held.push(next);
    }
}

/// The first number behind those of the child's fds.
fn end_of(fds: usize) -> i32 {
    i32::try_from(fds).map_or(i32::MAX, |fds| fds.saturating_add(FIRST_FD))
}

fn chain(what: &Spawn<'_>) -> Chain {
    Chain {
        fd_names: what
            .fds
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        cgroup: what.cgroup.map(Path::to_owned),
        die_with: match what.orphan {
            Orphan::LivesOn => None,
            Orphan::Dies => Some(std::process::id()),
        },
        born_of: Some(std::process::id()),
        is_caged: what.is_caged,
        tty: what.tty.map(Path::to_owned),
        command: what.command.clone(),
    }
}

/// What an app may inherit of our environment: all but what systemd said to *us*, and what a shell said
/// of itself. An app that took our LISTEN_PID or WATCHDOG_PID for its own would find no sockets, or be
/// silent; one that believed PWD would look for its files where `gapless run` was called.
///
/// CREDENTIALS_DIRECTORY stays: the secrets of LoadCredential= are for the app.
pub fn app_environment(inherited: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let kept = |(name, _): &(OsString, OsString)| name.to_str().is_none_or(|name| !is_ours(name));
    inherited.into_iter().filter(kept).collect()
}

/// systemd.exec(5), "Environment Variables in Spawned Processes".
fn is_ours(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "LISTEN_",
        "WATCHDOG_",
        "MAINPID",
        "MANAGERPID",
        "MEMORY_PRESSURE_",
        "GAPLESS_",
    ];
    const NAMES: [&str; 20] = [
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "NOTIFY_SOCKET",
        "FDSTORE",
        "SYSTEMD_EXEC_PID",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "CACHE_DIRECTORY",
        "LOGS_DIRECTORY",
        "CONFIGURATION_DIRECTORY",
        "SERVICE_RESULT",
        "EXIT_CODE",
        "EXIT_STATUS",
        "TRIGGER_UNIT",
        "REMOTE_ADDR",
        "REMOTE_PORT",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// For keeper and front, first thing in `main`: other processes of the same user (the app!) may
/// neither trace us nor read our memory and fds, and `ps` shows our name.
///
/// # Errors
/// As prctl(2); the caller logs it and goes on.
pub fn harden_self() -> io::Result<()> {
    rustix::thread::set_name(c"gapless")?;
    // rustix reads /proc/self/auxv once, when first asked, and panics when it cannot. Before Linux
    // 6.4 it can only as long as we are dumpable.
    rustix::param::page_size();
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_hears_nothing_of_what_systemd_said_to_us() {
        let inherited = [
            "LISTEN_FDS",
            "LISTEN_PIDFDID",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "FDSTORE",
            "MAINPID",
            "MANAGERPIDFDID",
            "INVOCATION_ID",
            "STATE_DIRECTORY",
            "JOURNAL_STREAM",
        ];
        let pairs = inherited.iter().map(|name| (name.into(), "1".into()));
        assert_eq!(app_environment(pairs), Environment::new());
    }

    #[test]
    fn an_app_keeps_its_own_settings_and_its_credentials() {
        let inherited = ["PATH", "CREDENTIALS_DIRECTORY", "PORT", "DATABASE_URL"];
        let pairs = inherited.iter().map(|name| (name.into(), "1".into()));
        assert_eq!(app_environment(pairs).len(), inherited.len());
    }
}
