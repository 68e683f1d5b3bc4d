//! Files that root touches: by open directories, one name at a time, and never through a link.
//!
//! Between the moment in which a path is looked at and the one in which it is used, whoever may write to a directory
//! on the way can put a link there. So a directory is opened first ([`Directory`]), and all that lies below it is
//! reached from its fd by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS. Where the way itself must be root's,
//! [`Directory::of_root`] looks at who owns each part of it.
//!
//! Of rustix, which is here already, and not of cap-std: that follows links as long as they stay below, which is what
//! must not happen here, and knows neither owners nor the removal of trees of any depth.

mod paths;
mod removal;

pub use paths::{
    create_new, entries, is_directory, is_there, make_directories, make_directory, open_directory,
    open_to_lock, read, read_link, remove, remove_empty, remove_if_there, rename, symlink, sync,
    unlink_if_there, write_whole,
};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2,
    readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a directory on root's way must not be.
#[derive(Debug, thiserror::Error)]
pub enum NotRoots {
    /// Its owner could put a link there.
    #[error(
        "{} belongs to the user {owner}, who could lead root elsewhere; use a directory that belongs to root, as all \
         above it do",
        path.display()
    )]
    Owned {
        /// The part of the path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// So could anybody.
    #[error("everybody may write to {}; take that away: chmod o-w", path.display())]
    Open {
        /// The part of the path.
        path: PathBuf,
    },
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it was when it was listed.
    pub kind: FileType,
}

impl Directory {
    /// That of an administrator's choice: links on the way lead where they lead.
    ///
    /// # Errors
    /// As open(2).
    pub fn chosen(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// One that only root can exchange: each part of its way, links resolved, belongs to root, and not everybody may
    /// write there, or not to what is another's (as in /tmp). A group that root lets write is trusted. A caller that is
    /// not root has only its own rights, so nothing is asked.
    ///
    /// # Errors
    /// [`NotRoots`] in the error, or as open(2).
    pub fn of_root(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let mut here = Self::chosen(Path::new("/"))?;
        let mut so_far = PathBuf::from("/");
        here.expect_root(&so_far)?;
        for part in path.components() {
            if let Component::Normal(name) = part {
                so_far.push(name);
                here = here.enter(Path::new(name))?;
                here.expect_root(&so_far)?;
            }
        }
        Ok(here)
    }

    fn expect_root(&self, path: &Path) -> io::Result<()> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let stat = self.stat_itself()?;
        let path = || path.to_owned();
        let others = Mode::from_raw_mode(stat.st_mode);
        let is_open = others.contains(Mode::WOTH) && !others.contains(Mode::SVTX);
        let why = match stat.st_uid {
            0 if !is_open => return Ok(()),
            0 => NotRoots::Open { path: path() },
            owner => NotRoots::Owned {
                path: path(),
                owner,
            },
        };
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }

    /// A directory below.
    ///
    /// # Errors
    /// ELOOP where a link is on the way, ENOTDIR where it is no directory, and as openat2(2).
    pub fn enter(&self, below: &Path) -> io::Result<Self> {
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let fd = self.open(below, DIRECTORY, Mode::empty())?;
        Ok(Self { fd })
    }

    /// The same, and what is missing is made.
    ///
    /// # Errors
    /// As [`Directory::enter`] and mkdirat(2).
    pub fn make_way(&self, below: &Path, mode: Mode) -> io::Result<Self> {
        let mut here = Self {
            fd: self.fd.try_clone()?,
        };
        for part in below {
            match mkdirat(&here.fd, part, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            here = here.enter(Path::new(part))?;
        }
        Ok(here)
    }

    /// Opens what lies below; the last part of the way is no link, either.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open(&self, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.fd, below, flags, mode, resolve) {
            // Linux before 5.6, or a filter that knows it not: part by part it is the same.
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_parts(below, flags, mode),
            opened => Ok(opened?),
        }
    }

    fn open_by_parts(&self, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let mut parts: Vec<&OsStr> = Vec::new();
        for part in below.components() {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(Errno::XDEV.into());
                }
            }
        }
        let last = parts.pop().unwrap_or(OsStr::new("."));
        let mut here = self.fd.try_clone()?;
        for part in parts {
            here = openat(&here, part, DIRECTORY, Mode::empty())?;
        }
        Ok(openat(&here, last, flags, mode)?)
    }

    /// A file below, to be read: a regular one, and nothing that would keep us waiting.
    ///
    /// # Errors
    /// As [`Directory::open`]; `InvalidInput` where it is no regular file.
    pub fn open_file(&self, below: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = File::from(self.open(below, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        Ok(file)
    }

    /// All entries, in no order. Those that appear or go meanwhile may be missing.
    ///
    /// # Errors
    /// As getdents64(2).
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsString::from_vec(name.to_vec());
            let mut kind = entry.file_type();
            // Some file systems do not say.
            if kind == FileType::Unknown {
                kind = match self.stat(&name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
            }
            found.push(Entry { name, kind });
        }
        Ok(found)
    }

    /// Of an entry itself, not of what it links to.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Of the directory.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn stat_itself(&self) -> io::Result<Stat> {
        Ok(fstat(&self.fd)?)
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// As readlinkat(2): EINVAL where it is no link.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let target = readlinkat(&self.fd, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// # Errors
    /// As symlinkat(2).
    pub fn symlink(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, &self.fd, name)?)
    }

    /// # Errors
    /// As renameat(2).
    pub fn rename(&self, name: &OsStr, to: &Self, as_name: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.fd, name, &to.fd, as_name)?)
    }

    /// Makes one directory.
    ///
    /// # Errors
    /// As mkdirat(2).
    pub fn make(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        Ok(mkdirat(&self.fd, name, mode)?)
    }

    /// Removes what is no directory.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As unlinkat(2): ENOTEMPTY where something is in it.
    pub fn unlink_empty(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    /// On disk when this returns: what was renamed, made or removed here.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
