//! The store of one instance: `incoming/`, `releases/`, `current`, `previous`, `lock`, and `starting`
//! while a deploy starts the service.
//!
//! Every change is one rename(2), with what it names on disk before; so whoever is killed, and
//! wherever, leaves the old or the new. `current` names only what was live once.

mod files;
mod pointers;

use super::id::ReleaseId;
use super::lock::{Lock, LockError};
use super::manifest::{Manifest, State};
use super::room::Full;
use crate::beneath;
use crate::config::ReleaseSource;
use crate::steps::{Step, reached};
use files::{entries, remove, sync_directory};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where stores are, one directory for each instance. Not below /var/lib: what is there belongs to
/// the app's user, who could move it away and put another in its place.
pub const ROOT: &str = "/srv/gapless";

const INCOMING: &str = "incoming";
const RELEASES: &str = "releases";

/// The store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// What the system said.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// Somebody else deploys.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is one of this name.
    #[error("there is a release {0} already; choose another --release")]
    Exists(ReleaseId),
    /// There is none of this name.
    #[error("there is no release {0}; gapless releases shows what is there")]
    Missing(ReleaseId),
    /// A manifest is no manifest.
    #[error("{} cannot be understood", path.display())]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A link of ours names something else.
    #[error("{} does not name a release", path.display())]
    Stray {
        /// The link.
        path: PathBuf,
    },
}

impl StoreError {
    /// What the system said, or what it means.
    pub fn of(what: &'static str, path: &Path, source: io::Error) -> Self {
        match Full::by(what, path, source) {
            Ok(full) => full.into(),
            Err(source) => Self::Io {
                what,
                path: path.to_owned(),
                source,
            },
        }
    }
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::of(what, path, source)
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Of an instance, below [`ROOT`] or another directory. Need not exist.
    pub fn new(stores: &Path, instance: &str) -> Self {
        Self {
            root: stores.join(instance),
        }
    }

    /// `/srv/gapless/NAME`
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes what is missing. Everybody may look, but not into what is coming in.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(&self) -> Result<(), StoreError> {
        for (directory, mode) in [
            (self.root.clone(), 0o755),
            (self.root.join(RELEASES), 0o755),
            (self.root.join(INCOMING), 0o700),
        ] {
            beneath::make_directories(&directory, mode).map_err(io_error("create", &directory))?;
        }
        Ok(())
    }

    /// Only its holder changes anything here.
    ///
    /// # Errors
    /// [`StoreError::Lock`].
    pub fn lock(&self, who: &str) -> Result<Lock, StoreError> {
        let lock = Lock::take(&self.root.join("lock"), who)?;
        reached(Step::StoreLocked);
        Ok(lock)
    }

    /// Where the files of a release are, once it is there.
    pub fn directory(&self, id: &ReleaseId) -> PathBuf {
        self.root.join(RELEASES).join(id.as_str())
    }

    fn manifest_path(&self, id: &ReleaseId) -> PathBuf {
        self.root.join(RELEASES).join(format!("{id}.json"))
    }

    /// Removes what those left behind who were killed, and makes an empty directory to stage into.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self, id: &ReleaseId) -> Result<PathBuf, StoreError> {
        if beneath::is_there(&self.directory(id)) {
            return Err(StoreError::Exists(id.clone()));
        }
        self.sweep()?;
        reached(Step::StoreSwept);
        let staging = self.root.join(INCOMING).join(id.as_str());
        beneath::make_directory(&staging, 0o755).map_err(io_error("create", &staging))?;
        reached(Step::StagingMade);
        Ok(staging)
    }

    /// Empties `incoming/`, and removes manifests whose release never came.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep(&self) -> Result<(), StoreError> {
        let incoming = self.root.join(INCOMING);
        for path in entries(&incoming)? {
            remove(&path)?;
        }
        for path in entries(&self.root.join(RELEASES))? {
            let is_manifest = path
                .extension()
                .is_some_and(|extension| extension == "json");
            if is_manifest && !beneath::is_there(&path.with_extension("")) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// What was staged becomes a release: all of it is on disk before it has its name.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then it is no release.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let id = &manifest.id;
        let staged = self.root.join(INCOMING).join(id.as_str());
        // One call for the whole file system: thousands of files would cost an fsync(2) each.
        let opened = beneath::open_directory(&staged).map_err(io_error("open", &staged))?;
        rustix::fs::syncfs(&opened)
            .map_err(|error| io_error("write to disk", &staged)(error.into()))?;
        reached(Step::FilesSynced);
        self.write_manifest(manifest)?;
        reached(Step::ManifestPlaced);
        let release = self.directory(id);
        beneath::rename(&staged, &release).map_err(io_error("move into place", &release))?;
        sync_directory(&self.root.join(RELEASES))?;
        reached(Step::ReleasePlaced);
        Ok(())
    }

    /// Replaces what is known of a release.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then the old one stays.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let path = self.manifest_path(&manifest.id);
        let fresh = self
            .root
            .join(INCOMING)
            .join(format!("{}.json", manifest.id));
        let mut text =
            serde_json::to_vec_pretty(manifest).map_err(|source| StoreError::Malformed {
                path: path.clone(),
                source,
            })?;
        text.push(b'\n');
        beneath::write_whole(&fresh, &text, 0o644).map_err(io_error("write", &fresh))?;
        reached(Step::ManifestWritten);
        beneath::rename(&fresh, &path).map_err(io_error("write", &path))?;
        sync_directory(&self.root.join(RELEASES))
    }

    /// What is known of a release; none: only that it is there.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it is not there, or what is wrong with its manifest.
    pub fn manifest(&self, id: &ReleaseId) -> Result<Option<Manifest>, StoreError> {
        if !beneath::is_directory(&self.directory(id)) {
            return Err(StoreError::Missing(id.clone()));
        }
        let path = self.manifest_path(id);
        let text = match beneath::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| StoreError::Malformed { path, source })
    }

    /// What the configuration has to know of a release.
    ///
    /// # Errors
    /// As [`Store::manifest`].
    pub fn source(&self, id: &ReleaseId) -> Result<ReleaseSource, StoreError> {
        let manifest = self.manifest(id)?;
        Ok(ReleaseSource {
            id: id.to_string(),
            directory: self.directory(id),
            command: manifest.and_then(|manifest| manifest.command),
        })
    }

    /// Every release that is there, newest first.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<(ReleaseId, Option<Manifest>)>, StoreError> {
        let releases = self.root.join(RELEASES);
        let mut found: Vec<_> = entries(&releases)?
            .into_iter()
            .filter(|path| beneath::is_directory(path))
            .filter_map(|path| path.file_name()?.to_str()?.parse::<ReleaseId>().ok())
            // One bad manifest must not hide the others.
            .map(|id| (id.clone(), self.manifest(&id).ok().flatten()))
            .collect();
        let staged =
            |manifest: &Option<Manifest>| manifest.as_ref().map_or(0, |it| it.staged_unix_seconds);
        found.sort_by(|(a, x), (b, y)| {
            let natural = |id: &ReleaseId| (id.as_str().len(), id.clone());
            (staged(y), natural(b)).cmp(&(staged(x), natural(a)))
        });
        Ok(found)
    }

    /// Notes what became of a release. What was healthy once is never called failed; what is live
    /// again is no longer called taken back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn mark(&self, id: &ReleaseId, state: State) -> Result<(), StoreError> {
        let Some(mut manifest) = self.manifest(id)? else {
            return Ok(());
        };
        let is_live_again = matches!(state, State::Healthy(_)) && manifest.taken_back.is_some();
        if matches!(manifest.state, State::Healthy(_)) && !is_live_again {
            return Ok(());
        }
        if !is_live_again {
            manifest.state = state;
        }
        manifest.taken_back = None;
        self.write_manifest(&manifest)?;
        reached(Step::ReleaseMarked);
        Ok(())
    }

    /// Notes that a release was live, and why it is no longer: nobody goes back to it unasked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn mark_taken_back(&self, id: &ReleaseId, why: &str) -> Result<(), StoreError> {
        let Some(mut manifest) = self.manifest(id)? else {
            return Ok(());
        };
        manifest.taken_back = Some(why.to_owned());
        self.write_manifest(&manifest)?;
        reached(Step::BackMarked);
        Ok(())
    }

    /// Removes the oldest releases until `keep` are left, those first that are no good; never
    /// one of `busy`, nor what `current` and `previous` name.
    ///
    /// # Errors
    /// [`StoreError`]; what was removed by then is gone.
    pub fn prune(
        &self,
        keep: usize,
        busy: &BTreeSet<ReleaseId>,
    ) -> Result<Vec<ReleaseId>, StoreError> {
        let all = self.list()?;
        let excess = all.len().saturating_sub(keep);
        let named = [self.current()?, self.previous()?];
        let (failed, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .rev()
            .partition(|(_, manifest)| !manifest.as_ref().is_some_and(Manifest::is_good));
        let candidates = failed.into_iter().chain(others).map(|(id, _)| id);
        let removed: Vec<_> = candidates
            .filter(|id| !busy.contains(id) && !named.iter().flatten().any(|it| it == id))
            .take(excess)
            .collect();
        for id in &removed {
            self.remove(id)?;
        }
        Ok(removed)
    }

    /// It loses its name at once, then its files.
    fn remove(&self, id: &ReleaseId) -> Result<(), StoreError> {
        let release = self.directory(id);
        let doomed = self.root.join(INCOMING).join(format!("{id}.gone"));
        beneath::rename(&release, &doomed).map_err(io_error("remove", &release))?;
        reached(Step::ReleaseUnnamed);
        remove(&doomed)?;
        reached(Step::ReleaseEmptied);
        let manifest = self.manifest_path(id);
        beneath::unlink_if_there(&manifest).map_err(io_error("remove", &manifest))?;
        reached(Step::ReleaseForgotten);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
