//! Requests: how many, for how long, where they are now.

use crate::world::service::{SOON, Service};
use crate::world::{eventually, probe_config, process, tool, version};
use crate::{QUICK, connections, get, head, leave, post, processes, send};
use rustix::process::Signal;
use std::time::Instant;

#[test]
fn the_time_of_a_request_is_that_of_the_app_and_little_more() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let began = Instant::now();
    for _ in 0..3 {
        service.get("/slow?ms=400").expect_ok();
    }
    let text = service.until("request_duration_seconds_count", &[], 3.0);
    let most = began.elapsed().as_secs_f64();
    text.expect_within("request_duration_seconds_sum", &[], 1.2..=most);
    text.expect("request_duration_seconds_bucket", &[("le", "0.25")], 0.0);
    text.expect("request_duration_seconds_bucket", &[("le", "+Inf")], 3.0);
    text.expect("requests_held_total", &[], 0.0);
}

#[test]
fn requests_are_counted_by_the_class_of_their_status() {
    let behaviour = version("v1").with("HEALTH_STATUS", "404");
    let service = Service::probe(&behaviour, QUICK, "[http]\nlanes = 1");
    drop(connections::tunnel(&service));
    service.get("/").expect_ok();
    service.get("/").expect_ok();
    assert_eq!(service.get("/health").status, 404);
    // Sent twice: it kills two workers.
    assert_eq!(service.get("/crash").status, 502);
    service.behave(&version("v2").with("STATUS", "302"));
    service.reload().expect_success();
    assert_eq!(service.get("/").status, 302);
    let text = service.until("requests_total", &[("class", "3xx")], 1.0);
    text.expect("requests_total", &[("class", "1xx")], 1.0);
    text.expect("requests_total", &[("class", "2xx")], 2.0);
    text.expect("requests_total", &[("class", "4xx")], 1.0);
    text.expect("requests_total", &[("class", "5xx")], 1.0);
    text.expect("retries_total", &[], 1.0);
}

/// A service whose first worker stops itself, and boots when it is told to go on. Its pid.
pub fn booting(more: &str) -> (Service, u32) {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    let directory = service.scratch.0.display().to_string();
    let script = format!("kill -STOP $$; exec {}", tool("probe-app").display());
    let command = format!("/bin/sh\", \"-c\", \"{script}");
    let keys = format!("{QUICK}\ndrain = \"1s\"");
    let config = probe_config(&directory, &command, &keys, more);
    service.configure(&config);
    service.start();
    let pid = eventually("the worker is stopped", SOON, || {
        let status = service.try_status()?;
        let pid = status.generations.first()?.workers.first()?.pid?;
        processes::is_stopped(pid).then_some(pid)
    });
    (service, pid)
}

#[test]
fn requests_that_wait_are_told_from_those_that_the_app_has() {
    let began = Instant::now();
    let (service, pid) = booting("");
    let waiting: Vec<_> = (0..3).map(|_| post(&service, &get("/"))).collect();
    let text = service.until("requests_waiting", &[], 3.0);
    let seen = Instant::now();
    text.expect("requests_in_flight", &[], 3.0);
    text.expect("generations", &[("state", "starting")], 1.0);
    text.expect(
        "generation_state",
        &[("generation", "1"), ("state", "starting")],
        1.0,
    );
    text.expect("generation_workers", &[("generation", "1")], 1.0);
    text.expect("generation_workers_ready", &[("generation", "1")], 0.0);
    text.expect("generation_live", &[], 0.0);
    text.expect("boot_duration_seconds_count", &[], 0.0);
    text.expect("last_reload_timestamp_seconds", &[], 0.0);
    let least = seen.elapsed().as_secs_f64();
    assert!(process::signal(pid, Signal::CONT));
    for mut stream in waiting {
        let head = head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    service.until("requests_waiting", &[], 0.0);
    let text = service.until("requests_held_total", &[], 3.0);
    let most = began.elapsed().as_secs_f64();
    text.expect("hold_duration_seconds_count", &[], 3.0);
    text.expect_within("hold_duration_seconds_sum", &[], 3.0 * least..=3.0 * most);
    text.expect("boot_duration_seconds_count", &[], 1.0);
    text.expect_within("boot_duration_seconds_sum", &[], least..=most);

    let hanging: Vec<_> = (0..2).map(|_| post(&service, &get("/hang"))).collect();
    let text = service.until("generation_requests_in_flight", &[("generation", "1")], 2.0);
    text.expect("requests_in_flight", &[], 2.0);
    text.expect("requests_waiting", &[], 0.0);
    hanging.into_iter().for_each(leave);
    service.until("requests_in_flight", &[], 0.0);
    service.until("generation_requests_in_flight", &[("generation", "1")], 0.0);
    // Who leaves before the answer is neither finished nor lost.
    let (_, head) = send(&service, &get("/"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    service.until("requests_total", &[("class", "2xx")], 4.0);
    assert_eq!(service.status().requests.lost, 0);
}
