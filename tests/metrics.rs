//! Ring 2: every metric that gapless(1) names is there, with the right value after known events.

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

#[path = "metrics/admin.rs"]
mod admin;
#[path = "metrics/causes.rs"]
mod causes;
#[path = "metrics/connections.rs"]
mod connections;
#[path = "metrics/generations.rs"]
mod generations;
#[path = "metrics/manual.rs"]
mod manual;
#[path = "metrics/processes.rs"]
mod processes;
#[path = "metrics/requests.rs"]
mod requests;
#[path = "metrics/respawns.rs"]
mod respawns;
mod world;

use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};
use world::service::{SOON, Service};
use world::{eventually, process, version};

const QUICK: &str = "settle = \"100ms\"";

/// Sends a request and reads no more than the head of its answer.
fn send(service: &Service, request: &str) -> (TcpStream, String) {
    let mut stream = post(service, request);
    let head = head(&mut stream);
    (stream, head)
}

/// Sends a request, or a part of one.
fn post(service: &Service, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// By a reset: who only closes might still read the answer, and is given up after `hold`.
fn leave(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")
}

/// The one worker of the live generation: its pid and state.
fn worker(service: &Service) -> (u32, String) {
    let status = service.status();
    let live = status.generations.iter().find(|it| it.state == "live");
    let worker = &live.unwrap().workers[0];
    (worker.pid.unwrap_or(0), worker.state.clone())
}

fn front(service: &Service) -> u32 {
    service.status().fronts[0].pid
}

/// Whole seconds, as the keeper counts them.
fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64().floor()
}

/// The second, or seconds, in which this is done.
fn during<T>(event: impl FnOnce() -> T) -> (T, RangeInclusive<f64>) {
    let began = unix_seconds();
    let outcome = event();
    (outcome, began..=unix_seconds())
}

/// Seven requests, a refusal, a tunnel, a killed worker, and a request that waits for the next.
fn make_events(service: &Service) -> TcpStream {
    for _ in 0..7 {
        service.get("/").expect_ok();
    }
    let (_, head) = send(service, "GET / HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let tunnel = connections::tunnel(service);
    service.behave(&version("v1").with("BOOT_MS", "1500"));
    process::end(worker(service).0, Signal::KILL);
    eventually("the next worker boots", SOON, || {
        (worker(service).1 == "booting").then_some(())
    });
    service.get("/").expect_ok();
    tunnel
}

#[test]
fn metrics_tell_what_happened_and_go_on_over_the_deaths_of_keeper_and_front() {
    let mut service = Service::probe(&version("v1"), QUICK, "[http]\ntunnels = \"1s\"\nlanes = 1");
    let tunnel = make_events(&service);
    service.until("requests_total", &[("class", "2xx")], 8.0);
    let text = service.until("requests_held_total", &[], 1.0);
    text.expect("requests_total", &[("class", "4xx")], 1.0);
    text.expect("refusals_total", &[("cause", "bad_host")], 1.0);
    text.expect("hold_duration_seconds_count", &[], 1.0);
    text.expect("hold_duration_seconds_bucket", &[("le", "+Inf")], 1.0);
    text.expect_within("hold_duration_seconds_sum", &[], 0.1..30.0);
    text.expect("worker_respawns_total", &[("reason", "signal")], 1.0);
    text.expect("worker_respawns_total", &[("reason", "exit")], 0.0);
    text.expect("boot_duration_seconds_count", &[], 1.0);
    text.expect("drain_duration_seconds_count", &[], 0.0);
    text.expect("swaps_total", &[], 1.0);
    text.expect("generation_live", &[], 1.0);
    text.expect("degraded", &[], 0.0);
    text.expect("last_reload_successful", &[], 1.0);
    text.expect("state_failures_total", &[], 0.0);
    text.expect("front_deaths_total", &[], 0.0);
    drop(tunnel);
    service.until("tunnels", &[], 0.0);
    service.reload().expect_success();
    let text = service.until("drain_duration_seconds_count", &[], 1.0);
    text.expect("swaps_total", &[], 2.0);
    text.expect("boot_duration_seconds_count", &[], 2.0);
    text.expect("swap_duration_seconds_count", &[], 2.0);
    text.expect("generation_live", &[], 2.0);
    service.kill_keeper();
    service.wait_ready();
    // What a front counted dies with it if it never told this keeper.
    service.until("requests_total", &[("class", "2xx")], 8.0);
    process::end(front(&service), Signal::KILL);
    service.until("front_deaths_total", &[], 1.0);
    let text = service.until("requests_total", &[("class", "2xx")], 8.0);
    text.expect("hold_duration_seconds_count", &[], 1.0);
    text.expect("worker_respawns_total", &[("reason", "signal")], 1.0);
    text.expect("swap_duration_seconds_count", &[], 2.0);
    text.expect("drain_duration_seconds_count", &[], 1.0);
}
