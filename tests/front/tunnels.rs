//! Connections that switch protocols.

use super::world::*;
use gapless::config::HttpConfig;
use gapless::id::GenerationId;
use gapless::link::{Orphaned, Target, ToFront};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

const CLOSE_1012: &[u8] = &[0x88, 2, 0x03, 0xf4];
/// "hi" as text, unmasked.
const HI: &[u8] = &[0x81, 2, b'h', b'i'];
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn switch(protocol: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

fn asking(protocol: &str) -> String {
    format!(
        "GET /t HTTP/1.1\r\nHost: t\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )
}

/// Switches to whatever is asked for and echoes; the path `/name` of others is answered with `name`.
async fn echo_app(name: &'static str) -> SocketAddr {
    raw_app(move |_, mut socket| async move {
        loop {
            let head = read_head(&mut socket).await;
            let upgrade = head
                .lines()
                .find_map(|line| line.strip_prefix("upgrade: ").map(str::to_owned));
            let answer = match (&upgrade, head.is_empty()) {
                (_, true) => return,
                (Some(protocol), _) => switch(protocol),
                (None, _) => format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                ),
            };
            socket.write_all(answer.as_bytes()).await.unwrap();
            if upgrade.is_some() {
                break;
            }
        }
        let (mut read, mut write) = socket.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
        drop(write.shutdown().await);
    })
    .await
}

/// Sends `request` and reads the head of the answer.
async fn dial(port: &Port, request: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let head = soon("a head", read_head(&mut socket)).await;
    (socket, head)
}

async fn open(port: &Port, protocol: &str) -> TcpStream {
    let (socket, head) = dial(port, &asking(protocol)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    socket
}

async fn read(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    soon("bytes", socket.read_exact(&mut bytes)).await.unwrap();
    bytes
}

async fn echoes(socket: &mut TcpStream, bytes: &[u8]) {
    socket.write_all(bytes).await.unwrap();
    assert_eq!(read(socket, bytes.len()).await, bytes);
}

async fn rest(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon("the end", socket.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

async fn world(http: HttpConfig, app: SocketAddr) -> (Port, Front) {
    let port = Port::open();
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app])).await;
    (port, front)
}

fn within(tunnels: Duration) -> HttpConfig {
    HttpConfig { tunnels, ..http() }
}

#[tokio::test]
async fn both_heads_arrive_as_they_should_and_a_tunnel_is_counted() {
    let (heads, mut heads_received) = mpsc::unbounded_channel();
    let app = raw_app(move |_, mut socket| {
        let heads = heads.clone();
        async move {
            heads.send(read_head(&mut socket).await).unwrap();
            socket
                .write_all(switch("websocket").as_bytes())
                .await
                .unwrap();
            drop(rest(&mut socket).await);
        }
    })
    .await;
    let (port, mut front) = world(http(), app).await;
    let (socket, head) = dial(&port, &asking("websocket")).await;
    let head = head.to_lowercase();
    for line in [
        "http/1.1 101 ",
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(head.contains(&ACCEPT.to_lowercase()), "{head}");
    let asked = heads_received.recv().await.unwrap();
    assert!(asked.contains("connection: upgrade\r\n"), "{asked}");
    assert!(asked.contains("upgrade: websocket\r\n"), "{asked}");
    let is_counted = |report: &gapless::link::Report| {
        report.tunnels == 1
            && report.in_flight == 0
            && report.leases.get(&GenerationId(1)) == Some(&1)
    };
    let report = front.until("it is counted", is_counted).await;
    assert_eq!((report.counters.responses[0], report.connections), (1, 1));
    drop(socket);
    let report = front
        .until("it is gone", |r| r.tunnels == 0 && r.leases.is_empty())
        .await;
    assert!(report.counters.lost.is_empty() && report.counters.tunnels_ended == 0);
    front.end().await;
}

#[tokio::test]
async fn bytes_that_come_with_the_heads_are_not_lost() {
    let app = raw_app(|_, mut socket| async move {
        read_head(&mut socket).await;
        let answer = switch("echo") + "early";
        socket.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = socket.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
    })
    .await;
    let (port, front) = world(http(), app).await;
    let (mut socket, _) = dial(&port, &(asking("echo") + "with the head")).await;
    assert_eq!(read(&mut socket, 18).await, b"earlywith the head");
    echoes(&mut socket, b"and more").await;
    front.end().await;
}

#[tokio::test]
async fn much_passes_both_ways_at_once_and_unchanged() {
    let (port, front) = world(http(), echo_app("app").await).await;
    let socket = open(&port, "echo").await;
    let sent: Vec<u8> = (0..6_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2])
        .collect();
    let expected = sent.clone();
    let (mut read, mut write) = socket.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    soon("all of it", read.read_to_end(&mut got)).await.unwrap();
    writing.await.unwrap();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
    front.end().await;
}

#[tokio::test]
async fn each_way_ends_on_its_own() {
    let app = raw_app(|number, mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(switch("echo").as_bytes()).await.unwrap();
        if number == 0 {
            let all = rest(&mut socket).await.unwrap();
            socket
                .write_all(format!("got {}", all.len()).as_bytes())
                .await
                .unwrap();
        } else {
            socket.write_all(b"bye").await.unwrap();
            socket.shutdown().await.unwrap();
            assert_eq!(rest(&mut socket).await.unwrap(), b"after");
        }
    })
    .await;
    let (port, mut front) = world(http(), app).await;
    let mut client_first = open(&port, "echo").await;
    client_first.write_all(b"12345").await.unwrap();
    client_first.shutdown().await.unwrap();
    assert_eq!(rest(&mut client_first).await.unwrap(), b"got 5");
    let mut app_first = open(&port, "echo").await;
    assert_eq!(rest(&mut app_first).await.unwrap(), b"bye");
    front.until("one way is open", |r| r.tunnels == 1).await;
    app_first.write_all(b"after").await.unwrap();
    app_first.shutdown().await.unwrap();
    front
        .until("both are gone", |r| r.tunnels == 0 && r.leases.is_empty())
        .await;
    front.end().await;
}

#[tokio::test]
async fn another_answer_is_an_ordinary_one() {
    let (port, mut front) = world(http(), App::start("app").await.address).await;
    let mut client = Client::connect(&port).await;
    for _ in 0..2 {
        client.send(&asking("websocket")).await;
        assert_eq!(client.answer().await.body, "app");
    }
    client.send(&asking("h2c")).await;
    assert_eq!(client.answer().await.body, "app");
    let report = front
        .until("all are counted", |r| r.counters.responses[1] == 3)
        .await;
    assert_eq!((report.tunnels, report.counters.responses[0]), (0, 0));
    front.end().await;
}

#[tokio::test]
async fn an_upgrade_is_never_sent_twice() {
    let connections = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&connections);
    let app = raw_app(move |_, mut socket| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            read_head(&mut socket).await;
        }
    })
    .await;
    let (port, front) = world(http(), app).await;
    let mut client = Client::connect(&port).await;
    client.send(&asking("websocket")).await;
    assert_eq!(client.answer().await.status, 502);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    front.end().await;
}

#[tokio::test]
async fn a_tunnel_may_idle_but_not_be_stuck() {
    let short = Duration::from_millis(200);
    let http = HttpConfig {
        idle_timeout: short,
        body_timeout: short,
        head_timeout: short,
        response_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_millis(500),
        ..http()
    };
    let (port, mut front) = world(http, echo_app("app").await).await;
    let mut idle = open(&port, "echo").await;
    let mut stuck = open(&port, "echo").await;
    // Its echo is never read.
    let block = vec![0; 100_000];
    while soon("a write", stuck.write_all(&block)).await.is_ok() {}
    front
        .until("the stuck one is gone", |r| r.tunnels == 1)
        .await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    echoes(&mut idle, b"still here").await;
    front.end().await;
}

#[tokio::test]
async fn a_swap_ends_tunnels_one_by_one_and_the_lease_with_the_last() {
    let (old, new) = (echo_app("old").await, echo_app("new").await);
    let (port, mut front) = world(within(Duration::from_secs(6)), old).await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut socket = open(&port, "websocket").await;
        echoes(&mut socket, HI).await;
        sockets.push(socket);
    }
    front.serve(2, live(2, &[new])).await;
    let swapped = Instant::now();
    assert_eq!(Client::connect(&port).await.get("/").await.body, "new");
    front
        .until("most live on", |r| {
            r.leases.get(&GenerationId(1)) > Some(&40)
        })
        .await;
    let ends: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            tokio::spawn(async move {
                let got = rest(&mut socket).await.unwrap();
                (got, swapped.elapsed())
            })
        })
        .collect();
    let mut times = Vec::new();
    for end in ends {
        let (got, at) = end.await.unwrap();
        assert_eq!(got, CLOSE_1012);
        times.push(at);
    }
    // Unasked, and not before the last.
    while front.report.leases.contains_key(&GenerationId(1)) {
        front.hear().await;
    }
    times.sort();
    let (first, last) = (times[0], times[49]);
    assert!(last < Duration::from_secs(6), "{times:?}");
    // 50 moments within 4 s, and up to a second for each to close.
    assert!(last - first > Duration::from_secs(2), "{times:?}");
    let report = front.until("all are counted", |r| r.tunnels == 0).await;
    assert_eq!(report.counters.tunnels_ended, 50);
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_tunnel_of_the_live_generation_outlives_a_respawn() {
    let app = echo_app("app").await;
    let (port, mut front) = world(within(Duration::ZERO), app).await;
    let mut socket = open(&port, "websocket").await;
    front.serve(2, live(1, &[])).await;
    front.serve(3, live(1, &[app])).await;
    echoes(&mut socket, HI).await;
    front.serve(4, Target::Hold).await;
    assert_eq!(rest(&mut socket).await.unwrap(), CLOSE_1012);
    front.end().await;
}

/// Says the first half of a frame at once, and the second when told; then tells what it heard.
async fn halting_app(go: Arc<Notify>, heard: mpsc::UnboundedSender<Vec<u8>>) -> SocketAddr {
    raw_app(move |_, mut socket| {
        let (go, heard) = (Arc::clone(&go), heard.clone());
        async move {
            read_head(&mut socket).await;
            socket
                .write_all(switch("websocket").as_bytes())
                .await
                .unwrap();
            socket.write_all(&HI[..3]).await.unwrap();
            go.notified().await;
            // What follows the frame must not reach the client any more.
            socket.write_all(&[&HI[3..], HI].concat()).await.unwrap();
            // As a WebSocket server: closes when the client said that it closes.
            let mut close = [0; 8];
            if socket.read_exact(&mut close).await.is_ok() {
                heard.send(close.to_vec()).unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn the_close_frame_waits_for_a_boundary_and_both_sides_say_goodbye() {
    let (go, (heard, mut heard_received)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let app = halting_app(Arc::clone(&go), heard).await;
    let (port, mut front) = world(within(Duration::ZERO), app).await;
    let mut socket = open(&port, "websocket").await;
    assert_eq!(read(&mut socket, 3).await, &HI[..3]);
    front.serve(2, Target::Hold).await;
    front
        .until("it is told", |r| r.counters.tunnels_ended == 1)
        .await;
    go.notify_one();
    assert_eq!(read(&mut socket, 5).await, [&HI[3..], CLOSE_1012].concat());
    let reply = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4];
    socket.write_all(&reply).await.unwrap();
    assert_eq!(rest(&mut socket).await.unwrap(), b"");
    assert_eq!(
        soon("the app hears", heard_received.recv()).await.unwrap(),
        reply
    );
    drop(socket);
    front
        .until("it is gone", |r| r.tunnels == 0 && r.leases.is_empty())
        .await;
    front.end().await;
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_not_waited_for() {
    let (go, (heard, _heard_received)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let app = halting_app(go, heard).await;
    let (port, mut front) = world(within(Duration::ZERO), app).await;
    let mut socket = open(&port, "websocket").await;
    // Only then the front is within a frame.
    assert_eq!(read(&mut socket, 3).await, &HI[..3]);
    front.serve(2, Target::Hold).await;
    assert_eq!(rest(&mut socket).await.unwrap(), b"");
    let report = front.until("it is gone", |r| r.leases.is_empty()).await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn other_protocols_are_closed_on_both_sides() {
    let (port, mut front) = world(within(Duration::ZERO), echo_app("app").await).await;
    let mut socket = open(&port, "echo").await;
    echoes(&mut socket, b"x").await;
    front.serve(2, Target::Hold).await;
    assert_eq!(rest(&mut socket).await.unwrap(), b"");
    let report = front.until("it is gone", |r| r.leases.is_empty()).await;
    assert_eq!(report.counters.tunnels_ended, 1);
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_cut_ends_tunnels_that_were_not_told_and_counts_them_as_lost() {
    let (port, mut front) = world(within(Duration::from_secs(3600)), echo_app("app").await).await;
    let (mut web, mut other) = (open(&port, "websocket").await, open(&port, "echo").await);
    echoes(&mut web, HI).await;
    echoes(&mut other, HI).await;
    front.serve(2, live(2, &[echo_app("new").await])).await;
    let generation = GenerationId(1);
    front.tell(ToFront::Cut { generation }).await;
    assert_eq!(rest(&mut web).await.unwrap(), CLOSE_1012);
    rest(&mut other).await.expect_err("a reset");
    let report = front.until("both are gone", |r| r.leases.is_empty()).await;
    assert_eq!(report.counters.lost.get("cut"), Some(&2));
    assert_eq!(report.counters.tunnels_ended, 0);
    front.end().await;
}

#[tokio::test]
async fn a_cut_of_a_tunnel_that_was_told_loses_nothing() {
    let (go, (heard, _heard_received)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let app = halting_app(go, heard).await;
    let (port, mut front) = world(within(Duration::ZERO), app).await;
    let mut socket = open(&port, "websocket").await;
    assert_eq!(read(&mut socket, 3).await, &HI[..3]);
    front.serve(2, Target::Hold).await;
    front
        .until("it is told", |r| r.counters.tunnels_ended == 1)
        .await;
    let generation = GenerationId(1);
    front.tell(ToFront::Cut { generation }).await;
    assert_eq!(rest(&mut socket).await.unwrap(), b"");
    let report = front.until("it is gone", |r| r.leases.is_empty()).await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_retiring_front_keeps_its_tunnels_for_the_window_and_nothing_else() {
    let app = echo_app("app").await;
    let (port, mut first) = world(within(Duration::from_secs(6)), app).await;
    let mut idle = Client::connect(&port).await;
    idle.get("/").await;
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        tunnels.push(open(&port, "websocket").await);
    }
    first.until("all are here", |r| r.tunnels == 8).await;
    let mut second = Front::start(&port).await;
    second.serve(1, live(1, &[app])).await;
    let retired = Instant::now();
    first.begin_hand_over(&second).await;
    let came = |r: &gapless::link::Report| r.counters.connections_inherited == 1;
    second.until("the idle one came", came).await;
    assert_eq!(idle.get("/").await.body, "app");
    let report = first
        .until("only tunnels are left", |r| r.connections == r.tunnels)
        .await;
    assert!(report.tunnels > 4, "{report:?}");
    for socket in &mut tunnels {
        assert_eq!(rest(socket).await.unwrap(), CLOSE_1012);
    }
    assert!(retired.elapsed() < Duration::from_secs(6));
    let report = first.ended().await;
    assert_eq!((report.tunnels, report.counters.tunnels_ended), (0, 8));
    second.end().await;
}

#[tokio::test]
async fn a_stop_ends_tunnels_at_once() {
    let (port, front) = world(within(Duration::from_secs(3600)), echo_app("app").await).await;
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        let mut socket = open(&port, "websocket").await;
        echoes(&mut socket, HI).await;
        tunnels.push(socket);
    }
    front.tell(ToFront::Drain).await;
    let ends: Vec<_> = tunnels
        .into_iter()
        .map(|mut socket| tokio::spawn(async move { rest(&mut socket).await.unwrap() }))
        .collect();
    for end in ends {
        assert_eq!(end.await.unwrap(), CLOSE_1012);
    }
    let report = front.ended().await;
    assert!(report.counters.lost.is_empty() && report.counters.tunnels_ended == 8);
}
