//! Generations, the decisions about them, and the keeper.

use crate::world::service::{SOON, Service};
use crate::world::{eventually, process, version};
use crate::{QUICK, during, get, leave, post};
use rustix::process::Signal;
use std::time::Instant;

/// Of the one worker of this generation.
fn pid_of(service: &Service, generation: &str) -> u32 {
    let status = service.status();
    let mut all = status.generations.iter();
    let found = all.find(|it| it.id.to_string() == generation).unwrap();
    found.workers[0].pid.unwrap()
}

fn keys(settle: &str) -> String {
    format!("settle = \"{settle}\"\ndrain = \"1h\"\nstop = \"1h\"")
}

#[test]
fn generations_are_counted_in_each_of_their_states() {
    let began = Instant::now();
    let service = Service::probe(&version("v1"), &keys("100ms"), "");
    let ready = Instant::now();
    let first = post(&service, &get("/hang"));
    service.until("generation_requests_in_flight", &[("generation", "1")], 1.0);
    service.reload().expect_success();
    let drains = Instant::now();
    let second = post(&service, &get("/hang"));
    service.until("generation_requests_in_flight", &[("generation", "2")], 1.0);
    service.reload().expect_success();
    // There is room for two that drain, and no more.
    service.signal(Signal::HUP);
    let text = service.until("generations", &[("state", "settled")], 1.0);
    text.expect("generations", &[("state", "live")], 1.0);
    text.expect("generations", &[("state", "draining")], 2.0);
    text.expect("generation_live", &[], 3.0);
    text.expect("swaps_total", &[], 3.0);
    text.expect(
        "generation_state",
        &[("generation", "1"), ("state", "draining")],
        1.0,
    );
    text.expect("generation_requests_in_flight", &[("generation", "1")], 1.0);
    let (least, most) = (ready.elapsed(), began.elapsed());
    let text = service.scrape();
    text.expect_within(
        "generation_age_seconds",
        &[("generation", "1")],
        least.as_secs_f64()..=most.as_secs_f64() + 1.0,
    );
    let drained = drains.elapsed().as_secs_f64();
    leave(first);
    leave(second);
    let text = service.until("drain_duration_seconds_count", &[], 3.0);
    let most = 3.0 * began.elapsed().as_secs_f64();
    text.expect_within("drain_duration_seconds_sum", &[], drained..=most);
    let text = service.until("swap_duration_seconds_count", &[], 4.0);
    text.expect_within("swap_duration_seconds_sum", &[], 0.0001..=8.0);
    text.expect("generation_live", &[], 4.0);

    service.behave(&version("v1").with("IGNORE_TERM", "1"));
    service.configure_probe(&keys("5min"), "");
    service.signal(Signal::HUP);
    service.until("generations", &[("state", "settling")], 1.0);
    service.behave(&version("v1"));
    service.configure_probe(&keys("100ms"), "");
    let stubborn = pid_of(&service, "g5");
    service.signal(Signal::HUP);
    // It was never live, so it has nothing to finish.
    service.until("generations", &[("state", "stopping")], 1.0);
    service.until("generation_live", &[], 6.0);
    process::end(stubborn, Signal::KILL);
    let text = service.until("generations", &[("state", "stopping")], 0.0);
    text.expect("swaps_total", &[], 5.0);
}

#[test]
fn a_decision_is_told_with_its_time_and_so_is_the_keeper() {
    let (mut service, started) = during(|| Service::probe(&version("v1"), QUICK, ""));
    let text = service.scrape();
    text.expect_within("keeper_start_time_seconds", &[], started.clone());
    text.expect_within("last_reload_timestamp_seconds", &[], started);
    text.expect("last_reload_successful", &[], 1.0);
    service.behave(&version("v1").with("EXIT_BEFORE_READY", "1"));
    let (reload, failed) = during(|| service.reload());
    assert!(!reload.status.success(), "{reload}");
    let text = service.scrape();
    text.expect_within("last_reload_timestamp_seconds", &[], failed.clone());
    text.expect("last_reload_successful", &[], 0.0);
    text.expect("failed_starts_total", &[], 1.0);
    let ((), adopted) = during(|| service.kill_keeper());
    let text = service.scrape();
    text.expect_within("keeper_start_time_seconds", &[], adopted);
    text.expect_within("last_reload_timestamp_seconds", &[], failed);
    text.expect("last_reload_successful", &[], 0.0);
    text.expect("failed_starts_total", &[], 1.0);
    service.behave(&version("v1"));
    let (reload, decided) = during(|| service.reload());
    reload.expect_success();
    let text = service.scrape();
    text.expect_within("last_reload_timestamp_seconds", &[], decided);
    text.expect("last_reload_successful", &[], 1.0);
    process::end(crate::front(&service), Signal::KILL);
    service.until("front_deaths_total", &[], 1.0);
}

#[test]
fn a_spent_budget_shows_until_it_is_healed() {
    let service = Service::probe(
        &version("v1"),
        QUICK,
        "[restart]\nburst = 1\ninterval = \"1h\"\ndelay_min = \"10ms\"\ndelay_max = \"1h\"",
    );
    let worker = pid_of(&service, "g1");
    service.behave(&version("v1").with("EXIT_BEFORE_READY", "1"));
    process::end(worker, Signal::KILL);
    let text = service.until("degraded", &[], 1.0);
    text.expect("generation_workers", &[("generation", "1")], 1.0);
    text.expect("generation_workers_ready", &[("generation", "1")], 0.0);
    assert_eq!(service.get("/").status, 503);
    let text = service.until(
        "requests_lost_total",
        &[("cause", "no_live_generation")],
        1.0,
    );
    text.expect("refusals_total", &[("cause", "no_live_generation")], 1.0);
    service.behave(&version("v1"));
    service.reload().expect_success();
    service.until("degraded", &[], 0.0);
}

#[test]
fn a_state_that_cannot_be_written_is_counted_and_told_each_time() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    service.keep_read_only("gapless-state");
    service.start();
    service.wait_ready();
    service.get("/").expect_ok();
    let told = || {
        let journal = service.journal();
        let told = journal.matches("state not written down").count();
        f64::from(u32::try_from(told).unwrap())
    };
    let (text, told) = eventually("each is counted and told", SOON, || {
        let (told, text) = (told(), service.scrape());
        let counted = text.value("state_failures_total", &[]);
        (counted == Some(told)).then_some((text, told))
    });
    text.expect_within("state_failures_total", &[], 1.0..=told);
}

#[test]
fn counters_and_generation_numbers_go_on_when_nothing_was_left_running() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    for _ in 0..3 {
        service.get("/").expect_ok();
    }
    service.until("requests_total", &[("class", "2xx")], 3.0);
    assert!(service.stop(SOON).success());
    service.start();
    service.wait_ready();
    service.get("/").expect_ok();
    let text = service.until("requests_total", &[("class", "2xx")], 4.0);
    text.expect("generation_workers", &[("generation", "2")], 1.0);
    assert!(service.stop(SOON).success());
    let counters = service.state_directory().join("counters.json");
    std::fs::write(&counters, "{").unwrap();
    service.start();
    service.wait_ready();
    service.get("/").expect_ok();
    service.until("requests_total", &[("class", "2xx")], 1.0);
    let told = format!("the counters in {} cannot be", counters.display());
    assert!(service.journal().contains(&told), "{}", service.journal());
}
