//! The listener for load balancers: who is ready, who is well, and that it cannot command.

use crate::manual::printed;
use crate::world::service::{Reply, SOON, Service, get};
use crate::world::{eventually, process, version};
use crate::{QUICK, leave, post, send, worker};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A service that is not started, and where its load balancer asks.
fn observed(keys: &str, more: &str) -> (Service, Admin) {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = Admin(socket.local_addr().unwrap().to_string());
    service.give("admin", socket.into());
    service.behave(&version("v1"));
    service.configure_probe(keys, more);
    (service, admin)
}

struct Admin(String);

impl Admin {
    fn get(&self, path: &str) -> Reply {
        get(&self.0, path)
    }

    /// What it says once it answers so.
    fn until(&self, path: &str, status: u16) -> String {
        eventually(&format!("{path} says {status}"), SOON, || {
            let reply = self.get(path);
            (reply.status == status).then_some(reply.body)
        })
    }

    fn send(&self, request: &str) -> String {
        let mut stream = self.connect(request);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn connect(&self, begun: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(begun.as_bytes()).unwrap();
        stream
    }
}

#[test]
fn load_balancers_are_told_who_is_ready() {
    let (mut service, admin) = observed(QUICK, "[restart]\nburst = 1");
    service.behave(&version("v1").with("BOOT_MS", "2000"));
    service.start();
    let said = admin.until("/readyz", 503);
    assert_eq!(said, "nothing is live yet, requests wait\n");
    service.wait_ready();
    assert_eq!(admin.until("/readyz", 200), "ok\n");
    assert_eq!(admin.get("/healthz").expect_ok(), "ok\n");
    printed(&admin.get("/metrics").expect_ok());
    service.reload().expect_success();
    assert_eq!(admin.get("/readyz").status, 200);
    process::end(worker(&service).0, Signal::KILL);
    assert_eq!(admin.get("/readyz").status, 200, "within the budget");
    service.kill_keeper();
    assert_eq!(admin.until("/readyz", 200), "ok\n");
    let (slow, _) = send(&service, &crate::get("/"));
    service.behave(&version("v1").with("EXIT_BEFORE_READY", "1"));
    process::end(worker(&service).0, Signal::KILL);
    let said = admin.until("/readyz", 503);
    assert_eq!(said, "the app is down, requests get 503\n");
    assert_eq!(admin.get("/healthz").status, 200, "gapless itself is well");
    drop(slow);
}

#[test]
fn nobody_commands_from_there() {
    let (mut service, admin) = observed(QUICK, "");
    service.start();
    service.wait_ready();
    for path in [
        "/",
        "/reload",
        "/status",
        "/release",
        "/log-level/debug",
        "/metrics/",
    ] {
        assert_eq!(admin.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        for path in ["/healthz", "/readyz", "/metrics", "/reload"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: t\r\n\r\n");
            let answer = admin.send(&request);
            assert!(answer.starts_with("HTTP/1.1 405 "), "{request}{answer}");
            assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
        }
    }
    let answer = admin.send("HEAD /readyz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "a head only: {answer}");
    let text = service.until("swaps_total", &[], 1.0);
    text.expect("last_reload_successful", &[], 1.0);
}

#[test]
fn a_service_that_stops_is_well_but_not_ready() {
    let (mut service, admin) = observed("drain = \"1h\"", "");
    service.start();
    service.wait_ready();
    let last = post(&service, &crate::get("/hang"));
    service.until("requests_in_flight", &[], 1.0);
    service.signal(Signal::TERM);
    assert_eq!(admin.until("/readyz", 503), "stopping\n");
    assert_eq!(admin.get("/healthz").expect_ok(), "ok\n");
    leave(last);
    assert!(service.wait_end(SOON).success());
}

/// Requests wait while the app is exchanged, and none is refused: whoever takes it out of a load
/// balancer for that makes of a wait an error.
#[test]
fn with_a_fixed_port_a_service_stays_ready_over_a_reload() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let port = free.unwrap().port();
    let keys = format!("{QUICK}\nlisten = \"port:{port}\"\ndrain = \"1h\"\nstop = \"1h\"");
    let (mut service, admin) = observed(&keys, "");
    let fixed = version("v1").with("LISTEN", "port");
    service.behave(&fixed.clone().with("IGNORE_TERM", "1"));
    service.start();
    service.wait_ready();
    let old = worker(&service).0;
    let last = post(&service, &crate::get("/hang"));
    service.until("requests_in_flight", &[], 1.0);
    service.behave(&fixed.with("BOOT_MS", "1500"));
    service.signal(Signal::HUP);
    let is_ready = || assert_eq!(admin.get("/readyz").expect_ok(), "ok\n");
    let text = service.until("generations", &[("state", "waiting")], 1.0);
    text.expect("generations", &[("state", "draining")], 1.0);
    text.expect("generation_live", &[], 0.0);
    is_ready();
    leave(last);
    service.until("generations", &[("state", "stopping")], 1.0);
    is_ready();
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    service.start();
    admin.until("/readyz", 200);
    process::end(old, Signal::KILL);
    service.until("generations", &[("state", "starting")], 1.0);
    is_ready();
    service.get("/").expect_ok();
    is_ready();
    service.until("generation_live", &[], 2.0);
}

/// Those that serve.
fn freeze_fronts(service: &Service) {
    for front in service.status().fronts {
        if front.state == "serving" {
            process::signal(front.pid, Signal::STOP);
        }
    }
}

#[test]
fn a_service_whose_front_hangs_is_not_well_until_another_one_serves() {
    let (mut service, admin) = observed(QUICK, "");
    service.watch(Duration::from_secs(6));
    service.start();
    service.wait_ready();
    let began = Instant::now();
    // As often as it is replaced, so that nobody has to look at the right moment.
    let said = eventually("it is not well", SOON, || {
        freeze_fronts(&service);
        let reply = admin.get("/healthz");
        (reply.status == 503).then_some(reply.body)
    });
    assert_eq!(said, "no front answers\n");
    // At the probe that a lane does not answer, not only when all have been silent for long.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(12), "after {took:?}");
    admin.until("/healthz", 200);
    service.get("/").expect_ok();
}

/// More than are served at a time.
const SLOW: usize = 100;

#[test]
fn slow_clients_of_it_hinder_nobody_and_are_gone_after_their_time() {
    let (mut service, admin) = observed(QUICK, "");
    service.start();
    service.wait_ready();
    let before = service.scrape();
    let fds = before.value("process_open_fds", &[("process", "keeper")]);
    let mut slow: Vec<_> = (0..SLOW)
        .map(|number| admin.connect(["", "GET /readyz HT"][number % 2]))
        .collect();
    let asked = Instant::now();
    for path in ["/readyz", "/healthz", "/metrics"] {
        admin.get(path).expect_ok();
    }
    // Well before the first of them had had its time.
    assert!(asked.elapsed() < Duration::from_secs(4));
    for stream in &mut slow {
        // Closed or reset; the read would fail otherwise, after its time.
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    service.until("process_open_fds", &[("process", "keeper")], fds.unwrap());
    admin.get("/readyz").expect_ok();
}
