//! Healthy, degraded, failing: by what clients get.

use crate::world::service::{SOON, Service};
use crate::world::{eventually, process, version};
use crate::{QUICK, live_pids, the_version};
use gapless::api::AppState;
use rustix::process::Signal;

fn first_line(service: &Service) -> (i32, String) {
    let said = service.cli(&["status"]);
    let first = said.stdout.lines().next().unwrap_or_default();
    (said.code(), first.to_owned())
}

fn wait_state(service: &Service, state: AppState) {
    eventually("the state", SOON, || {
        (service.status().state == Some(state)).then_some(())
    });
}

#[test]
fn an_app_that_answers_only_errors_is_failing_until_the_next_version() {
    let service = Service::probe(&version("bad").with("STATUS", "500"), QUICK, "");
    wait_state(&service, AppState::Healthy);
    for _ in 0..5 {
        assert_eq!(service.get("/").status, 500);
    }
    wait_state(&service, AppState::Failing);
    let (code, line) = first_line(&service);
    assert_eq!(code, 1);
    assert!(line.starts_with("● gapless: failing — g1 live"), "{line}");
    let because = service.status().because.unwrap();
    assert_eq!(
        because,
        "all 5 answers of the last minute were errors (5xx)"
    );

    service.behave(&version("good"));
    service.reload().expect_success();
    assert_eq!(the_version(&service), "good");
    wait_state(&service, AppState::Healthy);
    assert_eq!(first_line(&service).0, 0);
}

#[test]
fn an_app_that_dies_again_and_again_is_degraded_though_it_is_ready_each_time() {
    let service = Service::probe(&version("v1"), QUICK, "[restart]\nburst = 100\n");
    for _ in 0..3 {
        let pid = live_pids(&service.status())[0];
        process::end(pid, Signal::KILL);
        eventually("the worker is respawned", SOON, || {
            let live = live_pids(&service.status());
            live.iter().any(|it| *it != pid).then_some(())
        });
    }
    assert_eq!(the_version(&service), "v1");
    let status = service.status();
    assert_eq!(status.app_state(), AppState::Degraded, "{status:#?}");
    let because = status.because.unwrap();
    assert_eq!(because, "workers died 3 times in the last minute");
    let (code, line) = first_line(&service);
    assert_eq!(code, 1);
    assert!(line.starts_with("● gapless: degraded — g1 live"), "{line}");
}

#[test]
fn a_refused_version_leaves_a_healthy_app_healthy() {
    let service = Service::probe(&version("v1"), QUICK, "");
    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    assert_eq!(service.reload().code(), 6);
    assert_eq!(the_version(&service), "v1");
    let said = service.cli(&["status"]);
    assert_eq!(said.code(), 0);
    assert!(said.stdout.contains("healthy — g1 live"), "{said}");
    assert!(said.stdout.contains("\n  last       g2 failed"), "{said}");
}
