//! What clients may not do.

use super::world::*;
use gapless::config::HttpConfig;
use gapless::link::{Orphaned, Report};
use std::time::Duration;

async fn world(http: HttpConfig) -> (Port, Front, App) {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    (port, front, app)
}

#[tokio::test]
async fn a_body_has_a_limit_announced_or_not() {
    let (port, mut front, app) = world(HttpConfig {
        body_bytes_max: 10,
        ..http()
    })
    .await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.field("connection")),
        (413, Some("close"))
    );
    assert_eq!(app.requests(), 0);
    let mut client = Client::connect(&port).await;
    client
        .send("POST /count HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 413);
    let both = |report: &Report| report.counters.refusals.get("body_too_large") == Some(&2);
    let report = front.until("both are counted", both).await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_head_has_a_limit() {
    let (port, front, _app) = world(http()).await;
    let mut client = Client::connect(&port).await;
    client
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n",
            "x".repeat(20_000)
        ))
        .await;
    assert_eq!(client.answer().await.status, 431);
    front.end().await;
}

#[tokio::test]
async fn a_head_must_come_to_its_end_but_idling_is_allowed() {
    let http = HttpConfig {
        head_timeout: Duration::from_millis(200),
        ..http()
    };
    let (port, front, _app) = world(http).await;
    let (mut slow, mut idle) = (Client::connect(&port).await, Client::connect(&port).await);
    idle.get("/").await;
    slow.get("/").await;
    slow.send("GET / HT").await;
    assert_eq!(slow.ends().await, "");
    assert_eq!(idle.get("/").await.status, 200);
    front.end().await;
}

#[tokio::test]
async fn idle_connections_end_after_a_while() {
    let (port, front, _app) = world(HttpConfig {
        idle_timeout: Duration::from_millis(100),
        ..http()
    })
    .await;
    let (mut fresh, mut used) = (Client::connect(&port).await, Client::connect(&port).await);
    used.get("/").await;
    assert_eq!(fresh.ends().await, "");
    assert_eq!(used.ends().await, "");
    front.end().await;
}

#[tokio::test]
async fn a_body_that_stalls_ends_the_connection_and_a_slow_one_does_not() {
    let http = HttpConfig {
        body_timeout: Duration::from_millis(400),
        ..http()
    };
    let (port, mut front, _app) = world(http).await;
    let mut slow = Client::connect(&port).await;
    slow.send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\n")
        .await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        slow.send("x").await;
    }
    assert_eq!(slow.answer().await.body, "6");
    let mut stalled = Client::connect(&port).await;
    stalled
        .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nxx")
        .await;
    stalled.ends().await;
    let report = front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_left() {
    let http = HttpConfig {
        write_timeout: Duration::from_millis(200),
        ..http()
    };
    let (port, mut front, _app) = world(http).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 8000000\r\n\r\n")
        .await;
    // Its answer is never read: the buffers fill, everything stops, and a write of ours fails.
    let block = "x".repeat(100_000);
    while client.try_send(&block).await {}
    let report = front
        .until("it is gone", |report| report.leases.is_empty())
        .await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn nonsense_gets_400_and_harms_nobody() {
    let (port, mut front, _app) = world(http()).await;
    for junk in [
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "G\r\n\r\n",
    ] {
        let mut client = Client::connect(&port).await;
        client.send(junk).await;
        assert_eq!(client.answer().await.status, 400, "{junk:?}");
    }
    let all = |report: &Report| report.counters.refusals.get("malformed_head") == Some(&3);
    front.until("all are counted", all).await;
    assert_eq!(Client::connect(&port).await.get("/").await.status, 200);
    front.end().await;
}

#[tokio::test]
async fn a_full_lane_accepts_again_when_a_connection_ends() {
    let http = HttpConfig {
        connections_max: 1,
        lanes: std::num::NonZeroU32::new(1),
        ..http()
    };
    let (port, front, _app) = world(http).await;
    let mut first = Client::connect(&port).await;
    first.get("/").await;
    let mut second = Client::connect(&port).await;
    second.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    first.get("/").await;
    assert!(second.is_open() && !second.has_unread());
    drop(first);
    assert_eq!(second.answer().await.status, 200);
    front.end().await;
}
