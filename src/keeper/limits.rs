//! What a generation may take of the machine: the limit files of its control group.
//!
//! Controllers are enabled for a group's children only while no process is in the group itself. So
//! limits need the keeper one level below, by DelegateSubgroup=. It never moves itself there: systemd
//! puts the next keeper where the unit says, and could not when that had become forbidden.
//!
//! Limits of the unit (`MemoryMax=`, `TasksMax=`, `CPUQuota=`) hold for all generations together: a swap
//! needs room for two, one while two old ones still drain for four. Limits here are those of a generation,
//! not of a worker: one group for each generation is there. At its memory limit the kernel kills the
//! process that uses most, so what leaks goes and the others stay.
//!
//! The administrator adds `DelegateSubgroup=keeper` (systemd 254): systemd 252, which the units must run
//! on, warns of it at every load. Nor does the keeper enable what could be enabled beside it (`pids`,
//! `cpu`): systemd could start no keeper in the unit's group after it. A limit that cannot be set is an
//! error in the log, in STATUS and in `gapless status`, foreseen by `gapless check` as far as that can see;
//! the app runs without.

use super::cgroup::{self, OwnGroup};
use crate::config::LimitsConfig;
use std::io;
use std::path::Path;

/// A period of cpu.max in microseconds, as systemd's CPUQuota= has it.
const PERIOD: u64 = 100_000;

/// A limit is not in force; the generation runs without it. The message says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// `gapless run`, cgroup v1, or a unit without Delegate=yes.
    #[error(
        "there is no control group for it; limits need the service of systemd with Delegate=yes, \
         and cgroup v2"
    )]
    NoGroup,
    /// No DelegateSubgroup=, or a systemd that does not know it.
    #[error(
        "gapless lives in the control group of the unit itself; write DelegateSubgroup=keeper under \
         [Service] (systemctl edit, needs systemd 254) and restart the unit"
    )]
    InTheWay,
    /// Switched off, or bound to cgroup v1.
    #[error(
        "the kernel has no {controller} controller in cgroup v2; boot with \
         systemd.unified_cgroup_hierarchy=1 and without cgroup_disable={controller}"
    )]
    NoController {
        /// `memory`
        controller: &'static str,
    },
    /// The kernel or systemd withholds the controller.
    #[error(
        "{file} cannot be set; cgroup.controllers of the unit must name {controller}: {source}"
    )]
    Refused {
        /// `memory.max`
        file: &'static str,
        /// `memory`
        controller: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// One limit in the kernel's words.
struct Limit {
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// Limits the group of a generation, before anything runs in it. One that fails keeps no other from
/// being set.
///
/// # Errors
/// The first [`LimitError`]; the caller tells it and goes on: an app that runs without a limit is
/// better than none.
pub fn apply(
    limits: &LimitsConfig,
    own: Option<&OwnGroup>,
    group: Option<&Path>,
) -> Result<(), LimitError> {
    let wanted = wanted(limits);
    if wanted.is_empty() {
        return Ok(());
    }
    obstacle(own)?;
    let (Some(own), Some(group)) = (own, group) else {
        return Err(LimitError::NoGroup);
    };
    wanted
        .into_iter()
        .map(|limit| set(limit, own, group))
        .fold(Ok(()), Result::and)
}

/// What keeps any limit from being in force in this unit.
///
/// # Errors
/// [`LimitError::NoGroup`] or [`LimitError::InTheWay`].
pub fn obstacle(own: Option<&OwnGroup>) -> Result<(), LimitError> {
    let own = own.ok_or(LimitError::NoGroup)?;
    if own.is_vacant() {
        Ok(())
    } else {
        Err(LimitError::InTheWay)
    }
}

/// Whether this machine can do what is asked for, whatever the unit says.
///
/// # Errors
/// [`LimitError::NoController`]
pub fn on_this_machine(limits: &LimitsConfig) -> Result<(), LimitError> {
    offered(limits, &cgroup::controllers())
}

fn offered(limits: &LimitsConfig, controllers: &str) -> Result<(), LimitError> {
    let is_there = |controller: &str| controllers.split_whitespace().any(|it| it == controller);
    let mut wanted = wanted(limits).into_iter().map(|limit| limit.controller);
    match wanted.find(|controller| !is_there(controller)) {
        Some(controller) => Err(LimitError::NoController { controller }),
        None => Ok(()),
    }
}

fn set(limit: Limit, own: &OwnGroup, group: &Path) -> Result<(), LimitError> {
    let Limit {
        controller,
        file,
        value,
    } = limit;
    own.enable(controller)
        .and_then(|()| std::fs::write(group.join(file), value))
        .map_err(|source| LimitError::Refused {
            file,
            controller,
            source,
        })
}

fn wanted(limits: &LimitsConfig) -> Vec<Limit> {
    let limit = |controller, file, value| Limit {
        controller,
        file,
        value,
    };
    let cpu = |percent: u32| format!("{} {PERIOD}", u64::from(percent) * PERIOD / 100);
    [
        limits
            .memory
            .map(|bytes| limit("memory", "memory.max", bytes.to_string())),
        limits
            .tasks
            .map(|tasks| limit("pids", "pids.max", tasks.to_string())),
        limits
            .cpu
            .map(|percent| limit("cpu", "cpu.max", cpu(percent))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const ALL: LimitsConfig = LimitsConfig {
        memory: Some(512 << 20),
        tasks: Some(64),
        cpu: Some(150),
    };

    /// A directory in place of the unit's group; files are made by writing.
    struct Unit(PathBuf);

    impl Unit {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("gl-limits-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("g1")).unwrap();
            Self(path)
        }

        fn apply(&self, is_vacant: bool) -> Result<(), LimitError> {
            let own = OwnGroup::at(self.0.clone(), is_vacant);
            apply(&ALL, Some(&own), Some(&self.0.join("g1")))
        }

        fn read(&self, file: &str) -> Option<String> {
            std::fs::read_to_string(self.0.join(file)).ok()
        }
    }

    impl Drop for Unit {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let unit = Unit::new("all");
        unit.apply(true).unwrap();
        assert_eq!(unit.read("g1/memory.max").unwrap(), "536870912");
        assert_eq!(unit.read("g1/pids.max").unwrap(), "64");
        assert_eq!(unit.read("g1/cpu.max").unwrap(), "150000 100000");
        assert_eq!(unit.read("cgroup.subtree_control").unwrap(), "+cpu");
    }

    #[test]
    fn a_keeper_in_the_units_own_group_touches_nothing_and_names_the_remedy() {
        let unit = Unit::new("inside");
        let error = unit.apply(false).unwrap_err();
        assert!(error.to_string().contains("DelegateSubgroup=keeper"));
        assert_eq!(unit.read("cgroup.subtree_control"), None);
        assert_eq!(unit.read("g1/pids.max"), None);
    }

    #[test]
    fn one_that_fails_is_named_and_keeps_no_other_from_being_set() {
        let unit = Unit::new("one");
        std::fs::create_dir(unit.0.join("g1/memory.max")).unwrap();
        let error = unit.apply(true).unwrap_err();
        assert!(error.to_string().starts_with("memory.max cannot be set"));
        assert_eq!(unit.read("g1/pids.max").unwrap(), "64");
        assert_eq!(unit.read("g1/cpu.max").unwrap(), "150000 100000");
    }

    #[test]
    fn what_the_kernel_does_not_have_is_named_only_where_it_is_asked_for() {
        offered(&ALL, "cpuset cpu io memory pids\n").unwrap();
        let error = offered(&ALL, "cpuset cpu pids\n").unwrap_err();
        assert!(error.to_string().contains("no memory controller"));
        let tasks = LimitsConfig {
            tasks: Some(64),
            ..LimitsConfig::default()
        };
        offered(&tasks, "pids").unwrap();
        offered(&LimitsConfig::default(), "").unwrap();
    }

    #[test]
    fn without_limits_no_group_is_missed() {
        apply(&LimitsConfig::default(), None, None).unwrap();
        let error = apply(&ALL, None, None).unwrap_err();
        assert!(error.to_string().contains("Delegate=yes"));
    }
}
