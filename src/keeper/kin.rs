//! The processes of a worker beside its main one: found, told to end, waited for.
//!
//! They are looked for in the control group of the generation, which nothing leaves, or among all
//! processes where there is none. Of the worker is who descends from it, is in its session, or has its
//! NOTIFY_SOCKET in the environment, as those have that made themselves independent by a double fork.
//!
//! All processes of a worker are told to end (`kill_mode`, `stop_signal`), and the worker has ended when
//! they all have, or at `stop`. If the main process dies by itself, the worker takes the others with it at
//! once: the next one needs their port. A process that belongs to another user by now cannot be killed: it
//! counts as ended, and a stop does not wait for it. What escapes one look at /proc is found by
//! `keeper::strays`.

use super::cgroup::processes_below;
use super::process::{self, Process};
use super::reaper::{self, to_pid};
use crate::poll;
use rustix::process::{PidfdFlags, Signal, pidfd_open};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// How the processes of a worker are known.
#[derive(Clone, Debug)]
pub struct Kin {
    /// The main one; also its session.
    pub pid: u32,
    /// `NOTIFY_SOCKET=…` of the worker.
    pub mark: String,
    /// What that begins with for every worker of the generation.
    pub mark_of_crew: String,
}

/// Where to look, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The control group of the generation, if there is one.
    pub cgroup: Option<PathBuf>,
    /// The whole generation ends, so also who is in its control group and cannot be told to be of
    /// one worker.
    pub is_whole: bool,
}

/// One of them.
#[derive(Debug)]
pub struct Relative {
    /// Its id.
    pub pid: u32,
    pidfd: OwnedFd,
}

/// What a worker was told, for those who wait for the end of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: when its main process ends, the rest is killed at once, so that the next can start.
    Nothing,
    /// All of its processes to end, in their own time.
    ToEnd(Extent),
    /// They were killed.
    Killed,
    /// They were, but the main process belongs to another user by now, who lets us do nothing.
    OutOfReach,
}

impl Kin {
    /// Who lives, beside the main process. `is_held`: nobody else can have its pid by now.
    pub fn find(&self, extent: &Extent, is_held: bool) -> Vec<Relative> {
        let own = std::process::id();
        let is_alive = |process: &Process| !process.is_zombie() && process.pid != own;
        let table: Vec<Process> = process::table().into_iter().filter(is_alive).collect();
        let relatives = self.relatives(&table, extent, is_held);
        relatives.into_iter().filter_map(Relative::hold).collect()
    }

    fn relatives<'t>(
        &self,
        table: &'t [Process],
        extent: &Extent,
        is_held: bool,
    ) -> Vec<&'t Process> {
        let by_birth: HashSet<u32> = if is_held {
            process::descendants_in(table, self.pid)
                .into_iter()
                .collect()
        } else {
            HashSet::new()
        };
        let group = extent.cgroup.as_deref().map(processes_below);
        let is_near = |pid: u32| group.as_ref().is_none_or(|group| group.contains(&pid));
        let is_of_nobody = |pid: u32| {
            extent.is_whole && group.is_some() && !process::has_environment(pid, &self.mark_of_crew)
        };
        let is_ours = |process: &&Process| {
            let pid = process.pid;
            let is_marked = || process::has_environment(pid, &self.mark) || is_of_nobody(pid);
            by_birth.contains(&pid) || (is_near(pid) && is_marked())
        };
        let others = table.iter().filter(|process| process.pid != self.pid);
        others.filter(is_ours).collect()
    }

    /// SIGKILL to whoever is left. See [`Kin::find`].
    pub fn kill(&self, extent: &Extent, is_held: bool) {
        if is_held {
            reaper::kill_session(self.pid);
        }
        for relative in self.find(extent, is_held) {
            relative.signal(Signal::KILL);
        }
    }
}

impl Relative {
    /// None when it is gone: what was read of it is read again once its pid cannot change hands unseen.
    fn hold(seen: &Process) -> Option<Self> {
        let pidfd = pidfd_open(to_pid(seen.pid)?, PidfdFlags::empty()).ok()?;
        let now = process::process(seen.pid)?;
        let is_same = now.session == seen.session && now.parent == seen.parent;
        is_same.then_some(Self {
            pid: seen.pid,
            pidfd,
        })
    }

    /// That it is gone already is fine.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = reaper::signal(self.pidfd.as_fd(), signal) {
            let (pid, name) = (self.pid, reaper::signal_name(signal.as_raw()));
            tracing::warn!(pid, %error, "cannot send {name} to process {pid} of a worker: {error}");
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub async fn over(self) -> std::io::Result<()> {
        reaper::over(&poll::watch(self.pidfd)?).await
    }
}
