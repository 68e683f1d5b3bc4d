//! Swaps, holds, retries, cuts, ends.

use super::world::*;
use gapless::id::GenerationId;
use gapless::link::{Orphaned, Target, ToFront};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_swap_lets_old_responses_end_and_tells_when() {
    let (port, old, new) = (
        Port::open(),
        App::start("old").await,
        App::start("new").await,
    );
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[old.address])).await;
    let mut slow = Client::connect(&port).await;
    slow.send("GET /stream HTTP/1.1\r\nHost: t\r\n\r\n").await;
    slow.head().await;
    assert_eq!(slow.chunk().await, "one");
    front.serve(2, live(2, &[new.address])).await;
    assert_eq!(Client::connect(&port).await.get("/").await.body, "new");
    front
        .until("one runs", |r| {
            r.seq == 2 && r.leases.get(&GenerationId(1)) == Some(&1)
        })
        .await;
    for part in ["two", "three", ""] {
        old.release.notify_one();
        assert_eq!(slow.chunk().await, part);
    }
    slow.until("\r\n").await;
    // Unasked.
    while front.report.leases.contains_key(&GenerationId(1)) {
        front.hear().await;
    }
    assert_eq!(slow.get("/").await.body, "new");
    front.end().await;
}

#[tokio::test]
async fn held_requests_go_on_when_something_is_live() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = Front::start(&port).await;
    front.serve(1, Target::Hold).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(&port).await;
        client
            .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc")
            .await;
        clients.push(client);
    }
    front
        .until("ten are held", |report| report.held == 10)
        .await;
    front.serve(2, live(1, &[])).await;
    front.serve(3, live(1, &[app.address])).await;
    for client in &mut clients {
        assert_eq!(client.answer().await.body, "3");
    }
    front
        .until("none is held", |report| {
            report.held == 0 && report.counters.held == 10
        })
        .await;
    front.end().await;
}

#[tokio::test]
async fn a_hold_ends_in_503_and_when_to_try_again() {
    let port = Port::open();
    let http = gapless::config::HttpConfig {
        hold: Duration::from_millis(50),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, Target::Hold).await;
    let mut client = Client::connect(&port).await;
    let answer = client.get("/").await;
    assert_eq!(
        (answer.status, answer.field("retry-after")),
        (503, Some("3"))
    );
    assert_eq!(client.get("/").await.status, 503);
    front
        .until("both are counted", |report| {
            report.counters.refusals.get("no_live_generation") == Some(&2)
                && report.counters.lost.get("held_too_long") == Some(&2)
        })
        .await;
    front.end().await;
}

#[tokio::test]
async fn only_so_many_are_held() {
    let port = Port::open();
    let http = gapless::config::HttpConfig {
        held_max: 2,
        lanes: std::num::NonZeroU32::new(1),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, Target::Hold).await;
    let mut held = Vec::new();
    for count in 1..=2 {
        let mut client = Client::connect(&port).await;
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        held.push(client);
        front.until("held", |report| report.held == count).await;
    }
    assert_eq!(Client::connect(&port).await.get("/").await.status, 503);
    front
        .until("it is counted", |report| {
            report.counters.refusals.contains_key("hold_full")
        })
        .await;
    front.end().await;
}

#[tokio::test]
async fn no_lane_is_full_before_all_are() {
    const LANES: u32 = 8;
    let port = Port::open();
    let http = gapless::config::HttpConfig {
        held_max: LANES,
        lanes: std::num::NonZeroU32::new(LANES),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, Target::Hold).await;
    let mut held = Vec::new();
    for count in 1..=u64::from(LANES) {
        let mut client = Client::connect(&port).await;
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        held.push(client);
        front.until("held", |report| report.held == count).await;
    }
    let report = front.ask().await;
    assert_eq!(report.counters.connections_accepted, u64::from(LANES));
    assert!(report.counters.refusals.is_empty(), "{report:?}");
    front.end().await;
}

#[tokio::test]
async fn refuse_refuses_at_once_and_those_that_wait() {
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.serve(1, Target::Hold).await;
    let mut waiting = Client::connect(&port).await;
    waiting.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front.until("held", |report| report.held == 1).await;
    front.serve(2, Target::Refuse).await;
    assert_eq!(waiting.answer().await.status, 503);
    assert_eq!(waiting.get("/").await.status, 503);
    front.end().await;
}

#[tokio::test]
async fn a_respawning_worker_refuses_nobody() {
    let port = Port::open();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[address])).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /count HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    front.until("it is held", |report| report.held == 1).await;
    let app = App::start_on(socket.listen(16).unwrap(), "app");
    assert_eq!(client.answer().await.body, "3");
    assert_eq!(app.requests(), 1);
    front.end().await;
}

#[tokio::test]
async fn another_worker_takes_what_one_refuses() {
    let (port, app) = (Port::open(), App::start("app").await);
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut front = Front::start(&port).await;
    front
        .serve(1, live(1, &[closed.local_addr().unwrap(), app.address]))
        .await;
    let mut client = Client::connect(&port).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.body, "app");
    }
    let report = front
        .until("all are counted", |report| {
            report.counters.responses[1] == 10
        })
        .await;
    assert_eq!(report.counters.held, 0);
    front.end().await;
}

/// Reads a request and dies; from the second connection on answers.
async fn dying_app() -> std::net::SocketAddr {
    raw_app(|number, mut socket| async move {
        read_head(&mut socket).await;
        if number > 0 {
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
                .await
                .unwrap();
            read_head(&mut socket).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_get_is_sent_again_when_the_app_died_silently() {
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[dying_app().await])).await;
    assert_eq!(Client::connect(&port).await.get("/").await.body, "again");
    let report = front
        .until("a retry", |report| report.counters.retries == 1)
        .await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_get_is_sent_again_to_the_only_worker_where_nothing_is_held() {
    let port = Port::open();
    let http = gapless::config::HttpConfig {
        hold: Duration::ZERO,
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[dying_app().await])).await;
    assert_eq!(Client::connect(&port).await.get("/").await.body, "again");
    front.end().await;
}

/// Of an app of several processes, those that are left take requests until they are ended, too.
#[tokio::test]
async fn what_one_worker_lost_is_sent_to_another_however_busy_that_is() {
    let (port, app) = (Port::open(), App::start("app").await);
    let dying = raw_app(|_, mut socket| async move {
        read_head(&mut socket).await;
    });
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[dying.await, app.address])).await;
    let (mut busy, mut client) = (Client::connect(&port).await, Client::connect(&port).await);
    busy.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front
        .until("the other one is busy", |_| app.requests() == 1)
        .await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body, "app");
    }
    app.release.notify_one();
    assert_eq!(busy.answer().await.body, "app");
    let report = front.ask().await;
    assert!(report.counters.lost.is_empty());
    front.end().await;
}

#[tokio::test]
async fn a_post_is_not_sent_again() {
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[dying_app().await])).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 502);
    let report = front
        .until("a loss", |report| report.counters.lost.len() == 1)
        .await;
    assert_eq!(
        (report.counters.retries, report.counters.lost["app_died"]),
        (0, 1)
    );
    front.end().await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_seen_to() {
    let port = Port::open();
    let app = raw_app(|_, mut socket| async move {
        read_head(&mut socket).await;
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
            .await
            .unwrap();
    })
    .await;
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[app])).await;
    let mut client = Client::connect(&port).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.ends().await, "half");
    let report = front
        .until("a loss", |report| report.counters.lost.len() == 1)
        .await;
    assert_eq!(report.counters.lost["app_died_mid_response"], 1);
    front.end().await;
}

#[tokio::test]
async fn an_app_that_does_not_answer_is_not_waited_for_forever() {
    let (port, app) = (Port::open(), App::start("app").await);
    let http = gapless::config::HttpConfig {
        response_timeout: Duration::from_millis(100),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    let mut client = Client::connect(&port).await;
    assert_eq!(client.get("/wait").await.status, 504);
    assert_eq!(client.get("/").await.status, 200);
    front
        .until("it is counted", |report| {
            report.counters.lost.contains_key("app_timed_out")
        })
        .await;
    front.end().await;
}

#[tokio::test]
async fn a_cut_ends_what_runs_and_nothing_else() {
    let (port, old, new) = (
        Port::open(),
        App::start("old").await,
        App::start("new").await,
    );
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[old.address])).await;
    let (mut waiting, mut streaming) = (Client::connect(&port).await, Client::connect(&port).await);
    waiting.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await;
    streaming
        .send("GET /stream HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    streaming.head().await;
    assert_eq!(streaming.chunk().await, "one");
    front
        .until("both run", |report| {
            report.leases.get(&GenerationId(1)) == Some(&2)
        })
        .await;
    front.serve(2, live(2, &[new.address])).await;
    let mut later = Client::connect(&port).await;
    later.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front
        .until("a lease on the new", |report| report.leases.len() == 2)
        .await;
    front
        .tell(ToFront::Cut {
            generation: GenerationId(1),
        })
        .await;
    assert_eq!(waiting.answer().await.status, 503);
    assert_eq!(streaming.ends().await, "", "no last chunk");
    while front.report.leases.contains_key(&GenerationId(1)) {
        front.hear().await;
    }
    front
        .until("both are lost", |report| {
            report.counters.lost.get("cut") == Some(&2)
        })
        .await;
    new.release.notify_one();
    assert_eq!(later.answer().await.body, "new");
    front.end().await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_closes_the_rest() {
    let (port, app) = (Port::open(), App::start("app").await);
    // One lane: what the idle connection saw, the busy one sees in the same turn.
    let http = gapless::config::HttpConfig {
        lanes: std::num::NonZeroU32::new(1),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    let (mut idle, mut busy) = (Client::connect(&port).await, Client::connect(&port).await);
    idle.get("/").await;
    busy.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front
        .until("it runs", |report| report.leases.len() == 1)
        .await;
    front.tell(ToFront::Drain).await;
    assert_eq!(idle.ends().await, "");
    app.release.notify_one();
    let answer = busy.answer().await;
    assert_eq!(
        (&*answer.body, answer.field("connection")),
        ("app", Some("close"))
    );
    front.ended().await;
}

#[tokio::test]
async fn a_front_serves_on_when_its_keeper_is_gone_for_good() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[app.address])).await;
    let mut client = Client::connect(&port).await;
    client.get("/").await;
    drop(front);
    assert_eq!(client.get("/").await.body, "app");
    assert_eq!(Client::connect(&port).await.get("/").await.body, "app");
}

#[tokio::test]
async fn a_front_that_no_keeper_remembers_serves_nobody_and_ends() {
    let port = Port::open();
    let front = Front::start(&port).await;
    let mut client = Client::connect(&port).await;
    client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    front.orphan().await;
    // What waited is for the next one.
    let mut next = Front::start(&port).await;
    next.serve(1, Target::Refuse).await;
    assert_eq!(client.answer().await.status, 503);
    next.end().await;
}

#[tokio::test]
async fn an_orphan_that_must_end_does() {
    let port = Port::open();
    let mut front = Front::start_with(&port, http(), Orphaned::EndAll).await;
    front.serve(1, Target::Hold).await;
    let mut client = Client::connect(&port).await;
    front
        .until("it is accepted", |report| report.connections == 1)
        .await;
    drop(front);
    assert_eq!(client.ends().await, "");
}

#[tokio::test]
async fn an_orphan_that_must_end_ends_the_workers_in_the_cell() {
    use std::os::unix::process::CommandExt;
    let port = Port::open();
    let mut worker = std::process::Command::new("sleep")
        .arg("1000")
        .process_group(0)
        .spawn()
        .unwrap();
    let mut front = Front::start_with(&port, http(), Orphaned::EndAll).await;
    let mut target = live(1, &["127.0.0.1:1".parse().unwrap()]);
    if let Target::Live { backends, .. } = &mut target {
        backends[0].pid = worker.id();
    }
    front.serve(1, target).await;
    drop(front);
    let ended = tokio::task::spawn_blocking(move || worker.wait().unwrap());
    let status = soon("the end of the worker", ended).await.unwrap();
    assert!(!status.success());
}

#[tokio::test]
async fn hello_is_answered_with_ready_and_a_report() {
    let port = Port::open();
    let mut front = Front::start(&port).await;
    front.tell(ToFront::Hello).await;
    while front.hear().await != gapless::link::FromFront::Ready {}
    let report = front.ask().await;
    assert_eq!(report.seq, 0);
    front.end().await;
}

#[tokio::test]
async fn a_cut_reaches_a_client_that_does_not_read() {
    let (port, old) = (Port::open(), App::start("old").await);
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[old.address])).await;
    let mut client = Client::connect(&port).await;
    client
        .send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 8000000\r\n\r\n")
        .await;
    let block = "x".repeat(100_000);
    // Until every buffer between the two is full.
    while client.takes_at_once(&block).await {}
    front.serve(2, Target::Hold).await;
    front
        .tell(ToFront::Cut {
            generation: GenerationId(1),
        })
        .await;
    front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    front
        .until("it is counted", |report| {
            report.counters.lost.get("cut") == Some(&1)
        })
        .await;
    front.end().await;
}

#[tokio::test]
async fn a_broken_response_without_a_length_ends_in_a_reset() {
    let (port, old) = (Port::open(), App::start("old").await);
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[old.address])).await;
    let mut client = Client::connect(&port).await;
    client.send("GET /stream HTTP/1.0\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.exactly(3).await, "one");
    front.serve(2, Target::Hold).await;
    front
        .tell(ToFront::Cut {
            generation: GenerationId(1),
        })
        .await;
    let end = client.more().await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    front.end().await;
}

#[tokio::test]
async fn a_drain_waits_for_half_a_head() {
    let (port, app) = (Port::open(), App::start("app").await);
    let mut front = Front::start(&port).await;
    front.serve(1, live(1, &[app.address])).await;
    let mut client = Client::connect(&port).await;
    client.get("/").await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    // The lanes have read it when they have read what came to both later.
    for _ in 0..4 {
        Client::connect(&port).await.get("/").await;
    }
    front.tell(ToFront::Drain).await;
    client.send("st: t\r\n\r\n").await;
    assert_eq!(client.answer().await.field("connection"), Some("close"));
    front.ended().await;
}
