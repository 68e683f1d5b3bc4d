//! `current` and `previous`: moved by rename(2), and only to what was live.

use super::files::{remove, sync_directory};
use super::{INCOMING, RELEASES, Store, StoreError, io_error};
use crate::beneath;
use crate::release::id::ReleaseId;
use crate::release::manifest::State;
use crate::steps::{Step, reached};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
const STARTING: &str = "starting";

/// systemd starts a service within this time.
const ANNOUNCED: Duration = Duration::from_secs(30);

impl Store {
    /// What is to run at the next start.
    ///
    /// # Errors
    /// [`StoreError::Stray`] when it names nothing that is there.
    pub fn current(&self) -> Result<Option<ReleaseId>, StoreError> {
        self.linked(CURRENT)
    }

    /// What ran before.
    ///
    /// # Errors
    /// As [`Store::current`].
    pub fn previous(&self) -> Result<Option<ReleaseId>, StoreError> {
        self.linked(PREVIOUS)
    }

    fn linked(&self, name: &str) -> Result<Option<ReleaseId>, StoreError> {
        let path = self.root().join(name);
        let target = match beneath::read_link(&path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let id = target
            .strip_prefix(RELEASES)
            .ok()
            .and_then(Path::to_str)
            .and_then(|id| id.parse::<ReleaseId>().ok())
            .filter(|id| beneath::is_directory(&self.directory(id)));
        id.map(Some).ok_or(StoreError::Stray { path })
    }

    /// Makes the links that [`Store::make_current`] moves, before it is asked whether `id` can be
    /// live: once it is, a full disk keeps nobody from saying so.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub fn prepare(&self, id: &ReleaseId) -> Result<(), StoreError> {
        if let Some(old) = self.superseded_by(id) {
            self.make_link(PREVIOUS, &old)?;
        }
        self.make_link(CURRENT, id)?;
        reached(Step::LinksPrepared);
        Ok(())
    }

    /// Moves `previous`, then `current`: at any moment both name what was live once.
    ///
    /// # Errors
    /// [`StoreError`]; `current` names the old or the new then.
    pub fn make_current(&self, id: &ReleaseId) -> Result<(), StoreError> {
        if let Some(old) = self.superseded_by(id) {
            self.link(PREVIOUS, &old)?;
            reached(Step::PreviousMoved);
        }
        self.link(CURRENT, id)?;
        reached(Step::CurrentMoved);
        Ok(())
    }

    /// The way back from `bad`, once `good` is live again: `current` names that, and `previous` what
    /// it named before all this.
    ///
    /// # Errors
    /// [`StoreError`]; both name what was live once all the same.
    pub fn go_back(&self, good: &ReleaseId, before: Option<&ReleaseId>) -> Result<(), StoreError> {
        self.link(CURRENT, good)?;
        reached(Step::BackMoved);
        let before = before
            .filter(|before| *before != good && beneath::is_directory(&self.directory(before)));
        if let Some(before) = before {
            return self.link(PREVIOUS, before);
        }
        let previous = self.root().join(PREVIOUS);
        if beneath::is_there(&previous) {
            remove(&previous)?;
        }
        sync_directory(self.root())
    }

    /// A deploy is about to start the service: it shall wait for that instead of starting what is current.
    ///
    /// # Errors
    /// [`StoreError`]; the service begins with what is current then.
    pub fn announce(&self) -> Result<(), StoreError> {
        let path = self.root().join(STARTING);
        self.withdraw()?;
        beneath::write_whole(&path, b"", 0o644).map_err(io_error("write", &path))
    }

    /// The service runs, or it does not start.
    ///
    /// # Errors
    /// [`StoreError`]; it counts for nothing a moment later.
    pub fn withdraw(&self) -> Result<(), StoreError> {
        let path = self.root().join(STARTING);
        let removed = beneath::unlink_if_there(&path);
        removed.map(drop).map_err(io_error("remove", &path))
    }

    /// Whether the service was started by a deploy. What a killed one left behind does not count.
    pub fn is_announced(&self) -> bool {
        let root = beneath::open_directory(self.root());
        let Ok(file) = root.and_then(|root| root.stat(OsStr::new(STARTING))) else {
            return false;
        };
        let written = u64::try_from(file.st_mtime).unwrap_or(0);
        let written = UNIX_EPOCH + Duration::from_secs(written);
        written.elapsed().is_ok_and(|age| age < ANNOUNCED)
    }

    /// What a deploy that was killed in between did not come to say: what is current was live.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remember(&self, unix_seconds: u64) -> Result<(), StoreError> {
        match self.current() {
            Ok(Some(current)) => self.mark(&current, State::Healthy(unix_seconds)),
            // Whoever needs it says what is wrong with it.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// A link that names nothing is as good as none.
    fn superseded_by(&self, id: &ReleaseId) -> Option<ReleaseId> {
        self.current().unwrap_or(None).filter(|old| old != id)
    }

    fn link(&self, name: &str, id: &ReleaseId) -> Result<(), StoreError> {
        let path = self.root().join(name);
        let fresh = self.make_link(name, id)?;
        beneath::rename(&fresh, &path).map_err(io_error("move", &path))?;
        sync_directory(self.root())
    }

    /// In `incoming/`, unless it is there.
    fn make_link(&self, name: &str, id: &ReleaseId) -> Result<PathBuf, StoreError> {
        let fresh = self.root().join(INCOMING).join(name);
        let target = Path::new(RELEASES).join(id.as_str());
        if beneath::read_link(&fresh).is_ok_and(|found| found == target) {
            return Ok(fresh);
        }
        if beneath::is_there(&fresh) {
            remove(&fresh)?;
        }
        beneath::symlink(&target, &fresh).map_err(io_error("create", &fresh))?;
        Ok(fresh)
    }
}
