//! What is known of a release beside its files: where it came from, and what became of it.

use super::id::ReleaseId;
use serde::{Deserialize, Serialize};

/// `releases/ID.json`. Beside the files and not among them: those stay what was deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name of the directory beside it.
    pub id: ReleaseId,
    /// `sha256:…` over paths, modes and contents.
    pub digest: String,
    /// Unix time at which it was staged.
    pub staged_unix_seconds: u64,
    /// Who ran the command.
    pub by: String,
    /// What was given: a path, or `-`.
    pub from: String,
    /// `directory`, `tar`, `tar.gz`, `tar.zst`, `jar`, `program`.
    pub kind: String,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What to run, where it was given with the deploy or found by looking; none: the configuration
    /// says it.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// How it was found: `Procfile`, `a jar`, `the command line`.
    #[serde(default)]
    pub detected: Option<String>,
    /// What became of it.
    pub state: State,
}

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody knows yet: it was never decided whether it becomes live.
    Staged,
    /// It was live, first at this unix time.
    Healthy(u64),
    /// It never was live: why.
    Failed(String),
}

impl State {
    /// For tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Healthy(_) => "healthy",
            Self::Failed(_) => "failed",
        }
    }
}
