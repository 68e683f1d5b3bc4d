//! `gapless logs`: becomes journalctl, with the matches that find all of an instance.

use super::handover::scope_pattern;
use super::instance::{self, InForeground, InstanceName};
use super::{CliError, Exit, LogsArgs, absence};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use thiserror::Error;

const JOURNALCTL: &str = "journalctl";

/// There is nothing to show.
#[derive(Debug, Error)]
pub enum LogsError {
    /// It has no journal.
    #[error(transparent)]
    InForeground(#[from] InForeground),
    /// There is no journalctl.
    #[error(
        "cannot run journalctl, which reads systemd's journal; is this machine run by systemd, and \
         journalctl in PATH?"
    )]
    Missing(#[source] io::Error),
    /// Not an entry.
    #[error(
        "the journal has nothing of {what} that you may read; was it ever started, and may you read \
         the journal (root, and the group systemd-journal)?{}",
        if said.is_empty() { String::new() } else { format!(" journalctl says: {said}") }
    )]
    Empty {
        /// `gapless.service`, `g42 of gapless.service`
        what: String,
        /// By journalctl.
        said: String,
    },
}

impl LogsError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::InForeground(_) => Exit::Usage,
            Self::Missing(_) | Self::Empty { .. } => Exit::Failed,
        }
    }
}

/// Returns only when there is nothing to show.
pub(super) fn run(args: &LogsArgs) -> Result<Exit, CliError> {
    let name = instance::service(args.name.as_ref()).map_err(LogsError::from)?;
    // Who follows waits for the first entry; everybody else has to be told that there is none.
    if !args.follow
        && let Err(error) = expect_some(args, &name)
    {
        absence::expect_app(&name)?;
        return Err(error.into());
    }
    let error = Command::new(JOURNALCTL)
        .args(shown(args))
        .args(matches(args, &name))
        .exec();
    Err(LogsError::Missing(error).into())
}

fn expect_some(args: &LogsArgs, name: &InstanceName) -> Result<(), LogsError> {
    let done = Command::new(JOURNALCTL)
        .args(["--quiet", "--no-pager", "--output=cat", "--lines=1"])
        .args(["--output-fields=_PID"])
        .args(matches(args, name))
        .stdin(Stdio::null())
        .output()
        .map_err(LogsError::Missing)?;
    if !done.stdout.is_empty() {
        return Ok(());
    }
    let unit = name.unit();
    let said = String::from_utf8_lossy(&done.stderr);
    Err(LogsError::Empty {
        what: args
            .generation
            .map_or_else(|| unit.clone(), |id| format!("{id} of {unit}")),
        said: super::output::printable(said.trim()),
    })
}

/// How it is shown. A pager would be in the way of `gapless logs | grep`, and of who only looks.
fn shown(args: &LogsArgs) -> Vec<String> {
    let mut shown = vec!["--no-pager".to_owned(), format!("--lines={}", args.lines)];
    shown.extend(args.follow.then(|| "--follow".to_owned()));
    shown.extend(args.json.then(|| "--output=json".to_owned()));
    shown
}

/// The unit, with what systemd says of it, and the scopes in which its fronts live on over a
/// restart; and of these, if one is asked for, a generation.
fn matches(args: &LogsArgs, name: &InstanceName) -> Vec<String> {
    let unit = name.unit();
    let units = [
        format!("--unit={unit}"),
        format!("--unit={}", scope_pattern(&unit)),
    ];
    let generation = args.generation.map(|id| format!("GAPLESS_GENERATION={id}"));
    units.into_iter().chain(generation).collect()
}
