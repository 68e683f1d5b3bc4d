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

use std::time::Duration;
use world::metrics::Scrape;
use world::vm::{self, Machine};
use world::{repository, skip};

/// Emulated, and on a busy machine.
const TRIAL_WITHIN: Duration = Duration::from_mins(8);
const MEBIBYTES: u32 = 2000;

fn trial() -> Vec<String> {
    let machine = Machine::new(MEBIBYTES);
    let app = repository("tests/limits/app.py");
    machine.put(&app, "/srv/leaky/app.py", 0o644);
    let config = repository("tests/limits/gapless.toml");
    machine.put(&config, "/etc/gapless/gapless.toml", 0o644);
    machine.run("tests/limits/trial.sh", TRIAL_WITHIN)
}

#[test]
fn an_app_that_leaks_is_ended_at_its_limit_and_named_and_nothing_else_is_touched() {
    if let Some(why) = vm::missing() {
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
