//! Takes a terminal for the console that comes after us.

use super::ExecError;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::ioctl_tiocsctty;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::io;
use std::path::Path;

/// Makes it the controlling terminal of our session, which has none, and the standard streams.
pub(super) fn take(tty: &Path) -> Result<(), ExecError> {
    try_take(tty).map_err(|source| ExecError::Terminal {
        tty: tty.to_owned(),
        source,
    })
}

fn try_take(tty: &Path) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(tty, flags, Mode::empty())?;
    // An error where open(2) without O_NOCTTY would say nothing: it is the terminal of another session.
    ioctl_tiocsctty(&terminal)?;
    dup2_stdin(&terminal)?;
    dup2_stdout(&terminal)?;
    Ok(dup2_stderr(&terminal)?)
}
