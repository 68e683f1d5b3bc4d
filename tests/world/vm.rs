//! A virtual machine of its own, emulated: a real systemd 257 as the owner of a whole kernel, with all
//! limits and controllers that a container of this host may not have.

use super::{Scratch, gapless, process, repository};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the machine needs and this host lacks.
pub fn missing() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &str| std::env::split_paths(&path).any(|it| it.join(tool).is_file());
    if !rustix::process::geteuid().is_root() {
        return Some("the tree of the virtual machine is made by root");
    }
    if !cfg!(target_arch = "x86_64") {
        return Some("the virtual machine is of another architecture than this gapless");
    }
    let tools = ["qemu-system-x86_64", "mmdebstrap", "dpkg-deb", "python3"];
    (!tools.into_iter().all(is_there))
        .then_some("no virtual machine: apt-get install --no-install-recommends qemu-system-x86")
}

/// One that is not booted yet.
pub struct Machine {
    scratch: Scratch,
    mebibytes: u32,
}

impl Machine {
    pub fn new(mebibytes: u32) -> Self {
        let scratch = Scratch::new();
        Self { scratch, mebibytes }
    }

    /// A file of this host, there.
    pub fn put(&self, from: &Path, to: &str, mode: u32) {
        self.write(to, &std::fs::read(from).unwrap(), mode);
    }

    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) {
        let path = self
            .scratch
            .0
            .join("root")
            .join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Boots it and runs this file of the repository in it: the lines that it told, without the rest of
    /// the console.
    pub fn run(self, trial: &str, within: Duration) -> Vec<String> {
        self.put(&repository(trial), "/root/trial", 0o755);
        let mut bases = Command::new(repository("tests/world/bases.sh"));
        bases.arg("trixie");
        let cache = process::run(bases, Duration::from_mins(10)).expect_success();
        // qemu has to go with the test, however that ends.
        let mut machine = Command::new("timeout");
        machine
            .arg(within.as_secs().to_string())
            .arg(repository("tests/world/vm/boot.sh"))
            .args([
                gapless(),
                PathBuf::from(cache.trim()),
                self.scratch.0.clone(),
            ])
            .arg(self.mebibytes.to_string());
        let console = process::run(machine, within + Duration::from_secs(30)).output();
        let told = console.lines().filter_map(|line| {
            let (_, told) = line.split_once("TRIAL ")?;
            Some(told.trim_end().to_owned())
        });
        let told: Vec<String> = told.collect();
        assert_eq!(told.last().map(String::as_str), Some("end"), "{console}");
        told
    }
}
