//! The deploy lock: one deploy or rollback at a time, and whoever comes second learns who was first.
//!
//! flock(2): it ends with its holder, however that ends.

use super::room::is_full;
use crate::beneath;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// More is not read of what a holder wrote about itself.
const HOLDER_BYTES_MAX: u64 = 512;

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// The lock is not ours.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else's.
    #[error("{holder} is at work here; wait until that is done")]
    Held {
        /// What the holder wrote about itself.
        holder: String,
    },
    /// The file cannot be used.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Never waits. `who` is for those who come later: `pid 7, admin, since 10:00 UTC: gapless
    /// deploy`.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(path: &Path, who: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        // Nobody but root may even read it: to lock a file it is enough to have it open.
        let mut file = beneath::open_to_lock(path, 0o600).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    holder: holder(file),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(who.as_bytes()));
        match written {
            // The lock is ours, also where there is no room to say whose; a rollback needs none.
            Err(error) if !is_full(&error) => Err(failed(error)),
            Ok(()) | Err(_) => Ok(Self { file }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only a courtesy: what is left there is overwritten by the next holder.
        drop(self.file.set_len(0));
    }
}

fn holder(mut file: File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(HOLDER_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() || text.trim().is_empty() {
        return "another deploy".to_owned();
    }
    text.trim().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::store::tests::Scratch;

    #[test]
    fn the_second_learns_who_holds_it_and_gets_it_afterwards() {
        let scratch = Scratch::new();
        let path = scratch.0.join("lock");
        let first = Lock::take(&path, "pid 7, admin: gapless deploy").unwrap();
        let error = Lock::take(&path, "pid 8").unwrap_err();
        let expected = "pid 7, admin: gapless deploy is at work here; wait until that is done";
        assert_eq!(error.to_string(), expected);
        drop(first);
        Lock::take(&path, "pid 8").unwrap();
    }

    #[test]
    fn what_a_killed_holder_wrote_is_of_no_concern() {
        let scratch = Scratch::new();
        let path = scratch.0.join("lock");
        std::fs::write(&path, "pid 7, admin: gapless deploy, and a lot more text").unwrap();
        let _second = Lock::take(&path, "pid 8").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "pid 8");
    }
}
