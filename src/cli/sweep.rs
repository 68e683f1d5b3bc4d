//! `gapless sweep`: ExecStopPost= of the units, run as root. After a real stop nothing is left
//! behind; after a crash or on the way of a restart everything is left to the next keeper, unless that
//! has another user and could not end it.

use super::handover::{changed_user, group_of, scope_pattern};
use super::{CliError, Exit, SweepArgs};
use crate::keeper::cgroup;
use crate::systemd::job::{self, Job};
use std::time::Duration;

/// SIGTERM, then SIGKILL by systemd: below the stop timeout of the units.
const SCOPE_STOP_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(args: &SweepArgs) -> Result<Exit, CliError> {
    let is_stop = job::unit_job(&args.unit)? == Job::Stop || job::system_is_stopping()?;
    let group = group_of(&args.unit)?;
    let has_new_user = || match &group {
        Some(group) => Ok(changed_user(&args.unit, group)?.is_some()),
        None => Ok::<_, CliError>(false),
    };
    if !is_stop && !has_new_user()? {
        return Ok(Exit::Done);
    }
    if let Some(group) = group {
        // Also what the app put elsewhere than where the keeper had put it.
        cgroup::end_all_but(&group, std::process::id());
    }
    job::stop_units(&scope_pattern(&args.unit), SCOPE_STOP_LIMIT)?;
    Ok(Exit::Done)
}
