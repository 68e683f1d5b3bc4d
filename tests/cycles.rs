//! Ring 2: reload, upgrade, restart and SIGKILL of the keeper in any order, again and again, under
//! load: nothing is lost, nothing closes, nothing grows.

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
#![allow(
    clippy::print_stderr,
    reason = "what a failing test has to say goes to stderr"
)]

mod world;

use gapless::verify::Random;
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;
use world::load::Load;
use world::service::{Heard, SOON, Service};
use world::{alone, eventually, is_long, process, version};

const QUICK: &str = "settle = \"20ms\"";
/// Answers that take up to 200 ms, in pieces too, so that every event finds some under way.
const LOAD: &[&str] = &["--clients", "14", "--idle", "50", "--slow-ms", "200"];
/// How differently large two processes of the same history are: allocators, and how long each lived.
const SLACK_BYTES: u64 = 16 << 20;
/// Whoever asks the control socket takes one or two of the keeper's for a moment.
const SLACK_FDS: u64 = 2;

/// Of `GAPLESS_SEED`, to repeat a run; another one each time without it.
fn seed() -> u64 {
    let given = std::env::var("GAPLESS_SEED").ok();
    let given = given.map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        u64::from(now.subsec_nanos())
    });
    eprintln!("repeat this run with GAPLESS_SEED={seed}");
    seed
}

/// One event, which another may follow before its effects are over.
fn happen(service: &mut Service, random: &mut Random, number: usize) {
    service.behave(&version(&format!("v{number}")));
    let event = random.below(5);
    eprintln!("{number}: {}", NAMES[usize::try_from(event).unwrap()]);
    match event {
        0 => drop(service.reload().expect_success()),
        1 => service.signal(Signal::HUP),
        2 => drop(service.cli(&["upgrade"]).expect_success()),
        3 => service.restart(),
        _ => service.kill_keeper(),
    }
}

const NAMES: [&str; 5] = ["reload", "SIGHUP", "upgrade", "restart", "SIGKILL"];

/// Until `cycles` have happened; each pause lets the load meet another moment.
fn storm(service: &mut Service, load: &Load, random: &mut Random, cycles: std::ops::Range<usize>) {
    for number in cycles {
        happen(service, random, number);
        load.run_for(random.duration(Duration::from_millis(60)));
    }
}

/// What a service is made of.
#[derive(Debug)]
struct Size {
    keeper_fds: u64,
    keeper_bytes: u64,
    front_fds: u64,
    front_bytes: u64,
    stored: usize,
    files: usize,
    processes: usize,
}

/// At rest: the newest generation and its front are alone, and nobody is connected.
fn at_rest(service: &Service) -> Size {
    // No client has used the next generation yet, so the front has no connection to it.
    service.behave(&version("rest"));
    service.reload().expect_success();
    eventually("only the newest is left", Duration::from_mins(1), || {
        let status = service.status();
        let is_alone = status.generations.len() == 1 && status.fronts.len() == 1;
        let is_idle = status.fronts.iter().all(|front| front.connections == 0);
        (is_alone && is_idle && service.processes().len() == 3).then_some(())
    });
    let (keeper, front) = (service.main_pid(), service.status().fronts[0].pid);
    let (keeper, front) = (usage(keeper), usage(front));
    let directories = ["run", "state", "cache"].map(|name| service.scratch.0.join(name));
    Size {
        keeper_fds: keeper.fds.unwrap(),
        keeper_bytes: keeper.memory_bytes,
        front_fds: front.fds.unwrap(),
        front_bytes: front.memory_bytes,
        stored: service.heard(Heard::stored).len(),
        files: directories.iter().map(|directory| files(directory)).sum(),
        processes: service.processes().len(),
    }
}

fn usage(pid: u32) -> gapless::usage::Usage {
    gapless::usage::of(pid).unwrap()
}

/// Everything below `directory`.
fn files(directory: &Path) -> usize {
    let below = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let is_directory = entry.file_type().unwrap().is_dir();
        1 + if is_directory {
            files(&entry.path())
        } else {
            0
        }
    };
    std::fs::read_dir(directory).unwrap().map(below).sum()
}

fn expect_no_growth(middle: &Size, end: &Size) {
    let both = format!("{middle:#?}\n{end:#?}");
    eprintln!("in the middle, at the end: {both}");
    assert!(end.keeper_fds <= middle.keeper_fds + SLACK_FDS, "{both}");
    assert!(end.front_fds <= middle.front_fds + SLACK_FDS, "{both}");
    assert!(
        end.keeper_bytes <= middle.keeper_bytes + SLACK_BYTES,
        "{both}"
    );
    assert!(
        end.front_bytes <= middle.front_bytes + SLACK_BYTES,
        "{both}"
    );
    assert_eq!(
        (end.stored, end.files, end.processes),
        (middle.stored, middle.files, middle.processes),
        "{both}"
    );
}

#[test]
fn random_reloads_upgrades_restarts_and_kills_lose_nothing_and_nothing_grows() {
    let _alone = alone();
    let mut random = Random::new(seed());
    let cycles = if is_long() { 1000 } else { 100 };
    let mut service = Service::probe(&version("v0"), QUICK, "");
    let mut sizes = Vec::new();
    for half in [0..cycles / 2, cycles / 2..cycles] {
        let load = service.load(LOAD);
        storm(&mut service, &load, &mut random, half);
        load.finish().expect_nothing_lost().expect_nothing_closed();
        sizes.push(at_rest(&service));
    }
    expect_no_growth(&sizes[0], &sizes[1]);
    assert_eq!(service.status().requests.lost, 0);
}

#[test]
fn a_front_that_ends_while_no_keeper_watches_leaves_no_socket_behind() {
    let _alone = alone();
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let (before, front) = (
        files(&service.runtime_directory()),
        service.status().fronts[0].pid,
    );
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    assert!(process::end(front, Signal::KILL));
    service.start();
    service.wait_ready();
    service.get("/").expect_ok();
    eventually("as many files as before", SOON, || {
        (files(&service.runtime_directory()) == before).then_some(())
    });
}
