//! Messages: a keeper that dies at any of its own to systemd, and a flood of the app's.

use crate::QUICK;
use crate::world::load::Load;
use crate::world::service::{SOON, Service};
use crate::world::{eventually, process, version};
use gapless::api::Status;
use rustix::net::SendFlags;
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// So many messages has a start with four workers, and some more.
const MESSAGES: usize = 30;
const WORKERS: usize = 4;
/// A reload of one worker, and its end.
const MESSAGES_OF_RELOAD: usize = 14;
/// A keeper that dies before leaves a front of which the next one knows nothing: its clients, of the
/// first milliseconds of the first start, are lost.
const FRONT_IS_WRITTEN_DOWN: usize = 5;

/// Is killed at this message of its first start, under load, and started again.
fn die_at(message: usize) {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    // A busy machine may take its time; what is lost is the question.
    let patient = "[http]\nhold = \"60s\"";
    service.configure_probe(&format!("workers = {WORKERS}\n{QUICK}"), patient);
    service.kill_at_message(message);
    let address = service.address();
    let load =
        std::thread::spawn(move || Load::start(&address, &["--clients", "2", "--idle", "2"]));
    service.start();
    eventually(
        "the keeper dies at its message, or goes on without",
        SOON,
        || {
            let is_through = service.heard(|heard| {
                let mut all = heard.messages.iter();
                all.any(|it| it.get("READY").is_some())
            });
            (!service.is_running() || is_through).then_some(())
        },
    );
    service.let_live();
    if service.is_running() {
        service.signal(Signal::KILL);
        service.wait_end(SOON);
    }
    service.start();
    let what = format!("after message {message} it serves as if nothing had been");
    eventually(&what, SOON, || {
        let status = service.try_status()?;
        let is_alone = status.generations.len() == 1 && status.fronts.len() == 1;
        let is_whole = is_alone
            && status.generations[0].state == "live"
            && status.generations[0]
                .workers
                .iter()
                .all(|it| it.state == "ready")
            && service.processes().len() == 2 + WORKERS;
        is_whole.then_some(())
    });
    let load = load.join().unwrap();
    let counted = load.finish();
    assert_eq!(counted.refused, 0, "{counted:#?}");
    if message > FRONT_IS_WRITTEN_DOWN {
        counted.expect_nothing_lost().expect_nothing_closed();
    }
    service.signal(Signal::TERM);
    assert!(service.wait_end(SOON).success());
    eventually("nothing is left", SOON, || {
        let stored = service.heard(crate::world::service::Heard::stored);
        (stored.is_empty() && service.processes().is_empty()).then_some(())
    });
}

/// Two at a time.
fn for_each_message(messages: usize, play: fn(usize)) {
    let next = std::sync::atomic::AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let message = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if message > messages {
                        return;
                    }
                    play(message);
                }
            });
        }
    });
}

#[test]
fn a_keeper_that_dies_at_any_message_of_its_start_is_followed_by_one_that_serves() {
    for_each_message(MESSAGES, die_at);
}

/// Whether only this version is left, and serves.
fn serves_alone(service: &Service, wanted: &str) -> bool {
    let is_alone = |status: Status| status.generations.len() == 1 && status.fronts.len() == 1;
    service.try_status().is_some_and(is_alone) && service.get("/echo").body.starts_with(wanted)
}

/// Is killed at this message of a reload, and started again.
fn die_at_reload(message: usize) {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let load = Load::start(&service.address(), &["--clients", "2", "--idle", "2"]);
    service.behave(&version("v2"));
    service.kill_at_message(service.heard_so_far() + message);
    service.signal(Signal::HUP);
    eventually("the keeper dies, or has done it", SOON, || {
        (!service.is_running() || serves_alone(&service, "v2")).then_some(())
    });
    service.let_live();
    // RELOADING=1 is the first: a signal may die with the keeper that was to hear it.
    let wanted = if message == 1 { "v" } else { "v2" };
    let what = format!("after message {message} the new version serves");
    eventually(&what, SOON, || {
        if !service.is_running() {
            service.start();
        }
        serves_alone(&service, wanted).then_some(())
    });
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

#[test]
fn a_keeper_that_dies_at_any_message_of_a_reload_is_followed_by_one_that_does_it() {
    for_each_message(MESSAGES_OF_RELOAD, die_at_reload);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Wrong, huge, endless, and some that are right.
fn junk() -> Vec<Vec<u8>> {
    vec![
        b"READY=1\nREADY=1".to_vec(),
        vec![0xff; 100],
        vec![b'\n'; 4000],
        [b"STATUS=".to_vec(), vec![b'x'; 7000]].concat(),
        vec![b'='; 100_000],
        b"EXTEND_TIMEOUT_USEC=18446744073709551615".to_vec(),
        b"EXTEND_TIMEOUT_USEC=-1\nWATCHDOG=maybe\nRELOADING=1".to_vec(),
        Vec::new(),
        b"WATCHDOG=1\n".repeat(700),
        b"MAINPID=1\nFDSTORE=1\nSTOPPING=1".to_vec(),
    ]
}

#[test]
fn a_flood_of_notices_delays_no_watchdog_and_takes_no_memory() {
    let limit = Duration::from_secs(3);
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.watch(limit);
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    let path = service.runtime_directory().join("g1-w0.notify");
    let app = UnixDatagram::unbound().unwrap();
    app.connect(path).unwrap();
    let (mark, junk) = (service.heard_so_far(), junk());
    let before = resident_kib(service.main_pid());
    let worker = service.status().generations[0].workers[0].pid;
    for datagram in junk.iter().cycle().take(100_000) {
        rustix::net::send(&app, datagram, SendFlags::empty()).unwrap();
    }
    service.get("/").expect_ok();
    let status = service.status();
    assert_eq!(status.generations[0].workers[0].pid, worker);
    let after = resident_kib(service.main_pid());
    assert!(after < before + 4096, "{before} KiB, then {after}");
    let fed = service.wait_for("WATCHDOG=1 after it", SOON, |heard| {
        let fed = heard.messages[mark - 1..].iter();
        let fed = fed.filter(|message| message.get("WATCHDOG") == Some("1"));
        let at: Vec<_> = fed.map(|message| message.at).collect();
        (at.len() >= 3).then_some(at)
    });
    let longest = fed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < limit, "a pause of {longest:?}");
    assert!(process::see(service.main_pid()).is_some());
}
