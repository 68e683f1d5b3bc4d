//! Asks systemctl what is being done with our unit: `ExecStop=` is the same for a stop, a restart
//! and a shutdown, and only the job tells which.
//!
//! For helper processes: every function blocks, for a bounded time. Never for the keeper's loop.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SYSTEMCTL: &str = "systemctl";

/// For a question; systemd answers within milliseconds, but may be busy at boot and shutdown.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// An answer of systemctl is a few lines.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// The job that is queued or running for a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// None.
    None,
    /// `start`, `verify-active`.
    Start,
    /// `stop`.
    Stop,
    /// `restart`, `try-restart`.
    Restart,
    /// `reload`, `reload-or-start`.
    Reload,
    /// A word of a later systemd.
    Other,
}

/// systemctl did not help.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// It cannot be run.
    #[error("cannot run {program}; this command needs a machine that runs systemd")]
    Start {
        /// systemctl, mostly.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It does not come back.
    #[error("{command} did not answer within {limit:?}")]
    Late {
        /// With its arguments.
        command: String,
        /// How long it had.
        limit: Duration,
    },
    /// It says no.
    #[error("{command} failed: {said}")]
    Failed {
        /// With its arguments.
        command: String,
        /// On stderr.
        said: String,
    },
}

/// What is being done with `unit` now.
///
/// # Errors
/// [`JobError`]; the caller takes it for a plain stop.
pub fn unit_job(unit: &str) -> Result<Job, JobError> {
    let answer = ask(&[
        "list-jobs",
        "--no-legend",
        "--plain",
        "--no-pager",
        "--",
        unit,
    ])?;
    Ok(find_job(&answer, unit))
}

/// Columns: job, unit, type, state.
fn find_job(answer: &str, unit: &str) -> Job {
    let kind = answer.lines().find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let named = columns.next() == Some(unit);
        columns.next().filter(|_| named)
    });
    match kind {
        None => Job::None,
        Some("start" | "verify-active") => Job::Start,
        Some("stop") => Job::Stop,
        Some("restart" | "try-restart") => Job::Restart,
        Some("reload" | "reload-or-start" | "try-reload") => Job::Reload,
        Some(_) => Job::Other,
    }
}

/// Whether the machine (or container) is shutting down or rebooting.
///
/// # Errors
/// [`JobError`].
pub fn system_is_stopping() -> Result<bool, JobError> {
    // The exit status is not zero for every state but `running`; the word is the answer.
    let answer = run(&["is-system-running"], ASK_LIMIT)?;
    Ok(answer.text.trim() == "stopping")
}

/// The cgroup of a unit below the cgroup root, `/system.slice/x.service`; none when it has none,
/// that is when nothing of it runs.
///
/// # Errors
/// [`JobError`].
pub fn unit_control_group(unit: &str) -> Result<Option<String>, JobError> {
    let group = property(unit, "ControlGroup")?;
    Ok((!group.is_empty()).then_some(group))
}

/// A property of a unit, as `systemctl show` prints it; empty when it is not set.
///
/// # Errors
/// [`JobError`].
pub fn property(unit: &str, name: &str) -> Result<String, JobError> {
    // Not `-P`: systemd 247 does not know it.
    let answer = ask(&["show", "--value", "--property", name, "--", unit])?;
    Ok(answer.trim().to_owned())
}

/// Stops every loaded unit that `pattern` matches and waits for it, `limit` at most; that none
/// matches is no error.
///
/// # Errors
/// [`JobError`].
pub fn stop_units(pattern: &str, limit: Duration) -> Result<(), JobError> {
    succeed(&["stop", "--", pattern], limit).map(|_| ())
}

/// Runs a program of systemd's, or of the system beside it, which has to succeed; what it printed.
///
/// # Errors
/// [`JobError`].
pub fn perform(program: &str, arguments: &[&str], limit: Duration) -> Result<String, JobError> {
    let answer = run_program(program, arguments, limit)?;
    if answer.succeeded {
        return Ok(answer.text);
    }
    Err(JobError::Failed {
        command: line(program, arguments),
        said: answer.errors.trim().replace('\n', " "),
    })
}

fn line(program: &str, arguments: &[&str]) -> String {
    format!("{program} {}", arguments.join(" "))
}

#[derive(Debug)]
struct Answer {
    succeeded: bool,
    text: String,
    errors: String,
}

fn ask(arguments: &[&str]) -> Result<String, JobError> {
    succeed(arguments, ASK_LIMIT)
}

fn succeed(arguments: &[&str], limit: Duration) -> Result<String, JobError> {
    perform(SYSTEMCTL, arguments, limit)
}

fn run(arguments: &[&str], limit: Duration) -> Result<Answer, JobError> {
    run_program(SYSTEMCTL, arguments, limit)
}

fn run_program(program: &str, arguments: &[&str], limit: Duration) -> Result<Answer, JobError> {
    let unstarted = |source| JobError::Start {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unstarted)?;
    // Read beside the wait: a full pipe would let systemctl wait for us.
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (text, errors, ended) = std::thread::scope(|threads| {
        let text = threads.spawn(|| read(out));
        let errors = threads.spawn(|| read(err));
        let ended = wait(&mut child, limit);
        (text.join(), errors.join(), ended)
    });
    let Some(succeeded) = ended.map_err(unstarted)? else {
        return Err(JobError::Late {
            command: line(program, arguments),
            limit,
        });
    };
    Ok(Answer {
        succeeded,
        text: text.unwrap_or_default(),
        errors: errors.unwrap_or_default(),
    })
}

fn read(source: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(source) = source
        && let Err(error) = source.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)
    {
        tracing::debug!(%error, "an answer of systemctl was cut");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// None: it did not end in time, and was killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<bool>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(ended.then(|| status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_of_the_unit_is_found_among_others() {
        let answer = "1201 other.service stop running\n1202 gapless@a.service restart waiting\n";
        assert_eq!(find_job(answer, "gapless@a.service"), Job::Restart);
        assert_eq!(find_job(answer, "other.service"), Job::Stop);
        assert_eq!(find_job(answer, "gapless@b.service"), Job::None);
        assert_eq!(find_job("", "gapless@a.service"), Job::None);
        assert_eq!(find_job("1 x.service nop waiting", "x.service"), Job::Other);
    }

    #[test]
    fn output_and_status_come_back() {
        let script = "echo out; echo err >&2; exit 3";
        let answer = run_program("/bin/sh", &["-c", script], ASK_LIMIT).unwrap();
        assert_eq!((answer.succeeded, answer.text.as_str()), (false, "out\n"));
        assert_eq!(answer.errors, "err\n");
    }

    #[test]
    fn who_does_not_answer_is_ended() {
        let arguments = ["-c", "exec sleep 1000"];
        let result = run_program("/bin/sh", &arguments, Duration::from_millis(20));
        assert!(matches!(result, Err(JobError::Late { .. })));
    }

    #[test]
    fn without_systemctl_the_error_says_what_is_needed() {
        let error = run_program("/nowhere/systemctl", &[], ASK_LIMIT).unwrap_err();
        assert!(error.to_string().contains("runs systemd"));
    }
}
