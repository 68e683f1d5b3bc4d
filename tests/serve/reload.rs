//! Reloads that succeed.

use crate::world::service::{SOON, Service};
use crate::world::{alone, eventually, version};
use crate::{QUICK, the_version, times};
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn reloads_under_load_lose_nothing_and_close_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v0"), QUICK, "");
    let load = service.load(&[]);
    let reloads = times(10, 100);
    for number in 1..=reloads {
        service.behave(&version(&format!("v{number}")));
        service.reload().expect_success();
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(counted.versions.len(), reloads + 1, "{counted:#?}");
}

#[test]
fn a_reload_with_the_defaults_loses_nothing_and_closes_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), "", "");
    let load = service.load(&["--idle", "50"]);
    service.behave(&version("v2").with("BOOT_MS", "500"));
    let took = service.reload();
    assert!(
        took.took >= Duration::from_millis(1500),
        "booted and settled in {took}"
    );
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(the_version(&service), "v2");
}

#[test]
fn a_reload_by_sighup_says_reloading_and_then_ready() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let before = service.heard_so_far();
    service.behave(&version("v2"));
    service.signal(Signal::HUP);
    service.wait_for("RELOADING=1 and then READY=1", SOON, |heard| {
        let new = &heard.messages[before..];
        let began = new
            .iter()
            .position(|message| message.get("RELOADING") == Some("1"))?;
        new[began].get("MONOTONIC_USEC")?.parse::<u64>().ok()?;
        new[began..]
            .iter()
            .any(|message| message.get("READY") == Some("1"))
            .then_some(())
    });
    assert_eq!(the_version(&service), "v2");
}

#[test]
fn the_newest_reload_wins() {
    let service = Service::probe(&version("v1"), QUICK, "");
    service.behave(&version("v2").with("HANG", "1"));
    service.signal(Signal::HUP);
    eventually("the hanging generation starts", SOON, || {
        (service.status().generations.len() == 2).then_some(())
    });
    service.behave(&version("v3"));
    service.reload().expect_success();
    assert_eq!(the_version(&service), "v3");
}

#[test]
fn an_app_that_insists_on_its_port_is_reloaded_while_requests_wait() {
    let _alone = alone();
    // The only way to know a free port is to have had it.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let keys = format!("listen = \"port:{port}\"\n{QUICK}");
    let service = Service::probe(&version("v1").with("LISTEN", "port"), &keys, "");
    let load = service.load(&["--idle", "20", "--clients", "16"]);
    service.behave(&version("v2").with("LISTEN", "port").with("BOOT_MS", "300"));
    service.reload().expect_success();
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(the_version(&service), "v2");
}
