//! A directory of this machine, copied.
//!
//! It may belong to anybody, who may exchange any part of it while it is copied. So every directory is opened from the
//! topmost one without following a link, every file is looked at once it is open, and what its owner could not read
//! does not come in: root reads nothing for others.

use super::tree::Tree;
use super::{Limits, StagingError, Why};
use crate::beneath::{Directory, Entry};
use crate::release::room::Room;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::process::geteuid;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The history of the source is no part of what runs, and often larger.
const LEFT_OUT: [&str; 3] = [".git", ".hg", ".svn"];

/// Readable for everybody, for the group. inode(7).
const READ_BY_ALL: u32 = 0o004;
const READ_BY_GROUP: u32 = 0o040;

/// What was named on the command line, for a look at it and to read it: a fifo keeps nobody waiting.
pub(super) fn open(path: &Path) -> Result<File, StagingError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let opened = opened.map_err(|error| StagingError::io("read", path)(error.into()))?;
    Ok(File::from(opened))
}

/// The topmost directory.
pub(super) struct Source {
    path: PathBuf,
    top: Directory,
    owner: Stat,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, StagingError> {
        let top = Directory::chosen(path).map_err(StagingError::io("open", path))?;
        let owner = top.stat_itself().map_err(StagingError::io("read", path))?;
        Ok(Self {
            path: path.to_owned(),
            top,
            owner,
        })
    }

    /// Refuses at once what cannot fit, before minutes of copying show it.
    pub(super) fn expect_room(&self, to: &Path, limits: Limits) -> Result<(), StagingError> {
        let (mut bytes, mut files) = (0_u64, 0_u64);
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            // What cannot be read now is told by the copying, which stops there.
            let Ok(directory) = self.top.enter(&below) else {
                continue;
            };
            for entry in wanted(directory.entries().unwrap_or_default()) {
                files += 1;
                if entry.kind == FileType::Directory {
                    pending.push(below.join(entry.name));
                } else if let Ok(stat) = directory.stat(&entry.name) {
                    bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
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

    pub(super) fn copy(&self, tree: &mut Tree) -> Result<(), StagingError> {
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            let directory = self.top.enter(&below);
            let directory = directory.map_err(|error| self.failed("open", &below, error))?;
            let entries = directory.entries();
            let entries = entries.map_err(|error| self.failed("list", &below, error))?;
            for entry in wanted(entries) {
                let inside = below.join(&entry.name);
                if entry.kind == FileType::Directory {
                    tree.directory(&inside)?;
                    pending.push(inside);
                } else {
                    self.copy_entry(&directory, &entry, &inside, tree)?;
                }
            }
        }
        Ok(())
    }

    fn copy_entry(
        &self,
        directory: &Directory,
        entry: &Entry,
        inside: &Path,
        tree: &mut Tree,
    ) -> Result<(), StagingError> {
        let failed = |what| move |error| self.failed(what, inside, error);
        if entry.kind == FileType::Symlink {
            let target = directory.read_link(&entry.name).map_err(failed("read"))?;
            return tree.symlink(inside, &target);
        }
        if entry.kind != FileType::RegularFile {
            let is_fifo = entry.kind == FileType::Fifo;
            let special = if is_fifo { "a fifo" } else { "a device" };
            return Err(StagingError::entry(inside, Why::Special(special)));
        }
        let mut file = match directory.open_file(Path::new(&entry.name)) {
            // It has become something else since it was listed.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(StagingError::entry(
                    inside,
                    Why::Special("no file any more"),
                ));
            }
            opened => opened.map_err(failed("open"))?,
        };
        let metadata = file.metadata().map_err(failed("read"))?;
        self.expect_own(&metadata, inside)?;
        tree.file(inside, metadata.mode(), &mut file)
    }

    /// Whoever owns the directory may have put in a hard link, or waited for root to put something there: they
    /// get only what they could read themselves.
    fn expect_own(&self, file: &Metadata, inside: &Path) -> Result<(), StagingError> {
        let (owner, directory) = (file.uid(), self.owner.st_uid);
        let is_theirs = directory == 0 || owner == directory;
        let is_of_group = file.gid() == self.owner.st_gid && file.mode() & READ_BY_GROUP != 0;
        if !geteuid().is_root() || is_theirs || is_of_group || file.mode() & READ_BY_ALL != 0 {
            return Ok(());
        }
        let why = Why::Foreign { owner, directory };
        Err(StagingError::entry(inside, why))
    }

    fn failed(&self, what: &'static str, below: &Path, error: io::Error) -> StagingError {
        let errno = error.raw_os_error();
        let of_links = [rustix::io::Errno::LOOP, rustix::io::Errno::NOTDIR];
        if of_links.iter().any(|it| errno == Some(it.raw_os_error())) {
            return StagingError::entry(below, Why::Swapped);
        }
        StagingError::io(what, &self.path.join(below))(error)
    }
}

/// A socket means nothing where nobody listens; tar leaves it out, too.
fn wanted(entries: Vec<Entry>) -> impl Iterator<Item = Entry> {
    entries.into_iter().filter(|entry| {
        let is_left_out = LEFT_OUT.iter().any(|left_out| entry.name == *left_out);
        !is_left_out && entry.kind != FileType::Socket
    })
}
