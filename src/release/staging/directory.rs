//! A directory of this machine, copied.

use super::tree::Tree;
use super::{Limits, StagingError, Why};
use crate::release::room::Room;
use rustix::fs::{self, Mode, OFlags};
use std::fs::{File, FileType};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The history of the source is no part of what runs, and often larger.
const LEFT_OUT: [&str; 3] = [".git", ".hg", ".svn"];

/// Refuses at once what cannot fit, before minutes of copying show it.
pub(super) fn expect_room(from: &Path, to: &Path, limits: Limits) -> Result<(), StagingError> {
    let (mut bytes, mut files) = (0_u64, 0_u64);
    let mut pending = vec![from.to_owned()];
    while let Some(directory) = pending.pop() {
        // What cannot be read now is told by the copying, which stops there.
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            files += 1;
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.is_file() {
                bytes = bytes.saturating_add(metadata.len());
            }
        }
    }
    let room = Room {
        bytes: limits.bytes_max,
        files: Room::of(to).map_or(u64::MAX, |room| room.files),
    };
    if bytes <= room.bytes && files <= room.files {
        return Ok(());
    }
    Err(StagingError::TooLarge {
        at: to.to_owned(),
        bytes,
        files,
        room,
    })
}

pub(super) fn copy(from: &Path, tree: &mut Tree) -> Result<(), StagingError> {
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let path = from.join(&directory);
        let listed = std::fs::read_dir(&path).map_err(StagingError::io("list", &path))?;
        for entry in listed {
            let entry = entry.map_err(StagingError::io("list", &path))?;
            let name = entry.file_name();
            let kind = entry.file_type().map_err(StagingError::io("read", &path))?;
            // A socket means nothing where nobody listens; tar leaves it out, too.
            if LEFT_OUT.iter().any(|left_out| name == *left_out) || kind.is_socket() {
                continue;
            }
            let inside = directory.join(name);
            if kind.is_dir() {
                tree.directory(&inside)?;
                pending.push(inside);
            } else {
                copy_entry(&entry.path(), &inside, kind, tree)?;
            }
        }
    }
    Ok(())
}

fn copy_entry(
    from: &Path,
    inside: &Path,
    kind: FileType,
    tree: &mut Tree,
) -> Result<(), StagingError> {
    if kind.is_symlink() {
        let target = std::fs::read_link(from).map_err(StagingError::io("read", from))?;
        return tree.symlink(inside, &target);
    }
    if !kind.is_file() {
        let special = if kind.is_fifo() { "a fifo" } else { "a device" };
        return Err(StagingError::entry(inside, Why::Special(special)));
    }
    // It may have become something else since it was listed.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = fs::open(from, flags, Mode::empty())
        .map_err(|error| StagingError::io("open", from)(error.into()))?;
    let mut file = File::from(opened);
    let metadata = file.metadata().map_err(StagingError::io("read", from))?;
    if !metadata.is_file() {
        return Err(StagingError::entry(
            inside,
            Why::Special("no file any more"),
        ));
    }
    tree.file(inside, metadata.mode(), &mut file)
}
