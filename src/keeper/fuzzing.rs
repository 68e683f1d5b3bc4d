//! What the fuzzers of notices and of the kept state call; see tests/fuzz.

#![allow(clippy::expect_used, reason = "it finds by panicking")]

use super::notice::{Notice, STATUS_CHARS_MAX, parse};
use crate::state::StateFile;
use rustix::fs::{MemfdFlags, memfd_create};

/// A datagram of an app: whatever it says is bounded and harmless on a terminal.
///
/// # Panics
/// When it is not.
pub fn notice(datagram: &[u8]) {
    for notice in parse(datagram, Vec::new()).notices {
        if let Notice::Status(text) = notice {
            assert!(text.chars().count() <= STATUS_CHARS_MAX, "too long");
            assert!(!text.contains(char::is_control), "control character");
        }
    }
}

/// A state of any bytes: read or refused, and the next one that is saved is the one that is loaded.
///
/// # Panics
/// When it is not, or no memfd can be made.
pub fn state(bytes: &[u8]) {
    let file = memfd_create("state", MemfdFlags::CLOEXEC).expect("a memfd is made");
    let written = rustix::io::pwrite(&file, bytes, 0);
    assert_eq!(written, Ok(bytes.len()), "the memfd takes it");
    let file = StateFile::from_fd(file);
    drop(file.load::<serde_json::Value>());
    let next = serde_json::json!({ "next": 1 });
    if file.save(&next).is_ok() {
        let loaded = file.load::<serde_json::Value>();
        assert_eq!(loaded.ok().flatten(), Some(next), "not what was saved");
    }
}

#[cfg(test)]
mod tests {
    use crate::replay::corpus;

    #[test]
    fn what_was_found_stays_found() {
        corpus("notice", super::notice);
        corpus("state", super::state);
    }
}
