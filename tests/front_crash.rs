//! Ring 2: a front that dies takes only what was under way with it.

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

mod world;

use gapless::api::FrontStatus;
use gapless::steps::{self, Step};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use world::process::Seen;
use world::service::{SOON, Service};
use world::{alone, eventually, is_long, process, version};

const QUICK: &str = "settle = \"100ms\"";

/// The only front, once it serves and has reported what it has.
fn serving(service: &Service, after: u64, connections: u64) -> FrontStatus {
    eventually("a front serves", SOON, || {
        let fronts = service.try_status()?.fronts;
        let [front] = fronts.as_slice() else {
            return None;
        };
        let is_it = front.id.0 > after && front.state == "serving";
        (is_it && front.connections >= connections).then(|| front.clone())
    })
}

fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, request: &str) {
    stream.write_all(request.as_bytes()).unwrap();
}

/// A whole one, with a length.
fn answer(stream: &mut TcpStream) -> String {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            return text;
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")
}

#[test]
fn fronts_that_are_killed_or_abort_under_load_lose_no_settled_connection_and_mix_up_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let load = service.load(&["--clients", "64", "--idle", "500", "--slow-ms", "300"]);
    let (mut before, rounds) = (0, if is_long() { 100 } else { 20 });
    for round in 0..rounds {
        let front = serving(&service, before, 500);
        before = front.id.0;
        load.run_for(Duration::from_millis(200));
        // As the kernel does when memory is short; as a panic does.
        let how = if round % 2 == 0 {
            Signal::KILL
        } else {
            Signal::ABORT
        };
        assert!(process::end(front.pid, how));
    }
    serving(&service, before, 500);
    let counted = load.finish();
    service.until("front_deaths_total", &[], f64::from(rounds));
    let busy = service.status().requests.lost;
    assert_eq!(counted.idle.answered, counted.idle.opened, "{counted:#?}");
    assert_eq!(
        (counted.idle.opened, counted.idle.closed),
        (500, 0),
        "{counted:#?}"
    );
    let failures = counted.lost + counted.closed;
    assert!(
        failures <= busy,
        "{failures} failed, {busy} were busy: {counted:#?}"
    );
    assert!(
        failures > 0 && counted.ok > 500,
        "nothing was under way: {counted:#?}"
    );
    for loss in &counted.losses {
        let reason = loss["reason"].as_str().unwrap();
        let is_mixed_up = ["wrong answer", "not HTTP", "status", "no whole"];
        assert!(!is_mixed_up.iter().any(|it| reason.contains(it)), "{loss}");
    }
}

/// A connection that a dead front took along.
fn expect_reset(mut stream: TcpStream) {
    let error = stream.read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn what_was_read_in_part_is_reset_and_what_is_settled_is_served() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let front = serving(&service, 0, 0);
    let mut fresh = connect(&service);
    let (mut idle, mut half_next) = (connect(&service), connect(&service));
    let (mut half, mut slow, mut upload) =
        (connect(&service), connect(&service), connect(&service));
    ask(&mut idle, &get("/pid"));
    answer(&mut idle);
    let body = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc";
    ask(&mut half_next, &format!("{body}GET /pid HT"));
    answer(&mut half_next);
    ask(&mut half, "GET /pid HT");
    ask(&mut slow, &get("/slow?ms=60000"));
    ask(
        &mut upload,
        "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\na",
    );
    service.until("connections_settled", &[], 2.0);
    service.until("requests_in_flight", &[], 2.0);
    assert!(process::end(front.pid, Signal::KILL));
    [half, half_next, slow, upload]
        .into_iter()
        .for_each(expect_reset);
    for stream in [&mut fresh, &mut idle] {
        ask(stream, &get("/pid"));
        assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    }
    service.until("connections_inherited_total", &[], 2.0);
    service.until("requests_lost_total", &[("cause", "front_died")], 4.0);
    service.until("connections_settled", &[], 2.0);
}

/// The last word of each line of /proc/PID/status that begins with `key`, one for each thread.
fn of_each_thread(pid: u32, key: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let value = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(value.trim().to_owned())
    };
    tasks.filter_map(|task| value(task.unwrap())).collect()
}

#[test]
fn a_front_and_its_trustee_are_confined_and_the_app_is_not() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let front = serving(&service, 0, 0);
    let mut all = service.all_processes().into_iter();
    let trustee = all.find(Seen::is_trustee).unwrap();
    for pid in [front.pid, trustee.pid] {
        let modes = of_each_thread(pid, "Seccomp:");
        // 2 is "by a filter", proc(5).
        let are_all = !modes.is_empty() && modes.iter().all(|mode| mode == "2");
        assert!(are_all, "{pid}: {modes:?}");
    }
    let own = of_each_thread(std::process::id(), "Seccomp:");
    let worker = service.status().generations[0].workers[0].pid;
    let modes = of_each_thread(worker.unwrap(), "Seccomp:");
    assert!(modes.iter().all(|mode| *mode == own[0]), "{modes:?}");
}

#[test]
fn what_a_proxy_header_said_is_known_to_the_next_front() {
    let proxied = "[http]\nproxy_protocol = \"require\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let service = Service::probe(&version("v1"), QUICK, proxied);
    let front = serving(&service, 0, 0);
    let mut clients = ["192.0.2.7", "2001:db8::7"].map(|ip| {
        let mut stream = connect(&service);
        let (family, other) = if ip.contains(':') {
            ("TCP6", "::1")
        } else {
            ("TCP4", "127.0.0.1")
        };
        ask(
            &mut stream,
            &format!("PROXY {family} {ip} {other} 1 2\r\n{}", get("/headers")),
        );
        assert!(answer(&mut stream).contains(ip));
        (ip, stream)
    });
    service.until("connections_settled", &[], 2.0);
    assert!(process::end(front.pid, Signal::KILL));
    for (ip, stream) in &mut clients {
        ask(stream, &get("/headers"));
        let said = answer(stream);
        assert!(said.contains(*ip), "not {ip}: {said}");
    }
}

#[test]
fn an_heir_that_dies_too_and_a_keeper_that_dies_with_it_cost_no_settled_connection() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let mut clients: Vec<_> = (0..300).map(|_| connect(&service)).collect();
    let front = serving(&service, 0, 300);
    service.until("connections_settled", &[], 300.0);
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    assert!(process::end(front.pid, Signal::KILL));
    service.start();
    let mut heir = serving(&service, front.id.0, 1);
    for _ in 0..3 {
        assert!(process::end(heir.pid, Signal::KILL));
        heir = serving(&service, heir.id.0, 300);
    }
    for stream in &mut clients {
        ask(stream, &get("/pid"));
        assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(service.status().requests.lost, 0);
    eventually("only what lives is kept", SOON, || {
        let of_fronts = service.heard(world::service::Heard::stored);
        let mut of_fronts = of_fronts
            .iter()
            .filter(|name| name.starts_with("gapless-f"));
        let own = format!("gapless-{}-", heir.id);
        of_fronts.all(|name| name.starts_with(&own)).then_some(())
    });
}

/// The end of whose trustee is held back in between.
fn kill_and_hold(service: &Service, steps: &Path, front: &FrontStatus) -> u32 {
    let armed = steps.join(Step::TrusteeSorted.name());
    std::fs::write(&armed, steps::STOP).unwrap();
    assert!(process::end(front.pid, Signal::KILL));
    eventually("the trustee is stopped", SOON, || {
        let mut all = service.all_processes().into_iter();
        let stopped = all.find(Seen::is_stopped).map(|it| it.pid);
        stopped.filter(|_| !armed.exists())
    })
}

#[test]
fn what_a_dead_front_left_outlasts_a_restart_and_an_upgrade() {
    let mut service = Service::new("gapless");
    let steps = service.scratch.0.join("steps");
    std::fs::create_dir(&steps).unwrap();
    service.set(steps::DIRECTORY, steps.to_str().unwrap());
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    let mut clients: Vec<_> = (0..200).map(|_| connect(&service)).collect();
    for handover in ["restart", "upgrade"] {
        let front = serving(&service, 0, 200);
        service.until("connections_settled", &[], 200.0);
        let trustee = kill_and_hold(&service, &steps, &front);
        let next = serving(&service, front.id.0, 0);
        if handover == "restart" {
            service.control("POST", "/release");
            service.signal(Signal::TERM);
            service.wait_end(SOON);
            service.start();
        } else {
            service.cli(&["upgrade"]).expect_success();
        }
        // The heir stays until it knows what it got, beside the front that follows it.
        eventually("the next front serves", SOON, || {
            let mut fronts = service.try_status()?.fronts.into_iter();
            fronts.find(|front| front.id > next.id && front.state == "serving")
        });
        process::signal(trustee, Signal::CONT);
        serving(&service, next.id.0, 200);
        for stream in &mut clients {
            ask(stream, &get("/pid"));
            assert!(answer(stream).starts_with("HTTP/1.1 200 "), "{handover}");
        }
    }
    assert_eq!(service.status().requests.lost, 0);
}

/// The socket that they pass holds fewer than 3,000.
#[test]
fn more_connections_than_wait_in_a_socket_go_to_the_next_front() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).unwrap();
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let mut clients: Vec<_> = (0..4000).map(|_| connect(&service)).collect();
    let front = serving(&service, 0, 4000);
    service.until("connections_settled", &[], 4000.0);
    assert!(process::end(front.pid, Signal::KILL));
    let next = serving(&service, front.id.0, 4000);
    assert!(next.id > front.id);
    for stream in clients.iter_mut().step_by(40) {
        ask(stream, &get("/pid"));
        assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    }
    service.until("connections", &[], 4000.0);
    assert_eq!(service.status().requests.lost, 0);
}
