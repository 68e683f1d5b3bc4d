//! Ring 2: the commands for who operates a service, with the real binary.

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

use std::os::unix::fs::PermissionsExt;
use world::process::{self, Finished};
use world::service::{SOON, Service};

/// Runs gapless where this script is the only program there is.
fn with_program(name: &str, script: &str, arguments: &[&str]) -> Finished {
    let service = Service::new("gapless");
    let program = service
        .scratch
        .write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = service.command(arguments);
    command.env("PATH", program.parent().unwrap());
    process::run(command, SOON)
}

/// Has entries, and says what it was asked for.
const JOURNALCTL: &str = r#"case "$*" in *--quiet*) echo entry;; *) echo "$*";; esac"#;

#[test]
fn logs_asks_journalctl_for_all_of_the_instance() {
    let ask = |arguments: &[&str]| with_program("journalctl", JOURNALCTL, arguments);
    let all = ask(&["logs"]).expect_success();
    assert_eq!(
        all.trim(),
        "--no-pager --lines=100 --unit=gapless.service --unit=gapless-survivors:gapless:*.scope"
    );
    let some = ask(&["logs", "shop", "-g", "42", "-n", "7", "--json"]).expect_success();
    assert_eq!(
        some.trim(),
        "--no-pager --lines=7 --output=json --unit=gapless@shop.service \
         --unit=gapless-survivors:shop:*.scope GAPLESS_GENERATION=g42"
    );
}

#[test]
fn logs_follows_also_what_has_no_entry_yet() {
    let script = r#"case "$*" in *--quiet*) ;; *) echo "$*";; esac"#;
    let followed = with_program("journalctl", script, &["logs", "-f"]).expect_success();
    assert!(followed.contains(" --follow "), "{followed}");
}

#[test]
fn logs_says_what_is_missing() {
    let empty = "echo 'No journal files were opened' >&2";
    let empty = with_program("journalctl", empty, &["logs", "-g", "g3"]);
    assert_eq!(empty.code(), 1, "{empty}");
    for part in [
        "g3 of gapless.service",
        "systemd-journal",
        "No journal files",
    ] {
        assert!(empty.stderr.contains(part), "{empty}");
    }
    let missing = with_program("other", "", &["logs"]);
    assert_eq!(missing.code(), 1, "{missing}");
    assert!(
        missing.stderr.contains("cannot run journalctl"),
        "{missing}"
    );
    let wrong = with_program("other", "", &["logs", "-g", "w1"]);
    assert_eq!(wrong.code(), 2, "{wrong}");
}
