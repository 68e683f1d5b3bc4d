//! CONNECT, where `[http] connect` passes it on to the app.

use super::world::*;
use gapless::config::HttpConfig;
use gapless::id::GenerationId;
use gapless::link::{Orphaned, Target, ToFront};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const CONNECT: &str = "CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n";
/// With framing that means nothing here.
const OPENED: &str = "HTTP/1.1 200 Come in\r\nContent-Length: 5\r\nVia: app\r\n\r\n";
const DENIED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied";

/// Tells of each head, answers a CONNECT by the first label of its target's name, and echoes in
/// tunnels. Others are answered with `app`.
async fn proxy_app() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (heads, heads_received) = mpsc::unbounded_channel();
    let address = raw_app(move |_, mut socket| {
        let heads = heads.clone();
        async move {
            loop {
                let head = read_head(&mut socket).await;
                if head.is_empty() {
                    return;
                }
                let target = head.split(' ').nth(1).unwrap().to_owned();
                drop(heads.send(head));
                let answer = match target.split('.').next().unwrap() {
                    "b" => OPENED.into(),
                    "denied" => DENIED.into(),
                    "switches" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".into(),
                    "empty" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
                    "dies" => return,
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp".to_owned(),
                };
                socket.write_all(answer.as_bytes()).await.unwrap();
                if answer == OPENED {
                    break;
                }
            }
            let (mut read, mut write) = socket.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
            drop(write.shutdown().await);
        }
    });
    (address.await, heads_received)
}

async fn world(connect: bool) -> (Port, Front, mpsc::UnboundedReceiver<String>) {
    let (app, heads) = proxy_app().await;
    let port = Port::open();
    let http = HttpConfig {
        connect,
        tunnels: Duration::ZERO,
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app])).await;
    (port, front, heads)
}

fn to(name: &str) -> String {
    CONNECT.replace("b.example", name)
}

/// A tunnel through which something came back.
async fn open(port: &Port) -> TcpStream {
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    socket.write_all(CONNECT.as_bytes()).await.unwrap();
    let head = soon("a head", read_head(&mut socket)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    echoes(&mut socket, b"\x16\x03\x01").await;
    socket
}

async fn echoes(socket: &mut TcpStream, bytes: &[u8]) {
    socket.write_all(bytes).await.unwrap();
    let mut echo = vec![0; bytes.len()];
    soon("an echo", socket.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, bytes);
}

async fn rest(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon("the end", socket.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

#[tokio::test]
async fn without_the_setting_it_is_refused_and_the_app_hears_nothing() {
    let (port, front, mut heads) = world(false).await;
    let mut client = Client::connect(&port).await;
    client.send(CONNECT).await;
    assert_eq!(client.answer().await.status, 501);
    assert_eq!(client.get("/").await.body, "app");
    let first = heads.recv().await.unwrap();
    assert!(first.starts_with("GET / "), "{first}");
    front.end().await;
}

#[tokio::test]
async fn a_2xx_makes_a_tunnel_that_counts_as_one() {
    let (port, mut front, mut heads) = world(true).await;
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    let early = b"\x16early, \n not HTTP\n";
    let sent = [CONNECT.as_bytes(), early].concat();
    socket.write_all(&sent).await.unwrap();
    let head = soon("a head", read_head(&mut socket)).await;
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("via: app\r\n"), "{head}");
    let has_framing = head.contains("content-length") || head.contains("transfer-encoding");
    assert!(!has_framing, "{head}");
    let mut echo = vec![0; early.len()];
    soon("an echo", socket.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, early);
    echoes(&mut socket, &[b'x'; 100_000]).await;
    let asked = heads.recv().await.unwrap();
    let starts = asked.starts_with("CONNECT b.example:443 HTTP/1.1\r\n");
    assert!(
        starts && asked.contains("host: b.example:443\r\n"),
        "{asked}"
    );
    let is_counted = |report: &gapless::link::Report| {
        report.tunnels == 1
            && report.in_flight == 0
            && report.leases.get(&GenerationId(1)) == Some(&1)
    };
    let report = front.until("it is counted", is_counted).await;
    assert_eq!(report.counters.responses[1], 1);
    socket.shutdown().await.unwrap();
    assert_eq!(rest(&mut socket).await.unwrap(), b"");
    let report = front
        .until("it is gone", |r| r.tunnels == 0 && r.leases.is_empty())
        .await;
    assert!(report.counters.lost.is_empty() && report.counters.tunnels_ended == 0);
    front.end().await;
}

#[tokio::test]
async fn a_client_of_http_1_0_names_no_host_twice() {
    let (port, front, mut heads) = world(true).await;
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    let sent = b"CONNECT b.example:443 HTTP/1.0\r\n\r\n";
    socket.write_all(sent).await.unwrap();
    let head = soon("a head", read_head(&mut socket)).await;
    assert!(head.split(' ').nth(1) == Some("200"), "{head}");
    echoes(&mut socket, b"\x16\x03\x01").await;
    let asked = heads.recv().await.unwrap();
    assert!(asked.contains("host: b.example:443\r\n"), "{asked}");
    front.end().await;
}

#[tokio::test]
async fn another_answer_is_an_ordinary_one_and_the_connection_goes_on() {
    let (port, mut front, _heads) = world(true).await;
    let mut client = Client::connect(&port).await;
    for _ in 0..2 {
        client.send(&to("denied.example")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (403, "denied"));
        assert_eq!(client.get("/").await.body, "app");
    }
    let report = front
        .until("all are counted", |r| r.counters.responses[3] == 2)
        .await;
    assert_eq!((report.tunnels, report.connections), (0, 1));
    // What was sent into the tunnel that there is not may look like a request.
    client
        .send(&(to("denied.example") + "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.status, 403);
    assert_eq!(client.ends().await, "");
    front.end().await;
}

async fn is_refused(port: &Port, request: &str) {
    let mut client = Client::connect(port).await;
    client.send(request).await;
    assert_eq!(client.answer().await.status, 400, "{request}");
    assert_eq!(client.ends().await, "");
}

#[tokio::test]
async fn what_is_no_host_and_port_never_reaches_the_app() {
    let (port, front, mut heads) = world(true).await;
    for target in [
        "b.example",
        "b.example:0",
        "b.example:65536",
        "/",
        "http://b.example:443/",
    ] {
        let host = "Host: b.example:443\r\n\r\n";
        is_refused(&port, &format!("CONNECT {target} HTTP/1.1\r\n{host}")).await;
    }
    is_refused(&port, &CONNECT.replace("Host: b", "Host: c")).await;
    let with_body = CONNECT.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx");
    is_refused(&port, &with_body).await;
    assert!(heads.try_recv().is_err());
    front.end().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_and_a_death_are_502_and_nothing_is_sent_twice() {
    let (port, mut front, mut heads) = world(true).await;
    for name in ["switches.example", "empty.example", "dies.example"] {
        let mut client = Client::connect(&port).await;
        client.send(&to(name)).await;
        assert_eq!(client.answer().await.status, 502, "{name}");
        assert!(heads.recv().await.unwrap().contains(name));
    }
    assert!(heads.try_recv().is_err());
    let report = front
        .until("all are counted", |r| r.counters.responses[4] == 3)
        .await;
    assert_eq!((report.counters.retries, report.tunnels), (0, 0));
    front.end().await;
}

#[tokio::test]
async fn a_swap_and_a_stop_end_it_as_any_tunnel() {
    let (port, mut front, _heads) = world(true).await;
    let mut told = open(&port).await;
    front.serve(2, Target::Hold).await;
    assert_eq!(rest(&mut told).await.unwrap(), b"");
    let report = front.until("it is gone", |r| r.leases.is_empty()).await;
    assert_eq!(report.counters.tunnels_ended, 1);
    front.serve(3, live(2, &[proxy_app().await.0])).await;
    let mut stopped = open(&port).await;
    front.tell(ToFront::Drain).await;
    assert_eq!(rest(&mut stopped).await.unwrap(), b"");
    let report = front.ended().await;
    assert!(report.counters.lost.is_empty() && report.counters.tunnels_ended == 2);
}
