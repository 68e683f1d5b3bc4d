//! A console: a process of the live release on a terminal that somebody opened for it, within the unit.
//!
//! The client holds the other side of the terminal. What runs is what the keeper itself read of the live
//! release, never what the client asks for; the client only says which terminal.
//!
//! It ends with the client that opened it and with the keeper: nobody would hear how it ended.
//!
//! # From the command to the process
//!
//! `gapless console` opens a pseudoterminal and sends its number: `POST /console/7?term=xterm` means
//! `/dev/pts/7`. The keeper runs `[app] console` of the live generation there. The console is a process of
//! the unit: it has the user and the sandbox of the unit, the directory of the release, the environment of
//! the first worker without its sockets, and a control group of its own (`console0` to `console7`). The
//! chain loader makes the terminal its controlling terminal (`--tty`). The answer has one line of JSON when
//! the console has begun, and one when it has ended.
//!
//! The client (`cli/console.rs`) sets its own terminal to raw mode, restores it on every way out, and
//! passes on bytes and the window size. So a program that types into its terminal (TIOCSTI) types only into
//! the console. root gives the pseudoterminal to the owner of the runtime directory, which systemd made;
//! the keeper takes only a pseudoterminal of its own user. The client never opens the other side: a
//! terminal hangs up when the last process closes it, and the kernel drops unread output if another process
//! still has it open.
//!
//! # Its end
//!
//! After a restart, an upgrade or a crash of the keeper the client says that the console ended with it.
//! When the client ends, the console first gets SIGHUP from the terminal, and SIGKILL after two seconds.

use super::cgroup;
use super::happening::{Happening, Outbox};
use super::reaper::{self, Ending};
use super::spawn::{self, Environment, Orphan, Spawn, SpawnError};
use crate::api::{ConsoleStep, is_term};
use crate::poll;
use rustix::fs::{FileType, Mode, OFlags, fstat, major, open};
use rustix::process::{Signal, geteuid};
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// At a time. Each costs the service a process, and its client a terminal.
pub const CONSOLES_MAX: u8 = 8;

/// Of Unix98 pseudoterminals, what a program sits at: devices.txt of Linux.
const MAJORS: RangeInclusive<u32> = 136..=143;

/// Its terminal is gone, which it hears as SIGHUP: time to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// No terminal for a console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Not there, or not to be seen from within the unit.
    #[error("cannot look at the terminal {}", path.display())]
    Look {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another device.
    #[error("{} is no pseudoterminal", .0.display())]
    NoTerminal(PathBuf),
    /// Of another user.
    #[error("the terminal {} belongs to the user {owner}, and the service runs as {ours}", path.display())]
    Strange {
        /// Its path.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// No process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Out of fds.
    #[error("cannot watch the console")]
    Watch(#[source] io::Error),
}

/// What somebody asks for.
#[derive(Debug)]
pub struct Wanted {
    /// `7` of `/dev/pts/7`.
    pub terminal: u32,
    /// TERM.
    pub term: Option<String>,
    /// For whoever asked; closed, the console is ended.
    pub steps: mpsc::Sender<ConsoleStep>,
}

impl Wanted {
    /// From the path and the query of a request.
    ///
    /// # Errors
    /// What is wrong with them, in one line.
    pub fn parse(
        terminal: &str,
        query: Option<&str>,
        steps: mpsc::Sender<ConsoleStep>,
    ) -> Result<Self, String> {
        let number = terminal.parse().map_err(|_| {
            format!("{terminal:?} is no number of a terminal; POST /console/7 means /dev/pts/7")
        })?;
        let term = match query {
            None => None,
            Some(query) => match query.strip_prefix("term=") {
                Some(term) if is_term(term) => Some(term.to_owned()),
                Some(_) | None => {
                    return Err(format!(
                        "{query:?} says no TERM; use ?term= with up to 64 letters, digits, ., _, + and -"
                    ));
                }
            },
        };
        Ok(Self {
            terminal: number,
            term,
            steps,
        })
    }

    /// The terminal, if it is one of our own user's.
    ///
    /// # Errors
    /// [`ConsoleError`].
    pub fn terminal(&self) -> Result<PathBuf, ConsoleError> {
        let path = PathBuf::from(format!("/dev/pts/{}", self.terminal));
        check(&path).map(|()| path)
    }
}

/// Not opened for anything: a terminal that nobody has any more hangs up for its client.
fn check(path: &Path) -> Result<(), ConsoleError> {
    let look = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fstat(open(path, flags, Mode::empty())?)?)
    };
    let stat = look().map_err(|source| ConsoleError::Look {
        path: path.to_owned(),
        source,
    })?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || !MAJORS.contains(&major(stat.st_rdev)) {
        return Err(ConsoleError::NoTerminal(path.to_owned()));
    }
    let (owner, ours) = (stat.st_uid, geteuid().as_raw());
    if owner != ours {
        return Err(ConsoleError::Strange {
            path: path.to_owned(),
            owner,
            ours,
        });
    }
    Ok(())
}

/// Names of the control groups of consoles. No keeper adopts one.
pub fn groups() -> impl Iterator<Item = String> {
    (0..CONSOLES_MAX).map(|place| format!("console{place}"))
}

/// What is to be run.
pub struct Console {
    /// Program and arguments.
    pub command: Vec<String>,
    /// In it.
    pub directory: PathBuf,
    /// All of it.
    pub env: Environment,
    /// Its terminal.
    pub tty: PathBuf,
    /// As a worker is.
    pub is_caged: bool,
    /// In this control group, if there is one.
    pub cgroup: Option<PathBuf>,
    /// For whoever asked.
    pub steps: mpsc::Sender<ConsoleStep>,
}

impl Console {
    /// Starts it; its end comes as a happening. Returns its pid, and a pidfd of it.
    ///
    /// # Errors
    /// [`ConsoleError`]; nothing runs then.
    pub fn start(self, outbox: Outbox) -> Result<(u32, OwnedFd), ConsoleError> {
        let child = spawn::spawn(&Spawn {
            command: self.command.iter().map(OsString::from).collect(),
            env: &self.env,
            directory: &self.directory,
            fds: Vec::new(),
            output: None,
            tty: Some(&self.tty),
            cgroup: self.cgroup.as_deref(),
            orphan: Orphan::Dies,
            is_caged: self.is_caged,
        })?;
        let pid = child.pid;
        let watched = child
            .pidfd
            .try_clone()
            .and_then(poll::watch)
            .map_err(|error| {
                reaper::kill_session(pid);
                ConsoleError::Watch(error)
            })?;
        // The channel is empty: there is room.
        drop(self.steps.try_send(ConsoleStep::Began));
        tokio::task::spawn_local(async move {
            self.wait(&watched, pid).await;
            outbox.put(Happening::ConsoleEnded(pid)).await;
        });
        Ok((pid, child.pidfd))
    }

    async fn wait(self, pidfd: &AsyncFd<OwnedFd>, pid: u32) {
        let ending = tokio::select! {
            ending = reaper::ended(pidfd, pid) => ending.unwrap_or(Ending::Unknown),
            () = self.steps.closed() => {
                // Whether it obeys or not: what is left of it ends below.
                let ended = reaper::ended(pidfd, pid);
                drop(tokio::time::timeout(LAST_WORDS, ended).await);
                Ending::Unknown
            }
        };
        end(pidfd, pid, self.cgroup.as_deref()).await;
        drop(self.steps.try_send(said(ending)));
    }
}

async fn end(pidfd: &AsyncFd<OwnedFd>, pid: u32, group: Option<&Path>) {
    if let Err(error) = reaper::signal(pidfd, Signal::KILL) {
        tracing::warn!(pid, %error, "cannot end the console: {error}");
    }
    drop(reaper::ended(pidfd, pid).await);
    if let Some(group) = group {
        cgroup::discard(group);
    }
}

fn said(ending: Ending) -> ConsoleStep {
    match ending {
        Ending::Exited(code) => ConsoleStep::Exited { code },
        Ending::Signaled { signal, .. } => ConsoleStep::Killed { signal },
        Ending::Unknown => ConsoleStep::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(terminal: &str, query: Option<&str>) -> Result<(u32, Option<String>), String> {
        let (steps, _taken) = mpsc::channel(1);
        Wanted::parse(terminal, query, steps).map(|wanted| (wanted.terminal, wanted.term))
    }

    #[test]
    fn only_a_number_and_a_plain_term_are_taken() {
        let term = Some("xterm".to_owned());
        assert_eq!(parse("7", None), Ok((7, None)));
        assert_eq!(parse("0", Some("term=xterm")), Ok((0, term)));
        for terminal in ["", "-1", "ptmx", "../tty", "7/../../tty1", "4294967296"] {
            assert!(parse(terminal, None).is_err(), "{terminal}");
        }
        for query in ["", "term=", "term=a%20b", "term=a&term=b", "tty=7"] {
            assert!(parse("7", Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn what_is_no_pseudoterminal_is_refused() {
        for path in ["/dev/null", "/dev/ptmx", "/dev/pts", "/etc/passwd"] {
            let refused = check(Path::new(path)).unwrap_err();
            assert!(
                matches!(refused, ConsoleError::NoTerminal(_)),
                "{path}: {refused}"
            );
        }
        let refused = check(Path::new("/dev/pts/no-such")).unwrap_err();
        assert!(matches!(refused, ConsoleError::Look { .. }), "{refused}");
    }
}
