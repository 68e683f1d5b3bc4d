//! What is deployed: staged, or refused with what is wrong; and nothing outside of its directory.

#![no_main]

use gapless::release::staging::{Limits, stage_stream};
use std::path::Path;

const LIMITS: Limits = Limits {
    bytes_max: 1 << 20,
    entries_max: 100,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let world = std::env::temp_dir().join(format!("gapless-fuzz-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&world));
    let to = world.join("release");
    if std::fs::create_dir_all(&to).is_err() {
        return;
    }
    if let Err(error) = stage_stream(bytes, &to, None, LIMITS) {
        assert!(!error.to_string().is_empty());
    }
    let outside = std::fs::read_dir(&world).into_iter().flatten().flatten();
    assert!(
        outside
            .map(|entry| entry.path())
            .all(|path| path == Path::new(&to))
    );
});
