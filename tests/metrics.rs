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

mod world;

use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use world::service::{SOON, Service, get};
use world::{eventually, process, version};

const QUICK: &str = "settle = \"100ms\"";

/// Type and labels by name, with the suffix of the type.
type Table = BTreeMap<String, (String, BTreeSet<String>)>;

/// One line of the text format: name, labels, value.
fn sample(line: &str) -> (&str, Vec<(&str, &str)>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let pair = |pair: &'_ str| -> (usize, usize) {
        let (key, value) = pair.split_once('=').unwrap();
        assert!(value.starts_with('"') && value.ends_with('"'), "{pair}");
        (key.len(), value.len())
    };
    let pairs = labels.split(',').filter(|it| !it.is_empty()).map(|it| {
        let (key, value) = pair(it);
        (&it[..key], &it[it.len() - value + 1..it.len() - 1])
    });
    (name, pairs.collect(), value.parse().unwrap())
}

/// What is there, every line of it understood.
fn printed(text: &str) -> Table {
    let body = text.strip_suffix("# EOF\n").unwrap();
    let mut table = Table::new();
    let mut current = (String::new(), String::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = (name.to_owned(), format!("{name}{suffix}"));
            let entry = (kind.to_owned(), BTreeSet::new());
            assert!(table.insert(current.1.clone(), entry).is_none(), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (name, labels, value) = sample(line);
            assert!(name.starts_with(&current.0) && value >= 0.0, "{line}");
            let keys = labels.into_iter().map(|(key, _)| key.to_owned());
            let known = &mut table.get_mut(&current.1).unwrap().1;
            known.extend(keys.filter(|key| key != "le"));
        }
    }
    table
}

fn documented() -> Table {
    let manual = world::repository("packaging/man/gapless.1");
    let manual = std::fs::read_to_string(manual).unwrap();
    let (_, section) = manual.split_once(".Sh METRICS\n").unwrap();
    let section = section.split(".Sh ").next().unwrap();
    let entries = section.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix(".It Li ")?.split_once(" No ")?;
        let mut words = rest.split(' ').map(str::to_owned);
        let kind = words.next()?;
        Some((name.to_owned(), (kind, words.collect())))
    });
    entries.collect()
}

/// The value of a series, its labels as printed.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    line.strip_prefix(' ')?.parse().ok()
}

#[track_caller]
fn expect(text: &str, expected: &[(&str, f64)]) {
    for (series, wanted) in expected {
        let series = format!("gapless_{series}");
        assert_eq!(value(text, &series), Some(*wanted), "{series} in\n{text}");
    }
}

fn send(service: &Service, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(service.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

fn worker(service: &Service) -> (u32, String) {
    let status = service.status();
    let live = status.generations.iter().find(|it| it.state == "live");
    let worker = &live.unwrap().workers[0];
    (worker.pid.unwrap_or(0), worker.state.clone())
}

/// What the fronts report is as old as their last report.
fn until(service: &Service, series: &str, wanted: f64) -> String {
    let series = format!("gapless_{series}");
    eventually(&series, SOON, || {
        let text = service.metrics();
        (value(&text, &series) == Some(wanted)).then_some(text)
    })
}

/// Seven requests, a refusal, a tunnel, a killed worker, and a request that waits for the next.
fn make_events(service: &Service) -> TcpStream {
    for _ in 0..7 {
        service.get("/").expect_ok();
    }
    let (_, head) = send(service, "GET / HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let upgrade =
        "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (tunnel, head) = send(service, upgrade);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
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
    let mut service = Service::probe(&version("v1"), QUICK, "[http]\ntunnels = \"1s\"");
    let tunnel = make_events(&service);
    let text = until(&service, "requests_held_total{}", 1.0);
    let text = if value(&text, "gapless_requests_total{class=\"2xx\"}") == Some(8.0) {
        text
    } else {
        until(&service, "requests_total{class=\"2xx\"}", 8.0)
    };
    expect(
        &text,
        &[
            ("requests_total{class=\"4xx\"}", 1.0),
            ("refusals_total{cause=\"bad_host\"}", 1.0),
            ("hold_duration_seconds_count", 1.0),
            ("hold_duration_seconds_bucket{le=\"+Inf\"}", 1.0),
            ("worker_respawns_total{reason=\"signal\"}", 1.0),
            ("worker_respawns_total{reason=\"exit\"}", 0.0),
            ("boot_duration_seconds_count", 1.0),
            ("drain_duration_seconds_count", 0.0),
            ("swaps_total{}", 1.0),
            ("generation_live{}", 1.0),
            ("generation_state{generation=\"1\",state=\"live\"}", 1.0),
            ("generation_workers{generation=\"1\"}", 1.0),
            ("generation_workers_ready{generation=\"1\"}", 1.0),
            ("degraded{}", 0.0),
            ("last_reload_successful{}", 1.0),
            ("state_failures_total{}", 0.0),
            ("front_deaths_total{}", 0.0),
        ],
    );
    let held = value(&text, "gapless_hold_duration_seconds_sum").unwrap();
    assert!(held > 0.1 && held < 30.0, "it waited for {held} s");
    drop(tunnel);
    until(&service, "tunnels{}", 0.0);
    service.reload().expect_success();
    let text = until(&service, "drain_duration_seconds_count", 1.0);
    expect(
        &text,
        &[
            ("swaps_total{}", 2.0),
            ("boot_duration_seconds_count", 2.0),
            ("swap_duration_seconds_count", 2.0),
            ("generation_live{}", 2.0),
        ],
    );
    service.behave(&version("v1").with("EXIT_BEFORE_READY", "1"));
    assert!(!service.reload().status.success());
    let text = service.metrics();
    expect(
        &text,
        &[
            ("failed_starts_total{}", 1.0),
            ("last_reload_successful{}", 0.0),
        ],
    );
    assert!(value(&text, "gapless_last_reload_timestamp_seconds{}").unwrap() > 1e9);
    service.kill_keeper();
    service.wait_ready();
    // What a front counted dies with it if it never told this keeper.
    until(&service, "requests_total{class=\"2xx\"}", 8.0);
    let front = service.status().fronts[0].clone();
    process::end(front.pid, Signal::KILL);
    until(&service, "front_deaths_total{}", 1.0);
    let text = until(&service, "requests_total{class=\"2xx\"}", 8.0);
    expect(
        &text,
        &[
            ("hold_duration_seconds_count", 1.0),
            ("worker_respawns_total{reason=\"signal\"}", 1.0),
            ("swap_duration_seconds_count", 2.0),
            ("drain_duration_seconds_count", 1.0),
            ("failed_starts_total{}", 1.0),
        ],
    );
}

#[test]
fn the_manual_names_every_metric_with_its_type_and_labels() {
    let limit = "[http]\nconnections_per_address_max = 3";
    let service = Service::probe(&version("v1"), QUICK, limit);
    let crowd: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(service.address()).unwrap())
        .collect();
    until(
        &service,
        "connections_refused_total{cause=\"address_full\"}",
        1.0,
    );
    drop(crowd);
    until(&service, "connections{}", 0.0);
    // A request that kills its worker is a loss, and so has a cause; one without Host is refused.
    assert_eq!(service.get("/crash").status, 502);
    send(&service, "GET / HTTP/1.1\r\n\r\n");
    until(&service, "requests_lost_total{cause=\"app_died\"}", 1.0);
    let text = until(&service, "generation_workers_ready{generation=\"1\"}", 1.0);
    assert_eq!(printed(&text), documented(), "\n{text}");
}

#[test]
fn keeper_front_and_workers_tell_what_they_use() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let front = "process=\"front\",front=\"1\"";
    let text = eventually("the front told what it uses", SOON, || {
        let text = service.metrics();
        let series = format!("gapless_process_memory_bytes{{{front}}}");
        value(&text, &series).is_some().then_some(text)
    });
    let worker = "process=\"worker\",generation=\"1\",worker=\"0\"";
    for labels in ["process=\"keeper\"", front, worker] {
        let of = |name: &str| value(&text, &format!("gapless_process_{name}{{{labels}}}"));
        assert!(of("memory_bytes").unwrap() > 100_000.0, "{labels}\n{text}");
        assert!(of("threads").unwrap() >= 1.0, "{labels}\n{text}");
        assert!(of("open_fds").unwrap() >= 3.0, "{labels}\n{text}");
        assert!(of("cpu_seconds_total").is_some(), "{labels}\n{text}");
    }
    assert!(service.status().fronts[0].usage.is_some());
    let version = env!("CARGO_PKG_VERSION");
    expect(
        &text,
        &[(&format!("build_info{{version=\"{version}\"}}"), 1.0)],
    );
}

#[test]
fn load_balancers_are_told_who_is_ready_and_cannot_command() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = socket.local_addr().unwrap().to_string();
    service.give("admin", socket.into());
    service.behave(&version("v1").with("BOOT_MS", "2000"));
    service.configure_probe(QUICK, "[restart]\nburst = 1");
    service.start();
    let ready = |status: u16| {
        eventually("/readyz says so", SOON, || {
            let reply = get(&admin, "/readyz");
            (reply.status == status).then_some(reply.body)
        })
    };
    assert_eq!(ready(503), "nothing is live yet, requests wait\n");
    service.wait_ready();
    assert_eq!(ready(200), "ok\n");
    assert_eq!(get(&admin, "/healthz").expect_ok(), "ok\n");
    printed(&get(&admin, "/metrics").expect_ok());
    for path in ["/reload", "/status", "/release"] {
        assert_eq!(get(&admin, path).status, 404);
    }
    service.reload().expect_success();
    assert_eq!(get(&admin, "/readyz").status, 200);
    process::end(worker(&service).0, Signal::KILL);
    assert_eq!(get(&admin, "/readyz").status, 200, "within the budget");
    service.kill_keeper();
    assert_eq!(ready(200), "ok\n");
    let (slow, _) = send(&service, "GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    service.behave(&version("v1").with("EXIT_BEFORE_READY", "1"));
    process::end(worker(&service).0, Signal::KILL);
    assert_eq!(ready(503), "the app is down, requests get 503\n");
    until(&service, "degraded{}", 1.0);
    drop(slow);
}
