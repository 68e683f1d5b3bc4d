//! What the fuzzer of archives calls; see tests/fuzz.

#![allow(clippy::expect_used, reason = "it finds by panicking")]

use super::staging::{Limits, stage_stream};

const LIMITS: Limits = Limits {
    bytes_max: 1 << 20,
    entries_max: 100,
};

/// What is deployed: staged, or refused with what is wrong; and nothing outside of its directory.
///
/// # Panics
/// When there is something; or no directory can be made to look.
pub fn archive(bytes: &[u8]) {
    let world = tempfile::tempdir().expect("a directory is made");
    let to = world.path().join("release");
    std::fs::create_dir(&to).expect("a directory is made");
    if let Err(error) = stage_stream(bytes, &to, None, LIMITS) {
        assert!(!error.to_string().is_empty(), "nothing is said");
    }
    let here = std::fs::read_dir(&world).expect("the directory is read");
    let here: Vec<_> = here.flatten().map(|entry| entry.path()).collect();
    assert_eq!(here, [to], "something is outside");
}

#[cfg(test)]
mod tests {
    use crate::replay::corpus;

    #[test]
    fn what_was_found_stays_found() {
        corpus("archive", super::archive);
    }
}
