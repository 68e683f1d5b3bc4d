//! Ring 2: the benchmarks work. What they measure here, in short and beside other tests, means nothing.

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

use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use world::{Scratch, alone, gapless, process, repository, skip, tool};

/// Of the driver: a server to compare with is missing, and cannot be installed.
const EXIT_MISSING: i32 = 3;
const PEERS: &str = "nginx,haproxy,bare,gapless";
/// It has none but what hyper has.
const NOT_MEASURED: (&str, &str) = ("echo-64-c64", "bare");

/// The cases that `mode` measured, with one entry for each server.
fn short(mode: &str, peers: &str) -> Option<Value> {
    let _alone = alone();
    let scratch = Scratch::new();
    let found = scratch.0.join("found.json");
    tool("bench-load");
    let mut driver = Command::new("python3");
    driver.env("PYTHONDONTWRITEBYTECODE", "1");
    driver.arg(repository("tests/bench")).arg(mode);
    driver.args(["--short", "--peers", peers, "--programs"]);
    driver.arg(gapless().parent().unwrap());
    driver.arg("--json").arg(&found);
    let done = process::run(driver, Duration::from_mins(5));
    if done.status.code() == Some(EXIT_MISSING) {
        skip(&done.stderr);
        return None;
    }
    done.expect_success();
    let found: Value = serde_json::from_slice(&std::fs::read(found).unwrap()).unwrap();
    Some(found["cases"].clone())
}

/// Something was answered by every server in every case; and by gapless all of it.
fn expect_answered(cases: &Value, expected: &[&str]) {
    let cases = cases.as_object().unwrap();
    let names: Vec<_> = cases.keys().map(String::as_str).collect();
    for case in expected {
        assert!(names.contains(case), "{case} is not among {names:?}");
    }
    for (case, servers) in cases {
        for (server, found) in servers.as_object().unwrap() {
            assert!(found["requests"].as_u64().unwrap() > 0, "{case} {server}");
            if server.starts_with("gapless") {
                assert_eq!(found["lost"].as_u64(), Some(0), "{case} {server}");
            }
        }
    }
}

#[test]
fn make_bench_measures_every_case_beside_nginx_and_haproxy() {
    let Some(cases) = short("cost", PEERS) else {
        return;
    };
    let expected = [
        "get-64-c1",
        "get-64-c64",
        "get-64-c512",
        "get-64-c64-2000/s",
        "get-10k-c64",
        "get-1m-c16",
        "post-16k-c64",
        "post-10m-c4",
        "fresh-64-c32",
        "echo-64-c64",
        "two-workers-c64",
        "eight-workers-c64",
        "idle-memory",
        "start-up",
    ];
    expect_answered(&cases, &expected);
    for case in expected {
        for server in PEERS.split(',') {
            let is_measured = (case, server) != NOT_MEASURED;
            assert_eq!(
                cases[case][server].is_object(),
                is_measured,
                "{case} {server}"
            );
        }
    }
}

#[test]
fn make_bench_gap_reloads_upgrades_restarts_and_kills() {
    let Some(cases) = short("gap", "nginx,haproxy,gapless") else {
        return;
    };
    let expected = [
        "calm",
        "reload",
        "upgrade",
        "restart",
        "keeper-killed",
        "worker-killed",
    ];
    expect_answered(&cases, &expected);
}

#[test]
fn make_bench_scale_grows_what_it_says() {
    let Some(cases) = short("scale", "gapless") else {
        return;
    };
    let expected = [
        "idle-0",
        "idle-200",
        "workers-1",
        "workers-4",
        "held-20",
        "reloads-0",
        "reloads-3",
    ];
    expect_answered(&cases, &expected);
}
