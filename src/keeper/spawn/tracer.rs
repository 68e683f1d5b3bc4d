//! Does somebody trace us who attached before we were closed to them? Between exec and
//! [`harden_self`](super::harden_self) another process of our user may be quick enough, and whoever is
//! attached stays so: PR_SET_DUMPABLE only keeps others from attaching.

use rustix::process::getuid;
use std::io;

/// What it says is the remedy, too: once that process is gone, the next start succeeds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "process {pid}{} traces it and can read all that clients send; end that process, or trace as root",
    user.map_or_else(String::new, |user| format!(" of user {user}"))
)]
struct Traced {
    pid: u32,
    /// None when it is hidden from us.
    user: Option<u32>,
}

/// Only root may trace what serves. Asked after [`harden_self`](super::harden_self); before it the
/// answer may change at once.
///
/// # Errors
/// When somebody else does, or the kernel does not say.
pub fn refuse_tracer() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    match traced(&status, getuid().as_raw(), user_of) {
        None => Ok(()),
        Some(traced) => Err(io::Error::new(io::ErrorKind::PermissionDenied, traced)),
    }
}

/// One that is hidden (ProtectProc=invisible) may be anybody's: an app can hide its processes by the
/// same means as we do.
fn traced(status: &str, own: u32, user_of: impl Fn(u32) -> Option<u32>) -> Option<Traced> {
    let pid = number(status, "TracerPid:").filter(|pid| *pid != 0)?;
    let user = user_of(pid);
    (own != 0 && user != Some(0)).then_some(Traced { pid, user })
}

/// Its real user: the one whose signals and memory are another's.
fn user_of(pid: u32) -> Option<u32> {
    number(
        &std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        "Uid:",
    )
}

/// The first one of the line that begins with `key`.
fn number(status: &str, key: &str) -> Option<u32> {
    let mut lines = status.lines();
    let values = lines.find_map(|line| line.strip_prefix(key))?;
    values.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: u32 = 997;

    fn found(tracer: &str, own: u32, user: Option<u32>) -> Option<Traced> {
        let status =
            format!("Name:\tgapless\nPPid:\t1\nTracerPid:\t{tracer}\nUid:\t{own}\t{own}\n");
        traced(&status, own, |_| user)
    }

    #[test]
    fn only_root_may_trace_what_is_not_roots() {
        let (pid, by_app, by_hidden) = (77, Some(APP), None);
        for user in [by_app, by_hidden] {
            assert_eq!(found("77", APP, user), Some(Traced { pid, user }));
        }
        for (tracer, own, user) in [
            ("0", APP, by_hidden),
            ("77", APP, Some(0)),
            ("77", 0, by_app),
        ] {
            assert_eq!(found(tracer, own, user), None, "{tracer} {own} {user:?}");
        }
    }

    #[test]
    fn the_user_of_a_process_is_read_from_proc() {
        assert_eq!(user_of(std::process::id()), Some(getuid().as_raw()));
        assert_eq!(user_of(u32::MAX), None);
    }
}
