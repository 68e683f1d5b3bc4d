//! Ring 2: workers, fronts and lanes that hang are replaced, and nobody is refused.

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
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use world::cgroup::freeze_thread;
use world::service::{Message, SOON, Service, get_unix};
use world::{Behaviour, eventually, is_long, process, skip, version};

const QUICK: &str = "settle = \"100ms\"";

/// A worker that says WATCHDOG=1 until it is stopped from it.
fn watched(name: &str) -> Behaviour {
    version(name).with("WATCHDOG_MS", "3600000")
}

/// What can be sent again when the worker that has it is ended: the rest is lost by a frozen app.
const REPEATABLE: [&str; 6] = [
    "--kinds",
    "get,new,pipelined",
    "--clients",
    "16",
    "--idle",
    "16",
];

fn workers(service: &Service) -> Vec<(u32, String)> {
    let status = service.status();
    let live = status.generations.iter().find(|it| it.state == "live");
    let workers = live.map(|live| live.workers.as_slice()).unwrap_or_default();
    let seen = workers
        .iter()
        .filter_map(|worker| Some((worker.pid?, worker.state.clone())));
    seen.collect()
}

fn pids(service: &Service) -> Vec<u32> {
    workers(service).into_iter().map(|(pid, _)| pid).collect()
}

/// Until `count` workers are ready, and `hung` serves no more; how long that took.
fn wait_replaced(service: &Service, hung: u32, count: usize) -> Duration {
    let began = Instant::now();
    eventually("its substitute serves", SOON, || {
        let ready = workers(service)
            .into_iter()
            .filter(|(pid, state)| state == "ready" && *pid != hung);
        (ready.count() == count).then_some(())
    });
    began.elapsed()
}

fn wait_gone(service: &Service, hung: u32, count: usize) {
    eventually("the hung one is gone", SOON, || {
        let pids = pids(service);
        (pids.len() == count && !pids.contains(&hung)).then_some(())
    });
    assert!(process::see(hung).is_none());
}

#[test]
fn a_frozen_app_is_replaced_within_twice_its_watchdog_and_nobody_is_refused() {
    let all = [(2, "auto"), (1, "fd"), (1, "port"), (1, "unix")];
    for (count, listen) in all.into_iter().take(if is_long() { 4 } else { 2 }) {
        let keys = format!("watchdog = \"2s\"\nworkers = {count}\nlisten = \"{listen}\"");
        let service = Service::probe(&watched("v1").with("LISTEN", listen), &keys, "");
        let load = service.load(&REPEATABLE);
        let hung = pids(&service)[0];
        assert!(process::signal(hung, Signal::STOP));
        let took = wait_replaced(&service, hung, count);
        assert!(took < Duration::from_secs(4), "{listen}: after {took:?}");
        wait_gone(&service, hung, count);
        load.finish().expect_nothing_lost().expect_nothing_closed();
        let journal = service.journal();
        assert!(journal.contains("no WATCHDOG=1 in time"), "{journal}");
    }
}

#[test]
fn an_app_whose_event_loop_blocks_is_replaced_and_nobody_is_refused() {
    let service = Service::probe(&watched("v1"), "watchdog = \"2s\"", "");
    let hung = pids(&service)[0];
    let load = service.load(&REPEATABLE);
    // Not one that is sent again: it would block the next worker, too.
    let mut blocking = TcpStream::connect(service.address()).unwrap();
    let request = "POST /block?ms=600000 HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n";
    blocking.write_all(request.as_bytes()).unwrap();
    let took = wait_replaced(&service, hung, 1);
    assert!(took < Duration::from_secs(4), "after {took:?}");
    wait_gone(&service, hung, 1);
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

const HEALTH: &str = "[health]\npath = \"/health\"\nevery = \"1s\"\ntimeout = \"500ms\"\nfails = 2";

#[test]
fn a_worker_that_fails_its_health_check_serves_until_its_substitute_is_ready() {
    let service = Service::probe(&version("v1"), QUICK, HEALTH);
    let sick = pids(&service)[0];
    let load = service.load(&["--idle", "16", "--clients", "16"]);
    service.get("/sicken").expect_ok();
    let took = wait_replaced(&service, sick, 1);
    assert!(took < Duration::from_secs(4), "after {took:?}");
    wait_gone(&service, sick, 1);
    load.finish().expect_nothing_lost().expect_nothing_closed();
    let journal = service.journal();
    let why = "failed 2 health checks in a row, replacing it: GET /health";
    assert!(journal.contains(why), "{journal}");
    let metrics = service.metrics();
    let respawns = metrics
        .lines()
        .filter(|line| line.contains("worker_respawns_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert_eq!(respawns.sum::<u64>(), 1, "{metrics}");
}

#[test]
fn a_frozen_app_that_is_asked_for_its_health_is_replaced_and_nobody_is_refused() {
    let service = Service::probe(&version("v1"), "workers = 2", HEALTH);
    let hung = pids(&service)[1];
    let load = service.load(&REPEATABLE);
    assert!(process::signal(hung, Signal::STOP));
    let took = wait_replaced(&service, hung, 2);
    assert!(took < Duration::from_secs(4), "after {took:?}");
    wait_gone(&service, hung, 2);
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

#[test]
fn a_health_check_that_fails_for_all_ends_no_worker_until_one_is_better() {
    let keys = format!("workers = 2\nboot = \"1s\"\n{QUICK}");
    let service = Service::probe(&version("v1"), &keys, HEALTH);
    let old = pids(&service);
    let load = service.load(&["--idle", "16", "--clients", "16"]);
    // The database is down: also the substitutes do not become healthy.
    service.behave(&version("v1").with("HEALTH_STATUS", "500"));
    sicken(&service, &old);
    eventually("a substitute failed twice", SOON, || {
        let killed = service.journal().matches("was killed by SIGKILL").count();
        (killed >= 2).then_some(())
    });
    let now = pids(&service);
    assert!(
        old.iter().all(|pid| now.contains(pid)),
        "{old:?}, then {now:?}"
    );
    assert!(now.len() <= 3, "one substitute at a time: {now:?}");
    service.behave(&version("v1"));
    eventually("all are replaced", SOON, || {
        let now = pids(&service);
        (now.len() == 2 && !old.iter().any(|pid| now.contains(pid))).then_some(())
    });
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

/// Each of the workers, whichever answers first.
fn sicken(service: &Service, pids: &[u32]) {
    let mut sick = BTreeSet::new();
    eventually("every worker is sick", SOON, || {
        let reply = service.get("/sicken");
        sick.insert(reply.header("x-app-pid")?.parse::<u32>().ok()?);
        pids.iter().all(|pid| sick.contains(pid)).then_some(())
    });
}

#[test]
fn with_a_fixed_port_a_frozen_app_is_replaced_while_requests_wait() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let keys = format!("watchdog = \"1s\"\nlisten = \"port:{port}\"\n{QUICK}");
    let service = Service::probe(&watched("v1").with("LISTEN", "port"), &keys, "");
    let hung = pids(&service)[0];
    let load = service.load(&REPEATABLE);
    assert!(process::signal(hung, Signal::STOP));
    wait_replaced(&service, hung, 1);
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

#[test]
fn a_keeper_that_dies_while_a_substitute_boots_is_followed_by_one_that_goes_on() {
    let mut service = Service::probe(&watched("v1"), &format!("watchdog = \"1s\"\n{QUICK}"), "");
    let hung = pids(&service)[0];
    service.behave(&watched("v2").with("BOOT_MS", "2000"));
    assert!(process::signal(hung, Signal::STOP));
    eventually("its substitute boots", SOON, || {
        (workers(&service).len() == 2).then_some(())
    });
    service.kill_keeper();
    wait_replaced(&service, hung, 1);
    wait_gone(&service, hung, 1);
    assert_eq!(service.processes().len(), 3, "{:#?}", service.processes());
    // The next keeper watches on what it adopted.
    let adopted = pids(&service)[0];
    service.kill_keeper();
    assert!(process::signal(adopted, Signal::STOP));
    wait_replaced(&service, adopted, 1);
}

/// Also: what is left of the place of a hung worker is gone from the fd store.
#[test]
fn many_replacements_leave_nothing_in_the_fd_store() {
    let keys = format!("listen = \"fd\"\n{QUICK}");
    let service = Service::probe(&version("v1").with("LISTEN", "fd"), &keys, HEALTH);
    let stored = || service.heard(|heard| heard.stored().len());
    let before = stored();
    for _ in 0..2 {
        let sick = pids(&service)[0];
        service.get("/sicken").expect_ok();
        wait_replaced(&service, sick, 1);
        wait_gone(&service, sick, 1);
    }
    eventually("the store is as it was", SOON, || {
        (stored() == before).then_some(())
    });
}

// ---- lanes

/// systemd's watchdog ends the keeper after so long: before, the front is replaced.
const WATCHDOG: Duration = Duration::from_secs(6);

/// The name and pid of the front that serves, and no other is there.
fn the_front(service: &Service) -> (String, u32) {
    eventually("one front serves", SOON, || {
        let fronts = service.status().fronts;
        let is_alone = fronts.len() == 1 && fronts[0].state == "serving";
        is_alone.then(|| (fronts[0].id.to_string(), fronts[0].pid))
    })
}

fn under_a_watchdog(more: &str) -> Service {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.watch(WATCHDOG);
    service.behave(&version("v1"));
    service.configure_probe(QUICK, more);
    service.start();
    service.wait_ready();
    service
}

fn wait_for_another_front(service: &Service, hung: u32) {
    eventually("another front serves", SOON, || {
        (the_front(service).1 != hung).then_some(())
    });
    assert!(process::see(hung).is_none(), "{}", service.story());
}

/// From the start on, over all that happened, and twice more.
fn expect_the_watchdog_was_fed(service: &Service) {
    let is_feed = |message: &&Message| message.get("WATCHDOG") == Some("1");
    let since = Instant::now();
    let fed = service.wait_for("WATCHDOG=1, twice more", SOON, |heard| {
        let fed = heard.messages.iter().filter(is_feed);
        let at: Vec<_> = fed.map(|message| message.at).collect();
        (at.iter().filter(|at| **at > since).count() >= 2).then_some(at)
    });
    let longest = fed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < WATCHDOG, "a pause of {longest:?}");
}

#[test]
fn a_front_whose_lanes_hang_is_replaced_and_the_app_and_the_watchdog_go_on() {
    let service = under_a_watchdog("");
    let app = pids(&service);
    let (_, hung) = the_front(&service);
    // Every lane at once: a signal stops all threads of a process.
    assert!(process::signal(hung, Signal::STOP));
    wait_for_another_front(&service, hung);
    service.get("/").expect_ok();
    assert_eq!(pids(&service), app);
    expect_the_watchdog_was_fed(&service);
}

/// What its front has accepted is lost with it, by whichever lane; nobody is refused meanwhile.
#[test]
fn one_lane_that_hangs_has_its_front_replaced_and_the_app_and_the_watchdog_go_on() {
    let service = under_a_watchdog("[http]\nlanes = 2");
    let app = pids(&service);
    let (name, hung) = the_front(&service);
    let load = service.load(&["--kinds", "get,new", "--clients", "16", "--idle", "16"]);
    let frozen = match freeze_thread(hung, &name, "lane-1") {
        Ok(frozen) => frozen,
        Err(why) => return skip(&format!("no single thread can be frozen here: {why}")),
    };
    let began = Instant::now();
    // The front is not dead, and not all of it hangs.
    let other = service.runtime_directory().join(format!("{name}-lane0"));
    assert_eq!(get_unix(&other, "/").status, 204);
    wait_for_another_front(&service, hung);
    let took = began.elapsed();
    assert!(took < WATCHDOG, "after {took:?}");
    let journal = service.journal();
    let silent = format!("a lane of {name} did not answer its probe");
    assert!(journal.contains(&silent), "{journal}");
    let counted = load.finish();
    // Each client waits for one answer at a time, and the next front takes what it asks then.
    assert!(counted.lost <= 16 && counted.refused == 0, "{counted:#?}");
    let load = service.load(&["--clients", "16", "--idle", "16"]);
    expect_the_watchdog_was_fed(&service);
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(pids(&service), app);
    let group = frozen.parent().unwrap();
    eventually("its group is gone", SOON, || {
        (!group.exists()).then_some(())
    });
}
