//! Values that outlive the process: in a memfd, which the fd store hands to the next one.
//!
//! A value is in a memfd in two halves, as the keeper's state is: a process that dies while writing leaves
//! the value of before. Old and new generation have the value at the same time while one drains, so each
//! change is read, made and written under a record lock (fcntl(2); flock(2) would be shared with the open
//! file description).

use crate::state::{StateError, StateFile};
use crate::systemd::kept::{self, KeptError};
use crate::systemd::notify;
use rustix::fs::{FlockOperation, fcntl_lock};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// gapless and systemd answer within milliseconds.
const STORED_WITHIN: Duration = Duration::from_secs(5);

/// A value cannot be kept, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Neither whole nor of this type.
    #[error(
        "cannot read what is kept as {name:?}; if its type changed, add fields with \
         #[serde(default)], or keep the new one under another name"
    )]
    Value {
        /// Which.
        name: String,
        /// What is wrong with it.
        #[source]
        source: StateError,
    },
    /// Nobody took it.
    #[error("cannot keep {name:?} for the next process")]
    Store {
        /// Which.
        name: String,
        /// What was said.
        #[source]
        source: KeptError,
    },
    /// It is not known whether it was taken.
    #[error("cannot tell whether {name:?} is kept for the next process")]
    Unanswered {
        /// Which.
        name: String,
        /// What was said.
        #[source]
        source: io::Error,
    },
}

/// A value that the next process gets. What is changed is there at once: nothing is lost by a SIGKILL
/// a moment later, and one in the middle leaves the value of before.
#[derive(Debug)]
pub struct Kept<T> {
    name: String,
    file: Mutex<StateFile>,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    pub(super) fn open(
        name: &str,
        known: Option<OwnedFd>,
        init: impl FnOnce() -> T,
    ) -> Result<Self, KeepError> {
        let is_new = known.is_none();
        let file = known.map_or_else(|| StateFile::create(name), |fd| Ok(StateFile::from_fd(fd)));
        let file = file.map_err(|source| KeepError::Value {
            name: name.to_owned(),
            source,
        })?;
        let kept = Self {
            name: name.to_owned(),
            file: Mutex::new(file),
            value: PhantomData,
        };
        let file = kept.lock()?;
        // One that was stored by a process that died before it wrote is empty.
        if kept.load(&file)?.is_none() {
            kept.save(&file, &init())?;
        }
        if is_new {
            kept.store(&file)?;
        }
        drop(file);
        Ok(kept)
    }

    /// As it is now.
    ///
    /// # Errors
    /// [`KeepError::Value`].
    pub fn get(&self) -> Result<T, KeepError> {
        let file = self.lock()?;
        self.load(&file)?
            .ok_or_else(|| self.wrong(StateError::Damaged))
    }

    /// Changes it; nobody else does meanwhile, in this process or another. What `change` returns is
    /// passed on.
    ///
    /// # Errors
    /// [`KeepError::Value`]; it is as before.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R, KeepError> {
        let file = self.lock()?;
        let value = self.load(&file)?;
        let mut value = value.ok_or_else(|| self.wrong(StateError::Damaged))?;
        let answer = change(&mut value);
        self.save(&file, &value)?;
        Ok(answer)
    }

    fn lock(&self) -> Result<Lock<'_>, KeepError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Not flock(2): both processes have the same open file description.
        fcntl_lock(file.as_fd(), FlockOperation::LockExclusive)
            .map_err(|error| self.wrong(io::Error::from(error).into()))?;
        Ok(Lock(file))
    }

    fn load(&self, file: &Lock<'_>) -> Result<Option<T>, KeepError> {
        file.0.load().map_err(|source| self.wrong(source))
    }

    fn save(&self, file: &Lock<'_>, value: &T) -> Result<(), KeepError> {
        file.0.save(value).map_err(|source| self.wrong(source))
    }

    /// Returns when it is kept; does nothing where nobody keeps.
    fn store(&self, file: &Lock<'_>) -> Result<(), KeepError> {
        let name = || self.name.clone();
        kept::put(&self.name, &[file.0.as_fd()]).map_err(|source| KeepError::Store {
            name: name(),
            source,
        })?;
        notify::barrier(STORED_WITHIN).map_err(|source| KeepError::Unanswered {
            name: name(),
            source,
        })
    }

    fn wrong(&self, source: StateError) -> KeepError {
        KeepError::Value {
            name: self.name.clone(),
            source,
        }
    }
}

struct Lock<'a>(MutexGuard<'a, StateFile>);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // It cannot fail for a lock that is held, and ends with the process anyway.
        match fcntl_lock(self.0.as_fd(), FlockOperation::Unlock) {
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy<T>(kept: &Kept<T>) -> OwnedFd {
        let file = kept.file.lock().unwrap();
        file.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_was_kept_comes_back_and_init_is_not_asked() {
        let first = Kept::open("names", None, || vec!["a".to_owned()]).unwrap();
        first.update(|names| names.push("b".into())).unwrap();
        let next: Kept<Vec<String>> = Kept::open("names", Some(copy(&first)), || panic!()).unwrap();
        assert_eq!(next.get().unwrap(), ["a", "b"]);
        // Old and new at the same time.
        first.update(|names| names.push("c".into())).unwrap();
        next.update(|names| names.push("d".into())).unwrap();
        assert_eq!(first.get().unwrap(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_value_of_another_type_is_refused_and_left_as_it_is() {
        let number = Kept::open("number", None, || 7_u32).unwrap();
        let refused = Kept::open("number", Some(copy(&number)), String::new).unwrap_err();
        assert!(refused.to_string().contains("\"number\""), "{refused}");
        assert_eq!(number.get().unwrap(), 7);
    }

    #[test]
    fn one_that_was_never_written_begins_with_init() {
        let empty = StateFile::create("empty").unwrap();
        let fd = empty.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(
            Kept::open("empty", Some(fd), || 3).unwrap().get().unwrap(),
            3
        );
    }
}
