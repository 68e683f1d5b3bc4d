//! Connections that move from front to front.

use super::world::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

async fn next(port: &Port, app: &App) -> Front {
    let mut front = Front::start(port).await;
    front.serve(1, live(1, &[app.address])).await;
    front
}

#[tokio::test]
async fn connections_of_every_kind_move_and_lose_no_byte() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut first = next(&port, &app).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(&port).await;
        client.get("/").await;
        idle.push(client);
    }
    let mut fresh = Client::connect(&port).await;
    let mut half_first = Client::connect(&port).await;
    half_first.send("GET / HTTP/1.1\r\nHo").await;
    let mut half_next = Client::connect(&port).await;
    half_next
        .send("GET / HTTP/1.1\r\nHost: t\r\n\r\nGET /count HTT")
        .await;
    half_next.answer().await;
    let mut busy = Client::connect(&port).await;
    busy.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\nGET /co")
        .await;
    first
        .until("all are here", |report| {
            report.connections == 204 && report.in_flight == 1
        })
        .await;

    let mut second = next(&port, &app).await;
    first.begin_hand_over(&second).await;
    second
        .until("the idle came", |report| {
            report.counters.connections_inherited == 203
        })
        .await;
    half_first.send("st: t\r\n\r\n").await;
    half_next.send("P/1.1\r\nHost: t\r\n\r\n").await;
    for client in [&mut half_first, &mut half_next, &mut fresh] {
        if !client.is_open() {
            panic!("closed");
        }
    }
    assert_eq!(half_first.answer().await.status, 200);
    assert_eq!(half_next.answer().await.body, "0");
    assert_eq!(fresh.get("/").await.body, "app");
    app.release.notify_one();
    for _ in 0..2 {
        let answer = busy.answer().await;
        assert_eq!((&*answer.body, answer.field("connection")), ("app", None));
    }
    let report = first.ended().await;
    assert_eq!((report.connections, report.in_flight), (0, 0));
    busy.send("unt HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(busy.answer().await.body, "0");
    for client in &mut idle {
        assert_eq!(client.get("/").await.body, "app");
    }
    second.end().await;
}

/// Asks again and again on one connection, in one of three ways, until told to stop.
async fn load(mut client: Client, kind: usize, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    while !stop.load(Ordering::SeqCst) {
        let expected: &[&str] = match kind % 4 {
            0 => {
                client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
                &["app"]
            }
            1 => {
                let one = "GET / HTTP/1.1\r\nHost: t\r\n\r\n";
                client.send(&format!("{one}{one}")).await;
                &["app", "app"]
            }
            2 => {
                client
                    .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nab")
                    .await;
                tokio::task::yield_now().await;
                client.send("cd").await;
                &["4"]
            }
            _ => {
                for part in ["GET / HT", "TP/1.1\r\nHo", "st: t\r\n", "\r\n"] {
                    client.send(part).await;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                &["app"]
            }
        };
        for body in expected {
            let answer = client.answer().await;
            assert_eq!((answer.status, &*answer.body), (200, *body), "{answer:?}");
            assert_eq!(answer.field("connection"), None, "{answer:?}");
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
    assert!(client.is_open());
}

#[tokio::test]
async fn hand_overs_under_load_lose_nothing_and_close_nothing() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = next(&port, &app).await;
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut clients = JoinSet::new();
    for kind in 0..40 {
        let client = Client::connect(&port).await;
        clients.spawn(load(client, kind, Arc::clone(&stop), Arc::clone(&answered)));
    }
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(&port).await;
        client.get("/").await;
        idle.push(client);
    }
    for _ in 0..8 {
        let before = answered.load(Ordering::SeqCst);
        let new = next(&port, &app).await;
        front.hand_over_to(&new).await;
        front = new;
        let moving_on = async {
            while answered.load(Ordering::SeqCst) < before + 400 {
                tokio::task::yield_now().await;
            }
        };
        soon("answers from the next front", moving_on).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = soon("the clients end", clients.join_next()).await {
        client.unwrap();
    }
    for client in &mut idle {
        assert_eq!(client.get("/").await.body, "app");
    }
    let report = front.ask().await;
    assert!(report.counters.lost.is_empty(), "{report:?}");
    assert!(report.counters.refusals.is_empty(), "{report:?}");
    front.end().await;
}

#[tokio::test]
async fn a_front_whose_successor_died_serves_its_connections_on() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = next(&port, &app).await;
    let mut client = Client::connect(&port).await;
    client.get("/").await;
    let (sending, receiving) = gapless::link::pair().unwrap();
    drop(receiving);
    use std::os::fd::AsFd;
    front
        .keeper
        .send(&gapless::link::ToFront::Retire, &[sending.as_fd()])
        .await
        .unwrap();
    drop(sending);
    front
        .until("it came back", |report| {
            report.counters.connections_inherited == 1
        })
        .await;
    assert_eq!(client.get("/").await.body, "app");
    let third = next(&port, &app).await;
    front.hand_over_to(&third).await;
    assert_eq!(client.get("/").await.body, "app");
    third.end().await;
}

#[tokio::test]
async fn a_parcel_of_nonsense_harms_nobody() {
    let (port, app) = (Port::open(), App::start("app").await);
    let front = next(&port, &app).await;
    let (sending, receiving) = gapless::link::pair().unwrap();
    use std::os::fd::AsFd;
    front
        .keeper
        .send(&gapless::link::ToFront::Inherit, &[receiving.as_fd()])
        .await
        .unwrap();
    let sending = gapless::link::seqpacket::Seqpacket::new(sending).unwrap();
    let file: std::os::fd::OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for junk in [
        &b"\x01"[..],
        b"\x09abc",
        b"\x01\xff\xff\xff\xff{}",
        b"\x01\x02\x00\x00\x00{}",
    ] {
        sending.send(junk, &[file.as_fd()]).await.unwrap();
    }
    let no_socket = b"\x01\x1b\x00\x00\x00{\"connections\":[{\"bytes\":0}]}";
    sending.send(no_socket, &[file.as_fd()]).await.unwrap();
    drop(sending);
    assert_eq!(Client::connect(&port).await.get("/").await.body, "app");
    front.end().await;
}

#[tokio::test]
async fn an_upload_under_way_ends_at_the_old_front_and_the_connection_follows() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut first = next(&port, &app).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc")
        .await;
    first
        .until("it runs", |report| report.leases.len() == 1)
        .await;
    let mut second = next(&port, &app).await;
    first.begin_hand_over(&second).await;
    client.send("def").await;
    let answer = client.answer().await;
    assert_eq!((&*answer.body, answer.field("connection")), ("6", None));
    first.ended().await;
    assert_eq!(client.get("/").await.body, "app");
    second
        .until("it came", |report| {
            report.counters.connections_inherited == 1
        })
        .await;
    second.end().await;
}

#[tokio::test]
async fn a_front_that_retires_while_it_inherits_passes_everything_on() {
    let (port, app) = (Port::open(), App::start("app").await);
    let first = next(&port, &app).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        let mut client = Client::connect(&port).await;
        client.get("/").await;
        clients.push(client);
    }
    let second = next(&port, &app).await;
    let third = next(&port, &app).await;
    first.begin_hand_over(&second).await;
    second.begin_hand_over(&third).await;
    first.ended().await;
    second.ended().await;
    for client in &mut clients {
        assert_eq!(client.get("/").await.body, "app");
    }
    third.end().await;
}
