//! To become another image in place, with the same pid, the same children and chosen fds:
//! `gapless relay`.
//!
//! The fds must stand at 3, 4, …, as systemd hands them over, but in a keeper other fds stand there.
//! So the keeper first becomes this small single-threaded program of its *own* image, which sorts
//! them and then becomes the next one. If that cannot be executed, it becomes the old one again.

use super::OWN_IMAGE;
use crate::steps::{self, Step};
use crate::systemd::given;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execve;
use rustix::io::{FdFlags, fcntl_setfd};
use std::convert::Infallible;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The word that selects this program.
pub const VERB: &str = "relay";

/// Why the old image runs again, in its environment.
pub const BACK: &str = "GAPLESS_UPGRADE_BACK";

/// What the next image is told by its start, and by nothing else.
const OF_THE_START: [&str; 5] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    BACK,
];

/// What a keeper hears. Between two images nobody does, and each of them would end the process.
const HEARD: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// What to become.
#[derive(Debug)]
pub struct Next {
    /// The image that sorts the fds: our own, or an older one that is kept open.
    pub relay: PathBuf,
    /// The image after that; none: the relay's own.
    pub image: Option<PathBuf>,
    /// Why, if the old image is to run again.
    pub back: Option<String>,
    /// What it is called: an absolute path, where the next upgrade finds the installed binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What it is given, as systemd would.
    pub fds: Vec<(String, OwnedFd)>,
}

/// Signals wait in the kernel from here on, also over an exec, until [`hear`].
///
/// # Errors
/// None that can happen.
pub fn hold() -> io::Result<()> {
    Ok(HEARD.into_iter().collect::<SigSet>().thread_block()?)
}

/// They come again.
///
/// # Errors
/// None that can happen.
pub fn hear() -> io::Result<()> {
    Ok(HEARD.into_iter().collect::<SigSet>().thread_unblock()?)
}

/// Becomes the next image; comes back only with the reason why it could not.
///
/// To be called on the main thread. The fds are not close-on-exec any more when it comes back.
///
/// # Errors
/// As execve(2).
pub fn become_next(next: &Next) -> io::Result<Infallible> {
    hold()?;
    for (_, fd) in &next.fds {
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    let numbers: Vec<_> = next
        .fds
        .iter()
        .map(|(_, fd)| fd.as_raw_fd().to_string())
        .collect();
    let names: Vec<_> = next.fds.iter().map(|(name, _)| name.as_str()).collect();
    let image = next.image.as_deref().unwrap_or(Path::new(OWN_IMAGE));
    let mut arguments: Vec<OsString> = vec![
        "gapless".into(),
        VERB.into(),
        numbers.join(":").into(),
        names.join(":").into(),
        image.into(),
        next.program.clone().into(),
    ];
    arguments.extend(next.arguments.iter().cloned());
    let back = next.back.as_ref().map(|why| (BACK, why.clone()));
    execute(
        next.relay.as_os_str(),
        arguments,
        back.into_iter().collect(),
    )
}

/// `gapless relay NUMBERS NAMES IMAGE PROGRAM ARGUMENTS`, behind the [`VERB`]. Comes back only on
/// failure, with what was wrong said on stderr.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let why = match relay(arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    super::say(&format!("cannot become the next gapless: {why}"));
    ExitCode::from(125)
}

fn relay(arguments: &[OsString]) -> io::Result<Infallible> {
    let [numbers, names, image, command @ ..] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let text = |value: &OsStr| value.to_str().map(str::to_owned);
    let (numbers, names) = text(numbers)
        .zip(text(names))
        .ok_or(io::ErrorKind::InvalidInput)?;
    let numbers: Vec<RawFd> = numbers
        .split(':')
        .map(|number| number.parse().map_err(|_| io::ErrorKind::InvalidInput))
        .collect::<Result<_, _>>()?;
    // Open until the exec.
    let _placed = given::place(&numbers)?;
    steps::reached(Step::RelayPlaced);
    let mut start = vec![
        ("LISTEN_PID", std::process::id().to_string()),
        ("LISTEN_FDS", numbers.len().to_string()),
        ("LISTEN_FDNAMES", names),
    ];
    // Who comes back from a failed upgrade is told so.
    start.extend(std::env::var(BACK).ok().map(|why| (BACK, why)));
    let error = match execute(image, command.to_vec(), start.clone()) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let why = format!("{} cannot be executed: {error}", image.display());
    start.push((BACK, why));
    execute(OWN_IMAGE.as_ref(), command.to_vec(), start)
}

fn execute(
    image: &OsStr,
    arguments: Vec<OsString>,
    start: Vec<(&str, String)>,
) -> io::Result<Infallible> {
    let inherited =
        std::env::vars_os().filter(|(name, _)| !OF_THE_START.iter().any(|known| name == known));
    let told = start
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()));
    let assignments = inherited
        .chain(told)
        .map(|(mut name, value): (OsString, _)| {
            name.push("=");
            name.push::<OsString>(value);
            name
        });
    let arguments = strings(arguments)?;
    let environment = strings(assignments)?;
    let image = CString::new(image.to_owned().into_vec())?;
    // Not std's: it would let the signals in that wait.
    Ok(execve(&image, &arguments, &environment)?)
}

fn strings(all: impl IntoIterator<Item = OsString>) -> Result<Vec<CString>, NulError> {
    all.into_iter()
        .map(|one| CString::new(one.into_vec()))
        .collect()
}
