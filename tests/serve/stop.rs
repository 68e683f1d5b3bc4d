//! Drains and stops.

use crate::world::service::{Heard, Reply, SOON, Service, get};
use crate::world::{alone, eventually, version};
use crate::{QUICK, wait_settled};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Asks for every path at once, in threads; answers and when they ended.
fn ask_all(service: &Service, paths: &[&str]) -> Vec<std::thread::JoinHandle<(Reply, Duration)>> {
    let began = Instant::now();
    let ask = |path: &&str| {
        let (address, path) = (service.address(), (*path).to_owned());
        std::thread::spawn(move || (get(&address, &path), began.elapsed()))
    };
    let all = paths.iter().map(ask).collect();
    let wanted = u64::try_from(paths.len()).unwrap();
    eventually("every request is with the app", SOON, || {
        let leases: u64 = service
            .status()
            .generations
            .iter()
            .map(|generation| generation.leases)
            .sum();
        (leases >= wanted).then_some(())
    });
    all
}

#[test]
fn a_drain_lets_requests_finish_for_15_seconds_and_then_cuts_them_with_a_reason() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let paths = [
        "/slow?ms=1000",
        "/slow?ms=10000",
        "/slow?ms=14000",
        "/slow?ms=60000",
        "/stream",
    ];
    let began = Instant::now();
    let asked = ask_all(&service, &paths);
    service.behave(&version("v2"));
    let reload = service.reload();
    let swapped_by = began.elapsed();
    assert!(
        reload.took < Duration::from_secs(5),
        "a reload returns at the swap: {reload}"
    );
    reload.expect_success();
    let answers: Vec<_> = asked
        .into_iter()
        .map(|asked| asked.join().unwrap())
        .collect();
    for (answer, path) in answers.iter().zip(paths).take(3) {
        assert!(
            answer.0.status == 200 && answer.0.is_whole,
            "{path}: {answer:?}"
        );
        assert_eq!(answer.0.header("x-app-version"), Some("v1"), "{path}");
    }
    for (answer, path) in answers.iter().zip(paths).skip(3) {
        assert!(
            !(answer.0.status == 200 && answer.0.is_whole),
            "{path}: {answer:?}"
        );
        let (cut, least) = (answer.1, Duration::from_millis(14_900));
        let most = swapped_by + Duration::from_secs(17);
        assert!(
            cut >= least && cut < most,
            "{path} was cut after {cut:?}, the swap after {swapped_by:?}"
        );
    }
    let journal = service.journal();
    assert!(journal.contains("drain"), "no reason in the log: {journal}");
    wait_settled(&service);
}

#[test]
fn a_stop_drains_says_stopping_and_leaves_nothing_behind() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let asked = ask_all(&service, &["/slow?ms=1500", "/dribble?ms=1500&chunks=30"]);
    assert!(service.stop(SOON).success());
    for asked in asked {
        asked.join().unwrap().0.expect_ok();
    }
    let stopping = |heard: &Heard| {
        heard
            .messages
            .iter()
            .any(|message| message.get("STOPPING") == Some("1"))
    };
    assert!(service.heard(stopping));
    assert_eq!(service.processes(), []);
}

#[test]
fn an_idle_stop_takes_no_time_worth_naming() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let began = Instant::now();
    assert!(service.stop(SOON).success());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let asked = ask_all(&service, &["/hang"]);
    service.signal(Signal::TERM);
    service.wait_for("STOPPING=1", SOON, |heard| {
        heard
            .messages
            .iter()
            .any(|message| message.get("STOPPING") == Some("1"))
            .then_some(())
    });
    service.signal(Signal::TERM);
    service.wait_end(Duration::from_secs(3));
    for asked in asked {
        assert!(!asked.join().unwrap().0.is_whole);
    }
    eventually("no process is left", Duration::from_secs(3), || {
        service.processes().is_empty().then_some(())
    });
}

#[test]
fn what_ignores_sigterm_and_what_it_left_running_is_ended_all_the_same() {
    let keys = format!("stop = \"500ms\"\ndrain = \"500ms\"\n{QUICK}");
    let stubborn = version("v1")
        .with("IGNORE_TERM", "1")
        .with("GRANDCHILD", "1");
    let service = Service::probe(&stubborn, &keys, "");
    let sleeping = |service: &Service| {
        service
            .processes()
            .iter()
            .filter(|seen| seen.command.starts_with("sleep"))
            .count()
    };
    assert_eq!(sleeping(&service), 1, "{:#?}", service.processes());
    service.behave(&version("v2"));
    service.reload().expect_success();
    eventually("the old generation is gone, whole", SOON, || {
        (sleeping(&service) == 0 && service.status().generations.len() == 1).then_some(())
    });
}

#[test]
fn a_flood_of_lines_does_not_delay_the_keeper() {
    let _alone = alone();
    let service = Service::probe(&version("v1").with("FLOOD", "500000"), QUICK, "");
    for _ in 0..20 {
        let began = Instant::now();
        service.status();
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
}
