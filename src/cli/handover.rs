//! `gapless handover`: ExecStop= of the units, run as root.
//!
//! systemd restarts a unit by stopping and starting it. So that what serves now goes on until the
//! new one took over, its processes are moved out of the unit into a scope before the stop. Only
//! processes found in the unit's own control group at this moment are moved: the keeper is not
//! trusted with naming pids to root.
//!
//! The order of `systemctl restart`:
//!
//! 1. `ExecStop=+gapless handover` asks systemd which job is running. For a restart it tells the keeper
//!    (`POST /release`) and moves the control groups of fronts and workers into a scope (`systemd::scope`).
//! 2. The keeper leaves at SIGTERM. The next one adopts, begins a new generation and a new front, and
//!    swaps; the old ones drain. If the new generation fails, the old one serves on.
//! 3. READY=1 is said as soon as a live generation is adopted, not at the swap: systemd stops a unit that
//!    is still starting without ExecStop=, so a second restart during a long boot would be a plain stop
//!    (seen: every connection reset).
//!
//! /tmp is kept in a restart by `gapless-tmp.service` (PrivateTmp=, JoinsNamespaceOf=): a service alone
//! would lose it under the old generation.

mod user;

pub(super) use user::changed_user;

use super::instance::{self, InstanceName};
use super::{CliError, Exit, HandoverArgs, client};
use crate::api::Released;
use crate::keeper::cgroup;
use crate::systemd::job::{self, Job};
use crate::systemd::journal;
use crate::systemd::scope::{self, Cage, Scope, ScopeError, start_scope};
use hyper::Method;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For the keeper to write everything down.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// Each try is a few milliseconds; more than the properties that any systemd refuses.
const TRIES_MAX: usize = 16;
/// The limits of a generation, each with its controller.
const LIMITS: [(&str, &str); 3] = [
    ("memory", "memory.max"),
    ("pids", "pids.max"),
    ("cpu", "cpu.max"),
];
/// What its owner needs to end a control group: the files that root gives away with it.
const GIVEN_AWAY: [&str; 4] = ["", "cgroup.procs", "cgroup.kill", "cgroup.threads"];

/// Whatever fails here only makes the restart slower: the keeper then finishes in place.
pub(super) fn run(args: &HandoverArgs) -> Result<Exit, CliError> {
    if job::unit_job(&args.unit)? != Job::Restart {
        return Ok(Exit::Done);
    }
    let Some(group) = group_of(&args.unit)? else {
        return Ok(Exit::Done);
    };
    let _level = journal::init("info", args.name.as_str())?;
    if let Some(changed) = changed_user(&args.unit, &group)? {
        tracing::warn!(
            "{changed}: the restart ends it first, and requests wait until the app serves again"
        );
        return Ok(Exit::Done);
    }
    let instance = instance::of_service(&args.name);
    client::ask(&instance, Method::POST, "/release", Some(RELEASE_LIMIT))?.read::<Released>()?;
    // Between the answer and now nothing is decided by the keeper that would need to be undone:
    // what it starts later stays in the unit and is adopted there.
    let families = families(&group);
    let pids: Vec<u32> = families
        .iter()
        .flat_map(|family| family.pids.clone())
        .collect();
    if pids.is_empty() {
        return Ok(Exit::Done);
    }
    let name = survive(args, &pids)?;
    if let Some(scope) = group_of(&name)? {
        settle_in(&families, &scope).map_err(|source| CliError::Internal {
            what: "sort the survivors",
            source,
        })?;
        limit(&families, &scope).map_err(|source| CliError::Internal {
            what: "limit the survivors as before",
            source,
        })?;
    }
    Ok(Exit::Done)
}

/// Moves the processes into a scope that is held in as the unit is; the name of the scope.
///
/// A property that systemd refuses must not cost the restart: the scope is tried again with less,
/// and the log says what is not in force. Each try leaves out one at least, so they come to an end.
fn survive(args: &HandoverArgs, pids: &[u32]) -> Result<String, CliError> {
    let whole = scope::cage_of(&args.unit)?;
    let mut cage = whole.clone();
    for attempt in 0..TRIES_MAX {
        // A name that systemd refused once stays taken until it forgets it.
        let name = scope_name(&args.name, std::process::id(), attempt);
        let started = start_scope(&Scope {
            name: &name,
            description: "gapless: what serves until the restart has taken over",
            pids,
            // What survives may be what serves from now on, if the new one fails; `gapless sweep`
            // and the next keeper end it.
            runtime_max: None,
            cage: &cage,
        });
        match started {
            Ok(()) => {
                tell_missing(&whole, &cage);
                return Ok(name);
            }
            Err(ScopeError::Refused { name, reason }) => {
                let less = cage.less(&reason);
                cage = less.ok_or(ScopeError::Refused { name, reason })?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CliError::Internal {
        what: "hold the survivors in as the unit is",
        source: io::ErrorKind::InvalidInput.into(),
    })
}

fn tell_missing(whole: &Cage, cage: &Cage) {
    let kept = cage.names();
    let mut missing = whole.names();
    missing.retain(|name| !kept.contains(name));
    if !missing.is_empty() {
        let missing = missing.join("=, ");
        tracing::warn!(properties = %missing, "systemd refuses {missing}= of the unit for what survives the restart: not in force for it");
    }
}

/// The scopes of an instance, for [`super::sweep`]. A name has no colon, so that one instance never
/// ends the survivors of another.
pub(super) fn scope_pattern(unit: &str) -> String {
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    let name = stem.strip_prefix("gapless@").unwrap_or(stem);
    format!("gapless-survivors:{name}:*.scope")
}

fn scope_name(name: &InstanceName, pid: u32, attempt: usize) -> String {
    let again = (attempt > 0).then(|| format!("-{attempt}"));
    let again = again.unwrap_or_default();
    format!("gapless-survivors:{name}:{pid}{again}.scope")
}

/// Where the control group of a unit is, if anything of it runs.
pub(super) fn group_of(unit: &str) -> Result<Option<PathBuf>, CliError> {
    let group = job::unit_control_group(unit)?;
    Ok(group.and_then(|group| cgroup::find(&group)))
}

/// One control group below the unit's: a generation or a front.
struct Family {
    name: String,
    owner: (u32, u32),
    pids: Vec<u32>,
    /// Controller, file and value of each limit that was set.
    limits: Vec<(&'static str, &'static str, String)>,
}

fn families(group: &Path) -> Vec<Family> {
    let family = |name: String| {
        let path = group.join(&name);
        let metadata = std::fs::metadata(&path).ok()?;
        let pids = cgroup::processes_below(&path);
        let owner = (metadata.uid(), metadata.gid());
        let limits = limits(&path);
        (!pids.is_empty()).then_some(Family {
            name,
            owner,
            pids,
            limits,
        })
    };
    cgroup::children_of(group)
        .into_iter()
        .filter_map(family)
        .collect()
}

fn limits(group: &Path) -> Vec<(&'static str, &'static str, String)> {
    let limit = |(controller, file)| {
        let value = std::fs::read_to_string(group.join(file)).ok()?;
        (!value.starts_with("max")).then(|| (controller, file, value.trim_end().to_owned()))
    };
    LIMITS.into_iter().filter_map(limit).collect()
}

/// What was limited stays so. Memory is counted anew: what is in use already stays with the group
/// where it was taken. Only once every process is in a group below: the kernel wants the scope's own
/// to be empty.
fn limit(families: &[Family], scope: &Path) -> io::Result<()> {
    for family in families {
        for (controller, file, value) in &family.limits {
            let enabled = format!("+{controller}");
            std::fs::write(scope.join("cgroup.subtree_control"), enabled)?;
            std::fs::write(scope.join(&family.name).join(file), value)?;
        }
    }
    Ok(())
}

/// Every generation and front keeps a control group of its own in the scope, and its owner may end
/// it there as before.
fn settle_in(families: &[Family], scope: &Path) -> io::Result<()> {
    for family in families {
        let group = scope.join(&family.name);
        std::fs::create_dir(&group)?;
        for pid in &family.pids {
            match std::fs::write(group.join("cgroup.procs"), pid.to_string()) {
                // ESRCH: it ended meanwhile.
                Err(error) if error.raw_os_error() != Some(3) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        give_away(&group, family.owner)?;
        give_away(scope, family.owner)?;
    }
    Ok(())
}

fn give_away(group: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    for file in GIVEN_AWAY {
        match chown(group.join(file), Some(uid), Some(gid)) {
            // cgroup.kill is younger than the oldest kernel that can run this.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_move_with_the_generation_that_has_them() {
        let root = std::env::temp_dir().join(format!("gl-handover-{}", std::process::id()));
        let (unit, scope) = (root.join("unit"), root.join("scope"));
        for group in ["unit/g1", "unit/f1", "scope/g1", "scope/f1"] {
            std::fs::create_dir_all(root.join(group)).unwrap();
        }
        let write = |file: &str, text: &str| std::fs::write(unit.join(file), text).unwrap();
        write("g1/cgroup.procs", "7\n");
        write("f1/cgroup.procs", "8\n");
        write("g1/memory.max", "1048576\n");
        write("g1/pids.max", "max\n");
        write("g1/cpu.max", "150000 100000\n");
        write("f1/memory.max", "max\n");
        limit(&families(&unit), &scope).unwrap();
        let read = |file: &str| std::fs::read_to_string(scope.join(file)).ok();
        assert_eq!(read("g1/memory.max").unwrap(), "1048576");
        assert_eq!(read("g1/cpu.max").unwrap(), "150000 100000");
        assert_eq!(read("g1/pids.max"), None);
        assert_eq!(read("f1/memory.max"), None);
        assert_eq!(read("cgroup.subtree_control").unwrap(), "+cpu");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_scopes_of_an_instance_are_found_by_its_unit() {
        let name: InstanceName = "shop".parse().unwrap();
        let pattern = scope_pattern("gapless@shop.service");
        for attempt in [0, 1] {
            let scope = scope_name(&name, 7, attempt);
            assert!(scope.starts_with(pattern.trim_end_matches("*.scope")));
        }
        assert_eq!(
            scope_pattern("gapless.service"),
            "gapless-survivors:gapless:*.scope"
        );
    }
}
