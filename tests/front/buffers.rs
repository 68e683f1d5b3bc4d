//! `[http] buffer_requests` and `buffer_responses`: a slow client costs an app that answers one request at a
//! time no worker.

use super::world::{App, Client, Front, Port, http, live, raw_app, read_head, soon};
use gapless::config::HttpConfig;
use gapless::link::Orphaned;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const BUFFER: u64 = 4 << 20;

async fn front_of(app: SocketAddr) -> (Port, Front) {
    let port = Port::open();
    let http = HttpConfig {
        buffer_requests: BUFFER,
        buffer_responses: BUFFER,
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app])).await;
    (port, front)
}

/// An app with one worker: takes a connection, answers one request with the length of its body, closes. Tells
/// of each head.
async fn one_at_a_time() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let head = read_head(&mut socket).await;
            let bytes = read_body(&head, &mut socket).await.to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{bytes}",
                bytes.len()
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
            heads.send(head).unwrap();
        }
    });
    (address, told)
}

async fn read_body(head: &str, socket: &mut TcpStream) -> usize {
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    socket.read_exact(&mut body).await.unwrap()
}

#[tokio::test]
async fn a_slow_upload_costs_no_worker_and_comes_with_its_length() {
    let (app, mut told) = one_at_a_time().await;
    let (port, front) = front_of(app).await;
    let piece = "z".repeat(50_000);
    let mut sized = Client::connect(&port).await;
    sized
        .send("POST /sized HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\n\r\n")
        .await;
    sized.send(&piece).await;
    let mut chunked = Client::connect(&port).await;
    chunked
        .send("PUT /chunked HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
    chunked.send(&chunk).await;
    // The only worker answers others meanwhile.
    for _ in 0..3 {
        let answer = Client::connect(&port).await.get("/").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "0"));
        assert!(told.recv().await.unwrap().starts_with("GET / "));
    }
    for _ in 0..3 {
        sized.send(&piece).await;
        chunked.send(&chunk).await;
    }
    assert_eq!(sized.answer().await.body, "200000");
    assert!(told.recv().await.unwrap().starts_with("POST /sized "));
    chunked.send("0\r\n\r\n").await;
    assert_eq!(chunked.answer().await.body, "200000");
    let head = told.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\ncontent-length: 200000\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    // Both connections go on.
    assert_eq!(sized.get("/").await.status, 200);
    assert_eq!(chunked.get("/").await.status, 200);
    front.end().await;
}

#[tokio::test]
async fn what_does_not_fit_is_passed_on_and_all_of_it_arrives() {
    let app = App::start("app").await;
    let (port, front) = front_of(app.address).await;
    let bytes = 7 * 1024 * 1024;
    for field in ["Content-Length: 7340032", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(&port).await;
        client
            .send(&format!(
                "POST /count HTTP/1.1\r\nHost: t\r\n{field}\r\n\r\n"
            ))
            .await;
        let is_chunked = field.contains("chunked");
        for _ in 0..bytes / 65_536 {
            let piece = "z".repeat(65_536);
            let piece = if is_chunked {
                format!("10000\r\n{piece}\r\n")
            } else {
                piece
            };
            client.send(&piece).await;
        }
        if is_chunked {
            client.send("0\r\n\r\n").await;
        }
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body), (200, bytes.to_string()));
        assert_eq!(client.get("/").await.body, "app");
    }
    front.end().await;
}

#[tokio::test]
async fn bodies_keep_their_bytes_and_their_trailers() {
    let app = App::start("app").await;
    let (port, front) = front_of(app.address).await;
    let mut client = Client::connect(&port).await;
    // More than is kept in memory.
    let body: String = (0..40_000).map(|number| format!("{number:05} ")).collect();
    let length = body.len();
    client
        .send(&format!(
            "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    let answer = client.answer().await;
    assert!(answer.body == body, "{} bytes", answer.body.len());
    client
        .send("GET /trailers HTTP/1.1\r\nHost: t\r\nTE: trailers\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "body"));
    assert_eq!(answer.trailers, "x-sum: 42\r\n");
    client
        .send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.to_ascii_lowercase().contains("content-length: 3\r\n"));
    assert_eq!(client.answer().await.body, "app");
    front.end().await;
}

#[tokio::test]
async fn who_waits_for_a_100_gets_it_at_once_and_the_app_is_not_asked() {
    let (app, mut told) = one_at_a_time().await;
    let (port, front) = front_of(app).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(told.try_recv().is_err());
    client.send("abc").await;
    assert_eq!(client.answer().await.body, "3");
    let head = told.recv().await.unwrap().to_ascii_lowercase();
    assert!(!head.contains("expect"), "{head}");
    front.end().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_or_is_too_large_never_reaches_the_app() {
    let app = App::start("app").await;
    let (port, mut front) = front_of(app.address).await;
    let mut gone = Client::connect(&port).await;
    gone.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    front
        .until("it is in flight", |report| report.in_flight == 1)
        .await;
    drop(gone);
    front
        .until("it is over", |report| report.in_flight == 0)
        .await;
    let mut large = Client::connect(&port).await;
    large
        .send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999\r\n\r\n")
        .await;
    assert_eq!(large.answer().await.status, 413);
    assert_eq!(app.requests(), 0);
    assert!(front.ask().await.counters.lost.is_empty());
    front.end().await;
}

/// What a slow client has not taken, the worker need not wait for.
#[tokio::test]
async fn an_answer_is_taken_from_the_app_before_the_client_takes_it() {
    let (done, mut is_done) = mpsc::unbounded_channel();
    let body: String = (0..300_000)
        .map(|number| format!("{number:07}\r\n"))
        .collect();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let app = raw_app(move |_, mut socket| {
        let (done, answer) = (done.clone(), answer.clone());
        async move {
            loop {
                if read_head(&mut socket).await.is_empty() {
                    return;
                }
                socket.write_all(answer.as_bytes()).await.unwrap();
                done.send(()).unwrap();
            }
        }
    })
    .await;
    let (port, front) = front_of(app).await;
    let mut slow = Client::connect_with_small_window(&port).await;
    slow.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    soon("the app is done", is_done.recv()).await.unwrap();
    let got = slow.answer().await;
    assert!(got.body == body, "{} bytes", got.body.len());
    assert!(slow.get("/").await.body == body);
    front.end().await;
}

#[tokio::test]
async fn a_stream_is_not_held_back() {
    let app = App::start("app").await;
    let (port, front) = front_of(app.address).await;
    let mut client = Client::connect(&port).await;
    client.send("GET /stream HTTP/1.1\r\nHost: t\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.chunk().await, "one");
    app.release.notify_one();
    assert_eq!(client.chunk().await, "two");
    app.release.notify_one();
    front.end().await;
}

#[tokio::test]
async fn what_nobody_takes_is_read_up_to_the_size_and_no_longer_when_the_client_left() {
    let (wrote, mut written) = mpsc::unbounded_channel();
    let app = raw_app(move |_, mut socket| {
        let wrote = wrote.clone();
        async move {
            read_head(&mut socket).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
            socket.write_all(head).await.unwrap();
            while socket.write_all(&[b'z'; 16_384]).await.is_ok() {
                wrote.send(Some(16_384_u64)).unwrap();
            }
            wrote.send(None).unwrap();
        }
    })
    .await;
    let (port, front) = front_of(app).await;
    let mut client = Client::connect_with_small_window(&port).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let mut bytes = 0;
    while bytes < BUFFER {
        bytes += soon("the buffer fills", written.recv())
            .await
            .unwrap()
            .unwrap();
    }
    drop(client);
    // The app learns that nobody reads any more.
    while let Some(more) = soon("a write fails", written.recv()).await.unwrap() {
        bytes += more;
    }
    // With what all the sockets hold.
    assert!(bytes < 16 * BUFFER, "{bytes} bytes");
    front.end().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_and_is_counted() {
    let app = raw_app(|_, mut socket| async move {
        read_head(&mut socket).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
        socket.write_all(head.as_bytes()).await.unwrap();
    })
    .await;
    let (port, mut front) = front_of(app).await;
    let mut client = Client::connect(&port).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(client.ends().await.ends_with("\r\n\r\nabc"));
    front
        .until("it is counted", |report| {
            report.counters.lost.get("app_died_mid_response") == Some(&1)
        })
        .await;
    front.end().await;
}

/// The client is at its next request while the app still has the body of the last one.
#[tokio::test]
async fn an_early_answer_to_a_collected_body_leaves_the_connection_to_the_next_request() {
    let app = raw_app(|number, mut socket| async move {
        read_head(&mut socket).await;
        let body = format!("number {number}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
        // Never reads the body, and keeps the connection.
        std::future::pending::<()>().await;
    })
    .await;
    let (port, front) = front_of(app).await;
    let mut client = Client::connect(&port).await;
    let bytes = 3_500_000;
    for number in 0..3 {
        client
            .send(&format!(
                "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\n\r\n"
            ))
            .await;
        client.send(&"z".repeat(bytes)).await;
        let answer = client.answer().await;
        assert_eq!(answer.body, format!("number {number}"));
        assert_eq!(answer.field("connection"), None);
    }
    front.end().await;
}
