//! Processes: run with a deadline, found by a mark in their environment, ended by pid.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fmt;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    /// Exit status, or 128 and the signal, as a shell says it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Its output, when it succeeded; fails the test otherwise.
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// Everything it wrote.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ended with {} after {:?}\n--- stdout\n{}--- stderr\n{}",
            self.command,
            self.code(),
            self.took,
            self.stdout,
            self.stderr
        )
    }
}

/// Runs a command to its end; kills it and fails the test when that takes too long.
pub fn run(mut command: Command, limit: Duration) -> Finished {
    let text = format!("{command:?}");
    let began = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {text}: {error}"));
    let stdout = read(child.stdout.take().unwrap());
    let stderr = read(child.stderr.take().unwrap());
    let in_time = ends_within(&pidfd(child.id()).unwrap(), limit);
    if !in_time {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let finished = Finished {
        command: text,
        status,
        stdout,
        stderr,
        took: began.elapsed(),
    };
    assert!(in_time, "not done within {limit:?}: {finished}");
    finished
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// None when there is no such process (any more).
pub fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap())?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

pub fn ends_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// Waits for a child, without reaping anything else.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let ended = pidfd(child.id()).is_none_or(|pidfd| ends_within(&pidfd, limit));
    ended.then(|| child.wait().unwrap())
}

/// Sends a signal to one process. True if there was one.
pub fn signal(pid: u32, signal: Signal) -> bool {
    pidfd(pid).is_some_and(|pidfd| pidfd_send_signal(&pidfd, signal).is_ok())
}

/// The same, and waits until it is gone.
pub fn end(pid: u32, signal: Signal) -> bool {
    let Some(pidfd) = pidfd(pid) else {
        return false;
    };
    if pidfd_send_signal(&pidfd, signal).is_err() {
        return false;
    }
    assert!(
        ends_within(&pidfd, Duration::from_secs(10)),
        "{pid} survived {signal:?}"
    );
    true
}

/// A process as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub pid: u32,
    pub parent: u32,
    pub command: String,
}

/// Every living process whose environment contains `mark`. (Children get the environment of their
/// parents, and who clears it altogether is found by no one.)
pub fn marked(mark: &str) -> Vec<Seen> {
    let mut all: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| has_mark(*pid, mark).unwrap_or(false))
        .filter_map(see)
        .collect();
    all.sort();
    all
}

fn has_mark(pid: u32, mark: &str) -> Option<bool> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    Some(
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes()),
    )
}

impl Seen {
    /// Also of its trustee.
    pub fn is_front(&self) -> bool {
        self.command == "gapless front"
    }

    pub fn is_trustee(&self) -> bool {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid));
        name.is_ok_and(|name| name.trim() == "gapless-trustee")
    }

    /// By SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, after)| after.starts_with('T'))
    }
}

/// None for one that is gone or waits to be reaped.
pub fn see(pid: u32) -> Option<Seen> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&line)
        .replace('\0', " ")
        .trim()
        .to_owned();
    (state != "Z").then_some(Seen {
        pid,
        parent,
        command,
    })
}
