//! A delegated cgroup for one played service, as systemd makes one with Delegate=yes: where the
//! machine has cgroup2 and we are root. It tells exactly which processes are the service's, and it
//! keeps services that run side by side apart.

use super::{eventually, unique};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Removed with the value, once it is empty.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// None without root or without cgroup2.
    pub fn new() -> Option<Self> {
        let path = mount_point()?.join(format!("gapless-test-{}", unique()));
        std::fs::create_dir(&path).ok()?;
        let flags = rustix::fs::XattrFlags::empty();
        // How systemd (251 and later) says that a cgroup is the service's own.
        if let Err(error) = rustix::fs::setxattr(&path, "user.delegate", b"1", flags) {
            eprintln!("cannot mark {} as delegated: {error}", path.display());
        }
        Some(Self(path))
    }

    /// A command that joins it first.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(&self.0).arg(program);
        command
    }

    /// Itself and all below.
    pub fn count(&self) -> usize {
        fn below(group: &Path) -> usize {
            let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
            let groups = entries.filter(|it| it.file_type().is_ok_and(|it| it.is_dir()));
            1 + groups.map(|it| below(&it.path())).sum::<usize>()
        }
        below(&self.0)
    }

    /// All of it and below.
    pub fn pids(&self) -> Vec<u32> {
        let mut all = Vec::new();
        collect(&self.0, &mut all);
        all
    }
}

/// Freezes one thread of a process that is in the group `name`, while its other threads run on.
/// SIGSTOP cannot do that. SIGKILL ends a frozen one, too.
///
/// The thread alone moves into a group below, a threaded one. Where that is, or why it cannot be.
pub fn freeze_thread(pid: u32, name: &str, thread: &str) -> Result<PathBuf, String> {
    let group = group_of(pid).ok_or("no cgroup2 is mounted")?;
    if !group.ends_with(name) {
        // Root makes the played service's; and never would we touch the group that we run in.
        return Err(format!("{} is no group of {name} alone", group.display()));
    }
    let below = group.join("frozen");
    std::fs::create_dir(&below).map_err(|error| format!("{}: {error}", below.display()))?;
    let write = |file: &str, value: &str| {
        let failed = |error| format!("{value} to {file} of {}: {error}", below.display());
        std::fs::write(below.join(file), value).map_err(failed)
    };
    write("cgroup.type", "threaded")?;
    write("cgroup.threads", &thread_of(pid, thread).to_string())?;
    write("cgroup.freeze", "1")?;
    eventually("the thread is frozen", Duration::from_secs(10), || {
        let events = std::fs::read_to_string(below.join("cgroup.events")).ok()?;
        events.contains("frozen 1").then_some(())
    });
    Ok(below)
}

/// In cgroup2, whatever there is of version 1 beside it.
fn group_of(pid: u32) -> Option<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount_point()?.join(path))
}

fn thread_of(pid: u32, name: &str) -> u32 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    let is_it = |path: &PathBuf| {
        let comm = std::fs::read_to_string(path.join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let path = threads.find(is_it);
    let path = path.unwrap_or_else(|| panic!("{pid} has no thread {name}"));
    path.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn mount_point() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
}

fn collect(group: &Path, all: &mut Vec<u32>) {
    let procs = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    all.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    for group in below(group) {
        collect(&group, all);
    }
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn remove(group: &Path) {
    for group in below(group) {
        remove(&group);
    }
    if let Err(error) = std::fs::remove_dir(group) {
        eprintln!("cannot remove {}: {error}", group.display());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.0);
    }
}
