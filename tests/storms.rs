//! Ring 2: the keeper under storms, crash loops and damage.

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

#[path = "storms/crash_loop.rs"]
mod crash_loop;
#[path = "storms/messages.rs"]
mod messages;
#[path = "storms/overlaps.rs"]
mod overlaps;
mod world;

use gapless::api::Status;
use rustix::process::Signal;
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use world::load::Load;
use world::service::{SOON, Service};
use world::{alone, eventually, process, version};

const QUICK: &str = "settle = \"100ms\"";

fn the_version(service: &Service) -> String {
    let reply = service.get("/");
    reply.header("x-app-version").unwrap_or("none").to_owned()
}

fn live_pid(service: &Service) -> Option<u32> {
    let status = service.status();
    let live = status.generations.iter().find(|it| it.state == "live")?;
    live.workers[0].pid
}

/// Of the worker that answers; asked through the front, so the keeper may be stopped.
fn the_pid(service: &Service) -> String {
    let reply = service.get("/");
    reply.header("x-app-pid").unwrap_or("none").to_owned()
}

/// At most one on its way, one live, two draining: whatever happens.
fn expect_bounded(status: &Status) {
    let count = |states: &[&str]| {
        let generations = status.generations.iter();
        generations
            .filter(|it| states.contains(&it.state.as_str()))
            .count()
    };
    let coming = count(&["waiting", "starting", "settling", "settled"]);
    let (live, draining) = (count(&["live"]), count(&["draining"]));
    assert!(coming <= 1 && live <= 1 && draining <= 2, "{status:#?}");
}

/// Only the newest is left: keeper, front, worker.
fn expect_newest_alone(service: &Service, newest: &str) {
    eventually(
        "the newest version is live, and alone",
        Duration::from_mins(1),
        || {
            let status = service.status();
            let is_alone = status.generations.len() == 1 && status.generations[0].state == "live";
            (is_alone && the_version(service) == newest).then_some(())
        },
    );
    assert_eq!(service.processes().len(), 3, "{:#?}", service.processes());
}

fn storm(service: &Service, load: &Load, signals: u32, pause: Duration, boot_ms: &str) {
    for number in 1..=signals {
        let next = version(&format!("v{number}")).with("BOOT_MS", boot_ms);
        service.behave(&next);
        service.signal(Signal::HUP);
        load.run_for(pause);
        expect_bounded(&service.status());
    }
}

#[test]
fn fifty_reloads_in_a_second_end_with_the_newest_and_lose_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v0"), QUICK, "");
    let load = service.load(&["--idle", "50"]);
    storm(&service, &load, 50, Duration::from_millis(15), "300");
    expect_newest_alone(&service, "v50");
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

#[test]
fn reloads_faster_than_the_app_boots_end_with_the_newest_and_lose_nothing() {
    let service = Service::probe(&version("v0"), QUICK, "");
    let load = service.load(&["--idle", "50"]);
    // Half a minute.
    let signals = 150;
    storm(&service, &load, signals, Duration::from_millis(200), "2000");
    expect_newest_alone(&service, &format!("v{signals}"));
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

#[test]
fn a_crash_loop_backs_off_refuses_at_once_and_heals_by_itself() {
    let _alone = alone();
    let budget = "[restart]\nburst = 3\ninterval = \"60s\"\ndelay_max = \"1s\"";
    let service = Service::probe(&version("good"), QUICK, budget);
    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    process::end(live_pid(&service).unwrap(), Signal::KILL);
    eventually("requests are refused", SOON, || {
        (service.get("/").status == 503).then_some(())
    });
    // The front refuses as soon as it is told; systemd is told next.
    eventually("systemd is told", SOON, || {
        service.said()?.contains("503").then_some(())
    });
    let began = Instant::now();
    let refusal = service.get("/");
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert!(!service.status().healthy);
    service.behave(&version("healed"));
    eventually("it heals by itself", SOON, || {
        (the_version(&service) == "healed").then_some(())
    });
}

#[test]
fn a_crash_loop_is_healed_by_one_reload() {
    let service = Service::probe(
        &version("good"),
        QUICK,
        "[restart]\nburst = 1\ninterval = \"60s\"",
    );
    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    process::end(live_pid(&service).unwrap(), Signal::KILL);
    eventually("requests are refused", SOON, || {
        (service.get("/").status == 503).then_some(())
    });
    service.behave(&version("new"));
    service.reload().expect_success();
    expect_newest_alone(&service, "new");
}

#[test]
fn respawns_and_new_fronts_leave_nothing_in_the_fd_store() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let sorted = |service: &Service| {
        let mut names: Vec<_> = service.heard(world::service::Heard::stored);
        names.retain(|name| !name.contains("-f"));
        names.sort();
        names
    };
    let (before, size) = (
        sorted(&service),
        service.heard(|heard| heard.stored().len()),
    );
    for _ in 0..8 {
        let old = live_pid(&service).unwrap();
        process::end(old, Signal::KILL);
        eventually("the next worker answers", SOON, || {
            let is_next = live_pid(&service).is_some_and(|pid| pid != old);
            (is_next && service.get("/").status == 200).then_some(())
        });
        let front = service.status().fronts[0].pid;
        process::end(front, Signal::KILL);
        eventually("the next front serves", SOON, || {
            let fronts = service.status().fronts;
            let next = fronts
                .iter()
                .any(|it| it.pid != front && it.state == "serving");
            next.then_some(())
        });
    }
    eventually("the store is as it was", SOON, || {
        let now = service.heard(|heard| heard.stored().len());
        (sorted(&service) == before && now == size).then_some(())
    });
}

/// The next keeper cannot know what ran, so it ends it and begins anew; it never fails to start.
fn expect_a_clean_start(mut service: Service) {
    let old = the_pid(&service);
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    service.start();
    service.wait_ready();
    expect_newest_alone(&service, "v1");
    assert_ne!(the_pid(&service), old);
}

#[test]
fn a_state_of_garbage_is_no_reason_not_to_start() {
    let service = Service::probe(&version("v1"), QUICK, "");
    // A keeper that goes on would write a good one over it.
    service.signal(Signal::STOP);
    let mut state = std::fs::File::from(service.stored_fd("gapless-state"));
    let length = usize::try_from(state.metadata().unwrap().len()).unwrap();
    state.seek(SeekFrom::Start(0)).unwrap();
    state.write_all(&vec![0xA5; length]).unwrap();
    expect_a_clean_start(service);
}

#[test]
fn a_truncated_state_is_no_reason_not_to_start() {
    let service = Service::probe(&version("v1"), QUICK, "");
    service.signal(Signal::STOP);
    std::fs::File::from(service.stored_fd("gapless-state"))
        .set_len(7)
        .unwrap();
    expect_a_clean_start(service);
}

#[test]
fn a_lost_state_is_no_reason_not_to_start() {
    let service = Service::probe(&version("v1"), QUICK, "");
    service.lose("gapless-state");
    expect_a_clean_start(service);
}

#[test]
fn a_worker_of_which_a_thing_is_lost_is_ended_and_replaced() {
    for thing in ["pidfd", "notify", "output"] {
        let mut service = Service::probe(&version("v1"), QUICK, "");
        service.lose(&format!("gapless-g1-w0-{thing}"));
        service.kill_keeper();
        eventually("one worker answers", SOON, || {
            let is_whole = service.processes().len() == 3;
            (is_whole && the_version(&service) == "v1").then_some(())
        });
    }
}

/// A keeper that dies while it has them kept leaves one of them, which is of no use.
#[test]
fn a_front_of_which_half_of_its_bequest_is_lost_leaves_nothing_in_the_fd_store() {
    for lost in ["gapless-f1-estate", "gapless-f1-slots"] {
        let mut service = Service::probe(&version("v1"), QUICK, "");
        let front = service.status().fronts[0].pid;
        service.lose(lost);
        service.kill_keeper();
        assert_eq!(service.status().fronts[0].pid, front, "it is adopted");
        process::end(front, Signal::KILL);
        eventually("another front serves, and nothing is left", SOON, || {
            let stored = service.heard(world::service::Heard::stored);
            let is_clean = !stored.iter().any(|name| name.starts_with("gapless-f1-"));
            (is_clean && the_version(&service) == "v1").then_some(())
        });
    }
}

#[test]
fn a_front_of_which_the_link_is_lost_is_ended_and_replaced() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let old = service.status().fronts[0].pid;
    service.lose("gapless-f1-link");
    service.kill_keeper();
    eventually("another front serves alone", SOON, || {
        let fronts = service.status().fronts;
        let is_next = fronts.len() == 1 && fronts[0].pid != old;
        (is_next && service.processes().len() == 3 && the_version(&service) == "v1").then_some(())
    });
}
