//! Talks up: what we tell systemd through NOTIFY_SOCKET, sd_notify(3).
//!
//! Every function does nothing and succeeds where there is no NOTIFY_SOCKET, so that `gapless run`
//! on a terminal needs no other code. An error never stops anything: the caller logs it and goes on.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// STATUS= is one line in `systemctl status`; systemd cuts nothing, so we do.
const STATUS_BYTES_MAX: usize = 1024;

/// READY=1: the first start is decided, or a reload is over.
///
/// # Errors
/// When the message cannot be sent.
pub fn ready() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready])
}

/// STATUS=…: one line for `systemctl status`. Line breaks become spaces: a second line would be
/// taken as another assignment.
///
/// # Errors
/// When the message cannot be sent.
pub fn status(text: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Status(&one_line(text))])
}

/// RELOADING=1 with MONOTONIC_USEC, which systemd 253 and later want beside it.
///
/// # Errors
/// When the message cannot be sent.
pub fn reloading() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
}

/// STOPPING=1.
///
/// # Errors
/// When the message cannot be sent.
pub fn stopping() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Stopping])
}

/// WATCHDOG=1: the keeper's loop turns and the front answered.
///
/// # Errors
/// When the message cannot be sent.
pub fn watchdog() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Watchdog])
}

/// EXTEND_TIMEOUT_USEC=…: the start, reload or stop under way needs `more` from now on.
///
/// # Errors
/// When the message cannot be sent.
pub fn extend_timeout(more: Duration) -> io::Result<()> {
    let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros)])
}

/// BARRIER=1: returns when systemd has worked through everything sent before, so that an fd may be
/// relied on to be kept, or the process may end. Blocks for `deadline` at most.
///
/// # Errors
/// `TimedOut` when systemd did not get to it in time; else when the message cannot be sent.
pub fn barrier(deadline: Duration) -> io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    // Alone in its message: systemd ignores a barrier that comes with other assignments.
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    wait_for_hang_up(ours.as_fd(), deadline)
}

fn wait_for_hang_up(fd: BorrowedFd<'_>, deadline: Duration) -> io::Result<()> {
    let limit = Timespec::try_from(deadline).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut waits = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    if rustix::io::retry_on_intr(|| poll(&mut waits, Some(&limit)))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("systemd did not answer BARRIER=1 within {deadline:?}"),
        ));
    }
    Ok(())
}

/// How often systemd wants to hear [`watchdog`] at least (WatchdogSec=); send twice as often. None:
/// nobody watches, or WATCHDOG_PID says that another process is watched.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.truncate(line.floor_char_boundary(STATUS_BYTES_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_bounded_line() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
        assert!(one_line(&"ä".repeat(2000)).len() <= STATUS_BYTES_MAX);
    }

    #[test]
    fn a_barrier_ends_with_the_hang_up_or_with_its_deadline() {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let late = wait_for_hang_up(ours.as_fd(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        wait_for_hang_up(ours.as_fd(), Duration::from_secs(5)).unwrap();
    }
}
