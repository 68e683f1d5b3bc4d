//! What the app says before its answer.

use super::world::{Client, Front, Port, live, raw_app, read_head};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: close\r\n\r\n";
const PASSED_ON: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An app that says `first`, and `then` once it is told so.
async fn app(first: String, then: &'static str) -> (Port, Front, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let address = raw_app(move |_, mut socket| {
        let (first, told) = (first.clone(), Arc::clone(&told));
        async move {
            while !read_head(&mut socket).await.is_empty() {
                socket.write_all(first.as_bytes()).await.unwrap();
                if !then.is_empty() {
                    told.notified().await;
                    socket.write_all(then.as_bytes()).await.unwrap();
                }
            }
        }
    })
    .await;
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[address])).await;
    (port, front, go)
}

#[tokio::test]
async fn hints_come_before_the_answer_is_there() {
    let (port, front, go) = app(HINTS.into(), ANSWER).await;
    let mut client = Client::connect(&port).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        assert_eq!(client.head().await, PASSED_ON);
        go.notify_one();
        assert_eq!(client.answer().await.body, "ok");
    }
    front.end().await;
}

#[tokio::test]
async fn hints_that_come_with_the_answer_stand_before_it_in_every_answer_of_a_pipeline() {
    let (port, front, _) = app(format!("{HINTS}{HINTS}{ANSWER}"), "").await;
    let mut client = Client::connect(&port).await;
    client
        .send(&"GET / HTTP/1.1\r\nHost: t\r\n\r\n".repeat(5))
        .await;
    for _ in 0..5 {
        assert_eq!(client.head().await, PASSED_ON);
        assert_eq!(client.head().await, PASSED_ON);
        assert_eq!(client.answer().await.body, "ok");
    }
    front.end().await;
}

#[tokio::test]
async fn a_client_that_expects_them_gets_hints_beside_its_100() {
    let (port, front, _) = app(format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{ANSWER}"), "").await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    let mut heads = vec![client.head().await, client.head().await];
    heads.sort();
    assert_eq!(heads, ["HTTP/1.1 100 Continue\r\n\r\n", PASSED_ON]);
    client.send("hi").await;
    assert_eq!(client.answer().await.body, "ok");
    front.end().await;
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_the_answer_alone_and_is_told_when_it_ends_with_the_connection() {
    let (port, front, _) = app(format!("{HINTS}{ANSWER}"), "").await;
    let mut client = Client::connect(&port).await;
    client
        .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "ok"));
    assert_eq!(answer.field("connection"), Some("keep-alive"));
    front.end().await;

    let unsized_answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let (port, front, _) = app(unsized_answer.into(), "").await;
    let mut client = Client::connect(&port).await;
    client
        .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let head = client.head().await.to_lowercase();
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(!head.contains("keep-alive"), "{head}");
    assert_eq!(client.ends().await, "ok");
    front.end().await;
}
