//! Inputs of the fuzzers as tests: tests/fuzz/corpus has what they found, and good ones.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it finds by panicking"
)]

use std::path::Path;

/// Gives every file of the corpus to its target, and half of each.
pub fn corpus(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = std::fs::read_dir(directory.join(target)).unwrap();
    let mut count = 0;
    for file in files {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        run(&bytes);
        run(&bytes[..bytes.len() / 2]);
        count += 1;
    }
    assert!(count > 1, "{count} files for {target}");
}
