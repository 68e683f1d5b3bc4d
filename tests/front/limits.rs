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
    let (long, many) = (
        "X: ".to_owned() + &"x".repeat(20_000),
        "X: y\r\n".repeat(100),
    );
    for fields in [long.as_str(), many.trim_end()] {
        let mut client = Client::connect(&port).await;
        client
            .send(&format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 431);
        assert!(answer.body.contains("too many or too large"), "{answer:?}");
    }
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
        rate_min: 0,
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
async fn a_trickle_of_a_body_does_not_hold_a_connection_for_ever() {
    let http = HttpConfig {
        body_timeout: Duration::from_secs(1),
        rate_min: 1000,
        ..http()
    };
    let (port, mut front, _app) = world(http).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let trickle = async {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        while client.try_send("x").await {
            every.tick().await;
        }
    };
    // No pause is longer than body_timeout.
    soon("the end of the connection", trickle).await;
    let report = front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_response_that_is_taken_by_the_byte_does_not_hold_a_connection_for_ever() {
    let http = HttpConfig {
        write_timeout: Duration::from_secs(1),
        rate_min: 1 << 20,
        body_bytes_max: 64 << 20,
        ..http()
    };
    let (port, mut front, _app) = world(http).await;
    let mut client = Client::connect_with_small_window(&port).await;
    client
        .send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 50000000\r\n\r\n")
        .await;
    let block = "x".repeat(100_000);
    while client.takes_at_once(&block).await {}
    // A few bytes of its answer every moment: the front has something to write each time.
    let trickle = async {
        let mut every = tokio::time::interval(Duration::from_millis(100));
        while matches!(client.takes_up_to(3000).await, Ok(1..)) {
            every.tick().await;
        }
    };
    soon("the end of the connection", trickle).await;
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
    for (junk, why) in [
        ("\0\0\0\0\r\n\r\n", "first line"),
        (
            "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "Content-Length",
        ),
        ("G\r\n\r\n", "first line"),
    ] {
        let mut client = Client::connect(&port).await;
        client.send(junk).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{junk:?}");
        assert!(answer.body.contains(why), "{junk:?}: {answer:?}");
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
    let (port, mut front, app) = world(http).await;
    let mut first = Client::connect(&port).await;
    // One in use is not shed for another.
    first.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front
        .until("it waits", |report| report.in_flight == 1)
        .await;
    let mut second = Client::connect(&port).await;
    second.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(second.gets_nothing_for(Duration::from_millis(1500)).await);
    app.release.notify_one();
    assert_eq!(first.answer().await.status, 200);
    drop(first);
    assert_eq!(second.answer().await.status, 200);
    front.end().await;
}

#[tokio::test]
async fn a_refusal_is_as_the_client_likes_it_and_says_nothing_of_the_request() {
    let (port, mut front, _app) = world(http()).await;
    front.serve(2, gapless::link::Target::Refuse).await;
    let mut client = Client::connect(&port).await;
    for (accept, media_type, part) in [
        ("*/*", "text/plain; charset=utf-8", "the app is not running"),
        ("text/html,*/*;q=0.8", "text/html; charset=utf-8", "<h1>503"),
        (
            "application/json",
            "application/problem+json",
            "{\"title\":",
        ),
    ] {
        client
            .send(&format!(
                "GET /secret HTTP/1.1\r\nHost: secret\r\nAccept: {accept}\r\nX: secret\r\n\r\n"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.field("content-type"), Some(media_type));
        assert_eq!(answer.field("retry-after"), Some("3"));
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert!(answer.body.contains(part), "{}", answer.body);
        assert!(!answer.body.contains("secret") && answer.body.len() < 200);
    }
    client.send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 3"));
    // Had there been a body, it would stand before this answer.
    assert_eq!(client.get("/").await.status, 503);
    front.end().await;
}
