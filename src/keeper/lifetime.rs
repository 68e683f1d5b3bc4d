//! The totals on disk: what gapless has counted goes on after a reboot.
//!
//! Written now and then and at the end. After a power failure what came since the last time is
//! missing; no counter ever goes back.
//!
//! They are written once a minute and at the stop, and not forced to the disk: the keeper would wait for
//! it. A failure to write is said once, until it succeeds again, and stops nothing.

use super::totals::Totals;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two times that the totals are written.
pub const WRITTEN_EVERY: Duration = Duration::from_mins(1);

/// The totals on disk are not usable.
#[derive(Debug, thiserror::Error)]
pub enum LifetimeError {
    /// The file holds something else.
    #[error("the counters in {} cannot be understood; they begin anew", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be read or written.
    #[error(
        "the counters in {} cannot be read or written; check StateDirectory= and the disk",
        path.display()
    )]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Whether something that goes on failing is said: once, until it has worked again.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaidOnce {
    is_failing: bool,
}

impl SaidOnce {
    /// What came of it this time; true if it is to be said.
    pub fn is_news(&mut self, has_failed: bool) -> bool {
        let was_failing = std::mem::replace(&mut self.is_failing, has_failed);
        has_failed && !was_failing
    }
}

/// The file `counters.json` in the state directory of an app.
#[derive(Clone, Debug)]
pub struct Lifetime {
    path: PathBuf,
}

impl Lifetime {
    /// `directory` is the state directory of the app; nothing is touched yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("counters.json"),
        }
    }

    /// As last written; None when they never were.
    ///
    /// # Errors
    /// [`LifetimeError`]; the caller logs it and counts anew.
    pub fn read(&self) -> Result<Option<Totals>, LifetimeError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let totals = serde_json::from_slice(&bytes);
        totals.map(Some).map_err(|source| LifetimeError::Malformed {
            path: self.path.clone(),
            source,
        })
    }

    /// Whole or not at all. Not forced to the disk, which would have everybody wait for it.
    ///
    /// # Errors
    /// [`LifetimeError::File`]; the caller logs it and goes on.
    pub fn write(&self, totals: &Totals) -> Result<(), LifetimeError> {
        self.replace(totals).map_err(|source| self.failed(source))
    }

    fn replace(&self, totals: &Totals) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(totals)?)?;
        std::fs::rename(&fresh, &self.path)
    }

    fn failed(&self, source: io::Error) -> LifetimeError {
        LifetimeError::File {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_failing_is_said_once() {
        let mut said = SaidOnce::default();
        let failed = [true, true, false, false, true, true];
        let news = failed.map(|has_failed| said.is_news(has_failed));
        assert_eq!(news, [true, false, false, false, true, false]);
    }

    #[test]
    fn what_was_written_is_read_and_what_was_torn_names_its_file() {
        let directory =
            std::env::temp_dir().join(format!("gapless-lifetime-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let lifetime = Lifetime::new(&directory);
        assert_eq!(lifetime.read().unwrap(), None);
        let mut totals = Totals::beginning();
        totals.swaps = 7;
        totals.counters.lost.insert("cut".into(), 3);
        lifetime.write(&totals).unwrap();
        assert_eq!(lifetime.read().unwrap(), Some(totals));
        let path = directory.join("counters.json");
        let torn = std::fs::read(&path).unwrap();
        std::fs::write(&path, &torn[..torn.len() / 2]).unwrap();
        let message = lifetime.read().unwrap_err().to_string();
        assert!(message.contains(&*path.to_string_lossy()), "{message}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
