//! Processes of the app that made themselves independent (daemons, by a double fork) and that no
//! control group holds together.
//!
//! They are known by the NOTIFY_SOCKET in their environment. One look at /proc is not enough: who
//! forks and exits meanwhile shows neither itself nor its child. But whose parent is gone becomes our
//! child, and its end is told to us; so we look again whenever such a one ends.
//!
//! At the end of `gapless run` we look until nobody is left.

use super::process;
use super::reaper::{self, to_pid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// SIGKILL to children of ours that have an entry in the environment that begins with `mark`, and none
/// that begins with one of `spared`.
pub fn end_children(mark: &String, spared: &[String]) {
    for pid in process::children_with(mark) {
        let has = |mark: &String| process::has_environment(pid, mark);
        reaper::kill_if(pid, || has(mark) && !spared.iter().any(has));
    }
}

/// SIGKILL to every process that has such an entry, until none is left; `limit` at most. Only where
/// all our own children are known to be gone.
pub fn end_all(mark: &str, limit: Duration) {
    let until = Instant::now() + limit;
    loop {
        reaper::kill_with_environment(mark);
        reaper::reap_orphans(&HashSet::new());
        let mut left = process::with_environment(mark);
        left.extend(process::children_with(mark));
        left.retain(|pid| to_pid(*pid) != Some(getpid()));
        let Some(pid) = left.first() else { return };
        if !wait_for(*pid, until) {
            return tracing::warn!(
                left = left.len(),
                "{} processes of the app did not end in time and stay behind, such as process {pid}",
                left.len()
            );
        }
    }
}

/// False when it is too late.
fn wait_for(pid: u32, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let pidfd = to_pid(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = pidfd
        && let Ok(limit) = Timespec::try_from(left)
    {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        // What comes of it is seen at the next look.
        let _ready = poll(&mut fds, Some(&limit));
    }
    !left.is_zero()
}
