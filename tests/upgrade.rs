//! Ring 2: gapless is replaced by its installed binary, in place.

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

use gapless::api::{UpgradeOutcome, UpgradeVerdict};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use world::service::{Heard, SOON, Service};
use world::{alone, eventually, gapless, is_long, version};

const QUICK: &str = "settle = \"100ms\"";
/// A load that ends as soon as it is told to.
const QUICK_KINDS: &str = "get,post16k,pipelined,new";
/// "hi" as text.
const HI: &[u8] = &[0x81, 2, b'h', b'i'];

/// A service whose binary is a file of its own, so that it can be replaced.
struct Installed {
    service: Service,
    program: PathBuf,
}

impl Installed {
    fn start() -> Self {
        let mut service = Service::new("gapless");
        let program = service.scratch.0.join("bin/gapless");
        std::fs::create_dir(program.parent().unwrap()).unwrap();
        install(&program, copy);
        service.run_instead(&[program.to_str().unwrap(), "serve", "gapless"]);
        service.listen_tcp("http");
        service.behave(&version("v1"));
        service.configure_probe(QUICK, "");
        service.start();
        service.wait_ready();
        Self { service, program }
    }

    /// As a package does it: another file takes the place of the old one.
    fn install_another_copy(&self) {
        install(&self.program, copy);
    }

    fn install_script(&self, text: &str) {
        let text = format!("#!/bin/sh\n{text}\n");
        install(&self.program, |new| std::fs::write(new, &text).unwrap());
    }

    fn last(&self) -> Option<UpgradeOutcome> {
        self.service.status().last_upgrade
    }

    /// Who serves: keeper, worker, front.
    fn pids(&self) -> (u32, Option<u32>, u32) {
        let status = self.service.status();
        let front = status.fronts.iter().find(|it| it.state == "serving");
        let worker = status.generations[0].workers[0].pid;
        (status.pid, worker, front.unwrap().pid)
    }
}

fn copy(new: &Path) {
    std::fs::copy(gapless(), new).unwrap();
}

fn install(program: &Path, write: impl FnOnce(&Path)) {
    let new = program.with_extension("new");
    write(&new);
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, program).unwrap();
}

fn one_front(service: &Service) {
    eventually("one front is left", SOON, || {
        (service.status().fronts.len() == 1).then_some(())
    });
}

fn fds(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

fn stored(service: &Service) -> usize {
    service.heard(Heard::stored).len()
}

/// Sends a request and reads the head of the answer.
fn open(service: &Service, request: &str) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(service.address()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(socket.read_line(&mut line).unwrap() > 0, "no whole head");
    }
    socket
}

fn open_tunnel(service: &Service) -> BufReader<TcpStream> {
    open(
        service,
        "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
}

fn echoes(tunnel: &mut BufReader<TcpStream>) {
    tunnel.get_mut().write_all(HI).unwrap();
    let mut back = [0; 4];
    tunnel.read_exact(&mut back).unwrap();
    assert_eq!(back, HI);
}

/// A POST of which the client sends a byte now and then.
struct Upload(TcpStream, usize);

impl Upload {
    const BYTES: usize = 64;

    fn begin(service: &Service) -> Self {
        let mut socket = TcpStream::connect(service.address()).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
            Self::BYTES
        );
        socket.write_all(head.as_bytes()).unwrap();
        Self(socket, 0)
    }

    fn go_on(&mut self) {
        self.0.write_all(b"x").unwrap();
        self.1 += 1;
    }

    fn expect_whole(mut self) {
        self.0.write_all(&vec![b'x'; Self::BYTES - self.1]).unwrap();
        let mut status = String::new();
        BufReader::new(self.0).read_line(&mut status).unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK\r\n");
    }
}

#[test]
fn many_upgrades_lose_nothing_close_nothing_and_touch_no_app() {
    let _alone = alone();
    let it = Installed::start();
    let service = &it.service;
    let (main, app, first_front) = it.pids();
    let mut tunnels: Vec<_> = (0..20).map(|_| open_tunnel(service)).collect();
    let mut upload = Upload::begin(service);
    let load = service.load(&["--idle", "200", "--slow-ms", "200"]);
    let mut sizes = None;
    for number in 1..=if is_long() { 20 } else { 8 } {
        it.install_another_copy();
        let said = service.cli(&["upgrade"]).expect_success();
        assert!(said.contains("is in place"), "{said}");
        tunnels.iter_mut().for_each(echoes);
        upload.go_on();
        assert_eq!(it.last().unwrap().number, number);
        eventually(
            "only the front of the tunnels and the newest are left",
            SOON,
            || (service.status().fronts.len() == 2).then_some(()),
        );
        let size = *sizes.get_or_insert_with(|| (fds(main), stored(service)));
        eventually(
            "neither the keeper nor the store has more fds",
            SOON,
            || {
                // Whoever asks the control socket takes one or two of the keeper's for a moment.
                (fds(main) <= size.0 + 2 && stored(service) <= size.1).then_some(())
            },
        );
    }
    let fronts = service.status().fronts;
    let old = fronts
        .iter()
        .find(|front| front.pid == first_front)
        .unwrap();
    assert_eq!((old.state.as_str(), old.tunnels), ("retiring", 20));
    upload.expect_whole();
    drop(tunnels);
    one_front(service);
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    let (main_now, app_now, front_now) = it.pids();
    assert_eq!((main_now, app_now), (main, app));
    assert_ne!(front_now, first_front);
    assert_eq!(service.status().requests.lost, 0);
}

#[test]
fn a_signal_upgrades_too_and_a_long_download_runs_through() {
    let it = Installed::start();
    let (main, app, front) = it.pids();
    let request = "GET /slow?ms=3000 HTTP/1.1\r\nHost: t\r\n\r\n";
    std::thread::scope(|scope| {
        let long = scope.spawn(|| open(&it.service, request));
        eventually("it is under way", SOON, || {
            (it.service.status().fronts[0].in_flight == 1).then_some(())
        });
        it.install_another_copy();
        it.service.signal(Signal::USR2);
        eventually("the next image serves", SOON, || {
            let journal = it.service.journal();
            journal.contains("it is in place").then_some(())
        });
        assert_eq!(it.last().unwrap().verdict, UpgradeVerdict::InPlace);
        long.join().unwrap();
    });
    one_front(&it.service);
    let now = it.pids();
    assert_eq!((now.0, now.1), (main, app));
    assert_ne!(now.2, front);
}

#[test]
fn a_binary_that_cannot_take_over_is_refused_and_nobody_notices() {
    let _alone = alone();
    let it = Installed::start();
    let before = it.pids();
    let load = it.service.load(&["--idle", "50"]);
    for (script, why) in [
        ("echo out of memory >&2; exit 3", "exited with status 3"),
        ("echo out of memory >&2; exit 3", "out of memory"),
        ("sleep 60", "within 5 s"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo '{}'", "without saying that it can take over"),
        ("exec /nonexistent/gapless \"$@\"", "not found"),
    ] {
        it.install_script(script);
        let said = it.service.cli(&["upgrade"]);
        assert_eq!(said.code(), 6, "{said}");
        assert!(said.output().contains(why), "no {why:?} in {said}");
        assert_eq!(it.pids(), before);
    }
    std::fs::remove_file(&it.program).unwrap();
    let said = it.service.cli(&["upgrade"]);
    assert_eq!(said.code(), 6, "{said}");
    it.install_another_copy();
    let said = it.service.cli(&["upgrade", "--check"]).expect_success();
    assert!(said.contains("can take over"), "{said}");
    assert_eq!(it.pids(), before);
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

/// A gapless that finds no state under the name that it looks for, as after a mistake between two
/// versions; only the run itself shows it, not the dry run.
fn install_a_gapless_that_finds_no_state(program: &Path) {
    let mut bytes = std::fs::read(gapless()).unwrap();
    let (known, other) = (b"gapless-state", b"gapless-stale");
    let places: Vec<_> = (0..bytes.len() - known.len())
        .filter(|at| bytes[*at..].starts_with(known))
        .collect();
    assert!(!places.is_empty(), "the name is not in the binary");
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(other);
    }
    install(program, |new| std::fs::write(new, &bytes).unwrap());
}

#[test]
fn a_new_image_that_finds_itself_unable_goes_back_and_nobody_notices() {
    let _alone = alone();
    let it = Installed::start();
    let before = it.pids();
    let load = it.service.load(&["--idle", "50"]);
    install_a_gapless_that_finds_no_state(&it.program);
    for _ in 0..3 {
        let said = it.service.cli(&["upgrade"]);
        assert_eq!(said.code(), 6, "{said}");
        assert!(said.output().contains("could not take over"), "{said}");
        assert_eq!(it.pids(), before);
    }
    it.install_another_copy();
    it.service.cli(&["upgrade"]).expect_success();
    let now = it.pids();
    assert_eq!((now.0, now.1), (before.0, before.1));
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

/// Says yes in the dry run, and dies when it is to serve, however often it is started.
fn install_a_gapless_that_dies_when_it_serves(it: &Installed) {
    let real = gapless().display().to_string();
    it.install_script(&format!(
        "[ \"$1\" != serve ] || kill -KILL $$\nexec {real} \"$@\""
    ));
}

#[test]
fn a_new_image_that_dies_is_followed_by_the_old_one_and_nobody_notices() {
    let _alone = alone();
    let mut it = Installed::start();
    let before = it.pids();
    let load = it.service.load(&["--idle", "50", "--kinds", QUICK_KINDS]);
    install_a_gapless_that_dies_when_it_serves(&it);
    let asked = it.service.begin_cli(&["upgrade"]);
    it.service.wait_end(SOON);
    // As systemd does, again and again. The front and the app serve on meanwhile.
    for _ in 0..2 {
        it.service.start();
        it.service.wait_end(SOON);
        it.service.get("/").expect_ok();
    }
    it.install_another_copy();
    it.service.start();
    it.service.wait_ready();
    let said = asked.join().unwrap();
    assert_eq!(said.code(), 6, "{said}");
    assert!(said.output().contains("crashed, or hung"), "{said}");
    let now = it.pids();
    assert_eq!((now.1, now.2), (before.1, before.2));
    let is_old = std::fs::read_link(format!("/proc/{}/exe", now.0)).unwrap();
    assert!(
        is_old.to_string_lossy().ends_with(" (deleted)"),
        "{is_old:?}"
    );
    it.service.cli(&["upgrade"]).expect_success();
    assert_eq!(it.pids().1, before.1);
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

#[test]
fn a_keeper_that_dies_after_an_upgrade_is_followed_by_one_that_adopts() {
    let mut it = Installed::start();
    it.service.cli(&["upgrade"]).expect_success();
    let (_, app, front) = it.pids();
    it.service.kill_keeper();
    let now = it.pids();
    assert_eq!((now.1, now.2), (app, front));
    it.service.cli(&["upgrade"]).expect_success();
    assert_eq!(it.pids().1, app);
    assert!(it.service.stop(Duration::from_secs(20)).success());
    assert!(it.service.processes().is_empty());
}
