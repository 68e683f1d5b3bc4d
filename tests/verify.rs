//! Ring 2: `gapless verify` finds what is planted, and finds nothing where nothing is lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::process::{self, Finished};
use world::service::{SOON, Service};
use world::{Scratch, alone, beside_others, eventually, gapless, version};

/// Before that, a planted server is good: it must be known at rest, and asked by everybody.
const GOOD_FIRST: usize = 60;
/// Then every so many-th answer is bad.
const BAD_EVERY: usize = 25;

/// What a planted server does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Closes the connection behind an answer that promised to keep it.
    EarlyClose,
    /// Ends without an answer, as a worker that dies.
    Dies,
    /// Answers the beginning of a body.
    Truncates,
    /// Gives the answer to the request before.
    Crosses,
    /// Closes its listening socket.
    Refuses,
    /// Says something that nobody asked for.
    Speaks,
}

/// A server that says whose request it answers, and does one thing wrong.
struct Planted {
    fault: Fault,
    answered: AtomicUsize,
    last: Mutex<String>,
    listener: Mutex<Option<TcpListener>>,
}

impl Planted {
    fn start(fault: Fault) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let planted = Arc::new(Self {
            fault,
            answered: AtomicUsize::new(0),
            last: Mutex::default(),
            listener: Mutex::new(Some(listener.try_clone().unwrap())),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let planted = Arc::clone(&planted);
                let has_ended = planted.listener.lock().unwrap().is_none();
                if has_ended {
                    return;
                }
                std::thread::spawn(move || planted.serve(&stream.unwrap()));
            }
        });
        address
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(token) = token_of_next(&mut reader) {
            let number = self.answered.fetch_add(1, SeqCst);
            let is_bad = number > GOOD_FIRST && number.is_multiple_of(BAD_EVERY);
            let fault = if is_bad { self.fault } else { Fault::None };
            let before = std::mem::replace(&mut *self.last.lock().unwrap(), token.clone());
            let shown = if fault == Fault::Crosses {
                before
            } else {
                token
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nX-Request-Id: {shown}\r\nContent-Length: 11\r\n\r\nhello world"
            );
            let (bytes, goes_on) = match fault {
                Fault::None | Fault::Crosses => (answer.len(), true),
                Fault::EarlyClose => (answer.len(), false),
                Fault::Dies => (0, false),
                Fault::Truncates => (answer.len() - 5, false),
                Fault::Refuses => {
                    let ending = self.listener.lock().unwrap().take();
                    if let Some(listener) = ending {
                        // The last one that is accepted: then the loop ends, and with it the socket.
                        drop(TcpStream::connect(listener.local_addr().unwrap()));
                    }
                    (answer.len(), true)
                }
                Fault::Speaks => {
                    let more = format!("{answer}HTTP/1.1 200 OK\r\n");
                    drop((&*stream).write_all(more.as_bytes()));
                    return wait_for_end(&mut reader);
                }
            };
            if (&*stream).write_all(&answer.as_bytes()[..bytes]).is_err() || !goes_on {
                return;
            }
        }
    }
}

/// None at the end of the connection.
fn token_of_next(reader: &mut impl BufRead) -> Option<String> {
    let mut token = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some(token);
        }
        if let Some(value) = line.strip_prefix("X-Request-Id: ") {
            value.trim().clone_into(&mut token);
        }
    }
}

fn wait_for_end(reader: &mut impl BufRead) {
    while token_of_next(reader).is_some() {}
}

/// Only load, of a server that no gapless knows.
fn verify(address: SocketAddr, more: &[&str]) -> Finished {
    let scratch = Scratch::new();
    let mut command = Command::new(gapless());
    command.env("XDG_RUNTIME_DIR", &scratch.0);
    command.args(["verify", "--only", "quiet", "--for", "2s", "--address"]);
    command.arg(address.to_string()).args(more);
    process::run(command, SOON)
}

/// The names behind `lost:` or `closed:` in the lines of the phases.
fn kinds(told: &str, what: &str) -> Vec<String> {
    let mark = format!("{what}: ");
    let lists = told
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&mark));
    let counted = lists.flat_map(|list| list.split(", "));
    let mut kinds: Vec<_> = counted
        .map(|one| one.split_once(' ').unwrap().1.to_owned())
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// Only this is lost, and it is told by its name.
fn expect_lost(fault: Fault, kind: &str) {
    let _beside = beside_others();
    let done = verify(Planted::start(fault), &[]);
    assert_eq!(done.code(), 1, "{done}");
    assert_eq!(kinds(&done.stdout, "lost"), [kind], "{done}");
    let more = format!("more: gapless explain {kind}\n");
    assert!(done.stdout.ends_with(&more), "{done}");
}

#[test]
fn a_worker_that_dies_is_found() {
    expect_lost(Fault::Dies, "closed-early");
}

#[test]
fn a_truncated_body_is_found() {
    expect_lost(Fault::Truncates, "truncated");
}

#[test]
fn a_crossed_answer_is_found() {
    expect_lost(Fault::Crosses, "crossed");
}

#[test]
fn bytes_that_nobody_asked_for_are_found() {
    expect_lost(Fault::Speaks, "crossed");
}

#[test]
fn a_refused_connection_is_found() {
    let _beside = beside_others();
    let done = verify(Planted::start(Fault::Refuses), &[]);
    assert_eq!(done.code(), 1, "{done}");
    let mut kinds = kinds(&done.stdout, "lost");
    // Who was accepted by the kernel in the moment of the close had a connection.
    kinds.retain(|kind| !["closed-early", "reset"].contains(&kind.as_str()));
    assert_eq!(kinds, ["refused"], "{done}");
}

#[test]
fn an_early_close_of_a_kept_connection_is_found() {
    let _beside = beside_others();
    let done = verify(Planted::start(Fault::EarlyClose), &[]);
    assert_eq!(done.code(), 1, "{done}");
    assert_eq!(
        kinds(&done.stdout, "closed"),
        ["closed-while-idle"],
        "{done}"
    );
    // Who asked in that very moment lost a request by it.
    for kind in kinds(&done.stdout, "lost") {
        assert!(["closed-early", "reset"].contains(&kind.as_str()), "{done}");
    }
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    let _beside = beside_others();
    let done = verify(Planted::start(Fault::None), &[]);
    let told = done.expect_success();
    assert!(told.contains("\n0 of "), "{told}");
    assert!(told.contains(" lost, 0 connections closed; "), "{told}");
    let json = verify(Planted::start(Fault::None), &["--json"]).expect_success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["sent"].as_u64() > Some(100), "{json}");
    assert_eq!((&json["lost"], &json["closed"]), (&0.into(), &0.into()));
    assert_eq!(json["phases"][0]["name"], "quiet");
}

#[test]
fn who_does_not_answer_at_rest_cannot_be_verified() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let done = verify(nobody.unwrap(), &[]);
    assert_eq!(done.code(), 1, "{done}");
    assert!(
        done.stderr.contains("GET / is not answered at rest") && done.stderr.contains("refused"),
        "{done}"
    );
}

#[test]
fn a_good_app_loses_nothing_through_reload_upgrade_and_kill() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let only = "kill,reload,upgrade";
    let paths = ["--path", "/echo?bytes=2000", "--path", "/slow?ms=50&q={id}"];
    let done =
        service.begin_cli(&[&["verify", "--for", "7s", "--only", only][..], &paths].concat());
    let done = done.join().unwrap();
    let told = done.expect_success();
    let phases = [
        "quiet", "reload", "quiet", "upgrade", "quiet", "kill", "quiet",
    ];
    let lines: Vec<_> = told.lines().collect();
    for (line, phase) in lines[1..].iter().zip(phases) {
        let line: Vec<_> = line.split_whitespace().collect();
        assert_eq!((line[0], line[4], line[5]), (phase, "sent", "0"), "{told}");
    }
    assert!(told.contains("  g2 live after "), "{told}");
    assert!(told.contains("in place after "), "{told}");
    assert!(told.contains(", followed by another after "), "{told}");
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("0 of ") && last.contains("; memory "),
        "{told}"
    );
}

#[test]
fn a_post_that_a_killed_worker_had_begun_is_no_loss_and_counted_apart() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let done = service.cli(&[
        "verify",
        "--json",
        "--for",
        "6s",
        "--only",
        "kill",
        "--connections",
        "48",
        "--post",
        "/slow?ms=1500",
    ]);
    let json: serde_json::Value = serde_json::from_str(&done.expect_success()).unwrap();
    assert!(json["not_repeatable"].as_u64() > Some(0), "{json:#}");
    assert_eq!(json["lost"], 0, "{json:#}");
}

/// The same, when nobody of us killed it: then it is lost.
#[test]
fn a_post_under_which_a_worker_dies_is_lost_and_its_cause_is_named() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let post = "/slow?ms=500";
    let verify = service.begin_cli(&["verify", "--only", "quiet", "--for", "5s", "--post", post]);
    eventually("POSTs are under way", SOON, || {
        let front = service.try_status()?.fronts.into_iter().next()?;
        (front.in_flight >= 3).then_some(())
    });
    let gone = service.try_status().unwrap().generations[0].workers[0].pid;
    assert!(process::end(gone.unwrap(), rustix::process::Signal::KILL));
    let done = verify.join().unwrap();
    assert_eq!(done.code(), 1, "{done}");
    assert_eq!(kinds(&done.stdout, "lost"), ["server-error"], "{done}");
    assert!(done.stdout.contains("502 by gapless: app_died"), "{done}");
}

#[test]
fn a_version_that_fails_is_found_and_what_it_did_at_rest_is_not_held_against_it() {
    let _beside = beside_others();
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    service.behave(&version("v2").with("STATUS", "500"));
    let args = ["verify", "--only", "reload", "--for", "1500ms"];
    let worse = service.cli(&args);
    assert_eq!(worse.code(), 1, "{worse}");
    assert_eq!(kinds(&worse.stdout, "lost"), ["server-error"], "{worse}");
    let as_before = service.cli(&args).expect_success();
    assert!(
        as_before.contains(" times 500 by the app, as at rest"),
        "{as_before}"
    );
}

#[test]
fn a_reload_that_fails_is_told_and_loses_nothing() {
    let _beside = beside_others();
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    service.behave(&version("v2").with("EXIT_BEFORE_READY", "3"));
    let done = service.cli(&["verify", "--only", "reload", "--for", "1500ms"]);
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stdout.contains("\n0 of "), "{done}");
    assert!(
        done.stdout
            .contains("\nreload failed: worker w0 exited with status 3"),
        "{done}"
    );
    let status = service.status();
    assert!(status.requests.lost == 0 && status.generations.len() == 1);
}

#[test]
fn what_is_not_running_is_told_as_by_every_command() {
    let service = Service::new("gapless");
    let done = service.cli(&["verify"]);
    assert_eq!(done.code(), 3, "{done}");
    let mut wrong = service.command(&["verify", "--address", "https://localhost"]);
    wrong.stdin(std::process::Stdio::null());
    let wrong = process::run(wrong, Duration::from_secs(20));
    assert_eq!(wrong.code(), 2, "{wrong}");
}
