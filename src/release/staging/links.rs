//! Where the links of a release lead: to another place in it, or to the system's programs.
//!
//! Judged when everything is there, because a link leads through others. Nothing here is opened
//! through a link, only read.

use super::tree::shown;
use super::{StagingError, Why};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Links below these may lead out: a venv names its Python so. All of it is root's.
pub const SYSTEM: [&str; 7] = [
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// As the kernel has it.
const LINKS_MAX: usize = 40;

/// Refuses the first link that leaves.
pub(super) fn stay_inside(root: &Path) -> Result<(), StagingError> {
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let path = root.join(&directory);
        let listed = std::fs::read_dir(&path).map_err(StagingError::io("list", &path))?;
        for entry in listed {
            let entry = entry.map_err(StagingError::io("list", &path))?;
            let kind = entry.file_type().map_err(StagingError::io("read", &path))?;
            let inside = directory.join(entry.file_name());
            if kind.is_dir() {
                pending.push(inside);
            } else if kind.is_symlink() && leaves(root, &inside) {
                let target = std::fs::read_link(entry.path()).unwrap_or_default();
                let why = Why::Leaves(shown(&target));
                return Err(StagingError::entry(&inside, why));
            }
        }
    }
    Ok(())
}

/// Follows it step by step, as the kernel would, but never above `root`.
fn leaves(root: &Path, link: &Path) -> bool {
    let mut ahead: VecDeque<OsString> = link.iter().map(OsString::from).collect();
    let mut here = PathBuf::new();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            if !here.pop() {
                return true;
            }
            continue;
        }
        here.push(&name);
        let Ok(target) = std::fs::read_link(root.join(&here)) else {
            // No link, or nothing at all: what is not there leads nowhere.
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            // A circle leads nowhere, either.
            return false;
        }
        here.pop();
        if target.is_absolute() {
            let rest: PathBuf = target
                .components()
                .chain(ahead.iter().map(component))
                .collect();
            return !is_of_system(&rest);
        }
        for part in target.components().rev() {
            match part {
                Component::Normal(name) => ahead.push_front(name.to_owned()),
                Component::ParentDir => ahead.push_front("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
    }
    false
}

fn component(name: &OsString) -> Component<'_> {
    if name == ".." {
        Component::ParentDir
    } else {
        Component::Normal(name)
    }
}

fn is_of_system(path: &Path) -> bool {
    let is_upright = !path.components().any(|part| part == Component::ParentDir);
    let is_clean = !path.as_os_str().as_bytes().contains(&0);
    is_upright && is_clean && SYSTEM.iter().any(|system| path.starts_with(system))
}
