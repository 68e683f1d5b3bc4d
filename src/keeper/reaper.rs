//! How a process ended, and who else must go with it. The only place that waits for processes.
//!
//! Never the runtime's or std's process handling: an adopted worker is not our child, and as pid 1
//! or as subreaper we have children that we never started. Never a signal to a bare pid that could
//! belong to somebody else by now: either the pidfd is used, or the unreaped zombie holds the pid.

use super::process::{self, Process};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, kill_process,
    kill_process_group, pidfd_open, pidfd_send_signal, set_child_subreaper, waitid,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// By exit(3), with this status.
    Exited(i32),
    /// By a signal.
    Signaled {
        /// Its number.
        signal: i32,
        /// A core was dumped.
        core: bool,
    },
    /// It is gone, but was not our child (adopted from an earlier keeper), so nobody told us how.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signaled { signal, core } => {
                write!(f, "was killed by {}", signal_name(*signal))?;
                if *core {
                    f.write_str(" (core dumped)")?;
                }
                Ok(())
            }
            Self::Unknown => f.write_str("ended (how is not known: an earlier keeper started it)"),
        }
    }
}

/// `SIGTERM`, or `signal 64` for one without a name.
pub fn signal_name(signal: i32) -> String {
    let name = match Signal::from_named_raw(signal) {
        Some(Signal::HUP) => "SIGHUP",
        Some(Signal::INT) => "SIGINT",
        Some(Signal::QUIT) => "SIGQUIT",
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::TRAP) => "SIGTRAP",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::USR1) => "SIGUSR1",
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::USR2) => "SIGUSR2",
        Some(Signal::PIPE) => "SIGPIPE",
        Some(Signal::ALARM) => "SIGALRM",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::XCPU) => "SIGXCPU",
        Some(Signal::XFSZ) => "SIGXFSZ",
        Some(Signal::SYS) => "SIGSYS",
        Some(_) | None => return format!("signal {signal}"),
    };
    name.to_owned()
}

impl From<&WaitIdStatus> for Ending {
    fn from(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signaled {
                signal,
                core: status.dumped(),
            },
            (None, None) => Self::Unknown,
        }
    }
}

/// Waits until the process behind `pidfd` has ended, kills what is left of its session while its
/// zombie still holds the pid, and reaps it. Cancel-safe: until the end of the wait nothing happens.
///
/// `pid` is the process behind `pidfd`. For a process that is not our child, only the waiting is
/// done: whoever reaps it may already have, so its pid says nothing; end its tree by its cgroup.
///
/// # Errors
/// When the fd cannot be polled any more; the caller treats the process as gone and says so.
pub async fn ended(pidfd: &AsyncFd<OwnedFd>, pid: u32) -> io::Result<Ending> {
    loop {
        let mut readable = pidfd.readable().await?;
        if let Some(ending) = try_reap(pidfd.as_fd(), pid)? {
            return Ok(ending);
        }
        readable.clear_ready();
    }
}

/// Waits until the process behind `pidfd` has ended, and leaves it as it is: a zombie, if it is our
/// child. Cancel-safe.
///
/// # Errors
/// As [`ended`].
pub async fn over(pidfd: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut readable = pidfd.readable().await?;
        if gone(pidfd.as_fd())? {
            return Ok(());
        }
        readable.clear_ready();
    }
}

/// As [`ended`], but says `None` when the process still runs.
///
/// # Errors
/// As waitid(2).
pub fn try_reap(pidfd: BorrowedFd<'_>, pid: u32) -> io::Result<Option<Ending>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match waitid(WaitId::PidFd(pidfd), options | WaitIdOptions::NOWAIT) {
        Ok(None) => return Ok(None),
        Ok(Some(_)) => kill_session(pid),
        Err(Errno::CHILD) => return Ok(gone(pidfd)?.then_some(Ending::Unknown)),
        Err(error) => return Err(error.into()),
    }
    let status = waitid(WaitId::PidFd(pidfd), options)?;
    Ok(Some(
        status.map_or(Ending::Unknown, |status| Ending::from(&status)),
    ))
}

/// Whether a process that may not be our child has ended: its pidfd is readable then.
fn gone(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? > 0)
}

/// Sends `signal` to the process behind `pidfd`; false when it is gone.
///
/// # Errors
/// As pidfd_send_signal(2): EPERM when the app has changed its user.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<bool> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// SIGKILL to every process in whose environment an entry begins with `assignment`.
pub fn kill_with_environment(assignment: &str) {
    for pid in process::with_environment(assignment) {
        kill_if(pid, || process::has_environment(pid, assignment));
    }
}

/// SIGKILL to a process that `is_meant`, which is asked once its pid cannot change hands unseen.
pub fn kill_if(pid: u32, is_meant: impl FnOnce() -> bool) {
    let Some(pidfd) = to_pid(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if is_meant()
        && let Err(error) = signal(&pidfd, Signal::KILL)
    {
        tracing::warn!(pid, %error, "cannot end process {pid}, which a worker left behind: {error}");
    }
}

/// SIGKILL to the process group that `pid` leads; only while `pid` is known to be ours (running
/// behind a pidfd, or a zombie that we have not reaped).
pub fn kill_group(pid: u32) {
    if let Some(pid) = to_pid(pid)
        && let Err(error) = kill_process_group(pid, Signal::KILL)
        && error != Errno::SRCH
    {
        tracing::warn!(%error, pid = pid.as_raw_pid(), "cannot kill a process group, continuing: {error}");
    }
}

/// SIGKILL to every process of the session that `pid` leads, in whatever groups; a shell with job
/// control gives each job its own. The same condition as for [`kill_group`].
pub fn kill_session(pid: u32) {
    kill_group(pid);
    let own = getpid();
    for member in process::table() {
        let target = to_pid(member.pid).filter(|target| *target != own);
        let ours = member.session == pid && member.pid != pid && !member.is_zombie();
        if let Some(target) = target.filter(|_| ours)
            && let Err(error) = kill_process(target, Signal::KILL)
            && error != Errno::SRCH
        {
            tracing::warn!(%error, pid = member.pid, "cannot kill the rest of a worker, continuing: {error}");
        }
    }
}

/// Every process below `pid` and in its session; see [`process::descendants`].
pub fn descendants(pid: u32) -> Vec<u32> {
    process::descendants(pid)
}

/// From now on, orphans below us become our children instead of pid 1's: a worker cannot get away
/// from us by a double fork.
///
/// # Errors
/// As prctl(2); the caller logs it and goes on.
pub fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Reaps every zombie child that is not in `known`; to be called at each SIGCHLD. The known ones
/// are left to [`ended`], which wants to know how they ended. Gives back what was reaped.
pub fn reap_orphans<S: BuildHasher>(known: &HashSet<u32, S>) -> Vec<(u32, Ending)> {
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // One cheap system call decides in the common case that no look at /proc is needed.
    match waitid(WaitId::All, peek) {
        Ok(Some(_)) => {}
        Ok(None) | Err(_) => return Vec::new(),
    }
    let own = std::process::id();
    let is_orphan = |process: &Process| {
        process.parent == own && process.is_zombie() && !known.contains(&process.pid)
    };
    let orphans = process::table().into_iter().filter(is_orphan);
    orphans.filter_map(|orphan| reap(orphan.pid)).collect()
}

fn reap(pid: u32) -> Option<(u32, Ending)> {
    let id = WaitId::Pid(to_pid(pid)?);
    let status = waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
    Some((pid, Ending::from(&status)))
}

/// None for 0 and for what is no pid: kill(2) gives these a meaning that we never want.
pub fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A session of its own, as the loader makes it.
    fn start(script: &str, output: impl Into<Stdio>) -> u32 {
        let mut command = Command::new("/usr/bin/setsid");
        command
            .args(["--", "/bin/bash", "-c", script])
            .stdout(output);
        #[expect(clippy::zombie_processes, reason = "the tested code reaps it")]
        let child = command.spawn().unwrap();
        child.id()
    }

    fn watch(pid: u32) -> AsyncFd<OwnedFd> {
        let pidfd = pidfd_open(to_pid(pid).unwrap(), PidfdFlags::empty()).unwrap();
        crate::poll::watch(pidfd).unwrap()
    }

    async fn ending_of(pid: u32) -> Ending {
        ending_behind(&watch(pid), pid).await
    }

    async fn ending_behind(pidfd: &AsyncFd<OwnedFd>, pid: u32) -> Ending {
        let ending = tokio::time::timeout(LIMIT, ended(pidfd, pid));
        ending.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_status_and_a_signal_are_told_apart() {
        let exited = ending_of(start("exit 3", Stdio::null())).await;
        assert_eq!(exited.to_string(), "exited with status 3");
        let script = "ulimit -c 0; kill -SEGV $$";
        let killed = ending_of(start(script, Stdio::null())).await;
        assert_eq!(killed.to_string(), "was killed by SIGSEGV");
        assert_eq!(signal_name(64), "signal 64");
    }

    #[tokio::test]
    async fn the_rest_of_the_session_goes_with_its_leader() {
        let (mut read, write) = io::pipe().unwrap();
        let pid = start("set -m; sleep 1000 & sleep 1000 & exit 5", write);
        assert_eq!(ending_of(pid).await, Ending::Exited(5));
        // Its end comes only when no sleep holds the other end any more.
        let rest = tokio::task::spawn_blocking(move || read.read_to_end(&mut Vec::new()));
        tokio::time::timeout(LIMIT, rest)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn the_end_of_somebody_elses_child_is_seen_though_not_how() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        let pid: u32 = line.trim().parse().unwrap();
        let pidfd = watch(pid);
        assert_eq!(try_reap(pidfd.as_fd(), pid).unwrap(), None);
        assert!(signal(&pidfd, Signal::KILL).unwrap());
        // The same pidfd: the shell may have reaped it by now, and then no pid opens another.
        assert_eq!(ending_behind(&pidfd, pid).await, Ending::Unknown);
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_pid_is_never_signalled() {
        assert_eq!(to_pid(0), None);
        assert_eq!(to_pid(u32::MAX), None);
    }
}
