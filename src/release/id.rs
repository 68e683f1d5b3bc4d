//! The name of a release: of its directory, for `gapless rollback`, in GAPLESS_RELEASE.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// `20261121-2`, or what `--release` says: letters, digits, `_`, `.` and `-`, at most 64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(String);

/// Not a name of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "use up to 64 letters, digits, _, . and -, begin with a letter or a digit, and do not end in \
     .json"
)]
pub struct ReleaseIdError;

impl ReleaseId {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The next one of a day (`20261121`), after those that are there.
    pub fn next<'a>(day: &str, taken: impl Iterator<Item = &'a Self>) -> Self {
        let number =
            |id: &Self| -> Option<u64> { id.0.strip_prefix(day)?.strip_prefix('-')?.parse().ok() };
        let last = taken.filter_map(number).max().unwrap_or(0);
        Self(format!("{day}-{}", last.saturating_add(1)))
    }
}

impl FromStr for ReleaseId {
    type Err = ReleaseIdError;

    fn from_str(id: &str) -> Result<Self, ReleaseIdError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric());
        // The manifest lies beside the directory, under this name.
        let is_manifest = id.to_ascii_lowercase().ends_with(".json");
        if begins_well && id.len() <= 64 && id.chars().all(is_allowed) && !is_manifest {
            Ok(Self(id.to_owned()))
        } else {
            Err(ReleaseIdError)
        }
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = ReleaseIdError;

    fn try_from(id: String) -> Result<Self, ReleaseIdError> {
        id.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        id.0
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ReleaseId {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_cannot_leave_the_store_or_hide_a_manifest() {
        for wrong in ["", "..", ".x", "-x", "a/b", "a b", "x.json", "X.JSON"] {
            assert_eq!(wrong.parse::<ReleaseId>(), Err(ReleaseIdError), "{wrong}");
        }
        assert_eq!("x".repeat(65).parse::<ReleaseId>(), Err(ReleaseIdError));
        assert_eq!(id("v1.2-rc_3").as_str(), "v1.2-rc_3");
    }

    #[test]
    fn the_next_one_counts_on_from_the_highest_of_its_day() {
        let taken = ["20261121-2", "20261121-10", "20261120-77", "20261121-x"].map(id);
        assert_eq!(ReleaseId::next("20261121", taken.iter()), id("20261121-11"));
        assert_eq!(ReleaseId::next("20261122", taken.iter()), id("20261122-1"));
    }
}
