//! Who clients are, how many they may be, and how slow.

use super::world::*;
use gapless::config::{HttpConfig, ProxyProtocol};
use gapless::link::{Orphaned, Report};
use std::num::NonZeroU32;
use std::time::Duration;

const HEADER: &str = "PROXY TCP4 192.0.2.7 192.0.2.8 56324 443\r\n";

const HEAD: &str = "GET /head HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";

/// Of the load balancer itself, version 2.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn behind(balancer: &str) -> HttpConfig {
    HttpConfig {
        proxy_protocol: ProxyProtocol::Require,
        trusted_proxies: vec![balancer.parse().unwrap()],
        ..http()
    }
}

async fn world(http: HttpConfig) -> (Port, Front, App) {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    (port, front, app)
}

fn refused(report: &Report, cause: &str) -> u64 {
    let refused = &report.counters.connections_refused;
    refused.get(cause).copied().unwrap_or(0)
}

#[tokio::test]
async fn the_client_is_who_the_proxy_header_says_however_it_is_split() {
    let (port, front, _app) = world(behind("127.0.0.1/32")).await;
    let all = [HEADER, HEAD].concat();
    for at in [
        all.len(),
        1,
        HEADER.len() - 1,
        HEADER.len(),
        HEADER.len() + 1,
    ] {
        let mut client = Client::connect(&port).await;
        let (begin, rest) = all.split_at(at);
        client.send(begin).await;
        // Another answer in between: the first part was read alone.
        let mut other = Client::connect(&port).await;
        other.send(&all).await;
        other.answer().await;
        client.send(rest).await;
        let answer = client.answer().await;
        assert!(
            answer.body.contains("x-forwarded-for: 192.0.2.7\n"),
            "{answer:?}"
        );
        assert!(!answer.body.contains("1.1.1.1"), "{answer:?}");
        // The header is said once, for all requests.
        assert_eq!(client.get("/").await.body, "app");
    }
    front.end().await;
}

#[tokio::test]
async fn a_load_balancer_speaks_for_itself_by_a_header_without_an_address() {
    let (port, front, _app) = world(behind("127.0.0.1/32")).await;
    let mut client = Client::connect(&port).await;
    client.send(std::str::from_utf8(LOCAL).unwrap()).await;
    client.send(HEAD).await;
    let answer = client.answer().await;
    assert!(
        answer.body.contains("x-forwarded-for: 127.0.0.1\n"),
        "{answer:?}"
    );
    front.end().await;
}

#[tokio::test]
async fn without_a_proxy_header_a_connection_is_closed_and_nothing_reaches_the_app() {
    let http = HttpConfig {
        head_timeout: Duration::from_millis(300),
        ..behind("127.0.0.1/32")
    };
    let (port, mut front, app) = world(http).await;
    for begin in [
        "GET / HTTP/1.1\r\nHost: t\r\n\r\n",
        "PROXY TCP4 nonsense\r\n",
        "PROXY TCP4 192.",
    ] {
        let mut client = Client::connect(&port).await;
        client.send(begin).await;
        assert_eq!(client.ends().await, "", "{begin:?}");
    }
    // One that says nothing at all has its time, too.
    assert_eq!(Client::connect(&port).await.ends().await, "");
    let all = |report: &Report| refused(report, "proxy_header") == 4 && report.connections == 0;
    front.until("all are counted", all).await;
    assert_eq!(app.requests(), 0);
    front.end().await;
}

#[tokio::test]
async fn a_proxy_header_of_a_stranger_is_not_even_read() {
    let (port, mut front, app) = world(behind("10.0.0.0/8")).await;
    if let Ok(mut client) = Client::try_connect(&port).await {
        client.try_send(&[HEADER, HEAD].concat()).await;
        assert_eq!(client.ends().await, "");
    }
    let counted = |report: &Report| refused(report, "proxy_not_trusted") == 1;
    front.until("it is counted", counted).await;
    assert_eq!(app.requests(), 0);
    front.end().await;
}

#[tokio::test]
async fn a_connection_that_moves_stays_who_it_was_introduced_as() {
    let (port, first, app) = world(behind("127.0.0.1/32")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&port).await;
        client.send(&[HEADER, HEAD].concat()).await;
        client.answer().await;
        clients.push(client);
    }
    let mut half = Client::connect(&port).await;
    half.send("PROXY TCP4 192.0.").await;
    let mut first = first;
    first
        .until("it is here", |report| report.connections == 21)
        .await;
    let mut second = Front::start_with(&port, behind("127.0.0.1/32"), Orphaned::ServeOn).await;
    second.serve(1, live(1, &[app.address])).await;
    first.begin_hand_over(&second).await;
    let came = |report: &Report| report.counters.connections_inherited == 20;
    second.until("the idle came", came).await;
    half.send("2.7 192.0.2.8 1 2\r\n").await;
    first.ended().await;
    clients.push(half);
    for client in &mut clients {
        client.send(HEAD).await;
        let answer = client.answer().await;
        assert!(
            answer.body.contains("x-forwarded-for: 192.0.2.7\n"),
            "{answer:?}"
        );
    }
    // It served all of them, and asked none for another header.
    let report = second.ask().await;
    assert_eq!(report.counters.connections_refused.len(), 0);
    second.end().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_proxy_header() {
    let (port, mut front, _app) = world(behind("127.0.0.1/32")).await;
    let mut client = Client::connect(&port).await;
    client.send("PROXY ").await;
    front
        .until("it is here", |report| report.connections == 1)
        .await;
    let began = tokio::time::Instant::now();
    front.tell(gapless::link::ToFront::Drain).await;
    front.ended().await;
    assert!(began.elapsed() < http().head_timeout);
    assert_eq!(client.ends().await, "");
}

#[tokio::test]
async fn an_address_has_so_many_connections_over_all_lanes_and_gets_them_back() {
    let http = HttpConfig {
        connections_per_address_max: NonZeroU32::new(3),
        lanes: NonZeroU32::new(2),
        ..http()
    };
    let (port, mut front, _app) = world(http).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(&port).await;
        client.get("/").await;
        clients.push(client);
    }
    for _ in 0..4 {
        // Perhaps before connect(2) is back.
        if let Ok(mut client) = Client::try_connect(&port).await {
            assert_eq!(client.ends().await, "");
        }
    }
    let four = |report: &Report| refused(report, "address_full") == 4;
    front.until("they are counted", four).await;
    // Those that are here are served on, and another address has places of its own.
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
    let mut other = Client::connect_from(&port, "127.0.0.2").await;
    assert_eq!(other.get("/").await.status, 200);
    front
        .until("the other is counted", |report| report.connections == 4)
        .await;
    drop(clients.pop());
    front
        .until("one is gone", |report| report.connections == 3)
        .await;
    assert_eq!(Client::connect(&port).await.get("/").await.status, 200);
    front.end().await;
}

#[tokio::test]
async fn behind_a_load_balancer_the_limit_is_of_the_clients_behind_it() {
    let http = HttpConfig {
        connections_per_address_max: NonZeroU32::new(1),
        ..behind("127.0.0.1/32")
    };
    let (port, front, _app) = world(http).await;
    let mut clients = Vec::new();
    for host in 1..=5 {
        let mut client = Client::connect(&port).await;
        client
            .send(&format!("PROXY TCP4 192.0.2.{host} 10.0.0.1 1 2\r\n{HEAD}"))
            .await;
        assert_eq!(client.answer().await.status, 200);
        clients.push(client);
    }
    let mut second = Client::connect(&port).await;
    second
        .try_send(&[HEADER.replace("2.7", "2.5").as_str(), HEAD].concat())
        .await;
    assert_eq!(second.ends().await, "");
    front.end().await;
}

#[tokio::test]
async fn a_trusted_proxy_has_as_many_connections_as_it_wants() {
    let http = HttpConfig {
        connections_per_address_max: NonZeroU32::new(1),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..http()
    };
    let (port, front, _app) = world(http).await;
    let (mut one, mut two) = (Client::connect(&port).await, Client::connect(&port).await);
    assert_eq!(one.get("/").await.status, 200);
    assert_eq!(two.get("/").await.status, 200);
    front.end().await;
}

#[tokio::test]
async fn who_says_nothing_makes_room_when_others_want_to_come_in() {
    let http = HttpConfig {
        connections_max: 40,
        ..http()
    };
    let (port, mut front, _app) = world(http).await;
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(Client::connect(&port).await);
    }
    // Behind them in the queue of the socket.
    let mut good = Client::connect(&port).await;
    assert_eq!(good.get("/").await.status, 200);
    let some_were_shed = |report: &Report| refused(report, "idle_when_full") >= 20;
    let report = front.until("some were shed", some_were_shed).await;
    assert!(report.connections <= 40, "{report:?}");
    // One that is of use stays, though the silent ones are younger.
    assert_eq!(good.get("/").await.status, 200);
    front.end().await;
}
