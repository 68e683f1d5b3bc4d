//! A delegated cgroup for one played service, as systemd makes one with Delegate=yes: where the
//! machine has cgroup2 and we are root. It tells exactly which processes are the service's, and it
//! keeps services that run side by side apart.

use super::unique;
use std::path::{Path, PathBuf};
use std::process::Command;

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

    /// All of it and below.
    pub fn pids(&self) -> Vec<u32> {
        let mut all = Vec::new();
        collect(&self.0, &mut all);
        all
    }
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
