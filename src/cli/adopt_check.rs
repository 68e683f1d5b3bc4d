//! `gapless adopt-check`: the dry run of an upgrade, run by the keeper that is to be replaced.

use super::{AdoptCheckArgs, CliError, Exit};
use crate::keeper::upgrade::{self, STATE};
use crate::systemd::given;
use std::io;

/// Says as JSON which gapless this is, if it can take over.
pub(super) fn run(args: &AdoptCheckArgs) -> Result<Exit, CliError> {
    let state = given::take()?.into_iter().find(|given| given.name == STATE);
    let state = state.ok_or(CliError::NotByHand(upgrade::CHECK))?;
    let fitness = upgrade::examine(state.fd, args.config.clone()).map_err(CliError::State)?;
    let line = serde_json::to_string(&fitness).map_err(|error| CliError::Internal {
        what: "tell about itself",
        source: io::Error::from(error),
    })?;
    super::output::say(&line);
    Ok(Exit::Done)
}
