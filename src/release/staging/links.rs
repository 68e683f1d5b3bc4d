//! Where the links of a release lead: to another place in it, or to the system's programs.
//!
//! Judged when everything is there, because a link leads through others. Nothing here is opened
//! through a link, only read.
//!
//! Links may lead to /usr, /bin, /lib, /opt and the stores of Nix and Guix, though these are out of the
//! release: a Python venv is made of such a link, and all of it is root's. All other links that leave are
//! refused.

use super::tree::shown;
use super::{StagingError, Why};
use crate::beneath::Directory;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
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
pub(super) fn stay_inside(root: &Directory, path: &Path) -> Result<(), StagingError> {
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let at = path.join(&below);
        let directory = root.enter(&below).map_err(StagingError::io("open", &at))?;
        let entries = directory.entries();
        for entry in entries.map_err(StagingError::io("list", &at))? {
            let inside = below.join(&entry.name);
            if entry.kind == FileType::Directory {
                pending.push(inside);
            } else if entry.kind == FileType::Symlink {
                let way_out = way_out(root, &inside).map_err(StagingError::io("read", &at))?;
                if let Some(way_out) = way_out {
                    let why = Why::Leaves(way(&way_out));
                    return Err(StagingError::entry(&inside, why));
                }
            }
        }
    }
    Ok(())
}

/// The first link and the last; what lies between would make a sentence of a long chain.
fn way(targets: &[PathBuf]) -> String {
    match targets {
        [] => "..".to_owned(),
        [only] => shown(only),
        [first, last] => format!("{} -> {}", shown(first), shown(last)),
        [first, .., last] => format!("{} -> … -> {}", shown(first), shown(last)),
    }
}

/// Where the link of this name leads; none: it is no link, or there is nothing.
fn target_of(root: &Directory, here: &Path) -> io::Result<Option<PathBuf>> {
    let parent = here.parent().unwrap_or(Path::new(""));
    let read = root
        .enter(parent)
        .and_then(|directory| directory.read_link(here.file_name().unwrap_or_default()));
    match read {
        Ok(target) => Ok(Some(target)),
        // The way there ends, or it is a file or a directory.
        Err(error)
            if [Errno::NOENT, Errno::NOTDIR, Errno::INVAL]
                .iter()
                .any(|it| error.raw_os_error() == Some(it.raw_os_error())) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Follows it step by step, as the kernel would, but never above `root`. If it leaves: what each link on
/// the way says. No part of `here` is a link.
fn way_out(root: &Directory, link: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    let mut ahead: VecDeque<OsString> = link.iter().map(OsString::from).collect();
    let mut here = PathBuf::new();
    let mut links = Vec::new();
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            if !here.pop() {
                return Ok(Some(links));
            }
            continue;
        }
        here.push(&name);
        let Some(target) = target_of(root, &here)? else {
            continue;
        };
        if links.len() == LINKS_MAX {
            // A circle leads nowhere.
            return Ok(None);
        }
        links.push(target.clone());
        here.pop();
        if target.is_absolute() {
            let rest: PathBuf = target
                .components()
                .chain(ahead.iter().map(component))
                .collect();
            return Ok((!is_of_system(&rest)).then_some(links));
        }
        for part in target.components().rev() {
            match part {
                Component::Normal(name) => ahead.push_front(name.to_owned()),
                Component::ParentDir => ahead.push_front("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
    }
    Ok(None)
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
