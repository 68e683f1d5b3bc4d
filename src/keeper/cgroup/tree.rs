//! Walks below a control group. What is there belongs to the app's user, who may make it as deep and
//! as wide as the kernel lets him: every walk is a loop, holds a few fds, and ends.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::ReadDir;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Groups that are looked into for processes: an app has a few.
const GROUPS_MAX: usize = 4096;
/// How far below the group: container engines nest some five.
const DEPTH_MAX: usize = 32;
/// More than a machine runs for one app.
pub(super) const PROCESSES_MAX: usize = 65_536;
/// Entries of one directory that are looked at. A group has some hundred files of the kernel's.
const ENTRIES_MAX: usize = 65_536;
/// Groups that one removal removes or steps through: seconds. systemd removes what stays.
const STEPS_MAX: usize = 200_000;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The groups in a group, of many only some.
pub(super) fn children(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(group).ok();
    entries
        .into_iter()
        .flat_map(|entries: ReadDir| entries.take(ENTRIES_MAX))
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

/// The group and those below it, the upper ones first; of a tree that is too deep or too wide only
/// the upper part.
pub(super) fn groups_below(group: &Path) -> Vec<PathBuf> {
    let mut found = vec![group.to_owned()];
    let mut level = 0..1;
    for _ in 0..DEPTH_MAX {
        let begin = found.len();
        for at in level {
            let left = GROUPS_MAX.saturating_sub(found.len());
            let below = found.get(at).map(|above| children(above).take(left));
            let below: Vec<PathBuf> = below.into_iter().flatten().collect();
            found.extend(below);
        }
        level = begin..found.len();
        if level.is_empty() {
            break;
        }
    }
    found
}

/// Removes the groups in a group, the lowest ones first. Each is reached from the one above it, so
/// no path is too long, and two of them are open at a time.
///
/// # Errors
/// As rmdir(2): EBUSY while a process is left. ELOOP: more groups than anyone needs, or moved
/// meanwhile.
pub(super) fn empty(group: &Path) -> io::Result<()> {
    let mut here = match openat(CWD, group, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut above: Vec<(CString, (u64, u64))> = Vec::new();
    let mut steps = 0;
    while steps < STEPS_MAX {
        if let Some(name) = remove_children(&here, &mut steps)? {
            let next = openat(&here, &name, DIRECTORY, Mode::empty())?;
            above.push((name, identity(&here)?));
            here = next;
            continue;
        }
        let Some((name, expected)) = above.pop() else {
            return Ok(());
        };
        here = openat(&here, "..", DIRECTORY, Mode::empty())?;
        if identity(&here)? != expected {
            return Err(Errno::LOOP.into());
        }
        unlinkat(&here, &name, AtFlags::REMOVEDIR)?;
    }
    Err(Errno::LOOP.into())
}

/// Removes what has nothing below it; the first that has.
fn remove_children(group: &OwnedFd, steps: &mut usize) -> io::Result<Option<CString>> {
    *steps = steps.saturating_add(1);
    for entry in Dir::read_from(group)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_above = [c".", c".."].contains(&name);
        if is_above || entry.file_type() != FileType::Directory {
            continue;
        }
        *steps = steps.saturating_add(1);
        if *steps > STEPS_MAX {
            return Err(Errno::LOOP.into());
        }
        match unlinkat(group, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // The kernel says BUSY of a group, and NOTEMPTY of a directory elsewhere.
            Err(Errno::BUSY | Errno::NOTEMPTY) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::super::{children_of, processes_below, remove};
    use super::*;
    use rustix::fs::mkdirat;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("gl-tree-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    fn open(path: &Path) -> OwnedFd {
        openat(CWD, path, DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_looked_into_and_removed() {
        let root = scratch("deep");
        let mut here = open(&root);
        for _ in 0..20_000 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(here);
        assert_eq!(groups_below(&root).len(), DEPTH_MAX + 1);
        assert!(processes_below(&root).is_empty());
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn a_wide_tree_is_looked_into_within_bounds_and_removed() {
        let root = scratch("wide");
        for number in 0..20_000 {
            std::fs::create_dir(root.join(format!("g{number}"))).unwrap();
        }
        assert_eq!(groups_below(&root).len(), GROUPS_MAX);
        assert!(children_of(&root).len() <= 20_000);
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn odd_names_are_nobody_of_ours_and_removed_all_the_same() {
        let root = scratch("odd");
        let odd = ["g", "g-1", "g1\n", "\u{1b}[2J", "f 2", "..g3", "G4"];
        for name in odd {
            std::fs::create_dir_all(root.join(name).join("below")).unwrap();
        }
        assert!(children_of(&root).is_empty());
        assert_eq!(groups_below(&root).len(), 2 * odd.len() + 1);
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn links_are_not_followed() {
        let (root, outside) = (scratch("links"), scratch("outside"));
        std::fs::create_dir(outside.join("kept")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("g1")).unwrap();
        assert_eq!(groups_below(&root), std::slice::from_ref(&root));
        assert!(remove(&root).is_err());
        assert!(outside.join("kept").exists());
        std::fs::remove_dir_all(root).unwrap();
        std::fs::remove_dir_all(outside).unwrap();
    }

    #[test]
    fn thousands_of_processes_are_counted_up_to_a_bound() {
        let root = scratch("processes");
        let all: Vec<String> = (1..=100_000).map(|pid| pid.to_string()).collect();
        std::fs::write(root.join("cgroup.procs"), all.join("\n")).unwrap();
        assert_eq!(processes_below(&root).len(), PROCESSES_MAX);
        std::fs::remove_dir_all(root).unwrap();
    }
}
