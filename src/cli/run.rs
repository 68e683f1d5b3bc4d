//! `gapless run`: the keeper in a terminal, without systemd.

use super::{CliError, Exit, RunArgs, foreground_directory};
use crate::config;
use crate::keeper::{self, Mode, Options};
use crate::systemd::journal;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A configuration that is wrong now is said before anything starts; later a reload says it.
pub(super) fn run(args: &RunArgs) -> Result<Exit, CliError> {
    let here = std::env::current_dir().map_err(|source| CliError::Directory {
        path: PathBuf::from("."),
        source,
    })?;
    let source = args.config_source(&here);
    let config = config::load(&source)?;
    let runtime_directory = foreground_directory(&args.name);
    make_private(&runtime_directory).map_err(|source| CliError::Directory {
        path: runtime_directory.clone(),
        source,
    })?;
    let level = journal::init(&config.log.level, args.name.as_str())?;
    keeper::run(Options {
        name: args.name.to_string(),
        source,
        mode: Mode::Foreground {
            host: args.host.to_string(),
            port: args.port,
            admin: args.admin,
            watch: args.watched(),
        },
        runtime_directory,
        state_directory: None,
        store: None,
        level,
    })?;
    Ok(Exit::Done)
}

/// Sockets that command the app belong to one user; in /tmp anybody could have made the directory
/// first.
fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let metadata = std::fs::symlink_metadata(directory)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && is_ours && metadata.mode().trailing_zeros() >= 6 {
        return Ok(());
    }
    let why = "it must be a directory of this user with mode 0700; remove it, or choose --app";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
