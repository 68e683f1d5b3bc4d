//! Removal of a tree of any depth, with a bounded number of fds and no deep recursion.
//!
//! Down to some depth directories are emptied one in the other. What lies deeper is first moved up into the top of the
//! tree that is being removed: there it is as shallow as everything else. Whoever is killed leaves a smaller tree.

use super::Directory;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

/// Open at once, one in the other.
const DEPTH_MAX: u32 = 32;

/// Looks at the top without an end to it: somebody makes more there than we remove.
const ROUNDS_MAX: u32 = 100_000;

impl Directory {
    /// Removes an entry with all that is below it. Follows no link, and leaves nothing that is mounted.
    ///
    /// # Errors
    /// As unlinkat(2) and renameat(2); some of it may be gone then.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match self.unlink(name) {
            // POSIX says EPERM, Linux EISDIR.
            Err(error) if is(&error, &[Errno::ISDIR, Errno::PERM]) => {}
            removed => return removed,
        }
        let top = self.enter(Path::new(name))?;
        let mut lifted = 0;
        for _ in 0..ROUNDS_MAX {
            top.empty(&top, 0, &mut lifted)?;
            match self.unlink_empty(name) {
                // What was moved up meanwhile.
                Err(error) if is(&error, &[Errno::NOTEMPTY, Errno::EXIST]) => {}
                removed => return removed,
            }
        }
        Err(io::Error::new(
            io::ErrorKind::DirectoryNotEmpty,
            "it fills faster than it is removed",
        ))
    }

    fn empty(&self, top: &Self, depth: u32, lifted: &mut u64) -> io::Result<()> {
        for entry in self.entries()? {
            let name = entry.name.as_os_str();
            let removed = if entry.kind == FileType::Directory {
                self.empty_below(top, name, depth, lifted)
            } else {
                self.unlink(name)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn empty_below(
        &self,
        top: &Self,
        name: &OsStr,
        depth: u32,
        lifted: &mut u64,
    ) -> io::Result<()> {
        if depth < DEPTH_MAX {
            self.enter(Path::new(name))?.empty(top, depth + 1, lifted)?;
            return self.unlink_empty(name);
        }
        if self.unlink_empty(name).is_ok() {
            return Ok(());
        }
        loop {
            *lifted += 1;
            let place = OsString::from(format!(".removing-{lifted}"));
            match self.rename(name, top, &place) {
                // One of an earlier removal that was killed.
                Err(error) if is(&error, &[Errno::NOTEMPTY, Errno::EXIST, Errno::NOTDIR]) => {}
                moved => return moved,
            }
        }
    }
}

fn is(error: &io::Error, wanted: &[Errno]) -> bool {
    wanted
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
