//! What passes through, and how.

use super::world::*;
use gapless::config::HttpConfig;
use gapless::link::{Endpoint, Orphaned, Target};
use std::time::Duration;

async fn world() -> (Port, Front, App) {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[app.address])).await;
    (port, front, app)
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let (port, mut front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, &*answer.body), (200, "app"));
        assert_eq!(answer.field("connection"), None);
        assert!(answer.field("x-request-id").is_some());
    }
    let report = front
        .until("three are counted", |r| r.counters.responses[1] == 3)
        .await;
    assert_eq!(report.counters.connections_accepted, 1);
    assert!(report.leases.is_empty());
    front.end().await;
}

#[tokio::test]
async fn two_requests_in_one_write_get_two_answers_in_order() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    let body = "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nfirst";
    client
        .send(&format!("{body}GET / HTTP/1.1\r\nHost: t\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.body, "first");
    assert_eq!(client.answer().await.body, "app");
    front.end().await;
}

#[tokio::test]
async fn bodies_stream_in_both_directions_at_once() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("3\r\none\r\n").await;
    assert!(client.head().await.contains("transfer-encoding: chunked"));
    assert_eq!(client.chunk().await, "one");
    for byte in "3\r\ntwo\r".chars() {
        client.send(&byte.to_string()).await;
    }
    client.send("\n").await;
    assert_eq!(client.chunk().await, "two");
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await, "");
    assert_eq!(client.until("\r\n").await, "\r\n");
    assert_eq!(client.get("/").await.body, "app");
    front.end().await;
}

#[tokio::test]
async fn events_are_not_delayed() {
    let (port, front, app) = world().await;
    let mut client = Client::connect(&port).await;
    client.send("GET /stream HTTP/1.1\r\nHost: t\r\n\r\n").await;
    client.head().await;
    for part in ["one", "two", "three"] {
        // The app sends the next only after this one was seen here.
        assert_eq!(client.chunk().await, part);
        app.release.notify_one();
    }
    assert_eq!(client.chunk().await, "");
    front.end().await;
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    let body = "x".repeat(3_000_000);
    let head = format!(
        "POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(&head).await;
    client.send(&body).await;
    assert_eq!(client.answer().await.body, "3000000");
    front.end().await;
}

#[tokio::test]
async fn the_app_sees_who_asks_and_no_hop_by_hop_field() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    client
        .send(
            "GET /head?q=1 HTTP/1.1\r\nHost: example.org\r\nConnection: keep-alive, X-Mine\r\n\
             X-Mine: 1\r\nUpgrade: websocket\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             traceparent: 00-1-2-01\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    let id = answer.field("x-request-id").unwrap();
    let expected = [
        "GET /head?q=1",
        "host: example.org",
        "traceparent: 00-1-2-01",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: example.org",
        &format!("x-request-id: {id}"),
    ];
    for line in expected {
        assert!(
            answer.body.lines().any(|found| found == line),
            "{line} in {}",
            answer.body
        );
    }
    assert_eq!(
        answer.body.lines().count(),
        expected.len(),
        "{}",
        answer.body
    );
    assert_eq!(answer.field("x-end"), Some("2"));
    assert_eq!(answer.field("x-hop"), None);
    assert_eq!(answer.field("keep-alive"), None);
    front.end().await;
}

#[tokio::test]
async fn a_head_request_gets_a_head() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    client.send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("content-length: 3"),
        "{head}"
    );
    assert_eq!(client.get("/").await.body, "app");
    front.end().await;
}

#[tokio::test]
async fn trailers_pass() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    client
        .send("GET /trailers HTTP/1.1\r\nHost: t\r\nTE: trailers\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (&*answer.body, &*answer.trailers),
        ("body", "x-sum: 42\r\n")
    );
    front.end().await;
}

#[tokio::test]
async fn the_app_decides_over_100_continue() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    let expect = "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client
        .send(&format!("POST /count HTTP/1.1\r\nHost: t\r\n{expect}"))
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(client.answer().await.body, "4");
    client
        .send(&format!("POST /early HTTP/1.1\r\nHost: t\r\n{expect}"))
        .await;
    assert_eq!(client.answer().await.status, 401);
    front.end().await;
}

#[tokio::test]
async fn an_http_1_0_client_is_served() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "app");
    assert_eq!(client.ends().await, "");
    let mut client = Client::connect(&port).await;
    client
        .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    assert_eq!(
        client.answer().await.field("connection"),
        Some("keep-alive")
    );
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "app");
    front.end().await;
}

#[tokio::test]
async fn connect_and_strange_targets_are_refused() {
    let (port, front, _app) = world().await;
    let mut client = Client::connect(&port).await;
    client
        .send("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 501);
    let mut client = Client::connect(&port).await;
    client
        .send("GET http://x.org/head HTTP/1.1\r\nHost: y\r\n\r\n")
        .await;
    assert!(
        client
            .answer()
            .await
            .body
            .starts_with("GET /head\nhost: x.org\n")
    );
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    front.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_app_and_is_no_loss() {
    let (port, app) = (Port::open(), App::start("app").await);
    // It may only have closed its side, and gets so long for the answer.
    let http = HttpConfig {
        hold: Duration::from_millis(200),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    let mut client = Client::connect(&port).await;
    client.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front
        .until("a lease", |report| report.leases.len() == 1)
        .await;
    drop(client);
    let report = front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    assert_eq!(report.in_flight, 0);
    assert!(report.counters.lost.is_empty(), "{report:?}");
    assert_eq!(app.requests(), 1);
    front.end().await;
}

#[tokio::test]
async fn what_comes_while_an_answer_is_on_its_way_is_answered_next_or_not_and_costs_no_answer() {
    let (port, mut front, app) = world().await;
    for (more, next) in [("", Some(200)), ("Connection: close\r\n", None)] {
        let before = app.requests();
        let mut client = Client::connect(&port).await;
        let request = format!("GET /wait HTTP/1.1\r\nHost: t\r\n{more}\r\n");
        client.send(&request).await;
        front
            .until("a lease", |report| report.leases.len() == 1)
            .await;
        client.send("GET /head HTTP/1.1\r\nHost: t\r\n\r\n").await;
        // Nothing of it is with the app before the first is answered.
        front.ask().await;
        assert_eq!(app.requests(), before + 1);
        app.release.notify_one();
        assert_eq!(client.answer().await.body, "app");
        match next {
            Some(status) => assert_eq!(client.answer().await.status, status),
            // The end, and no reset, which could take the answer with it.
            None => assert_eq!(client.more().await.unwrap(), 0),
        }
    }
    front.end().await;
}

#[tokio::test]
async fn an_app_on_a_unix_socket_is_reached() {
    let (port, front) = (Port::open(), Front::start(&Port::open()).await);
    front.end().await;
    let directory = std::env::temp_dir().join(format!("gapless-front-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        socket
            .write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end")
            .await
            .unwrap();
    });
    let mut front = Front::start(&port).await;
    let mut target = live(1, &["127.0.0.1:1".parse().unwrap()]);
    if let Target::Live { backends, .. } = &mut target {
        backends[0].endpoint = Endpoint::Unix(path);
    }
    front.serve(1, target).await;
    let mut client = Client::connect(&port).await;
    assert_eq!(client.get("/").await.body, "to the end");
    std::fs::remove_dir_all(directory).unwrap();
    front.end().await;
}

#[tokio::test]
async fn every_lane_answers_its_probe_without_an_app() {
    let port = Port::open();
    let front = Front::start(&port).await;
    for address in front.probes.clone() {
        use tokio::io::AsyncWriteExt;
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"GET / HTTP/1.1\r\nHost: probe\r\n\r\n")
            .await
            .unwrap();
        let head = soon("an answer", read_head(&mut socket)).await;
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    }
    front.end().await;
}
