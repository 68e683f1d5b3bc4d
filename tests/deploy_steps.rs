//! Ring 2: a deploy, a rollback and a way back end at every step, by SIGKILL, and meet a full disk at
//! every step. Each time the service serves on, and what is there afterwards is whole.

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

#[path = "deploy_steps/disk.rs"]
mod disk;
#[path = "deploy_steps/scene.rs"]
mod scene;
mod world;

use disk::Disk;
use gapless::steps::Step;
use scene::{Act, Scene, acts, is_after};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use world::service::{SOON, Service};
use world::{skip, version};

/// Most of a play is waiting.
const AT_A_TIME: usize = 3;

/// Every step with everything that gets there.
fn plays(act: Act) -> Vec<(Step, Act)> {
    let only = std::env::var("GAPLESS_STEP").unwrap_or_default();
    let mut plays = Vec::new();
    for step in Step::ALL.iter().filter(|it| it.name().contains(&only)) {
        if acts(*step).contains(&act) {
            plays.push((*step, act));
        }
    }
    plays
}

/// A few scenes side by side, each for one play after the other: what one leaves is what the next
/// begins with. Says all that failed.
fn play_all(plays: Vec<(Step, Act)>, play: fn(&mut Scene, Step, Act)) {
    let (all, failed) = (Mutex::new(plays.into_iter()), Mutex::new(Vec::new()));
    let work = || {
        let mut scene = None;
        loop {
            let Some((step, act)) = all.lock().unwrap().next() else {
                return;
            };
            let play = AssertUnwindSafe(|| play(scene.get_or_insert_with(Scene::new), step, act));
            if catch_unwind(play).is_err() {
                eprintln!("*** FAILED: {act:?} at {}", step.name());
                failed.lock().unwrap().push((step.name(), act));
                scene = None;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_deploy_that_is_killed_at_any_step_leaves_what_was_healthy_once() {
    let plays = plays(Act::Deploy);
    assert!(plays.len() > 20 || std::env::var_os("GAPLESS_STEP").is_some());
    play_all(plays, Scene::kill);
}

#[test]
fn a_rollback_that_is_killed_at_any_step_leaves_what_was_healthy_once() {
    play_all(plays(Act::Rollback), Scene::kill);
}

#[test]
fn a_way_back_that_is_killed_at_any_step_leaves_what_was_healthy_once() {
    play_all(plays(Act::Bake), Scene::kill);
}

/// The keeper moves nothing; but it may end while the command does.
#[test]
fn a_keeper_that_is_killed_while_current_is_moved_is_followed_by_one_that_serves_the_new() {
    let mut scene = Scene::new();
    for step in [Step::SwapHeard, Step::PreviousMoved, Step::CurrentMoved] {
        scene.kill_the_keeper(step);
    }
}

#[test]
fn a_full_state_directory_is_said_once_and_keeps_nobody_from_serving() {
    if !rustix::process::getuid().is_root() {
        return skip("mounting a small disk needs root");
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let mut service = Service::new("gapless");
    let disk = Disk::mount(&service.state_directory());
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe("settle = \"20ms\"", "");
    service.start();
    service.wait_ready();
    let load = service.load(&["--clients", "4"]);
    disk.fill();
    for _ in 0..3 {
        service.reload().expect_success();
    }
    let said = || {
        service
            .journal()
            .matches("generation number not written")
            .count()
    };
    assert_eq!(said(), 1, "{}", service.journal());
    assert!(service.status().healthy);
    disk.free();
    service.reload().expect_success();
    let counted = std::fs::read_to_string(service.state_directory().join("generation"));
    assert_eq!(counted.unwrap(), "5\n");
    disk.fill();
    service.reload().expect_success();
    assert_eq!(said(), 2, "it is news again");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    // The counters are written at the end, too.
    service.stop(SOON);
    let journal = service.journal();
    assert!(
        journal.contains("after a reboot the counters will be older"),
        "{journal}"
    );
    assert!(!journal.contains("panicked"), "{journal}");
    drop(disk);
}

#[test]
fn a_full_disk_at_any_step_is_told_and_costs_nothing() {
    if !rustix::process::getuid().is_root() {
        return skip("mounting a small disk needs root");
    }
    // A namespace of this thread's own: whatever happens, no mount is left behind.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let mut scene = Scene::on_a_small_disk();
    let load = scene.site.service.load(&["--clients", "4"]);
    for (step, _) in plays(Act::Deploy) {
        eprintln!("a full disk at {}", step.name());
        scene.fill_the_disk(step);
    }
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert!(is_after(Step::DrainHeard, Step::CurrentMoved));
}
