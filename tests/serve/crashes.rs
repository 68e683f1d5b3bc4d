//! Workers, fronts and keepers that die.

use crate::world::service::{SOON, Service};
use crate::world::{alone, eventually, process, version};
use crate::{QUICK, front_pid, live_pids, the_version, times, wait_settled};
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn a_killed_worker_costs_only_what_it_was_answering() {
    let _alone = alone();
    let keys = format!("listen = \"fd\"\n{QUICK}");
    let service = Service::probe(&version("v1").with("LISTEN", "fd"), &keys, "");
    let load = service.load(&["--slow-ms", "300"]);
    for _ in 0..times(3, 15) {
        let pid = live_pids(&service.status())[0];
        process::end(pid, Signal::KILL);
        eventually("the worker is respawned", SOON, || {
            live_pids(&service.status())
                .iter()
                .any(|new| *new != pid)
                .then_some(())
        });
        load.run_for(Duration::from_secs(2));
    }
    let counted = load.finish();
    assert_eq!(counted.refused, 0, "{counted:#?}");
    counted.expect_nothing_closed();
    // Sent already: at most one of each client (two of a pair) for each death.
    assert!(
        counted.lost <= 64 * u64::try_from(times(3, 15)).unwrap(),
        "{counted:#?}"
    );
}

#[test]
fn a_killed_front_is_replaced_and_the_app_does_not_notice() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let (app, front) = (live_pids(&service.status()), front_pid(&service));
    process::end(front, Signal::KILL);
    let next = eventually("the next front serves", SOON, || {
        let status = service.status();
        status
            .fronts
            .iter()
            .find(|next| next.state == "serving" && next.pid != front)
            .cloned()
    });
    assert!(next.pid != front);
    assert_eq!(the_version(&service), "v1");
    assert_eq!(live_pids(&service.status()), app);
}

#[test]
fn a_killed_keeper_is_followed_by_one_that_adopts_and_nobody_notices() {
    let _alone = alone();
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let (app, front) = (live_pids(&service.status()), front_pid(&service));
    let load = service.load(&[]);
    for _ in 0..times(4, 12) {
        service.kill_keeper();
        load.run_for(Duration::from_millis(700));
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    counted.expect_no_stall_beyond(Duration::from_millis(500));
    assert_eq!(
        (live_pids(&service.status()), front_pid(&service)),
        (app, front)
    );
    service.behave(&version("v2"));
    service.reload().expect_success();
    assert_eq!(the_version(&service), "v2");
}

#[test]
fn the_app_can_write_when_its_keeper_is_gone() {
    let _alone = alone();
    let mut service = Service::probe(&version("v1").with("FLOOD", "200000"), QUICK, "");
    let app = live_pids(&service.status());
    service.kill_keeper();
    assert_eq!(live_pids(&service.status()), app);
    service.get("/").expect_ok();
}

#[test]
fn a_keeper_that_dies_while_a_generation_starts_leaves_no_process_behind() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    service.behave(&version("v2").with("HANG", "1"));
    service.signal(Signal::HUP);
    eventually("the new generation starts", SOON, || {
        (service.status().generations.len() == 2).then_some(())
    });
    service.behave(&version("v3"));
    service.kill_keeper();
    assert!(["v1", "v3"].contains(&the_version(&service).as_str()));
    service.reload().expect_success();
    wait_settled(&service);
    let probes = service
        .processes()
        .iter()
        .filter(|seen| seen.command.contains("probe-app"))
        .count();
    assert_eq!(probes, 1, "{:#?}", service.processes());
}

#[test]
fn a_watched_keeper_feeds_the_watchdog_in_time() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.watch(Duration::from_secs(1));
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    let fed = service.wait_for("WATCHDOG=1, five times", SOON, |heard| {
        let fed = heard
            .messages
            .iter()
            .filter(|message| message.get("WATCHDOG") == Some("1"));
        let at: Vec<_> = fed.map(|message| message.at).collect();
        (at.len() >= 5).then_some(at)
    });
    let longest = fed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < Duration::from_secs(1), "a pause of {longest:?}");
}
