//! The last generation id that was given out, on disk: ids only count up, also over a reboot.
//!
//! Never trusted more than what runs: a counter that cannot be read is an error value, and the
//! keeper counts on from what it knows.

use crate::id::GenerationId;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The counter on disk is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The file holds no number.
    #[error(
        "the generation counter {} holds {found:?}, not a number; it is counted on from the live \
         generation and written anew",
        path.display()
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Its beginning.
        found: String,
    },
    /// It cannot be read or written.
    #[error(
        "the generation counter {} cannot be read or written; check StateDirectory= and the disk",
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

/// The file `generation` in the state directory of an app.
#[derive(Clone, Debug)]
pub struct GenerationCounter {
    path: PathBuf,
}

impl GenerationCounter {
    /// `directory` is the state directory of the app; nothing is touched yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("generation"),
        }
    }

    /// The last id given out; `g0` when there was none.
    ///
    /// # Errors
    /// [`CounterError`]; the caller logs it and counts on from what it knows.
    pub fn read(&self) -> Result<GenerationId, CounterError> {
        let text = match std::fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(GenerationId(0)),
            Err(source) => return Err(self.failed(source)),
        };
        let number = text.trim().parse().map(GenerationId);
        number.map_err(|_| CounterError::Malformed {
            path: self.path.clone(),
            found: text.chars().take(32).collect(),
        })
    }

    /// Writes the id down before it is used: whole and on disk when this returns, or not at all.
    ///
    /// # Errors
    /// [`CounterError::File`]; the caller logs it and goes on.
    pub fn write(&self, last: GenerationId) -> Result<(), CounterError> {
        self.replace(&format!("{}\n", last.0))
            .map_err(|source| self.failed(source))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(directory)?.sync_all()
    }

    fn failed(&self, source: io::Error) -> CounterError {
        CounterError::File {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gapless-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_counter_begins_at_nothing_and_keeps_what_is_written() {
        let directory = directory("counter");
        let counter = GenerationCounter::new(&directory);
        assert_eq!(counter.read().unwrap(), GenerationId(0));
        counter.write(GenerationId(41)).unwrap();
        counter.write(GenerationId(42)).unwrap();
        let again = GenerationCounter::new(&directory);
        assert_eq!(again.read().unwrap(), GenerationId(42));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_damaged_counter_names_its_file() {
        let directory = directory("damaged");
        let counter = GenerationCounter::new(&directory);
        std::fs::write(directory.join("generation"), b"\xff\x00").unwrap();
        let message = counter.read().unwrap_err().to_string();
        assert!(message.contains(&*directory.to_string_lossy()), "{message}");
        counter.write(GenerationId(7)).unwrap();
        assert_eq!(counter.read().unwrap(), GenerationId(7));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
