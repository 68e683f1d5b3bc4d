//! Ring 2: more idle connections than descriptors, and as many as a machine may have. Ring 3: 20,000.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::print_stderr,
    reason = "what was measured goes to stderr: cargo test --test capacity -- --nocapture"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Deserialize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use world::load::{Counted, idle_that_fit};
use world::service::{SOON, Service};
use world::vm::{self, Machine};
use world::{alone, eventually, gapless, probe_config, skip, tool, version};

const QUICK: &str = "settle = \"100ms\"";
/// Of all, in the tests of too few descriptors: those that came first, and those after them.
const OLD: u64 = 600;
const YOUNG: u64 = 400;
const BUSY: u64 = 8;
const KINDS: &str = "get,post16k,pipelined,new";
/// 1.2 for each connection.
const TOO_FEW: u64 = (OLD + YOUNG) * 12 / 10;
/// Fewer than there are connections, so that not even all of them at once can come.
const FAR_TOO_FEW: u64 = 420;

/// What a front of two lanes makes of that: two for a connection, and its reserve.
fn allowed(descriptors: u64) -> u64 {
    (descriptors - 64 - 2 * 96) / 2
}

/// As LimitNOFILE= that was lowered before a restart.
fn restart_with(descriptors: u64, service: &mut Service) {
    let script = format!("ulimit -n {descriptors} && exec \"$@\"");
    let gapless = gapless().display().to_string();
    service.run_instead(&["/bin/sh", "-c", &script, "sh", &gapless, "serve", "gapless"]);
    service.restart();
}

/// As `prlimit` of the keeper before an upgrade.
fn upgrade_with(descriptors: u64, service: &mut Service) {
    let keeper = Pid::from_raw(i32::try_from(service.main_pid()).unwrap());
    let few = Rlimit {
        current: Some(descriptors),
        maximum: Some(descriptors),
    };
    prlimit(keeper, Resource::Nofile, few).unwrap();
    service.cli(&["upgrade"]).expect_success();
}

/// One front is left, and no more connections than it may have.
fn wait_until_they_fit(service: &Service, allowed: u64) {
    eventually("one front with those that fit", SOON, || {
        let fronts = service.status().fronts;
        let fits = fronts.len() == 1 && fronts[0].connections <= allowed;
        fits.then_some(())
    });
}

/// Connections that the log says were closed.
fn told(journal: &str) -> u64 {
    let counts = journal.lines().filter_map(|line| {
        let (before, _) = line.split_once(" idle connections closed, those that were")?;
        before.rsplit(' ').next()?.parse::<u64>().ok()
    });
    counts.sum()
}

/// `change` brings a front with so few `descriptors`; of the old ones there are enough to close.
fn loses_only_what_the_log_says(descriptors: u64, young: u64, change: fn(u64, &mut Service)) {
    let allowed = allowed(descriptors);
    let _alone = alone();
    let mut service = Service::probe(&version("v1"), QUICK, "[http]\nlanes = 2");
    let old = service.load(&["--clients", "0", "--idle", &OLD.to_string()]);
    // So that it is longer for them.
    old.run_for(Duration::from_secs(1));
    let (busy, idle) = (BUSY.to_string(), young.to_string());
    let arguments = ["--clients", &busy, "--idle", &idle, "--kinds", KINDS];
    let others = service.load(&arguments);
    change(descriptors, &mut service);
    wait_until_they_fit(&service, allowed);
    others.run_for(Duration::from_secs(1));
    others
        .finish()
        .expect_nothing_lost()
        .expect_nothing_closed();
    let old = old.finish();
    old.expect_nothing_lost();
    assert_eq!(old.closed_by.get("eof-while-idle"), Some(&old.closed));
    assert_eq!(old.closed + old.idle.answered, OLD, "{old:#?}");
    let excess = OLD + young + BUSY - allowed;
    // Whoever connects then finds some room made for others, too.
    let at_most = excess + allowed / 4;
    assert!((excess - BUSY..=at_most).contains(&old.closed), "{old:#?}");
    assert!(service.stop(SOON).success());
    let journal = service.journal();
    assert_eq!(told(&journal), old.closed, "{journal}");
    for short in ["cannot accept", "of a parcel", "Too many open files"] {
        assert!(!journal.contains(short), "{journal}");
    }
}

#[test]
fn a_restart_with_too_few_descriptors_closes_the_longest_idle_and_says_how_many() {
    loses_only_what_the_log_says(TOO_FEW, YOUNG, restart_with);
}

#[test]
fn an_upgrade_with_too_few_descriptors_closes_the_longest_idle_and_says_how_many() {
    loses_only_what_the_log_says(TOO_FEW, YOUNG, upgrade_with);
}

#[test]
fn a_restart_with_fewer_descriptors_than_connections_closes_the_longest_idle_as_politely() {
    loses_only_what_the_log_says(FAR_TOO_FEW, 0, restart_with);
}

/// Idle ones, where the machine has descriptors for them.
const MANY: u64 = 20_000;
/// Whatever waits for a handover waits for the keeper, which never touches a connection. Two busy
/// cores are slow; a keeper that did the work would be slower than this.
const STALL_MAX: Duration = Duration::from_secs(5);

/// So many idle connections, and a service for them.
fn serve_many() -> (u64, Service) {
    let (many, allowed) = idle_that_fit(MANY);
    let http = format!("[http]\nlanes = 2\nconnections_max = {allowed}");
    (many, Service::probe(&version("v1"), QUICK, &http))
}

/// The longest that the keeper took to tell its state, until told to stop. Between two keepers nobody
/// answers; who serves does meanwhile.
fn ask_all_the_while(service: &Service, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Relaxed) {
        let began = Instant::now();
        if service.try_status().is_some() {
            longest = longest.max(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    longest
}

/// Until all are with the next front, and the old one is gone.
fn wait_until_moved(service: &Service, old: u32, many: u64) -> u32 {
    eventually(
        "all are with the next front",
        Duration::from_mins(1),
        || {
            let fronts = service.try_status()?.fronts;
            let is_next =
                fronts.len() == 1 && fronts[0].pid != old && fronts[0].connections >= many;
            is_next.then(|| fronts[0].pid)
        },
    )
}

fn mebibytes(pid: u32) -> u64 {
    gapless::usage::of(pid).unwrap().memory_bytes >> 20
}

#[test]
fn thousands_of_idle_connections_move_at_a_restart_and_at_an_upgrade() {
    let _alone = alone();
    let (many, mut service) = serve_many();
    let busy = ["--clients", "8", "--idle", "0", "--kinds", KINDS];
    let idle = service.load(&["--clients", "0", "--idle", &many.to_string()]);
    let busy = service.load(&busy);
    let mut front = service.status().fronts[0].pid;
    for what in ["restart", "upgrade"] {
        let before = mebibytes(front);
        let began = Instant::now();
        if what == "restart" {
            service.restart();
        } else {
            service.cli(&["upgrade"]).expect_success();
        }
        let (service, stop) = (&service, AtomicBool::new(false));
        let (next, asked) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask_all_the_while(service, &stop));
            let next = wait_until_moved(service, front, many);
            stop.store(true, Relaxed);
            (next, asking.join().unwrap())
        });
        eprintln!(
            "{what}: {many} idle connections moved within {:?}; keeper answered within {asked:?}, \
             has {} MiB; old front {before} MiB, new one {} MiB",
            began.elapsed(),
            mebibytes(service.main_pid()),
            mebibytes(next)
        );
        assert!(asked < STALL_MAX, "{asked:?}");
        front = next;
    }
    let counted = busy.finish();
    eprintln!("longest stall of a busy client: {} ms", counted.stall.ms);
    counted.expect_nothing_lost().expect_nothing_closed();
    counted.expect_no_stall_beyond(STALL_MAX);
    let counted = idle.finish();
    assert_eq!(counted.idle.opened, many);
    counted.expect_nothing_lost().expect_nothing_closed();
}

/// All of it is emulated: a release build takes some minutes for so many, a debug build much longer.
const TRIAL_WITHIN: Duration = Duration::from_mins(14);
const MEBIBYTES: u32 = 5000;
/// How much later than without any connection systemd and the keeper may answer, which otherwise need
/// more than a second there.
const LATER_MAX_MS: u64 = 5000;

fn furnish() -> Machine {
    let machine = Machine::new(MEBIBYTES);
    for name in ["probe-app", "strict-client"] {
        machine.put(&tool(name), &format!("/srv/probe/{name}"), 0o755);
    }
    let behaviour = version("v1").text();
    machine.write("/srv/probe/behaviour", behaviour.as_bytes(), 0o644);
    let allowed = MANY * 4 / 3;
    let http = format!("[http]\nlanes = 2\nconnections_max = {allowed}");
    let config = probe_config("/srv/probe", "/srv/probe/probe-app", QUICK, &http);
    machine.write("/etc/gapless/gapless.toml", config.as_bytes(), 0o644);
    // The clock of an emulated machine runs twenty times faster than its processor.
    let patient = b"[Service]\nWatchdogSec=0\n";
    let drop_in = "/etc/systemd/system/gapless.service.d/emulated.conf";
    machine.write(drop_in, patient, 0o644);
    let clients = MANY.to_string();
    machine.write("/root/clients", clients.as_bytes(), 0o644);
    machine
}

/// What a handover took, as the trial measured it.
#[derive(Debug, Deserialize)]
struct Handover {
    systemd_ms: u64,
    keeper_ms: u64,
    stored: u64,
}

#[test]
#[ignore = "emulated: wants some minutes of a quiet machine, and a release build"]
fn twenty_thousand_move_and_systemd_answers_meanwhile() {
    if let Some(why) = vm::missing() {
        return skip(why);
    }
    let _alone = alone();
    let told = furnish().run("tests/capacity/trial.py", TRIAL_WITHIN);
    eprintln!("{told:#?}");
    let told = |what: &str| {
        let value = told.iter().find_map(|line| line.strip_prefix(what));
        value.unwrap_or_else(|| panic!("nothing about {what}: {told:#?}"))
    };
    for what in ["restart", "upgrade"] {
        let [before, all] = [" without any: ", ": "].map(|end| {
            let text = told(&format!("{what}{end}"));
            serde_json::from_str::<Handover>(text).unwrap()
        });
        assert!(
            all.systemd_ms <= before.systemd_ms + LATER_MAX_MS,
            "{all:?}"
        );
        assert!(all.keeper_ms <= before.keeper_ms + LATER_MAX_MS, "{all:?}");
        assert_eq!(all.stored, before.stored);
    }
    for (what, idle) in [("busy: ", 0), ("idle: ", MANY)] {
        let counted: Counted = serde_json::from_str(told(what)).unwrap();
        counted.expect_nothing_lost().expect_nothing_closed();
        assert_eq!(counted.idle.answered, idle);
    }
    assert_eq!((told("stored in the end: "), told("log:")), ("0", ""));
}
