//! The directory that is being filled: the only place that writes, and it writes only below itself.
//!
//! Every directory on the way is opened by its name in the one above, without following links, so
//! a link that came before cannot lead a later entry elsewhere.

use super::sources::Kind;
use super::{Staged, StagingError, Why, links};
use crate::beneath::{self, Directory};
use crate::config::AsSize;
use crate::release::room::Room;
use crate::steps::{Step, reached};
use rustix::fs::{self, AtFlags, Gid, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Read and written at once.
const BUFFER_BYTES: usize = 128 * 1024;
/// So many entries have the largest apps several times over.
const ENTRIES_MAX: u64 = 500_000;
/// Left free for whatever else is on the disk.
const RESERVE_BYTES: u64 = 64 << 20;
/// Below this nothing is a bomb.
const BOMB_BYTES: u64 = 64 << 20;
/// Text packs to a tenth, logs to a fiftieth.
const BOMB_FACTOR: u64 = 200;

/// Of directories, one in the other: node_modules of the worst kind have some thirty.
const DEPTH_MAX: usize = 256;
/// NAME_MAX.
const NAME_BYTES_MAX: usize = 255;
/// PATH_MAX is 4096, and the store comes before it.
const PATH_BYTES_MAX: usize = 3072;
/// Characters of a name in a message.
const SHOWN_MAX: usize = 200;

/// What a release may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all files together.
    pub bytes_max: u64,
    /// Files, directories and links.
    pub entries_max: u64,
}

impl Limits {
    /// What the file system of `directory` has room for.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn of(directory: &Path) -> io::Result<Self> {
        let room = Room::of(directory)?;
        Ok(Self {
            bytes_max: room.bytes.saturating_sub(RESERVE_BYTES),
            entries_max: ENTRIES_MAX,
        })
    }
}

/// See the module.
pub(super) struct Tree {
    path: PathBuf,
    root: Directory,
    group: Option<Gid>,
    limits: Limits,
    entries: u64,
    files: u64,
    bytes: u64,
    /// One for each entry; sorted at the end, so that their order does not matter.
    digests: Vec<[u8; 32]>,
    /// Bytes read so far of what is being unpacked.
    packed: Option<Rc<Cell<u64>>>,
    /// Where the last entry was: the next is mostly there, too.
    last: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Tree {
    pub(super) fn new(
        path: &Path,
        group: Option<Gid>,
        limits: Limits,
    ) -> Result<Self, StagingError> {
        let root = beneath::open_directory(path).map_err(StagingError::io("open", path))?;
        Ok(Self {
            path: path.to_owned(),
            root,
            group,
            limits,
            entries: 0,
            files: 0,
            bytes: 0,
            digests: Vec::new(),
            packed: None,
            last: None,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// From now on what is written is compared with what was read.
    pub(super) fn is_unpacked_from(&mut self, packed: Rc<Cell<u64>>) {
        self.packed = Some(packed);
    }

    pub(super) fn directory(&mut self, path: &Path) -> Result<(), StagingError> {
        let inside = inside(path)?;
        if inside.as_os_str().is_empty() {
            return Ok(());
        }
        self.count(path)?;
        self.open_directory(path, &inside)?;
        self.note(b'd', &inside, 0, b"");
        Ok(())
    }

    /// What is executable for anybody is so for everybody. Set-user-ID and the like are gone.
    pub(super) fn file(
        &mut self,
        path: &Path,
        mode: u32,
        content: &mut dyn Read,
    ) -> Result<(), StagingError> {
        let (parent, name) = self.place(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => File::from(file),
            Err(Errno::EXIST) => return Err(StagingError::entry(path, Why::Twice)),
            Err(error) => return Err(self.failed("create", path, error.into())),
        };
        let digest = self.fill(&file, path, content)?;
        let mode = mode_of(mode);
        let is_private = mode.bits() & 0o004 == 0;
        if let Some(group) = self.group.filter(|_| is_private) {
            fs::fchown(&file, None, Some(group))
                .map_err(|error| self.failed("give away", path, error.into()))?;
        }
        fs::fchmod(&file, mode)
            .map_err(|error| self.failed("set the mode of", path, error.into()))?;
        self.files += 1;
        self.note(b'f', &inside(path)?, mode.bits(), &digest);
        reached(Step::FileWritten);
        Ok(())
    }

    /// The content, its room and its digest.
    fn fill(
        &mut self,
        mut file: &File,
        path: &Path,
        content: &mut dyn Read,
    ) -> Result<[u8; 32], StagingError> {
        let mut digest = Sha256::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        let filled = loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(read) => buffer.get(..read).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(StagingError::Damaged(error)),
            };
            if let Err(why) = self.take_room(read.len()) {
                break Err(StagingError::entry(path, why));
            }
            digest.update(read);
            if let Err(error) = file.write_all(read) {
                break Err(self.failed("write", path, error));
            }
        };
        self.buffer = buffer;
        filled.map(|()| digest.finalize().into())
    }

    fn take_room(&mut self, bytes: usize) -> Result<(), Why> {
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes > self.limits.bytes_max {
            return Err(Why::NoRoom(
                AsSize(self.limits.bytes_max >> 20 << 20).to_string(),
            ));
        }
        let packed = self.packed.as_ref().map_or(u64::MAX, |packed| packed.get());
        if self.bytes > BOMB_BYTES && self.bytes > packed.saturating_mul(BOMB_FACTOR) {
            return Err(Why::Bomb(BOMB_FACTOR));
        }
        Ok(())
    }

    /// Where it leads is judged when everything is there.
    pub(super) fn symlink(&mut self, path: &Path, target: &Path) -> Result<(), StagingError> {
        let (parent, name) = self.place(path)?;
        match fs::symlinkat(target, &parent, &name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(StagingError::entry(path, Why::Twice)),
            Err(error) => return Err(self.failed("link", path, error.into())),
        }
        self.files += 1;
        self.note(b'l', &inside(path)?, 0, target.as_os_str().as_bytes());
        Ok(())
    }

    /// `target` is another path of the same archive, before this one.
    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), StagingError> {
        let leaves = || Why::Leaves(shown(target));
        let inner = inside(target).map_err(|_| StagingError::entry(path, leaves()))?;
        let (parent, name) = self.place(path)?;
        let dangling = || {
            let why = Why::Dangling(shown(target));
            StagingError::entry(path, why)
        };
        let original = self.open_parent(target, &inner).map_err(|_| dangling())?;
        let original_name = inner.file_name().ok_or_else(dangling)?;
        let stat = fs::statat(&original, original_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| dangling())?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
            return Err(dangling());
        }
        match fs::linkat(&original, original_name, &parent, &name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(StagingError::entry(path, Why::Twice)),
            Err(error) => return Err(self.failed("link", path, error.into())),
        }
        self.files += 1;
        self.note(b'h', &inside(path)?, 0, inner.as_os_str().as_bytes());
        Ok(())
    }

    /// Everything is there: no link leaves, and the digest of all.
    pub(super) fn finish(mut self, kind: Kind) -> Result<Staged, StagingError> {
        links::stay_inside(&self.root, &self.path)?;
        self.digests.sort_unstable();
        let mut digest = Sha256::new();
        for entry in &self.digests {
            digest.update(entry);
        }
        Ok(Staged {
            kind,
            files: self.files,
            bytes: self.bytes,
            digest: format!("sha256:{:x}", digest.finalize()),
        })
    }

    /// Counts an entry that is no directory, and opens the directory it belongs into.
    fn place(&mut self, path: &Path) -> Result<(OwnedFd, OsString), StagingError> {
        self.count(path)?;
        let inside = inside(path)?;
        let Some(name) = inside.file_name().map(OsStr::to_owned) else {
            return Err(StagingError::entry(path, Why::Twice));
        };
        let parent = self.open_parent(path, &inside)?;
        Ok((parent, name))
    }

    fn open_parent(&mut self, path: &Path, inside: &Path) -> Result<OwnedFd, StagingError> {
        let parent = inside.parent().unwrap_or(Path::new("")).to_owned();
        if let Some((last, fd)) = &self.last
            && *last == parent
        {
            return fd
                .try_clone()
                .map_err(|error| self.failed("open", path, error));
        }
        let opened = self.open_directory(path, &parent)?;
        let copy = opened
            .try_clone()
            .map_err(|error| self.failed("open", path, error))?;
        self.last = Some((parent, copy));
        Ok(opened)
    }

    /// Made where it is missing. `path` is the entry that wants it.
    fn open_directory(&self, path: &Path, inside: &Path) -> Result<OwnedFd, StagingError> {
        let root = self.root.as_fd().try_clone_to_owned();
        let mut directory = root.map_err(|error| self.failed("open", path, error))?;
        for name in inside {
            directory = self.enter(path, &directory, name)?;
        }
        Ok(directory)
    }

    fn enter(
        &self,
        path: &Path,
        directory: &impl AsFd,
        name: &OsStr,
    ) -> Result<OwnedFd, StagingError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o755);
        match fs::mkdirat(directory, name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed("create", path, error.into())),
        }
        match fs::openat(directory, name, flags, Mode::empty()) {
            Ok(opened) => Ok(opened),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(StagingError::entry(path, Why::BelowFile)),
            Err(error) => Err(self.failed("open", path, error.into())),
        }
    }

    fn count(&mut self, path: &Path) -> Result<(), StagingError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            let why = Why::TooMany(self.limits.entries_max);
            return Err(StagingError::entry(path, why));
        }
        Ok(())
    }

    fn note(&mut self, kind: u8, path: &Path, mode: u32, content: &[u8]) {
        let path = path.as_os_str().as_bytes();
        let mut digest = Sha256::new();
        digest.update([kind]);
        digest.update(mode.to_be_bytes());
        // With its length before it, no path can pass for another one with a different content.
        digest.update(path.len().to_be_bytes());
        digest.update(path);
        digest.update(content);
        self.digests.push(digest.finalize().into());
    }

    fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> StagingError {
        StagingError::io(what, &self.path.join(path))(source)
    }
}

/// The path of an entry, without what says nothing.
fn inside(path: &Path) -> Result<PathBuf, StagingError> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(StagingError::entry(path, Why::Upwards)),
            Component::RootDir | Component::Prefix(_) => {
                return Err(StagingError::entry(path, Why::Absolute));
            }
        }
    }
    bounded(path, &inside)?;
    Ok(inside)
}

/// What could be made name by name, but never be named as a whole, nobody could use or remove.
fn bounded(path: &Path, inside: &Path) -> Result<(), StagingError> {
    let refuse = |why| Err(StagingError::entry(path, why));
    let depth = inside.iter().count();
    if depth > DEPTH_MAX {
        return refuse(Why::TooDeep(depth, DEPTH_MAX));
    }
    let longest = inside.iter().map(OsStr::len).max().unwrap_or_default();
    if longest > NAME_BYTES_MAX {
        return refuse(Why::TooLong(longest, NAME_BYTES_MAX));
    }
    let whole = inside.as_os_str().len();
    if whole > PATH_BYTES_MAX {
        return refuse(Why::TooLong(whole, PATH_BYTES_MAX));
    }
    Ok(())
}

/// Safe for a terminal.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().count() <= SHOWN_MAX {
        return text.escape_debug().to_string();
    }
    let (half, all) = (SHOWN_MAX / 2, text.chars().count());
    let first: String = text.chars().take(half).collect();
    let last: String = text.chars().skip(all - half).collect();
    format!("{}…{}", first.escape_debug(), last.escape_debug())
}

/// Whoever could read it can; others only if all could.
fn mode_of(mode: u32) -> Mode {
    let read: u32 = if mode & 0o004 == 0 { 0o640 } else { 0o644 };
    let execute = if mode & 0o111 == 0 {
        0
    } else {
        (read >> 2) & 0o111
    };
    Mode::from_raw_mode(read | execute)
}
