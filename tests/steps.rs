//! Ring 2: keeper, fronts and trustees end at every step of every handover. Each time a whole gapless
//! serves afterwards, nothing is left over, and nothing is lost beyond what was under way with a front
//! that died.

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

#[path = "steps/scene.rs"]
mod scene;
#[path = "steps/table.rs"]
mod table;
mod world;

use gapless::steps::Step;
use scene::{Scene, Victim};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use table::{Handover, OF_A_STOP, handovers};
use world::is_long;

/// Most of a play is waiting.
const AT_A_TIME: usize = 4;

type Play = (Step, Handover, Victim);

/// In a few threads; says all that failed.
fn play_all(plays: &[Play]) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let play_next = || plays.get(next.fetch_add(1, Ordering::Relaxed)).copied();
    let work = || {
        while let Some((step, handover, victim)) = play_next() {
            let play = AssertUnwindSafe(|| Scene::new().play(step, handover, victim));
            if catch_unwind(play).is_err() {
                let what = format!("{victim:?} at {} of {handover:?}", step.name());
                eprintln!("*** FAILED: {what}");
                failed.lock().unwrap().push(what);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    let count = plays.len();
    assert!(
        failed.is_empty(),
        "{} of {count}: {failed:#?}",
        failed.len()
    );
}

/// All in the long form; else one handover for each step.
fn plays(victims: &[Victim]) -> Vec<Play> {
    let mut plays = Vec::new();
    for (number, step) in Step::ALL.iter().enumerate() {
        let handovers = handovers(*step);
        if handovers.is_empty() {
            continue;
        }
        for (other, handover) in handovers.iter().enumerate() {
            if is_long() || other == number % handovers.len() {
                plays.extend(victims.iter().map(|victim| (*step, *handover, *victim)));
            }
        }
    }
    let only = std::env::var("GAPLESS_STEP").unwrap_or_default();
    plays.retain(|(step, ..)| step.name().contains(&only));
    plays
}

#[test]
fn whoever_dies_at_any_step_of_any_handover_is_followed_by_a_whole_gapless() {
    play_all(&plays(&[Victim::Itself]));
}

/// The one that got there is stopped meanwhile, so the others are where they are at that step.
#[test]
fn whoever_dies_while_another_is_at_any_step_of_any_handover_is_followed_by_a_whole_gapless() {
    let mut plays = plays(&[Victim::Keeper, Victim::OldestFront, Victim::NewestFront]);
    if !is_long() {
        // The stages that were worth it.
        let steps = [Step::ParcelReceived, Step::RetireTold, Step::FrontBuried];
        plays.retain(|(step, ..)| steps.contains(step));
    }
    play_all(&plays);
}

/// However long a drain may take.
#[test]
fn a_keeper_that_dies_at_any_step_of_a_stop_is_followed_by_one_that_ends_at_once() {
    for step in OF_A_STOP {
        Scene::with("drain = \"10min\"").stop(step);
    }
}
