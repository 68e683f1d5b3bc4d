//! Ring 2: gapless is replaced by its installed binary, in place.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::print_stderr,
    reason = "what was measured goes to stderr: make bench-upgrades"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use gapless::api::{UpgradeOutcome, UpgradeVerdict};
use gapless::keeper::adoption::Remembered;
use gapless::state::StateFile;
use rustix::process::Signal;
use std::fs::{File, Permissions};
use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use world::load::Load;
use world::long::{self, Long};
use world::service::{Heard, SOON, Service};
use world::{alone, beside_others, eventually, gapless, is_long, process, version};

const QUICK: &str = "settle = \"100ms\"";
/// A load that ends as soon as it is told to.
const QUICK_KINDS: &str = "get,post16k,pipelined,new";
const FEW: &[&str] = &["--clients", "16", "--idle", "50", "--kinds", QUICK_KINDS];
/// "service restart".
const CLOSE_1012: &[u8] = &[0x88, 2, 0x03, 0xf4];

/// A service whose binary is a file of its own, so that it can be replaced.
struct Installed {
    service: Service,
    program: PathBuf,
}

impl Installed {
    fn start() -> Self {
        Self::configured("")
    }

    fn configured(tables: &str) -> Self {
        let mut service = Service::new("gapless");
        let program = service.scratch.0.join("bin/gapless");
        std::fs::create_dir(program.parent().unwrap()).unwrap();
        install(&program, &gapless());
        service.run_instead(&[program.to_str().unwrap(), "serve", "gapless"]);
        service.listen_tcp("http");
        service.behave(&version("v1"));
        service.configure_probe(QUICK, tables);
        service.start();
        service.wait_ready();
        Self { service, program }
    }

    fn install_another_copy(&self) {
        install(&self.program, &gapless());
    }

    fn install_script(&self, text: &str) {
        let script = self.program.with_extension("script");
        std::fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
        install(&self.program, &script);
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

/// As a package does it: another file takes the place of the old one. Only `cp` ever has it open for
/// writing: a process that this one forks meanwhile would have it open, too, until its exec, and what
/// is open for writing cannot be executed (ETXTBSY).
fn install(program: &Path, source: &Path) {
    let new = program.with_extension("new");
    let mut copy = Command::new("cp");
    copy.arg(source).arg(&new);
    process::run(copy, SOON).expect_success();
    std::fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
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

#[test]
fn many_upgrades_lose_nothing_break_nothing_and_touch_no_app() {
    let _beside = beside_others();
    let it = Installed::start();
    let service = &it.service;
    let (main, app, first_front) = it.pids();
    let (upgrades, tunnels) = if is_long() { (20, 200) } else { (5, 50) };
    let long = Long::begin(&service.address(), tunnels);
    let load = service.load(&["--idle", "200", "--kinds", QUICK_KINDS]);
    let mut sizes = None;
    for number in 1..=upgrades {
        it.install_another_copy();
        let said = service.cli(&["upgrade"]).expect_success();
        assert!(said.contains("is in place"), "{said}");
        assert_eq!(it.last().unwrap().number, number);
        long.wait_for_another();
        eventually("the old front and the newest are left", SOON, || {
            (service.status().fronts.len() == 2).then_some(())
        });
        let size = *sizes.get_or_insert_with(|| (fds(main), stored(service)));
        eventually("no more fds in keeper and store", SOON, || {
            // Whoever asks the control socket takes one or two of the keeper's for a moment.
            (fds(main) <= size.0 + 2 && stored(service) <= size.1).then_some(())
        });
    }
    let fronts = service.status().fronts;
    let old = fronts.iter().find(|front| front.pid == first_front);
    let old = old.map(|front| (front.state.as_str(), front.tunnels));
    assert_eq!(old, Some(("retiring", u64::try_from(tunnels).unwrap())));
    long.finish();
    one_front(service);
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    let (main_now, app_now, front_now) = it.pids();
    assert_eq!((main_now, app_now), (main, app));
    assert_ne!(front_now, first_front);
    assert_eq!(service.status().requests.lost, 0);
}

/// Of so many ordinary requests at once, in the measurement.
const MEASURED: &[&str] = &[
    "--clients",
    "64",
    "--idle",
    "2000",
    "--asking",
    "50",
    "--kinds",
    "get",
];

/// What the clients had while `happen` ran.
fn measured(what: &str, service: &Service, happen: impl FnOnce(&Load)) -> Duration {
    let load = service.load(MEASURED);
    let began = Instant::now();
    happen(&load);
    let took = began.elapsed();
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    let get = &counted.latency_ms["get"];
    eprintln!(
        "{what}: {} requests in {took:.1?}, ms: p50 {} p99 {} p99.9 {} max {}",
        get["count"], get["p50"], get["p99"], get["p999"], get["max"]
    );
    took
}

#[test]
#[ignore = "a measurement of make bench-upgrades: twenty upgrades beside the same load without any"]
fn twenty_upgrades_cost_the_slowest_of_a_thousand_requests() {
    let _alone = alone();
    let it = Installed::configured("[http]\nlanes = 2");
    let service = &it.service;
    service.behave(&version("v1").with("DELAY_MS", "20"));
    service.reload().expect_success();
    let took = measured("20 upgrades", service, |load| {
        for _ in 0..20 {
            it.install_another_copy();
            service.cli(&["upgrade"]).expect_success();
            load.run_for(Duration::from_millis(500));
        }
    });
    measured("none", service, |load| load.run_for(took));
}

#[test]
fn a_signal_upgrades_too() {
    let _beside = beside_others();
    let it = Installed::start();
    let (main, app, front) = it.pids();
    it.install_another_copy();
    it.service.signal(Signal::USR2);
    eventually("the next image serves", SOON, || {
        let journal = it.service.journal();
        journal.contains("it is in place").then_some(())
    });
    assert_eq!(it.last().unwrap().verdict, UpgradeVerdict::InPlace);
    one_front(&it.service);
    let now = it.pids();
    assert_eq!((now.0, now.1), (main, app));
    assert_ne!(now.2, front);
}

/// A download without an end, and a WebSocket; both are with the newest front.
fn open_both(service: &Service) -> [BufReader<TcpStream>; 2] {
    let download = long::open(
        &service.address(),
        "GET /stream HTTP/1.1\r\nHost: t\r\n\r\n",
    );
    [download, long::open_tunnel(&service.address())]
}

#[test]
fn the_third_upgrade_waits_until_the_oldest_front_has_had_its_time() {
    let _beside = beside_others();
    let it = Installed::configured("[http]\nupgrade_drain = \"3s\"\ntunnels = \"1s\"");
    let service = &it.service;
    let mut old = Vec::new();
    for _ in 0..2 {
        old.push(open_both(service));
        service.cli(&["upgrade"]).expect_success();
    }
    let first = it.service.status().fronts[0].id;
    let late = service.cli(&["upgrade", "--timeout", "100ms"]);
    assert_eq!(late.code(), 7, "{late}");
    let [mut download, mut tunnel] = old.remove(0);
    let mut frame = [0; 4];
    tunnel.read_exact(&mut frame).unwrap();
    assert_eq!(frame, CLOSE_1012);
    drop(tunnel);
    assert!(
        service
            .status()
            .fronts
            .iter()
            .any(|front| front.id == first)
    );
    let mut rest = Vec::new();
    // Without the last chunk: a client sees that it is not whole.
    drop(download.read_to_end(&mut rest));
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    eventually("the third is in place", SOON, || {
        let last = it.service.try_status()?.last_upgrade?;
        (last.number == 3 && last.verdict == UpgradeVerdict::InPlace).then_some(())
    });
    eventually("the downloads of both old fronts are cut", SOON, || {
        (service.status().requests.lost == 2).then_some(())
    });
    assert!(
        service
            .journal()
            .contains("did not end within upgrade_drain")
    );
}

#[test]
fn a_binary_that_cannot_take_over_is_refused_and_nobody_notices() {
    let _beside = beside_others();
    let it = Installed::start();
    let before = it.pids();
    let load = it.service.load(FEW);
    for (script, why) in [
        (
            "echo oom >&2; exit 3",
            "exited with status 3 in the dry run",
        ),
        ("echo out of memory >&2; exit 1", "out of memory"),
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
    install_with_other_words(program, &[("gapless-state", "gapless-stale")]);
}

/// Where these words stand in gapless, it has others of the same length.
fn install_with_other_words(program: &Path, words: &[(&str, &str)]) {
    let mut sed = Command::new("sed");
    for (known, other) in words {
        assert_eq!(known.len(), other.len());
        let mut grep = Command::new("grep");
        grep.args(["--quiet", "--text", known]).arg(gapless());
        process::run(grep, SOON).expect_success();
        sed.arg("--expression").arg(format!("s/{known}/{other}/g"));
    }
    let changed = program.with_extension("changed");
    sed.env("LC_ALL", "C").arg(gapless());
    sed.stdout(File::create(&changed).unwrap());
    assert!(sed.status().unwrap().success());
    install(program, &changed);
}

/// A gapless that knows none of these words, of the state or of the link, and says others instead: to
/// it, ours is a later version, as its is to us.
fn install_a_gapless_of_another_version(program: &Path) {
    let words = [
        ("is_upgrade", "is_upgrad3"),
        ("last_outcome", "last_outcom3"),
        ("upgrade_drain", "upgrade_drai2"),
        ("tunnels_ended", "tunnels_3nded"),
        ("access_dropped", "acc3ss_dropped"),
        ("KeepTunnels", "Ke3pTunnels"),
    ];
    install_with_other_words(program, &words);
}

/// What a keeper before upgrades wrote down. Whatever is added to the state, this must be understood;
/// a later format has a file of its own beside it.
#[test]
fn the_state_of_the_first_format_is_understood() {
    let text = include_str!("upgrade/state-1.json");
    let written: serde_json::Value = serde_json::from_str(text).unwrap();
    let file = StateFile::create("gapless-test").unwrap();
    file.save(&written).unwrap();
    let remembered: Remembered = file.load().unwrap().unwrap();
    assert_eq!(remembered.memory.plan.live().unwrap().id.0, 1);
    assert_eq!(
        (remembered.owned.fronts.len(), remembered.owned.crews.len()),
        (1, 1)
    );
    assert_eq!(remembered.memory.upgrade, None);
}

#[test]
fn a_gapless_of_another_version_takes_over_and_hands_back() {
    let _beside = beside_others();
    let it = Installed::start();
    let service = &it.service;
    service.reload().expect_success();
    eventually("the first generation is gone", SOON, || {
        (service.status().generations.len() == 1).then_some(())
    });
    let before = it.pids();
    let load = service.load(FEW);
    for _ in 0..2 {
        install_a_gapless_of_another_version(&it.program);
        service.cli(&["upgrade"]).expect_success();
        service.cli(&["upgrade"]).expect_success();
        it.install_another_copy();
        service.cli(&["upgrade"]).expect_success();
        one_front(service);
    }
    let now = it.pids();
    assert_eq!((now.0, now.1), (before.0, before.1));
    let status = service.status();
    assert_eq!((status.generations[0].id.0, status.healthy), (2, true));
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(service.status().requests.lost, 0);
    service.reload().expect_success();
}

#[test]
fn a_new_image_that_finds_itself_unable_goes_back_and_nobody_notices() {
    let _beside = beside_others();
    let it = Installed::start();
    let before = it.pids();
    let load = it.service.load(FEW);
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

/// Kills every other front of the keeper before it serves, if it can, until told to stop.
fn kill_new_fronts(keeper: u32, front: u32, stop: &AtomicBool) {
    let children = format!("/proc/{keeper}/task/{keeper}/children");
    while !stop.load(Relaxed) {
        let children = std::fs::read_to_string(&children).unwrap();
        for child in children.split_whitespace().map(|pid| pid.parse().unwrap()) {
            let command = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if child != front && command.ends_with(b"\0front\0") {
                process::signal(child, Signal::KILL);
            }
        }
    }
}

#[test]
fn a_new_image_whose_front_does_not_come_up_goes_back_and_nobody_notices() {
    let _beside = beside_others();
    let it = Installed::start();
    let (keeper, app, _) = it.pids();
    let load = it.service.load(FEW);
    // Where the front was faster, once more.
    let mut tries = 0..20;
    let said = loop {
        assert!(tries.next().is_some(), "every front came up");
        it.install_another_copy();
        let (_, _, front) = it.pids();
        let stop = AtomicBool::new(false);
        let said = std::thread::scope(|scope| {
            scope.spawn(|| kill_new_fronts(keeper, front, &stop));
            let said = it.service.cli(&["upgrade"]);
            stop.store(true, Relaxed);
            said
        });
        one_front(&it.service);
        if said.code() != 0 {
            break said;
        }
    };
    assert_eq!(said.code(), 6, "{said}");
    assert!(said.output().contains("front did not come up"), "{said}");
    let exe = std::fs::read_link(format!("/proc/{keeper}/exe")).unwrap();
    assert!(exe.to_string_lossy().ends_with(" (deleted)"), "{exe:?}");
    it.service.cli(&["upgrade"]).expect_success();
    let now = it.pids();
    assert_eq!((now.0, now.1), (keeper, app));
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
    let _beside = beside_others();
    let mut it = Installed::start();
    let before = it.pids();
    let load = it.service.load(FEW);
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
    let _beside = beside_others();
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
