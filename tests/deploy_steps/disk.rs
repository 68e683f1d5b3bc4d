//! A disk that is small enough to be filled.

use crate::world::process;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{File, create_dir, remove_dir_all};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// More than what a deploy leaves free for others.
const SIZE: &str = "size=80m,nr_inodes=500";

/// Mounted in the namespace of the thread; dropped, it is unmounted.
pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(at: &Path) -> Self {
        mount(&["--make-rprivate", "/"]);
        std::fs::create_dir_all(at).unwrap();
        mount(&["-t", "tmpfs", "-o", SIZE, "small", at.to_str().unwrap()]);
        Self(at.to_owned())
    }

    /// Not a byte and not a file more.
    pub fn fill(&self) {
        let full = self.0.join("full");
        create_dir(&full).unwrap();
        let room = statvfs(&self.0).unwrap();
        let bytes = File::create(full.join("bytes")).unwrap();
        let length = room.f_bavail * room.f_frsize;
        fallocate(&bytes, FallocateFlags::empty(), 0, length).unwrap();
        let mut files = 0..room.f_favail;
        let is_full = files.any(|file| File::create(full.join(file.to_string())).is_err());
        let left = statvfs(&self.0).unwrap();
        assert!(
            is_full || left.f_favail == 0,
            "{} files are free",
            left.f_favail
        );
        assert_eq!(left.f_bavail, 0);
    }

    pub fn free(&self) {
        remove_dir_all(self.0.join("full")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(&self.0);
        drop(umount.status());
    }
}

fn mount(arguments: &[&str]) {
    let mut mount = Command::new("mount");
    mount.args(arguments);
    process::run(mount, Duration::from_secs(10)).expect_success();
}
