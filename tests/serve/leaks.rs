//! Nothing leaks: into the app, or in time.

use crate::world::service::{Heard, SOON, Service};
use crate::world::{alone, eventually, skip, version};
use crate::{QUICK, front_pid, wait_settled};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a process holds: its fds by kind, its threads, its mappings.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    fds: BTreeMap<String, usize>,
    threads: usize,
    mappings: usize,
}

fn holdings(pid: u32) -> Holdings {
    let process = Path::new("/proc").join(pid.to_string());
    let mut fds = BTreeMap::new();
    for fd in std::fs::read_dir(process.join("fd")).unwrap().flatten() {
        let Ok(target) = std::fs::read_link(fd.path()) else {
            continue;
        };
        // `socket:[4711]` is a socket; which one changes.
        let kind = target
            .display()
            .to_string()
            .split('[')
            .next()
            .unwrap_or_default()
            .to_owned();
        *fds.entry(kind).or_default() += 1;
    }
    let threads = std::fs::read_dir(process.join("task")).unwrap().count();
    let maps = std::fs::read_to_string(process.join("maps")).unwrap();
    Holdings {
        fds,
        threads,
        mappings: maps.lines().count(),
    }
}

/// What it holds when that stays for half a second: questions of ours and of the keeper, to each lane
/// now and then, come and go.
fn steady_holdings(pid: u32) -> Holdings {
    let (mut last, mut since) = (holdings(pid), Instant::now());
    eventually("it holds the same for a while", SOON, || {
        let now = holdings(pid);
        if (&now.fds, now.threads) != (&last.fds, last.threads) {
            (last, since) = (now, Instant::now());
            return None;
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(now)
    })
}

/// What it holds when it holds what it held then, or after a while: a question of ours may still
/// be closing.
fn settled_holdings(pid: u32, then: &Holdings) -> Holdings {
    let end = Instant::now() + Duration::from_secs(3);
    eventually("three seconds are over", SOON, || {
        let now = holdings(pid);
        let is_same = (&now.fds, now.threads) == (&then.fds, then.threads);
        (is_same || Instant::now() > end).then_some(now)
    })
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_reloads_leave_keeper_and_front_as_they_were() {
    if !rustix::process::geteuid().is_root() {
        return skip("keeper and front hide their fds from others: needs root");
    }
    let _alone = alone();
    let service = Service::probe(&version("v0"), "settle = \"0s\"", "");
    let reload = |number: usize| {
        service.behave(&version(&format!("v{number}")));
        service.reload().expect_success();
    };
    // The first ones fill pools and caches.
    (0..10).for_each(reload);
    wait_settled(&service);
    let pids = [service.main_pid(), front_pid(&service)];
    let before = pids.map(|pid| (steady_holdings(pid), resident_kib(pid)));
    let stored = service.heard(Heard::stored);
    (10..210).for_each(reload);
    wait_settled(&service);
    assert_eq!([service.main_pid(), front_pid(&service)], pids);
    for (pid, (then, memory)) in pids.into_iter().zip(before) {
        let now = settled_holdings(pid, &then);
        assert_eq!(
            (&now.fds, now.threads),
            (&then.fds, then.threads),
            "process {pid}"
        );
        assert!(
            now.mappings <= then.mappings + 8,
            "mappings of {pid}: {then:?}, then {now:?}"
        );
        assert!(
            resident_kib(pid) < memory + 4096,
            "memory of {pid}: {memory} KiB, then {}",
            resident_kib(pid)
        );
    }
    let now = service.heard(Heard::stored);
    assert_eq!(
        now.len(),
        stored.len(),
        "the store: {stored:?}, then {now:?}"
    );
}

#[test]
fn the_app_inherits_nothing_but_what_it_is_given() {
    let keys = format!("listen = \"fd\"\n{QUICK}");
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.set("CREDENTIALS_DIRECTORY", "/run/credentials/gapless.service");
    service.behave(&version("v1").with("LISTEN", "fd"));
    service.configure_probe(&keys, "");
    service.start();
    service.wait_ready();
    let fds = service.get("/fds").expect_ok();
    let numbers: Vec<u32> = fds
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(numbers[..4], [0, 1, 2, 3], "{fds}");
    assert!(fds.starts_with("0 /dev/null"), "{fds}");
    // Beyond its given socket it has its own: epoll, eventfd, signal pipe, the connection.
    let foreign = fds
        .lines()
        .skip(4)
        .filter(|line| line.contains("memfd") || line.contains("pidfd"));
    assert_eq!(foreign.count(), 0, "{fds}");
    let environment = service.get("/env").expect_ok();
    // Its own, not that of the service.
    let directory = service.runtime_directory().join("app");
    let directory = format!("RUNTIME_DIRECTORY={}\n", directory.display());
    assert!(environment.contains(&directory), "{environment}");
    for ours in ["STATE_DIRECTORY=", "INVOCATION_ID=", "WATCHDOG_"] {
        assert!(!environment.contains(ours), "{ours} in {environment}");
    }
    assert!(
        environment.contains("CREDENTIALS_DIRECTORY=/run/credentials"),
        "{environment}"
    );
    assert!(!environment.contains(&service.scratch.0.join("notify").display().to_string()));
}
