//! Ring 2: an app made with the library half of the crate, `gapless::app`; examples/counter.rs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use rustix::process::Signal;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use world::service::{SOON, Service};
use world::{eventually, process, tool};

fn start() -> Service {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.configure(&format!(
        "[app]\ncommand = [\"{}\"]\nsettle = \"100ms\"\nwatchdog = \"10s\"\n\
         env = {{ EVERY_MS = \"20\" }}\n",
        tool("counter").display()
    ));
    service.start();
    service.wait_ready();
    service
}

fn visit(address: &str) -> u64 {
    let answer = world::service::get(address, "/").expect_ok();
    answer.trim().parse().unwrap()
}

fn worker(service: &Service) -> u32 {
    let status = service.status();
    let live = status.generations.iter().find(|it| it.state == "live");
    live.unwrap().workers[0].pid.unwrap()
}

/// Visits while `happen` happens: none is counted twice, none is forgotten.
fn visits_beside(address: &str, from: u64, happen: impl FnOnce()) -> u64 {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let mut last = from;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(visit(address), last + 1);
                last += 1;
            }
            last
        });
        happen();
        is_over.store(true, Ordering::Relaxed);
        visitor.join().unwrap()
    })
}

#[test]
fn a_counter_survives_ten_reloads_a_killed_app_and_restarts_and_timers_and_hooks_end_in_order() {
    let mut service = start();
    let address = service.address();
    let mut pids = BTreeSet::from([worker(&service)]);
    let mut count = visits_beside(&address, 0, || {
        for _ in 0..10 {
            service.reload().expect_success();
            pids.insert(worker(&service));
        }
    });
    assert_eq!(pids.len(), 11);
    assert!(count >= 10, "{count}");
    let killed = worker(&service);
    assert!(process::end(killed, Signal::KILL));
    count += 1;
    assert_eq!(visit(&address), count);
    service.control("POST", "/release").expect_ok();
    service.signal(Signal::TERM);
    assert!(service.wait_end(SOON).success());
    service.start();
    service.wait_ready();
    count += 1;
    assert_eq!(visit(&address), count);
    service.kill_keeper();
    count += 1;
    assert_eq!(visit(&address), count);
    let last = eventually("the restart is over", SOON, || {
        let status = service.status();
        (status.generations.len() == 1).then(|| worker(&service))
    });
    assert!(service.stop(SOON).success());
    pids.insert(last);
    let journal = service.journal();
    for pid in pids {
        let name = format!("{pid}:");
        let is_its = |line: &&str| line.split_whitespace().any(|word| word == name);
        let lines: Vec<&str> = journal.lines().filter(is_its).collect();
        let is_end = |line: &&str| line.contains("ends after");
        let ends = lines.iter().copied().filter(|line| is_end(line)).count();
        assert_eq!(ends, usize::from(pid != killed), "{pid}: {lines:#?}");
        assert!(
            lines.iter().any(|line| line.contains("so far")),
            "{pid}: {lines:#?}"
        );
        if pid != killed {
            assert!(lines.last().is_some_and(is_end), "{pid}: {lines:#?}");
        }
    }
}
