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
    /// Why it was taken back while it was watched (`--bake`); none: it was not, or it was brought
    /// live again since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<String>,
}

impl Manifest {
    /// To be gone back to.
    pub fn is_good(&self) -> bool {
        matches!(self.state, State::Healthy(_)) && self.taken_back.is_none()
    }

    /// For tables.
    pub fn word(&self) -> &'static str {
        match &self.taken_back {
            Some(_) => "taken back",
            None => self.state.word(),
        }
    }
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
    fn word(&self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Healthy(_) => "healthy",
            Self::Failed(_) => "failed",
        }
    }
}
