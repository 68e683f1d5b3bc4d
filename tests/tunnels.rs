//! Ring 2: connections that switch protocols, through the real binary under a played systemd.

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

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use world::service::{SOON, Service};
use world::{eventually, version};

const QUICK: &str = "settle = \"100ms\"";
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// "hi" as text.
const HI: &[u8] = &[0x81, 2, b'h', b'i'];
/// "service restart".
const CLOSE_1012: &[u8] = &[0x88, 2, 0x03, 0xf4];

/// A WebSocket to the probe app, as far as frames go.
fn open(service: &Service) -> TcpStream {
    let mut socket = TcpStream::connect(service.address()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    socket
}

fn echoes(socket: &mut TcpStream) {
    socket.write_all(HI).unwrap();
    let mut back = [0; 4];
    socket.read_exact(&mut back).unwrap();
    assert_eq!(back, HI);
}

fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_reload_ends_tunnels_in_their_window_and_then_the_old_generation_goes() {
    let service = Service::probe(&version("v1"), QUICK, "[http]\ntunnels = \"4s\"");
    let mut sockets: Vec<_> = (0..5).map(|_| open(&service)).collect();
    sockets.iter_mut().for_each(echoes);
    eventually("they are reported", SOON, || {
        (service.status().fronts[0].tunnels == 5).then_some(())
    });
    let metrics = service.metrics();
    assert!(metrics.contains("gapless_tunnels{} 5"), "{metrics}");
    service.behave(&version("v2"));
    service.reload().expect_success();
    let reloaded = Instant::now();
    let reply = service.get("/");
    assert_eq!(reply.header("x-app-version"), Some("v2"), "{reply:?}");
    for socket in &mut sockets {
        assert_eq!(rest(socket), CLOSE_1012);
    }
    assert!(reloaded.elapsed() < Duration::from_secs(5));
    drop(sockets);
    eventually("the old generation goes", SOON, || {
        let status = service.status();
        let is_over = status.generations.len() == 1 && status.fronts[0].tunnels == 0;
        (is_over && status.requests.lost == 0).then_some(())
    });
    let metrics = service.metrics();
    assert!(
        metrics.contains("gapless_tunnels_ended_total{} 5"),
        "{metrics}"
    );
}

/// When each of them heard 1012, counted from `since`.
fn ends_of(sockets: &[TcpStream], since: Instant) -> Vec<Duration> {
    let mut open: Vec<&TcpStream> = sockets.iter().collect();
    let mut ends = Vec::new();
    while !open.is_empty() {
        let mut fds: Vec<_> = open
            .iter()
            .map(|socket| PollFd::new(*socket, PollFlags::IN))
            .collect();
        let limit = Timespec::try_from(SOON).unwrap();
        assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "some stay open");
        let at = since.elapsed();
        let is_over: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut states = is_over.iter();
        open.retain(|socket| {
            let is_over = *states.next().unwrap();
            if is_over {
                let mut frame = [0; 4];
                (&mut &**socket).read_exact(&mut frame).unwrap();
                assert_eq!(frame, CLOSE_1012);
                ends.push(at);
            }
            !is_over
        });
    }
    ends
}

#[test]
fn five_hundred_tunnels_end_spread_over_the_window_and_delay_no_swap() {
    let window = Duration::from_secs(6);
    let service = Service::probe(&version("v1"), QUICK, "[http]\ntunnels = \"6s\"");
    let mut sockets: Vec<_> = (0..500).map(|_| open(&service)).collect();
    sockets.iter_mut().for_each(echoes);
    service.behave(&version("v2"));
    let asked = Instant::now();
    let reload = service.reload();
    let reloaded = asked.elapsed();
    assert!(reload.took < Duration::from_secs(4), "{reload}");
    reload.expect_success();
    let ends = ends_of(&sockets, asked);
    drop(sockets);
    assert!(ends.iter().all(|at| *at < reloaded + window + SLACK));
    // Whoever comes back must not come back with all the others. Told over 4 s, so that all have
    // ended when the window has.
    let first = ends[0];
    let mut each_second = [0; 4];
    for at in ends {
        let second = at.saturating_sub(first).as_secs().min(3);
        each_second[usize::try_from(second).unwrap()] += 1;
    }
    let is_even = each_second.iter().all(|count| (60..=220).contains(count));
    assert!(is_even, "{each_second:?}");
    eventually("the old generation goes", SOON, || {
        let status = service.status();
        (status.generations.len() == 1 && status.requests.lost == 0).then_some(())
    });
}

#[test]
fn a_lease_that_no_report_has_told_yet_holds_its_generation() {
    let service = Service::probe(
        &version("v1"),
        "settle = \"0s\"",
        "[http]\ntunnels = \"1s\"",
    );
    for _ in 0..12 {
        let mut socket = open(&service);
        service.reload().expect_success();
        assert_eq!(rest(&mut socket), CLOSE_1012);
    }
}

#[test]
fn a_stop_says_goodbye_to_tunnels_and_does_not_wait_for_them() {
    let mut service = Service::probe(&version("v1"), QUICK, "[http]\ntunnels = \"1h\"");
    let mut socket = open(&service);
    echoes(&mut socket);
    let stopped = Instant::now();
    service.signal(Signal::TERM);
    assert_eq!(rest(&mut socket), CLOSE_1012);
    drop(socket);
    assert!(service.wait_end(SOON).success());
    assert!(stopped.elapsed() < Duration::from_secs(8));
}
