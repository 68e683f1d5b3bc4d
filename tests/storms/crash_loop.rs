//! An app that dies again and again: tries grow rare, it is said once, requests are refused at once.

use crate::world::service::{SOON, Service};
use crate::world::{Behaviour, eventually, is_long, process, version};
use crate::{QUICK, live_pid, the_version};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// What the app says when it dies on demand.
const DEATH: &str = "as asked";
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(100);
/// Of 503s, at the median.
const AT_ONCE: Duration = Duration::from_millis(50);

fn dies_at_once() -> Behaviour {
    version("bad").with("EXIT_BEFORE_READY", "1")
}

/// One minute of it, or five.
fn long_enough() -> u32 {
    if is_long() { 5 } else { 1 }
}

/// An app that was live, and dies in each life since.
fn respawned_in_vain(behaviour: &Behaviour) -> Service {
    let service = Service::probe(&version("good"), QUICK, "");
    service.behave(behaviour);
    process::end(live_pid(&service).unwrap(), Signal::KILL);
    service
}

/// An app that never was.
fn started_in_vain(behaviour: &Behaviour, more: &str) -> Service {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(behaviour);
    service.configure_probe(QUICK, more);
    service.start();
    service.wait_ready();
    service
}

/// Lines of ours, not the app's.
fn own_lines(journal: &str) -> Vec<&str> {
    let is_ours = |line: &&str| {
        let level = line.split_whitespace().nth(1);
        level.is_some_and(|level| ["ERROR", "WARN", "INFO"].contains(&level))
    };
    journal.lines().filter(is_ours).collect()
}

/// The metric.
fn degraded(service: &Service) -> bool {
    let metrics = service.metrics();
    let mut lines = metrics.lines();
    let line = lines
        .find(|line| line.starts_with("gapless_degraded"))
        .unwrap();
    line.ends_with(" 1.0")
}

fn wait_degraded(service: &Service) {
    service.wait_for("STATUS=Degraded", SOON, |heard| {
        let said = heard.messages.iter().filter_map(|it| it.get("STATUS"));
        said.clone()
            .any(|it| it.starts_with("Degraded"))
            .then_some(())
    });
}

/// Asks all the time; how long the 503s took, and when the app died.
fn ask_for(service: &Service, time: Duration) -> (Vec<Duration>, Vec<Instant>) {
    let (mut took, mut deaths, mut cut) = (Vec::new(), Vec::new(), 0);
    let mut seen = service.journal().matches(DEATH).count();
    let end = Instant::now() + time;
    while Instant::now() < end {
        let began = Instant::now();
        let reply = service.get("/");
        if reply.status == 503 {
            took.push(began.elapsed());
            assert!(reply.header("retry-after").is_some(), "{reply:?}");
        } else if reply.status == 502 {
            // The dying one had it, and so had the next connection to it.
            cut += 1;
        } else {
            // In its moment, while it has not died yet.
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        let now = service.journal().matches(DEATH).count();
        if now > seen {
            deaths.push(began);
            seen = now;
        }
        std::thread::sleep(PAUSE);
    }
    assert!(cut <= deaths.len(), "{cut} cut in {} deaths", deaths.len());
    (took, deaths)
}

fn expect_quiet_and_healed_by_one_reload(service: &Service) {
    wait_degraded(service);
    let before = service.journal().len();
    let (mut took, deaths) = ask_for(service, Duration::from_mins(1) * long_enough());
    took.sort();
    assert!(took.len() > 100, "{} refused", took.len());
    let median = took[took.len() / 2];
    assert!(median < AT_ONCE, "{median:?} at the median");

    let journal = service.journal();
    let lines = own_lines(&journal[before..]);
    let allowed = usize::try_from(10 * long_enough()).unwrap();
    assert!(lines.len() <= allowed, "{lines:#?}");
    let said = journal.matches("ERROR Degraded").count();
    assert_eq!(said, 1, "{:#?}", own_lines(&journal));
    let statuses = service.heard(|heard| {
        let said = heard.messages.iter().filter_map(|it| it.get("STATUS"));
        said.filter(|it| it.starts_with("Degraded")).count()
    });
    assert_eq!(statuses, 1, "{}", service.story());
    assert!(degraded(service));
    assert!(!service.status().healthy);

    let waits: Vec<_> = deaths.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() >= 2, "{waits:?}");
    let longest = waits.last().unwrap();
    assert!(
        *longest > waits[0] && *longest > Duration::from_secs(8),
        "{waits:?}"
    );

    service.behave(&version("healed"));
    service.reload().expect_success();
    assert_eq!(the_version(service), "healed");
    eventually("nothing is degraded any more", SOON, || {
        let is_said = service.said()?.starts_with("Serving");
        (is_said && !degraded(service)).then_some(())
    });
}

#[test]
fn a_minute_of_a_crash_loop_is_said_once_refuses_at_once_and_is_healed_by_one_reload() {
    let after_ready = version("bad")
        .with("EXIT_AFTER_READY", "1")
        .with("EXIT_AFTER_MS", "200");
    let services = [
        respawned_in_vain(&dies_at_once()),
        respawned_in_vain(&after_ready),
        started_in_vain(&dies_at_once(), ""),
    ];
    std::thread::scope(|scope| {
        for service in &services {
            scope.spawn(|| expect_quiet_and_healed_by_one_reload(service));
        }
    });
}

#[test]
fn a_dependency_that_comes_up_late_at_boot_heals_by_itself() {
    let service = started_in_vain(&dies_at_once(), "[restart]\ndelay_max = \"2s\"");
    wait_degraded(&service);
    assert_eq!(service.get("/").status, 503);
    service.behave(&version("good"));
    eventually("it is live", SOON, || {
        (the_version(&service) == "good").then_some(())
    });
    eventually("and says so", SOON, || {
        (service.said()?.starts_with("Serving")).then_some(())
    });
    let journal = service.journal();
    assert!(journal.contains("no longer degraded"), "{journal}");
    assert!(!degraded(&service));
}
