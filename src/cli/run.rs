//! `gapless run`: the keeper in a terminal, without systemd.

use super::instance::{self, Claim};
use super::{CliError, Exit, RunArgs};
use crate::config;
use crate::keeper::{self, Mode, Options};
use crate::systemd::journal;
use std::io;
use std::path::PathBuf;

/// A configuration that is wrong now is said before anything starts; later a reload says it.
pub(super) fn run(args: &RunArgs) -> Result<Exit, CliError> {
    let here = std::env::current_dir().map_err(|source| CliError::Directory {
        path: PathBuf::from("."),
        source,
    })?;
    let source = args.config_source(&here);
    let config = config::load(&source)?;
    let claim = instance::claim(args.name.as_ref(), &here);
    let claim = claim.map_err(|(path, source)| {
        if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
            CliError::ReadOnly { path }
        } else {
            CliError::Directory { path, source }
        }
    })?;
    let level = journal::init(&config.log.level, claim.name.as_str())?;
    tell_name(&claim);
    keeper::run(Options {
        name: claim.name.to_string(),
        source,
        mode: Mode::Foreground {
            host: args.host.to_string(),
            port: args.port,
            admin: args.admin,
            watch: args.watched(),
        },
        runtime_directory: claim.directory.clone(),
        state_directory: None,
        store: None,
        level,
    })?;
    Ok(Exit::Done)
}

/// Where the name is not what one would expect, it is said.
fn tell_name(claim: &Claim) {
    let name = &claim.name;
    if claim.is_beside {
        tracing::info!(
            "another gapless of this name runs, so this one is {name}: gapless --app {name} status"
        );
    }
}
