//! What the fuzzers of notices and of the kept state call; see tests/fuzz.

use super::notice::{Notice, STATUS_CHARS_MAX, parse};
use crate::state::StateFile;
use std::os::fd::OwnedFd;

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
/// When it is not.
pub fn state(file: OwnedFd) {
    let file = StateFile::from_fd(file);
    drop(file.load::<serde_json::Value>());
    let next = serde_json::json!({ "next": 1 });
    if file.save(&next).is_ok() {
        let loaded = file.load::<serde_json::Value>();
        assert_eq!(loaded.ok().flatten(), Some(next), "not what was saved");
    }
}
