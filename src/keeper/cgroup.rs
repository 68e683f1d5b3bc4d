//! One cgroup per generation, where the unit has Delegate=yes: a whole process tree is ended by one
//! write, and nothing can leave it by a double fork.
//!
//! Never relied on: without delegation, on a machine with cgroup v1 only, or when anything here
//! fails, the keeper ends trees by session and descendants instead. So every function is content
//! with a cgroup that is not there.

mod tree;

use super::reaper::to_pid;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Signal, geteuid, kill_process};
use std::io;
use std::path::{Path, PathBuf};
use tree::{PROCESSES_MAX, children, groups_below};

/// Where cgroup v2 is mounted: alone, or beside v1 on a hybrid machine.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Rounds of reading and killing where the kernel has no cgroup.kill (before 5.14): a process can
/// fork between the two, but not faster than so many rounds.
const KILL_ROUNDS: u32 = 16;

/// The cgroup that systemd delegated to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnGroup {
    directory: PathBuf,
    /// We live in a group below (DelegateSubgroup=), so that none of our processes is in it.
    is_vacant: bool,
}

impl OwnGroup {
    /// Ours, when we may make groups in it; none otherwise.
    pub fn find() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = v2_path(&own)?;
        let directory = mount()?.join(path.trim_start_matches('/'));
        if let Some(above) = above_subgroup(&directory) {
            return Some(Self::at(above, true));
        }
        is_delegated(&directory).then_some(Self::at(directory, false))
    }

    pub(super) fn at(directory: PathBuf, is_vacant: bool) -> Self {
        Self {
            directory,
            is_vacant,
        }
    }

    /// Whether controllers can be enabled for the groups in it.
    pub fn is_vacant(&self) -> bool {
        self.is_vacant
    }

    /// Lets the groups in it be limited by a controller: `memory`.
    ///
    /// # Errors
    /// ENOENT when the group has not got the controller itself.
    pub fn enable(&self, controller: &str) -> io::Result<()> {
        let file = self.directory.join("cgroup.subtree_control");
        std::fs::write(file, format!("+{controller}"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Makes the group of a generation or front; one that is there already is taken as it is.
    ///
    /// # Errors
    /// As mkdir(2); the caller logs it and goes on without.
    pub fn create(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(name);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(path),
        }
    }

    /// The names of the groups that are there, also of those that an earlier keeper made.
    pub fn children(&self) -> Vec<String> {
        children_of(&self.directory)
    }

    /// Ends all that is in the group `name`, and removes it.
    pub fn discard(&self, name: &str) {
        discard(&self.directory.join(name));
    }
}

fn mount() -> Option<&'static Path> {
    let mut mounts = MOUNTS.iter().map(Path::new);
    mounts.find(|mount| mount.join("cgroup.procs").exists())
}

/// The controllers that cgroup v2 has on this machine: `cpu memory pids`.
pub fn controllers() -> String {
    let file = mount().map(|mount| mount.join("cgroup.controllers"));
    let read = file.and_then(|file| std::fs::read_to_string(file).ok());
    read.unwrap_or_default()
}

/// The names of the groups in a group that can be ours: `g7` of a generation, `f3` of a front. Any
/// other is somebody else's, whoever that may be.
pub fn children_of(group: &Path) -> Vec<String> {
    let is_ours = |name: &str| {
        let number = name.strip_prefix(['g', 'f']);
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let name =
        |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned()).filter(|name| is_ours(name));
    children(group).filter_map(name).collect()
}

/// Where a group is, given its path below the mount as /proc/PID/cgroup and systemd write it.
pub fn find(path: &str) -> Option<PathBuf> {
    let path = path.trim_start_matches('/');
    MOUNTS
        .iter()
        .map(|mount| Path::new(mount).join(path))
        .find(|path| path.exists())
}

/// Ends all that is in a group, and removes it.
pub fn discard(group: &Path) {
    if let Err(error) = kill_all(group) {
        tracing::warn!(group = %group.display(), %error, "cannot end the processes of {}, continuing with signals: {error}", group.display());
    }
    // EBUSY while the killed ones are not reaped: systemd removes what stays behind.
    if let Err(error) = remove(group) {
        tracing::debug!(group = %group.display(), %error, "control group stays behind");
    }
}

/// Ends all that is in a group and below, wherever its owner put it, but one process. At a stop, for root, once the
/// keeper is gone.
pub fn end_all_but(group: &Path, spared: u32) {
    for _ in 0..KILL_ROUNDS {
        let is_spared = |path: &PathBuf| processes_below(path).contains(&spared);
        children(group)
            .filter(|path| !is_spared(path))
            .for_each(|path| discard(&path));
        let mut left = processes_below(group);
        left.retain(|pid| *pid != spared);
        if left.is_empty() {
            return;
        }
        for pid in left {
            if let Err(error) = kill(pid) {
                tracing::warn!(pid, %error, "cannot end process {pid}: {error}");
            }
        }
    }
}

/// The group of a process, if it is called `name`: after a restart of the unit it is no longer
/// where it was made.
pub fn of_process(pid: u32, name: &str) -> Option<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let found = find(v2_path(&own)?)?;
    (found.file_name()?.to_str()? == name).then_some(found)
}

/// The line `0::/path` of proc_pid_cgroup(5).
fn v2_path(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::"))
}

/// With DelegateSubgroup= we live one level below the group that is marked, and all of it is ours.
fn above_subgroup(directory: &Path) -> Option<PathBuf> {
    let above = directory.parent()?;
    let is_ours = !is_marked(directory)
        && is_marked(above)
        && access(above, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    is_ours.then(|| above.to_owned())
}

/// For an ordinary user the permissions tell. Root may write anywhere, also where others live: there
/// only the mark that systemd sets says that the group is ours alone.
fn is_delegated(directory: &Path) -> bool {
    let writable = access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    writable && (!geteuid().is_root() || is_marked(directory))
}

/// The extended attribute of systemd's cgroup delegation (user.delegate since 254, trusted.delegate
/// before and beside it).
fn is_marked(directory: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 8];
        rustix::fs::getxattr(directory, *name, &mut value).is_ok() && value.starts_with(b"1")
    })
}

/// SIGKILL to every process in the group and below, by cgroup.kill.
///
/// # Errors
/// When neither cgroup.kill nor signals did it; the caller falls back on session and descendants.
pub fn kill_all(group: &Path) -> io::Result<()> {
    match std::fs::write(group.join("cgroup.kill"), "1") {
        Ok(()) => return Ok(()),
        Err(_) if !group.exists() => return Ok(()),
        Err(error) => tracing::debug!(%error, "no cgroup.kill, killing one by one"),
    }
    for _ in 0..KILL_ROUNDS {
        let processes = processes_below(group);
        if processes.is_empty() {
            return Ok(());
        }
        processes.into_iter().try_for_each(kill)?;
    }
    Ok(())
}

fn kill(pid: u32) -> io::Result<()> {
    let Some(pid) = to_pid(pid) else {
        return Ok(());
    };
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether no live process is in the group and below it; zombies do not count. True when it is gone.
pub fn is_empty(group: &Path) -> bool {
    match std::fs::read_to_string(group.join("cgroup.events")) {
        Ok(events) => events.lines().any(|line| line == "populated 0"),
        Err(_) => processes_below(group).is_empty(),
    }
}

/// Removes the group and the groups below it (an app may have made some), all of them empty.
///
/// # Errors
/// As rmdir(2): EBUSY while a process is left.
pub fn remove(group: &Path) -> io::Result<()> {
    tree::empty(group)?;
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The processes in the group and below, of very many only some.
pub fn processes_below(group: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for group in groups_below(group) {
        let own = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let own = own.lines().filter_map(|line| line.parse::<u32>().ok());
        let left = PROCESSES_MAX.saturating_sub(found.len());
        // 0 stands for a process that cannot be seen from our pid namespace.
        found.extend(own.filter(|pid| *pid != 0).take(left));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn the_v2_line_is_found_among_others() {
        let hybrid = "9:name=systemd:/\n4:memory:/x\n0::/system.slice/gapless@a.service\n";
        assert_eq!(v2_path(hybrid), Some("/system.slice/gapless@a.service"));
        assert_eq!(v2_path("4:memory:/x\n"), None);
    }

    #[test]
    fn a_group_that_is_not_there_is_empty_killed_and_removed() {
        let nowhere = Path::new("/sys/fs/cgroup/gapless-never-made");
        assert!(is_empty(nowhere));
        kill_all(nowhere).unwrap();
        remove(nowhere).unwrap();
        assert!(processes_below(nowhere).is_empty());
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skip is loud")]
    fn a_group_is_killed_whole_and_then_removed() {
        let Some(own) = OwnGroup::find() else {
            eprintln!("SKIPPED: this machine delegates no cgroup v2 to the tests");
            return;
        };
        let name = format!("g{}", u64::from(std::process::id()) + 1_000_000_000);
        let group = own.create(&name).unwrap();
        assert_eq!(own.create(&name).unwrap(), group);
        assert!(own.children().contains(&name));
        let mut child = Command::new("/bin/sh")
            .args(["-c", "sleep 1000 & sleep 1000"])
            .process_group(0)
            .spawn()
            .unwrap();
        std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert!(!is_empty(&group));
        assert!(processes_below(&group).contains(&child.id()));
        kill_all(&group).unwrap();
        child.wait().unwrap();
        kill_process_group_of(child.id());
        wait_until_empty(&group);
        remove(&group).unwrap();
        assert!(!group.exists());
    }

    /// A sleep that was forked before the shell was moved is not in the group.
    fn kill_process_group_of(pid: u32) {
        crate::keeper::reaper::kill_group(pid);
    }

    fn wait_until_empty(group: &Path) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let events = std::fs::File::open(group.join("cgroup.events")).unwrap();
        let limit = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        while !is_empty(group) {
            let mut fds = [PollFd::new(&events, PollFlags::PRI)];
            assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "still populated");
            assert!((&events).read(&mut [0; 256]).is_ok());
        }
    }
}
