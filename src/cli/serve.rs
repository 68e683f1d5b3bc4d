//! `gapless serve`: becomes the keeper of a unit.

use super::{CliError, Exit, ServeArgs, config_file, system_directory};
use crate::config::ConfigSource;
use crate::keeper::{self, Mode, Options};
use crate::systemd::journal;
use std::path::PathBuf;

/// systemd names the directories in the environment; without them the usual places hold.
pub(super) fn run(args: &ServeArgs) -> Result<Exit, CliError> {
    let directory = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let file = directory("CONFIGURATION_DIRECTORY").map_or_else(
        || config_file(&args.name),
        |directory| PathBuf::from(directory).join(format!("{}.toml", args.name)),
    );
    let runtime_directory =
        directory("RUNTIME_DIRECTORY").map_or_else(|| system_directory(&args.name), PathBuf::from);
    let level = journal::init("info", args.name.as_str())?;
    keeper::run(Options {
        name: args.name.to_string(),
        source: ConfigSource {
            file: Some(file),
            ..ConfigSource::default()
        },
        mode: Mode::Systemd,
        runtime_directory,
        state_directory: directory("STATE_DIRECTORY").map(PathBuf::from),
        store: Some(super::instance::store(&args.name)),
        level,
    })?;
    Ok(Exit::Done)
}
