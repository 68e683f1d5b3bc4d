//! Ring 2: what an app keeps comes back to the next worker in its place.

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
use serde::Deserialize;
use world::service::{SOON, Service};
use world::{eventually, process, repository, skip};

/// What the app answers; see tests/apps/keeps.py.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Kept {
    count: u64,
    door: u16,
    note: u64,
    pid: u32,
}

/// What happens to the worker of this pid.
type Event = fn(&mut Service, u32);

fn start(workers: u32) -> Service {
    let keys = format!("workers = {workers}");
    start_app("python3", "tests/apps/keeps.py", &keys)
}

fn start_app(program: &str, script: &str, keys: &str) -> Service {
    let script = repository(script);
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.configure(&format!(
        "[app]\ncommand = [\"{program}\", \"{}\"]\nsettle = \"100ms\"\n{keys}\n",
        script.display()
    ));
    service.start();
    service.wait_ready();
    service
}

fn ask(service: &Service, path: &str) -> Kept {
    serde_json::from_str(&service.get(path).expect_ok()).unwrap()
}

#[test]
fn memory_a_listening_socket_and_a_directory_outlive_everything_but_a_stop() {
    let mut service = start(1);
    let mut before = ask(&service, "/");
    assert_eq!((before.count, before.note), (1, 1));
    let events: [(&str, bool, Event); 7] = [
        ("respawn", true, |_, pid| {
            assert!(process::end(pid, Signal::KILL));
        }),
        ("reload", true, |service, _| {
            drop(service.reload().expect_success());
        }),
        ("upgrade", false, |service, _| {
            service.cli(&["upgrade"]).expect_success();
        }),
        ("respawn after an upgrade", true, |_, pid| {
            assert!(process::end(pid, Signal::KILL));
        }),
        ("restart", true, |service, _| service.restart()),
        ("keeper killed", false, |service, _| service.kill_keeper()),
        ("both killed", true, |service, pid| {
            service.signal(Signal::KILL);
            service.wait_end(SOON);
            process::end(pid, Signal::KILL);
            service.start();
            service.wait_ready();
        }),
    ];
    for (event, is_another, happen) in events {
        happen(&mut service, before.pid);
        let after = eventually(event, SOON, || {
            let after = ask(&service, "/");
            (is_another == (after.pid != before.pid)).then_some(after)
        });
        assert!(after.count > before.count, "{event}: {before:?}, {after:?}");
        assert_eq!(after.count, after.note, "{event}");
        assert_eq!(after.door, before.door, "{event}");
        before = after;
    }
    let worker = &service.status().generations[0].workers[0];
    assert_eq!(worker.kept, ["counter", "door"]);
    let shown = service.cli(&["status"]).output();
    assert!(shown.contains(" w0 keeps: counter, door"), "{shown}");
    let stored = |service: &Service| service.heard(|heard| heard.stored().join(" "));
    assert!(stored(&service).contains("gapless-app-g1-0-1-p-counter"));
    assert!(service.stop(SOON).success());
    assert!(
        !stored(&service).contains("gapless-app"),
        "{}",
        stored(&service)
    );
    service.start();
    service.wait_ready();
    let anew = ask(&service, "/");
    assert_eq!((anew.count, anew.note), (1, 1));
}

#[test]
fn what_is_removed_or_too_much_does_not_come_back() {
    let mut service = start(1);
    let first = ask(&service, "/forget");
    service.reload().expect_success();
    let second = ask(&service, "/overfill");
    assert_eq!((second.count, second.door), (1, first.door));
    eventually("the limit is told", SOON, || {
        let journal = service.journal();
        journal
            .contains("it keeps 64 fds already; remove some with FDSTOREREMOVE=1")
            .then_some(())
    });
    service.restart();
    assert_eq!(ask(&service, "/").door, first.door);
    assert_eq!(service.status().generations[0].workers[0].kept.len(), 64);
    let journal = service.journal();
    assert_eq!(
        journal.matches("it keeps 64 fds already").count(),
        5,
        "the rest is only counted"
    );
}

#[test]
fn a_generation_that_fails_takes_nothing_from_the_live_one() {
    let mut service = start(1);
    let first = ask(&service, "/");
    let fail = service.runtime_directory().join("app/fail");
    std::fs::write(&fail, "").unwrap();
    let failed = service.reload();
    assert_eq!(failed.code(), 6, "{}", failed.output());
    std::fs::remove_file(&fail).unwrap();
    // Its own end is its last word, which is heard before it is gone.
    let kept = |service: &Service| service.status().generations[0].workers[0].kept.clone();
    assert_eq!(kept(&service), ["counter", "door"]);
    service.kill_keeper();
    service.reload().expect_success();
    let second = ask(&service, "/");
    assert_eq!((second.count, second.door), (2, first.door));
    assert_eq!(kept(&service), ["counter", "door"]);
}

#[test]
fn each_worker_gets_its_own() {
    let service = start(2);
    let doors = |service: &Service| -> std::collections::BTreeSet<u16> {
        (0..20).map(|_| ask(service, "/").door).collect()
    };
    let before = doors(&service);
    assert_eq!(before.len(), 2);
    service.reload().expect_success();
    assert_eq!(doors(&service), before);
}

#[test]
fn the_examples_for_python_and_node_count_on() {
    for (program, script, keys) in [
        ("python3", "app.py", "watchdog = \"3s\""),
        ("node", "app.js", ""),
    ] {
        if std::process::Command::new(program)
            .arg("--version")
            .output()
            .is_err()
        {
            skip(&format!("{program} is not installed"));
            continue;
        }
        let mut service = start_app(program, &format!("examples/kept/{script}"), keys);
        let visit = |service: &Service| service.get("/").expect_ok();
        assert_eq!(visit(&service), "1\n", "{script}");
        service.reload().expect_success();
        assert_eq!(visit(&service), "2\n", "{script}");
        let worker = |service: &Service| service.status().generations[0].workers[0].pid;
        let killed = eventually("one generation is left", SOON, || {
            (service.status().generations.len() == 1).then(|| worker(&service))?
        });
        assert!(process::end(killed, Signal::KILL));
        assert_eq!(visit(&service), "3\n", "{script}");
        service.restart();
        assert_eq!(visit(&service), "4\n", "{script}");
        service.kill_keeper();
        assert_eq!(visit(&service), "5\n", "{script}");
        if !keys.is_empty() {
            outlives_its_watchdog(&service);
        }
        assert!(service.stop(SOON).success());
        service.start();
        service.wait_ready();
        assert_eq!(visit(&service), "1\n", "{script}");
    }
}

/// Whoever is not heard for three seconds is replaced.
fn outlives_its_watchdog(service: &Service) {
    eventually("it is older than that", SOON, || {
        let age = service.status().generations[0].workers[0].age_seconds;
        (age > 3).then_some(())
    });
    let scrape = service.scrape();
    scrape.expect("worker_respawns_total", &[("reason", "watchdog")], 0.0);
}
