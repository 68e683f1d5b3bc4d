//! Two commands at once: the second comes while a deploy or a reload is under way.

use crate::eventually;
use crate::world::process::{self, Finished};
use crate::world::service::SOON;
use crate::world::site::Site;
use rustix::process::Signal;
use std::process::Child;

/// What is under way: of `v3`, to `v1`, or of `v2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Deploying,
    RollingBack,
    Reloading,
}

/// What begins meanwhile.
#[derive(Clone, Copy, Debug)]
enum Second {
    /// Of `v4`.
    Deploy,
    /// To `v1`.
    Rollback,
    Reload,
    /// SIGHUP, as `systemctl reload` of units of one's own.
    Hangup,
    Upgrade,
    /// `systemctl restart`.
    Restart,
    /// The keeper is killed, and another one adopts.
    Crash,
    Stop,
}

use First::{Deploying, Reloading, RollingBack};
use Second::{Crash, Deploy, Hangup, Reload, Restart, Rollback, Stop, Upgrade};

/// Two at once, and what becomes of them.
#[derive(Debug)]
struct Row {
    first: First,
    second: Second,
    /// How the first one exits.
    exit: u8,
    /// How the second one exits, if it is a command.
    second_exit: Option<u8>,
    /// Which version does then.
    serves: Option<&'static str>,
}

const fn row(
    (first, exit): (First, u8),
    (second, second_exit): (Second, Option<u8>),
    serves: Option<&'static str>,
) -> Row {
    Row {
        first,
        second,
        exit,
        second_exit,
        serves,
    }
}

const TABLE: [Row; 24] = [
    row((Deploying, 0), (Deploy, Some(8)), Some("v3")),
    row((Deploying, 0), (Rollback, Some(8)), Some("v3")),
    row((Deploying, 0), (Reload, Some(8)), Some("v3")),
    row((Deploying, 0), (Hangup, None), Some("v3")),
    row((Deploying, 0), (Upgrade, Some(0)), Some("v3")),
    row((Deploying, 0), (Restart, None), Some("v3")),
    row((Deploying, 0), (Crash, None), Some("v3")),
    row((Deploying, 1), (Stop, None), None),
    row((RollingBack, 0), (Deploy, Some(8)), Some("v1")),
    row((RollingBack, 0), (Rollback, Some(8)), Some("v1")),
    row((RollingBack, 0), (Reload, Some(8)), Some("v1")),
    row((RollingBack, 0), (Hangup, None), Some("v1")),
    row((RollingBack, 0), (Upgrade, Some(0)), Some("v1")),
    row((RollingBack, 0), (Restart, None), Some("v1")),
    row((RollingBack, 0), (Crash, None), Some("v1")),
    row((RollingBack, 1), (Stop, None), None),
    // Whoever reloads wants what is newest, and that is what is live then.
    row((Reloading, 0), (Deploy, Some(0)), Some("v4")),
    row((Reloading, 0), (Rollback, Some(0)), Some("v1")),
    row((Reloading, 0), (Reload, Some(0)), Some("v2")),
    row((Reloading, 0), (Hangup, None), Some("v2")),
    row((Reloading, 0), (Upgrade, Some(0)), Some("v2")),
    // Nobody is there any more to tell it.
    row((Reloading, 1), (Restart, None), Some("v2")),
    row((Reloading, 1), (Crash, None), Some("v2")),
    row((Reloading, 1), (Stop, None), None),
];

/// An app that takes a moment to start, in which the other comes.
fn slow_app(site: &Site, version: &str) -> String {
    let app = site.app(version, "");
    let file = app.join("gapless.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "PROBE_BOOT_MS = \"500\"\n").unwrap();
    app.display().to_string()
}

/// `v1` and `v2` were live, `v2` is.
fn scene() -> Site {
    let site = Site::bare();
    for version in ["v1", "v2"] {
        let app = slow_app(&site, version);
        site.cli(&["deploy", &app, "--release", version])
            .expect_success();
    }
    site
}

impl First {
    fn begin(self, site: &Site, more: &[&str]) -> Child {
        let app = slow_app(site, "v3");
        let arguments: &[&str] = match self {
            Deploying => &["deploy", &app, "--release", "v3"],
            RollingBack => &["rollback", "v1"],
            Reloading => &["reload", "gapless"],
        };
        let child = site.begin(&[arguments, more].concat());
        eventually("it starts", SOON, || {
            let all = site.service.status().generations;
            all.iter().any(|it| it.state == "starting").then_some(())
        });
        child
    }
}

impl Second {
    /// Returns what it said, if it is a command.
    fn happen(self, site: &mut Site) -> Option<Finished> {
        match self {
            Deploy => Some(site.deploy("v4")),
            Rollback => Some(site.cli(&["rollback", "v1"])),
            Reload => Some(site.service.reload()),
            Upgrade => Some(site.service.cli(&["upgrade"])),
            Hangup => {
                let before = site.service.heard_so_far();
                site.service.signal(Signal::HUP);
                // systemd is told that it is over, though nothing may have begun.
                site.service.wait_for("the end of a reload", SOON, |heard| {
                    let new = heard.messages.get(before..).unwrap_or_default();
                    let has_begun = new.iter().any(|it| it.get("RELOADING") == Some("1"));
                    let is_over = new.iter().any(|it| it.get("READY") == Some("1"));
                    (has_begun && is_over).then_some(())
                });
                None
            }
            Restart => {
                site.service.control("POST", "/release").expect_ok();
                site.service.signal(Signal::TERM);
                site.service.wait_end(SOON);
                site.service.start();
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

fn finish(child: Child) -> (u8, String) {
    let output = child.wait_with_output().unwrap();
    let code = u8::try_from(output.status.code().unwrap()).unwrap();
    (code, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn of_two_commands_at_once_each_says_what_became_of_it_and_what_was_promised_serves() {
    std::thread::scope(|scope| {
        for part in TABLE.chunks(3) {
            scope.spawn(|| part.iter().for_each(play));
        }
    });
}

fn play(row: &Row) {
    let mut site = scene();
    let child = row.first.begin(&site, &[]);
    let came = row.second.happen(&mut site);
    let (exit, said) = finish(child);
    assert_eq!(exit, row.exit, "{row:?}: {said}\n{came:#?}");
    assert_eq!(
        said.contains(" is live after "),
        exit == 0,
        "{row:?}: {said}"
    );
    let second_exit = came.as_ref().map(|it| u8::try_from(it.code()).unwrap());
    assert_eq!(second_exit, row.second_exit, "{row:?}: {came:#?}");
    let Some(version) = row.serves else {
        return;
    };
    let begun_by_a_signal = matches!(row.second, Restart | Crash | Hangup);
    eventually("it serves", SOON, || {
        let serves = site.version() == version;
        assert!(serves || begun_by_a_signal, "{row:?}: {}", site.version());
        // Fronts serve also while no keeper is there.
        let status = site.service.try_status();
        (serves && status.is_some()).then_some(())
    });
    assert_eq!(site.current().as_deref(), Some(version), "{row:?}");
    // What was refused left nothing behind, and the next one goes through.
    site.service.reload().expect_success();
    assert_eq!(site.version(), version, "{row:?}");
}

#[test]
fn a_reload_that_is_refused_names_the_release_and_changes_nothing() {
    let site = scene();
    let child = Deploying.begin(&site, &[]);
    let refused = site.service.reload();
    assert_eq!(refused.code(), 8, "{refused}");
    let expected = "nothing was started: a deploy or rollback to v3 is under way; reload when it \
                    is decided, or end it first\n  now:  g2 serves on, as before\n  more: gapless \
                    explain locked";
    assert_eq!(refused.stdout.trim(), expected, "{refused}");
    let (code, said) = finish(child);
    assert_eq!(code, 0, "{said}");
    assert!(site.service.status().healthy);
}

#[test]
fn a_deploy_whose_command_was_ended_is_superseded_by_a_reload() {
    let site = scene();
    let mut child = Deploying.begin(&site, &[]);
    process::signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    let reloaded = eventually("a reload", SOON, || {
        let reloaded = site.service.reload();
        (reloaded.code() == 0).then_some(reloaded)
    });
    assert!(reloaded.stdout.contains(" is live after "), "{reloaded}");
    assert_eq!(site.version(), "v2");
}

#[test]
fn a_deploy_that_was_superseded_says_so_and_nothing_of_success() {
    let site = scene();
    let child = Deploying.begin(&site, &["--json"]);
    // What only another command line could do, past the lock.
    site.service.control("POST", "/deploy/v2").expect_ok();
    let (code, said) = finish(child);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 1, "{said}");
    assert_eq!(
        (&said["outcome"], &said["exit"]),
        (&"undecided".into(), &1.into())
    );
    let cause = said["cause"].as_str().unwrap();
    assert!(cause.contains("superseded before it was live"), "{said}");
    assert_eq!(site.current().as_deref(), Some("v2"));
}
