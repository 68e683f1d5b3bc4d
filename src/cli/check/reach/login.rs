//! The user that a service runs as, with its groups.

use crate::systemd::job::{self, JobError};
use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::time::Duration;

/// For a name server that may have to be asked.
const NAME_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(in crate::cli::check) struct Login {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Login {
    /// Of this unit, as systemd would start it. None: it is root, or not there yet, or nobody can be asked.
    pub fn of_unit(unit: &str) -> Option<Self> {
        let property = |name| job::property(unit, name).unwrap_or_default();
        let name = property("User");
        if name.is_empty() {
            return None;
        }
        let uid = number(&["-u", "--", &name])?;
        let group = property("Group");
        let gid = if group.is_empty() {
            number(&["-g", "--", &name])?
        } else {
            group_of(&group)?
        };
        let own = numbers(&["-G", "--", &name]).unwrap_or_default();
        let more = property("SupplementaryGroups");
        let more = more.split_whitespace().filter_map(group_of);
        let groups = own.into_iter().chain(more).map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        (!uid.is_root()).then_some(Self {
            name,
            uid,
            gid,
            groups,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it in a thread that has this user's rights, and no other: on Linux they belong to a thread. None:
    /// the kernel does not give them, which only root gets.
    pub fn with_its_rights<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|threads| {
            let looking = threads.spawn(|| {
                set_thread_groups(&self.groups)?;
                set_thread_res_gid(self.gid, self.gid, self.gid)?;
                set_thread_res_uid(self.uid, self.uid, self.uid)?;
                Ok::<T, rustix::io::Errno>(look())
            });
            looking.join().ok()?.ok()
        })
    }
}

/// By its number or its name.
fn group_of(group: &str) -> Option<u32> {
    if let Ok(gid) = group.parse() {
        return Some(gid);
    }
    let said = job::perform("getent", &["group", "--", group], NAME_LIMIT).ok()?;
    said.split(':').nth(2)?.trim().parse().ok()
}

fn number(arguments: &[&str]) -> Option<u32> {
    numbers(arguments).ok()?.first().copied()
}

fn numbers(arguments: &[&str]) -> Result<Vec<u32>, JobError> {
    let said = job::perform("id", arguments, NAME_LIMIT)?;
    Ok(said
        .split_whitespace()
        .filter_map(|it| it.parse().ok())
        .collect())
}
