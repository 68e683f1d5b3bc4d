//! Ring 3: limits of a generation, in a virtual machine of their own: the memory controller of the
//! host may belong to cgroup v1, as nothing in a container can change.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use world::metrics::Scrape;
use world::{Scratch, gapless, process, repository, skip};

/// Emulated, and on a busy machine.
const TRIAL_WITHIN: Duration = Duration::from_mins(8);

/// What the machine needs and this host lacks.
fn missing() -> Option<&'static str> {
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

/// What the machine told, without the rest of its console.
fn trial() -> Vec<String> {
    let mut bases = Command::new(repository("tests/world/bases.sh"));
    bases.arg("trixie");
    let cache = process::run(bases, Duration::from_mins(10)).expect_success();
    let scratch = Scratch::new();
    // qemu has to go with the test, however that ends.
    let mut machine = Command::new("timeout");
    machine
        .arg(TRIAL_WITHIN.as_secs().to_string())
        .arg(repository("tests/limits/vm.sh"))
        .args([gapless(), PathBuf::from(cache.trim()), scratch.0.clone()]);
    let console = process::run(machine, TRIAL_WITHIN + Duration::from_secs(30)).output();
    let told = console.lines().filter_map(|line| {
        let (_, told) = line.split_once("TRIAL ")?;
        Some(told.trim_end().to_owned())
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told.last().map(String::as_str), Some("end"), "{console}");
    told
}

#[test]
fn an_app_that_leaks_is_ended_at_its_limit_and_named_and_nothing_else_is_touched() {
    if let Some(why) = missing() {
        return skip(why);
    }
    let told = trial();
    let expected = [
        "unlimited told: 1",
        "keeper /system.slice/gapless.service/keeper",
        "g2: memory.max 100663296 pids.max 30 cpu.max 300000 100000",
        "an answer: yes",
        "workers: 2 before, 1 of them kept, 2 after",
        "kept: keeper yes, front yes",
        "reloaded: 0, memory.max 100663296",
        "restarted: 0, memory.max 100663296",
        "survivors: memory.max 100663296 pids.max 30",
        "left: 0",
    ];
    for line in expected {
        assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
    }
    let value = |name: &str| told.iter().find_map(|line| line.strip_prefix(name));
    let metric = Scrape(value("metric: ").unwrap().to_owned());
    metric.expect("worker_respawns_total", &[("reason", "oom")], 1.0);
    assert!(value("status before: ").is_some_and(|it| it.contains("DelegateSubgroup=keeper")));
    assert_eq!(value("status after: "), Some("Serving g2"));
    assert!(value("named: ").is_some_and(|it| it.contains("was killed: out of memory")));
    let forked: u32 = value("forked: ").unwrap().parse().unwrap();
    assert!((1..30).contains(&forked), "{forked} beside the workers");
}
