//! Ring 2: a front is never reconfigured; the next one takes its connections over.

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
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use world::service::{SOON, Service};
use world::{alone, eventually, process, version};

const QUICK: &str = "settle = \"100ms\"";

/// The front that serves, once it does.
fn serving(service: &Service) -> FrontStatus {
    eventually("a front serves", SOON, || {
        let fronts = service.status().fronts;
        fronts.into_iter().find(|front| front.state == "serving")
    })
}

fn change_front_settings(service: &Service, idle: u32) {
    service.configure_probe(QUICK, &format!("[http]\nidle_timeout = \"{idle}min\""));
    service.reload().expect_success();
}

/// One keep-alive connection.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(service: &Service) -> Self {
        let stream = TcpStream::connect(service.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Status line; the body is read by its length.
    fn answer(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).unwrap();
            assert!(read > 0, "the connection was closed after {lines:?}");
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim().to_ascii_lowercase());
        }
        assert!(!lines.contains(&"connection: close".into()), "{lines:?}");
        let length = lines
            .iter()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        lines[0].clone()
    }
}

#[test]
fn changed_http_settings_bring_a_fresh_front_and_close_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let load = service.load(&["--idle", "200"]);
    for idle in 20..24 {
        let old = serving(&service);
        change_front_settings(&service, idle);
        eventually("the old front is gone", SOON, || {
            let fronts = service.status().fronts;
            (fronts.len() == 1 && fronts[0].id > old.id).then_some(())
        });
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    let metrics = service.metrics();
    let inherited = metrics
        .lines()
        .find_map(|line| line.strip_prefix("gapless_connections_inherited_total{} "));
    let inherited: u64 = inherited.unwrap().parse().unwrap();
    assert!(inherited >= 4 * 200, "{inherited} connections moved");
}

#[test]
fn a_front_whose_heir_dies_hands_over_to_the_next() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let first = serving(&service);
    let mut connection = Connection::open(&service);
    connection.ask("/slow?ms=4000");
    change_front_settings(&service, 20);
    let heir = eventually("the first front retires", SOON, || {
        let fronts = service.status().fronts;
        let retires = fronts
            .iter()
            .any(|it| it.id == first.id && it.state == "retiring");
        fronts
            .into_iter()
            .find(|it| retires && it.state == "serving")
    });
    process::end(heir.pid, Signal::KILL);
    let next = eventually("another heir serves", SOON, || {
        let fronts = service.status().fronts;
        fronts
            .into_iter()
            .find(|it| it.id > heir.id && it.state == "serving")
    });
    assert_eq!(
        connection.answer(),
        "http/1.1 200 ok",
        "begun on the first front"
    );
    eventually("the first front is gone", SOON, || {
        let fronts = service.status().fronts;
        (fronts.len() == 1 && fronts[0].id == next.id).then_some(())
    });
    connection.ask("/pid");
    assert_eq!(
        connection.answer(),
        "http/1.1 200 ok",
        "on the same connection"
    );
}

#[test]
fn status_and_metrics_count_what_happened() {
    let service = Service::probe(&version("v1"), QUICK, "");
    for _ in 0..7 {
        service.get("/").expect_ok();
    }
    // A GET of which nothing came back is sent once more, so it kills two workers.
    assert_eq!(service.get("/crash").status, 502);
    eventually("the counters are reported", SOON, || {
        let requests = service.status().requests;
        (requests.total >= 8 && requests.lost == 1).then_some(())
    });
    eventually("the worker is respawned", SOON, || {
        (service.get("/").status == 200).then_some(())
    });
    let metrics = service.metrics();
    for expected in [
        "gapless_requests_total{class=\"5xx\"} 1",
        "gapless_requests_lost_total{cause=\"app_died\"} 1",
        "gapless_retries_total{} 1",
        "gapless_worker_respawns_total{reason=\"signal\"} 2",
        "gapless_generations{state=\"live\"} 1",
        "gapless_process_threads{process=\"worker\",generation=\"1\",worker=\"0\"}",
        "gapless_request_duration_seconds_count",
        "# EOF",
    ] {
        assert!(metrics.contains(expected), "no {expected} in\n{metrics}");
    }
    assert_eq!(
        metrics.matches("gapless_front_deaths_total{} 0").count(),
        1,
        "{metrics}"
    );
    service.reload().expect_success();
    let lost = service.status().requests.lost;
    assert_eq!(lost, 1, "a reload loses nothing");
}
