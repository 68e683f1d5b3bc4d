//! The kept state, whatever became of it.

#![no_main]

use rustix::fs::{MemfdFlags, memfd_create};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = memfd_create("state", MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(rustix::io::pwrite(&file, bytes, 0).unwrap(), bytes.len());
    gapless::keeper::fuzzing::state(file);
});
