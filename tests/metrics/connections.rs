//! Connections and tunnels.

use crate::world::service::{SOON, Service};
use crate::world::version;
use crate::{QUICK, get, post, send};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;

/// An open one.
pub fn tunnel(service: &Service) -> TcpStream {
    let upgrade =
        "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (tunnel, head) = send(service, upgrade);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    tunnel
}

/// The other end closes it.
pub fn expect_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = Vec::new();
    // A reset is an end, too.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn connections_are_counted_when_they_come_move_and_are_turned_away() {
    let four = "[http]\nlanes = 1\nconnections_max = 4";
    let service = Service::probe(&version("v1"), QUICK, four);
    let mut idle: Vec<_> = (0..3).map(|_| send(&service, &get("/")).0).collect();
    let text = service.until("connections", &[], 3.0);
    text.expect("connections_accepted_total", &[], 3.0);
    text.expect("connections_inherited_total", &[], 0.0);
    service.configure_probe(QUICK, &format!("{four}\nidle_timeout = \"5min\""));
    service.reload().expect_success();
    let text = service.until("connections_inherited_total", &[], 3.0);
    text.expect("connections_accepted_total", &[], 3.0);
    service.until("connections", &[], 3.0);
    // When there is no room for one more, the one that was idle for longest goes.
    idle.push(send(&service, &get("/")).0);
    let text = service.until(
        "connections_refused_total",
        &[("cause", "idle_when_full")],
        1.0,
    );
    text.expect("connections_accepted_total", &[], 4.0);
    service.until("connections", &[], 3.0);
}

#[test]
fn who_speaks_for_no_client_is_turned_away_and_counted() {
    let trusting = |proxies: &str| {
        format!("[http]\nproxy_protocol = \"require\"\ntrusted_proxies = [\"{proxies}\"]")
    };
    let service = Service::probe(&version("v1"), QUICK, &trusting("127.0.0.1"));
    for _ in 0..2 {
        expect_closed(post(&service, &get("/")));
    }
    service.until(
        "connections_refused_total",
        &[("cause", "proxy_header")],
        2.0,
    );
    let named = format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{}", get("/"));
    assert!(send(&service, &named).1.starts_with("HTTP/1.1 200 "));
    service.configure_probe(QUICK, &trusting("192.0.2.9"));
    service.reload().expect_success();
    // Before it has said a word.
    expect_closed(TcpStream::connect(service.address()).unwrap());
    let text = service.until(
        "connections_refused_total",
        &[("cause", "proxy_not_trusted")],
        1.0,
    );
    text.expect(
        "connections_refused_total",
        &[("cause", "proxy_header")],
        2.0,
    );
}

#[test]
fn tunnels_are_counted_while_they_are_open_and_when_they_are_told_to_end() {
    let service = Service::probe(&version("v1"), QUICK, "[http]\ntunnels = \"1s\"");
    let tunnels = [tunnel(&service), tunnel(&service)];
    let text = service.until("tunnels", &[], 2.0);
    text.expect("connections", &[], 2.0);
    text.expect("requests_in_flight", &[], 0.0);
    text.expect("tunnels_ended_total", &[], 0.0);
    text.expect("generation_requests_in_flight", &[("generation", "1")], 2.0);
    service.reload().expect_success();
    tunnels.into_iter().for_each(expect_closed);
    service.until("tunnels_ended_total", &[], 2.0);
    service.until("tunnels", &[], 0.0);
    // They ended as they should: nothing is lost.
    assert_eq!(service.status().requests.lost, 0);
}
