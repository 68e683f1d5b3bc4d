//! Two commands at once: the second comes while a deploy or a reload is under way.

use crate::world::process::{self, Finished};
use crate::world::service::SOON;
use crate::world::site::Site;
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

/// What begins while something else is under way.
#[derive(Clone, Copy, Debug)]
enum Second {
    Deploy,
    Rollback,
    Reload,
    /// `systemctl reload` of old units, and what signals.
    Hangup,
    Upgrade,
    /// The keeper is killed, and another one adopts.
    Crash,
    Stop,
}

use Second::{Crash, Deploy, Hangup, Reload, Rollback, Stop, Upgrade};

/// A deploy of `v3`, or a rollback to `v1`, and what comes meanwhile: how both exit, and which version
/// serves then.
const TABLE: [(&str, Second, u8, Option<u8>, Option<&str>); 14] = [
    ("deploy", Deploy, 0, Some(8), Some("v3")),
    ("deploy", Rollback, 0, Some(8), Some("v3")),
    ("deploy", Reload, 0, Some(8), Some("v3")),
    ("deploy", Hangup, 0, None, Some("v3")),
    ("deploy", Upgrade, 0, Some(0), Some("v3")),
    ("deploy", Crash, 0, None, Some("v3")),
    ("deploy", Stop, 1, None, None),
    ("rollback", Deploy, 0, Some(8), Some("v1")),
    ("rollback", Rollback, 0, Some(8), Some("v1")),
    ("rollback", Reload, 0, Some(8), Some("v1")),
    ("rollback", Hangup, 0, None, Some("v1")),
    ("rollback", Upgrade, 0, Some(0), Some("v1")),
    ("rollback", Crash, 0, None, Some("v1")),
    ("rollback", Stop, 1, None, None),
];

/// It takes a moment to start, in which the other comes.
const SLOW: &str = "PROBE_BOOT_MS = \"500\"";

fn slow_app(site: &Site, version: &str) -> String {
    let more = format!("[app.env]\n{SLOW}");
    let app = site.app(version, "");
    let file = app.join("gapless.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[app.env]", &more)).unwrap();
    app.display().to_string()
}

/// `v1` and `v2` were live, `v2` is.
fn scene() -> Site {
    let site = Site::bare();
    let app = slow_app(&site, "v1");
    site.cli(&["deploy", &app, "--release", "v1"])
        .expect_success();
    site.deploy("v2").expect_success();
    site
}

impl Second {
    /// Its exit code, if it is a command.
    fn happen(self, site: &mut Site) -> Option<Finished> {
        let other = slow_app(site, "v4");
        match self {
            Deploy => Some(site.cli(&["deploy", &other, "--release", "v4"])),
            Rollback => Some(site.cli(&["rollback", "v1"])),
            Reload => Some(site.service.reload()),
            Upgrade => Some(site.service.cli(&["upgrade"])),
            Hangup => {
                let before = site.service.heard_so_far();
                site.service.signal(Signal::HUP);
                // systemd is told that it is over, though nothing was begun.
                site.service.wait_for("the end of a reload", SOON, |heard| {
                    let new = heard.messages.get(before..).unwrap_or_default();
                    let has_begun = new.iter().any(|it| it.get("RELOADING") == Some("1"));
                    let is_over = new.iter().any(|it| it.get("READY") == Some("1"));
                    (has_begun && is_over).then_some(())
                });
                None
            }
            Crash => {
                site.service.kill_keeper();
                None
            }
            Stop => {
                site.service.stop(SOON);
                None
            }
        }
    }
}

fn begin(site: &Site, first: &str, more: &[&str]) -> Child {
    let app = slow_app(site, "v3");
    let arguments: &[&str] = match first {
        "rollback" => &["rollback", "v1"],
        _ => &["deploy", &app, "--release", "v3"],
    };
    site.begin(&[arguments, more].concat())
}

/// What it wrote from the step `started` on, during which `meanwhile` happens.
fn finish(mut child: Child, meanwhile: impl FnOnce()) -> (u8, String) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("  started")));
    meanwhile();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let code = child.wait().unwrap().code().unwrap();
    (u8::try_from(code).unwrap(), rest.join("\n"))
}

#[test]
fn of_two_commands_at_once_each_says_what_became_of_it_and_what_was_promised_serves() {
    std::thread::scope(|scope| {
        for part in TABLE.chunks(2) {
            scope.spawn(|| part.iter().for_each(play));
        }
    });
}

fn play(row: &(&str, Second, u8, Option<u8>, Option<&str>)) {
    let (first, second, code, second_code, serves) = *row;
    let mut site = scene();
    let mut came = None;
    let child = begin(&site, first, &[]);
    let (exit, said) = finish(child, || came = second.happen(&mut site));
    assert_eq!(exit, code, "{row:?}: {said}\n{came:#?}");
    assert_eq!(
        said.contains(" is live after "),
        code == 0,
        "{row:?}: {said}"
    );
    let second_exit = came.as_ref().map(|it| u8::try_from(it.code()).unwrap());
    assert_eq!(second_exit, second_code, "{row:?}: {came:#?}");
    if let Some(version) = serves {
        assert_eq!(site.version(), version, "{row:?}");
        assert_eq!(site.current().as_deref(), Some(version), "{row:?}");
        // What was refused left nothing behind, and the next one goes through.
        site.service.reload().expect_success();
        assert_eq!(site.version(), version, "{row:?}");
    }
}

#[test]
fn a_reload_that_is_refused_names_the_release_and_changes_nothing() {
    let site = scene();
    let child = begin(&site, "deploy", &[]);
    let (code, said) = finish(child, || {
        let refused = site.service.reload();
        assert_eq!(refused.code(), 8, "{refused}");
        let expected = "nothing was started: a deploy or rollback to v3 is under way; reload when it \
                        is decided, or end it first\n  now:  g2 serves on, as before\n  more: gapless \
                        explain locked";
        assert_eq!(refused.stdout.trim(), expected, "{refused}");
    });
    assert_eq!(code, 0, "{said}");
    assert!(site.service.status().healthy);
}

#[test]
fn a_deploy_whose_command_was_ended_is_superseded_by_a_reload() {
    let site = scene();
    let mut child = begin(&site, "deploy", &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("  started")));
    process::signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    let reloaded = crate::eventually("a reload", Duration::from_secs(10), || {
        let reloaded = site.service.reload();
        (reloaded.code() == 0).then_some(reloaded)
    });
    assert!(reloaded.stdout.contains(" is live after "), "{reloaded}");
    assert_eq!(site.version(), "v2");
}

#[test]
fn a_deploy_that_was_superseded_says_so_and_nothing_of_success() {
    let site = scene();
    let child = begin(&site, "deploy", &["--json"]);
    crate::eventually("it starts", SOON, || {
        let coming = site.service.status().generations;
        coming
            .iter()
            .any(|it| it.release == "v3" && it.state == "starting")
            .then_some(())
    });
    // What only another command line could do, past the lock.
    site.service.control("POST", "/deploy/v2").expect_ok();
    let output = child.wait_with_output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(
        (&said["outcome"], &said["exit"]),
        (&"undecided".into(), &1.into())
    );
    let cause = said["cause"].as_str().unwrap();
    assert!(cause.contains("superseded before it was live"), "{said}");
    assert_eq!(site.current().as_deref(), Some("v2"));
}
