//! Connections to the app, where each holds one of its workers.

use super::world::{Client, Front, Port, live, read_head};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Keeps each connection until the other side closes it.
async fn serve(mut socket: TcpStream, pause: Duration) {
    while !read_head(&mut socket).await.is_empty() {
        tokio::time::sleep(pause).await;
        if socket.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// An app of so many workers, each of which serves one connection at a time; and how many there were.
async fn app(workers: usize, pause: Duration) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    for _ in 0..workers {
        let (listener, connections) = (Arc::clone(&listener), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                serve(socket, pause).await;
            }
        });
    }
    (address, connections)
}

/// So many clients at once, each asking some times; how long the slowest answer took.
async fn ask(port: &Port, clients: usize, times: usize) -> Duration {
    let mut all = Vec::new();
    for _ in 0..clients {
        let mut client = Client::connect(port).await;
        all.push(tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for _ in 0..times {
                let began = Instant::now();
                assert_eq!(client.get("/").await.body, "ok");
                slowest = slowest.max(began.elapsed());
            }
            slowest
        }));
    }
    let mut slowest = Duration::ZERO;
    for client in all {
        slowest = slowest.max(client.await.unwrap());
    }
    slowest
}

#[tokio::test]
async fn no_request_waits_for_a_worker_that_an_idle_connection_holds() {
    for workers in [1, 2, 4] {
        let (address, _) = app(workers, Duration::from_millis(1)).await;
        let port = Port::open();
        let mut front = Front::start(&port).await;
        front.serve(1, live(1, &[address])).await;
        let slowest = ask(&port, 8, 5).await;
        // An idle connection is kept for 4 s.
        assert!(slowest < Duration::from_secs(2), "{workers}: {slowest:?}");
        front.end().await;
    }
}

#[tokio::test]
async fn connections_to_an_app_that_is_slow_and_no_more_are_used_again() {
    let (address, connections) = app(64, Duration::from_millis(60)).await;
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[address])).await;
    ask(&port, 8, 10).await;
    let made = connections.load(Ordering::Relaxed);
    assert!(made <= 40, "{made} connections for 80 requests");
    front.end().await;
}

/// A thread that has ended, whose socket somebody still holds.
#[tokio::test]
async fn an_app_that_reads_no_second_request_and_does_not_close_gets_each_by_a_fresh_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let head = read_head(&mut socket).await;
            let line = head.lines().next().unwrap_or_default();
            let length = line.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{line}");
            socket.write_all(answer.as_bytes()).await.unwrap();
            held.push(socket);
        }
    });
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[address])).await;
    let mut client = Client::connect(&port).await;
    for number in 0..6 {
        // What may not be sent again is never on trial.
        let method = if number % 2 == 0 { "DELETE" } else { "POST" };
        let request = format!("{method} /{number} HTTP/1.1\r\nHost: t\r\n\r\n");
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(answer.body, format!("{method} /{number} HTTP/1.1"));
    }
    assert!(front.ask().await.counters.lost.is_empty());
    front.end().await;
}
