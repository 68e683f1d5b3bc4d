//! What is said of each state that the units of an app can be in.

use super::*;

fn unit(active: &str, sub: &str, result: &str) -> UnitState {
    UnitState {
        active: active.to_owned(),
        sub: sub.to_owned(),
        result: result.to_owned(),
        ..UnitState::default()
    }
}

fn exited(active: &str, sub: &str, status: &str) -> UnitState {
    UnitState {
        exit_status: status.to_owned(),
        ..unit(active, sub, "exit-code")
    }
}

fn down() -> UnitState {
    unit("inactive", "dead", "success")
}

fn listening() -> UnitState {
    unit("active", "listening", "success")
}

fn said(job: Job, service: UnitState, socket: UnitState) -> String {
    said_of(true, job, service, socket)
}

fn said_of(has_app: bool, job: Job, service: UnitState, socket: UnitState) -> String {
    let name: InstanceName = "shop".parse().unwrap();
    let absence = Absence::from(&Facts {
        name: &name,
        has_units: true,
        has_app,
        service,
        socket,
        job,
    });
    Absent { name, absence }.to_string()
}

#[test]
fn what_is_down_says_whether_its_socket_waits() {
    assert_eq!(
        said(Job::None, down(), down()),
        "shop is not running; start it: sudo gapless start shop, or gapless --app shop run -- CMD"
    );
    assert_eq!(
        said(Job::None, down(), listening()),
        "shop is not running; gapless@shop.socket is active, and the next request starts \
         gapless@shop.service; to start it now: sudo gapless start shop"
    );
    assert_eq!(
        said_of(false, Job::None, down(), listening()),
        "shop is not running, because nothing is deployed; gapless@shop.socket is active; next: \
         sudo gapless --app shop deploy ./myapp"
    );
}

#[test]
fn a_change_that_is_under_way_is_named() {
    let wait = "; ask again when that is done; what it does: gapless logs shop";
    for (job, active, what) in [
        (Job::Start, "activating", "starting"),
        (Job::Restart, "deactivating", "restarting"),
        (Job::Restart, "active", "restarting"),
        (Job::Restart, "inactive", "restarting"),
        (Job::Start, "deactivating", "restarting"),
        (Job::Stop, "deactivating", "stopping"),
        (Job::None, "deactivating", "stopping"),
    ] {
        let said = said(job, unit(active, "", "success"), listening());
        assert_eq!(said, format!("gapless@shop.service is {what}{wait}"));
    }
    let again = UnitState {
        restarts: "7".to_owned(),
        ..unit("activating", "start", "success")
    };
    assert!(said(Job::Start, again, listening()).contains("starting again"));
}

#[test]
fn what_systemd_tries_again_and_again_says_why_it_fails_and_where_to_look() {
    for (active, sub) in [
        ("activating", "auto-restart"),
        ("activating", "auto-restart-queued"),
        ("deactivating", "stop-post"),
    ] {
        let job = if active == "activating" {
            Job::Restart
        } else {
            Job::Start
        };
        let said = said(job, exited(active, sub, "243"), listening());
        assert_eq!(
            said,
            "systemd cannot start gapless@shop.service, and goes on trying: its credentials cannot \
             be loaded; see LoadCredential= and the like in systemctl cat gapless@shop.service, and \
             which one it is: journalctl -u gapless@shop.service -n 20"
        );
    }
    let exits = exited("activating", "auto-restart", "1");
    assert!(said(Job::None, exits, listening()).contains("it exits with status 1; see journalctl"));
    let late = unit("activating", "auto-restart", "timeout");
    assert!(said(Job::None, late, listening()).contains("systemd says Result=timeout"));
}

#[test]
fn a_unit_that_failed_or_is_not_taken_is_named() {
    let failed = unit("failed", "failed", "resources");
    assert_eq!(
        said(Job::None, down(), failed),
        "gapless@shop.socket failed: systemd says Result=resources; see journalctl -u \
         gapless@shop.socket -n 20; then: sudo gapless start shop"
    );
    let load = |load: &str| UnitState {
        load: load.to_owned(),
        ..down()
    };
    assert_eq!(
        said(Job::None, down(), load("masked")),
        "gapless@shop.socket is masked; to start it: sudo systemctl unmask gapless@shop.socket && \
         sudo gapless start shop"
    );
    assert!(said(Job::None, load("bad-setting"), down()).starts_with(
        "systemd cannot load gapless@shop.service (bad-setting); see systemctl status"
    ));
    let runs = unit("active", "running", "success");
    assert!(
        said(Job::None, runs, listening())
            .starts_with("gapless@shop.service is active, and nobody")
    );
}

#[test]
fn an_app_that_is_not_there_is_told_with_those_that_are() {
    let named = |name: &str, apps: &[&str]| {
        let parsed = |name: &&str| name.parse().unwrap();
        let absence = Absence::Unknown {
            apps: apps.iter().map(parsed).collect(),
        };
        let name = name.parse().unwrap();
        Absent { name, absence }.to_string()
    };
    assert_eq!(
        named("nosuch", &["gapless", "shop"]),
        "there is no app nosuch; apps here: gapless, shop; to add it: sudo gapless add nosuch \
         --listen ADDRESS, or gapless --app nosuch run -- CMD"
    );
    assert_eq!(
        named("gapless", &[]),
        "gapless is not running, and gapless.service is not installed; no app is on this machine; \
         in the foreground: gapless run -- CMD"
    );
}
