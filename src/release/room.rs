//! Room on the disk: how much there is, and that there is none.

use rustix::fs::statvfs;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a file system has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For who is not root; a part is often kept for root.
    pub bytes: u64,
    /// Files, directories and links that can still be made.
    pub files: u64,
}

impl Room {
    /// Of the file system that a path is on.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = statvfs(path)?;
        Ok(Self {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            // Some count none: there, files are only a matter of bytes.
            files: if found.f_files == 0 {
                u64::MAX
            } else {
                found.f_favail
            },
        })
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Megabytes(self.bytes))?;
        if self.files == u64::MAX {
            return Ok(());
        }
        write!(f, " and {} files", self.files)
    }
}

/// `310 MiB`, rounded up.
pub(super) struct Megabytes(pub u64);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

/// There is none left. Nothing that was there before is touched by that.
#[derive(Debug, Error)]
#[error(
    "cannot {what} {}: the disk is full ({left} free there); make room, for example by a smaller \
     keep in [app], and try again; what was deployed before is as it was",
    path.display()
)]
pub struct Full {
    what: &'static str,
    path: PathBuf,
    left: String,
    #[source]
    source: io::Error,
}

impl Full {
    /// If that is what the system said.
    ///
    /// # Errors
    /// What it said, if it is something else.
    pub fn by(what: &'static str, path: &Path, source: io::Error) -> Result<Self, io::Error> {
        if !is_full(&source) {
            return Err(source);
        }
        // What could not be made is no place to ask at; the nearest directory that is there is.
        let room = path.ancestors().find_map(|path| Room::of(path).ok());
        Ok(Self {
            what,
            path: path.to_owned(),
            left: room.map_or_else(|| "nothing".to_owned(), |room| room.to_string()),
            source,
        })
    }
}

/// Out of bytes, files, or what the owner may have.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_what_is_left_and_what_to_do() {
        let path = Path::new("/proc/self/nowhere/manifest.json");
        let error = io::Error::from(rustix::io::Errno::NOSPC);
        let full = Full::by("write", path, error).unwrap();
        let expected = "cannot write /proc/self/nowhere/manifest.json: the disk is full (0 MiB free there); \
                        make room, for example by a smaller keep in [app], and try again; what was \
                        deployed before is as it was";
        assert_eq!(full.to_string(), expected);
        let other = io::Error::from(rustix::io::Errno::ROFS);
        assert!(Full::by("write", path, other).is_err());
        assert!(Room::of(Path::new("/")).unwrap().bytes > 0);
    }
}
