//! Ring 2: the real binary under a played systemd (`world::service`). What needs jobs, cgroups or
//! the sandbox of a real one is in `tests/systemd.rs`.

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

#[path = "serve/addresses.rs"]
mod addresses;
#[path = "serve/bad_versions.rs"]
mod bad_versions;
#[path = "serve/buffers.rs"]
mod buffers;
#[path = "serve/control.rs"]
mod control;
#[path = "serve/crashes.rs"]
mod crashes;
#[path = "serve/endings.rs"]
mod endings;
#[path = "serve/leaks.rs"]
mod leaks;
#[path = "serve/reload.rs"]
mod reload;
#[path = "serve/start.rs"]
mod start;
#[path = "serve/states.rs"]
mod states;
#[path = "serve/stop.rs"]
mod stop;
#[path = "serve/unchanged.rs"]
mod unchanged;
mod world;

use gapless::api::Status;
use std::time::Duration;
use world::service::{SOON, Service};
use world::{eventually, is_long};

/// New generations settle quickly where the test is about something else.
const QUICK: &str = "settle = \"100ms\"";

/// A short form for `make test`, a long one for `make test-long`.
fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

fn live_pids(status: &Status) -> Vec<u32> {
    let live = status
        .generations
        .iter()
        .filter(|generation| generation.state == "live");
    live.flat_map(|generation| &generation.workers)
        .filter_map(|worker| worker.pid)
        .collect()
}

fn front_pid(service: &Service) -> u32 {
    eventually("a front serves", SOON, || {
        let fronts = service.status().fronts;
        fronts
            .iter()
            .find(|front| front.state == "serving")
            .map(|front| front.pid)
    })
}

fn the_version(service: &Service) -> String {
    service
        .get("/")
        .header("x-app-version")
        .unwrap_or("none")
        .to_owned()
}

/// Waits until only the live generation is left.
fn wait_settled(service: &Service) -> Status {
    eventually(
        "only the live generation is left",
        Duration::from_secs(30),
        || {
            let status = service.status();
            (status.generations.len() == 1 && status.fronts.len() == 1).then_some(status)
        },
    )
}
