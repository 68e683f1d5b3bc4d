//! Answers that come before the app has the whole request.

use super::world::{Client, Front, Port, http, live, raw_app, read_head};
use gapless::config::HttpConfig;
use gapless::link::{Endpoint, Orphaned, Target};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::mpsc;

/// More than all the buffers between a client and an app hold.
const UPLOAD: usize = 24 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// What the app does once it has answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Closes,
    StopsReading,
}

/// How the client delimits its body.
#[derive(Clone, Copy, Debug)]
enum By {
    Length,
    Chunks,
}

impl By {
    fn head(self) -> String {
        let field = match self {
            Self::Length => format!("Content-Length: {UPLOAD}"),
            Self::Chunks => "Transfer-Encoding: chunked".into(),
        };
        format!("POST / HTTP/1.1\r\nHost: t\r\n{field}\r\n\r\n")
    }

    fn piece(self) -> String {
        let bytes = "z".repeat(PIECE);
        match self {
            Self::Length => bytes,
            Self::Chunks => format!("{PIECE:x}\r\n{bytes}\r\n"),
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Length => "",
            Self::Chunks => "0\r\n\r\n",
        }
    }
}

async fn front_of(app: SocketAddr) -> (Port, Front) {
    front_to(live(1, &[app])).await
}

async fn front_to(target: Target) -> (Port, Front) {
    let port = Port::open();
    let http = HttpConfig {
        body_bytes_max: u64::try_from(2 * UPLOAD).unwrap(),
        ..http()
    };
    let mut front = Front::start_with(&port, http, Orphaned::ServeOn).await;
    front.serve(1, target).await;
    (port, front)
}

/// An app that reads 200 kB of each upload, and answers.
async fn app(answer: String, then: Then) -> (Port, Front) {
    let address = raw_app(move |_, mut socket| {
        let answer = answer.clone();
        async move {
            read_head(&mut socket).await;
            socket.read_exact(&mut vec![0; 200_000]).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            if then == Then::StopsReading {
                std::future::pending::<()>().await;
            }
        }
    })
    .await;
    front_of(address).await
}

/// Sends all of it before it reads, as many clients do, and goes on to the answer if it cannot.
async fn upload(port: &Port, by: By) -> Client {
    let mut client = Client::connect(port).await;
    let mut goes_on = client.try_send(&by.head()).await;
    let piece = by.piece();
    for _ in 0..UPLOAD / PIECE {
        goes_on = goes_on && client.try_send(&piece).await;
    }
    if goes_on {
        client.try_send(by.end()).await;
    }
    client
}

/// One upload of each kind gets the answer.
async fn each_kind_gets(status: &'static str, fields: &'static str, then: Then) {
    let what = format!("{status}, {fields:?}, {then:?}");
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 7\r\n{fields}\r\ntoo big");
    let (port, mut front) = app(answer, then).await;
    let (one, other) = (upload(&port, By::Length), upload(&port, By::Chunks));
    let (one, other) = tokio::join!(one, other);
    for mut client in [one, other] {
        let answer = client.answer().await;
        assert!(status.starts_with(&answer.status.to_string()), "{what}");
        assert_eq!(answer.body, "too big", "{what}");
        if fields.starts_with("Connection: close") {
            assert_eq!(answer.field("connection"), Some("close"), "{what}");
        }
    }
    let report = front.ask().await;
    assert!(report.counters.lost.is_empty(), "{what}: {report:?}");
    assert_eq!(report.counters.retries, 0, "{what}");
    front.end().await;
}

#[tokio::test]
async fn an_answer_to_half_an_upload_reaches_the_client() {
    let mut cases = tokio::task::JoinSet::new();
    for (status, fields) in [
        ("401 Unauthorized", "Connection: close\r\n"),
        ("413 Content Too Large", "Connection: close\r\n"),
        ("417 Expectation Failed", ""),
        ("301 Moved Permanently", "Location: /b\r\n"),
    ] {
        for then in [Then::Closes, Then::StopsReading] {
            cases.spawn(each_kind_gets(status, fields, then));
        }
    }
    cases.join_all().await;
}

#[tokio::test]
async fn an_answer_over_a_unix_socket_reaches_the_client_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_exact(&mut vec![0; 200_000]).await.unwrap();
            let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big";
            socket.write_all(answer).await.unwrap();
        }
    });
    let mut target = live(1, &["127.0.0.1:1".parse().unwrap()]);
    if let Target::Live { backends, .. } = &mut target {
        backends[0].endpoint = Endpoint::Unix(path);
    }
    let (port, front) = front_to(target).await;
    for by in [By::Length, By::Chunks].repeat(5) {
        let answer = upload(&port, by).await.answer().await;
        assert_eq!((answer.status, &*answer.body), (413, "too big"));
    }
    front.end().await;
}

/// Answers at once, and tells how much of the upload came after that.
async fn answers_first(mut socket: TcpStream, answer: &str, taken: mpsc::UnboundedSender<usize>) {
    read_head(&mut socket).await;
    socket.write_all(answer.as_bytes()).await.unwrap();
    let mut bytes = vec![0; UPLOAD];
    if socket.read_exact(&mut bytes).await.is_ok() {
        taken.send(bytes.len()).unwrap();
    }
}

#[tokio::test]
async fn an_app_that_answers_first_may_still_take_the_whole_upload() {
    for fields in ["", "Connection: close\r\n"] {
        let answer = format!("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n{fields}\r\nok");
        let (taken, mut told) = mpsc::unbounded_channel();
        let address = raw_app(move |_, socket| {
            let (answer, taken) = (answer.clone(), taken.clone());
            async move { answers_first(socket, &answer, taken).await }
        })
        .await;
        let (port, front) = front_of(address).await;
        let mut client = upload(&port, By::Length).await;
        assert_eq!(client.answer().await.status, 202);
        assert_eq!(told.recv().await, Some(UPLOAD), "{fields:?}");
        front.end().await;
    }
}

#[tokio::test]
async fn an_app_that_dies_in_an_upload_without_a_word_is_still_told_as_that() {
    let address = raw_app(move |_, mut socket| async move {
        read_head(&mut socket).await;
        socket.read_exact(&mut vec![0; 200_000]).await.unwrap();
    })
    .await;
    let (port, mut front) = front_of(address).await;
    let mut client = upload(&port, By::Length).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, "the app ended before it answered\n");
    front
        .until("it is lost", |r| {
            r.counters.lost.get("app_died") == Some(&1)
        })
        .await;
    front.end().await;
}

#[tokio::test]
async fn nothing_follows_an_answer_that_came_in_place_of_a_100() {
    let address = raw_app(move |_, mut socket| async move {
        read_head(&mut socket).await;
        let answer = "HTTP/1.1 417 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        socket.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let (port, front) = front_of(address).await;
    let mut client = Client::connect(&port).await;
    let expect = "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client
        .send(&format!("POST / HTTP/1.1\r\nHost: t\r\n{expect}"))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (417, "no"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(client.ends().await, "");
    front.end().await;
}
