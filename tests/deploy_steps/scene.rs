//! One service with two releases, and a third that comes: to its end, or to a step.

use crate::disk::Disk;
use crate::world::eventually;
use crate::world::process;
use crate::world::service::SOON;
use crate::world::site::Site;
use gapless::steps::{DIRECTORY, STOP, Step};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Two that ran, and the one that comes: so at each deploy one goes.
const KEYS: &str = "keep = 2\nshared = [\"uploads\"]\n";
const ERRAND: &str = "release_command = [\"true\"]\n";
/// Long enough to be swapped in before, on a busy machine, too.
const CRASHES: &str = "PROBE_SEGV_AFTER_MS = \"2500\"\n";

/// What is ended at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Deploy,
    Rollback,
    /// Of a release that crashes.
    Bake,
}

/// Not a `matches!`, and without a wildcard: who adds a step must say who gets there.
pub fn acts(step: Step) -> &'static [Act] {
    match step {
        Step::StoreLocked
        | Step::LinksPrepared
        | Step::KeeperAsked
        | Step::StartHeard
        | Step::HealthHeard
        | Step::SwapHeard
        | Step::PreviousMoved
        | Step::CurrentMoved
        | Step::DrainHeard => &[Act::Deploy, Act::Rollback],
        Step::StoreSwept
        | Step::StagingMade
        | Step::FileWritten
        | Step::FilesStaged
        | Step::SharedLinked
        | Step::FilesSynced
        | Step::ManifestWritten
        | Step::ManifestPlaced
        | Step::ReleasePlaced
        | Step::ErrandHeard
        | Step::ReleaseMarked
        | Step::ReleaseUnnamed
        | Step::ReleaseEmptied
        | Step::ReleaseForgotten => &[Act::Deploy],
        Step::FailureSeen | Step::BackMoved | Step::BackMarked => &[Act::Bake],
        // Those of a handover are in tests/steps.rs.
        Step::FrontSpawned
        | Step::FrontKept
        | Step::FrontRemembered
        | Step::FrontReady
        | Step::HeirTold
        | Step::RetireTold
        | Step::FrontExited
        | Step::FrontBuried
        | Step::EstatePassed
        | Step::EstateClosed
        | Step::SettingsTaken
        | Step::ReleaseSaved
        | Step::KeeperLeft
        | Step::GenerationGone
        | Step::AllGone
        | Step::StateRead
        | Step::Adopted
        | Step::StrangersEnded
        | Step::GenerationBegun
        | Step::CellServed
        | Step::UpgradeAsked
        | Step::UpgradeChecked
        | Step::ImageKept
        | Step::UpgradeSaved
        | Step::RelayPlaced
        | Step::UpgradeArriving
        | Step::UpgradeDecided
        | Step::Begun
        | Step::Trusted
        | Step::LanesStarted
        | Step::ReadySaid
        | Step::InheritBegun
        | Step::ParcelReceived
        | Step::ParcelShared
        | Step::LaneAdopted
        | Step::RetireBegun
        | Step::ConnectionTaken
        | Step::ConnectionQueued
        | Step::ParcelSent
        | Step::ParcelClosed
        | Step::Emptied
        | Step::LastWordsSaid
        | Step::TrusteeDismissed
        | Step::TrusteeWoken
        | Step::TrusteeSorted
        | Step::EstateSent
        | Step::TrusteeDone => &[],
    }
}

/// In the order in which a deploy gets there.
pub fn is_after(step: Step, other: Step) -> bool {
    let place = |step| Step::ALL.iter().position(|it| *it == step).unwrap();
    place(step) >= place(other)
}

pub struct Scene {
    disk: Option<Disk>,
    pub site: Site,
    steps: PathBuf,
    number: u32,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(|_| None)
    }

    pub fn on_a_small_disk() -> Self {
        Self::with(|site| Some(Disk::mount(&site.service.scratch.0.join("store"))))
    }

    fn with(disk: impl FnOnce(&Site) -> Option<Disk>) -> Self {
        let site = Site::bare();
        let steps = site.service.scratch.0.join("steps");
        fs::create_dir(&steps).unwrap();
        let mut scene = Self {
            disk: disk(&site),
            site,
            steps,
            number: 0,
        };
        scene.deploy();
        scene.deploy();
        scene
    }

    /// A directory with an app of the next version, and its name; `more` are keys, then variables.
    fn next(&mut self, more: &str, variables: &str) -> (PathBuf, String) {
        self.number += 1;
        let version = format!("v{}", self.number);
        let app = self.site.app(&version, &[KEYS, more].concat());
        fs::write(app.join("second"), "a second file").unwrap();
        let file = app.join("gapless.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + variables).unwrap();
        (app, version)
    }

    /// To its end.
    fn deploy(&mut self) -> String {
        let (app, version) = self.next("", "");
        let arguments = ["deploy", app.to_str().unwrap(), "--release", &version];
        self.site.cli(&arguments).expect_success();
        assert_eq!(self.site.version(), version);
        assert_eq!(self.site.left(), [""; 0]);
        version
    }

    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.site.service.command(arguments);
        command.env(DIRECTORY, &self.steps);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The command ends at the step, then the machine.
    pub fn kill(&mut self, step: Step, act: Act) {
        let (old, previous) = (self.site.current(), self.site.named("previous"));
        let errand = if step == Step::ErrandHeard {
            ERRAND
        } else {
            ""
        };
        let variables = if act == Act::Bake { CRASHES } else { "" };
        let (app, version) = self.next(errand, variables);
        let deploy = ["deploy", app.to_str().unwrap(), "--release", &version];
        let arguments = match act {
            Act::Deploy => deploy.to_vec(),
            Act::Rollback => vec!["rollback"],
            Act::Bake => [&deploy[..], &["--bake", "1min"]].concat(),
        };
        fs::write(self.steps.join(step.name()), "").unwrap();
        // A release that crashes loses what is in flight on it.
        let load = (act != Act::Bake).then(|| self.site.service.load(&["--clients", "4"]));
        let killed = finish(self.begin(&arguments));
        assert_eq!(killed.code, None, "{} in {act:?}: {killed:?}", step.name());
        if let Some(load) = load {
            load.finish().expect_nothing_lost().expect_nothing_closed();
        }
        let is_moved = is_after(step, Step::CurrentMoved);
        let expected = match (act, step) {
            // Between the two.
            (Act::Deploy | Act::Rollback, Step::PreviousMoved) | (Act::Bake, Step::BackMoved) => {
                (old.clone(), old)
            }
            (Act::Deploy, _) if is_moved => (Some(version), old),
            (Act::Rollback, _) if is_moved => (previous, old),
            (Act::Bake, Step::FailureSeen) => (Some(version), old),
            (Act::Deploy | Act::Rollback | Act::Bake, _) => (old, previous),
        };
        let found = (self.site.current(), self.site.named("previous"));
        assert_eq!(found, expected, "killed at {} of {act:?}", step.name());
        self.reboot();
        self.expect_table();
        self.deploy();
    }

    /// What is current is what it begins with.
    fn reboot(&mut self) {
        self.site.service.lose_power();
        self.site.service.start();
        self.site.service.wait_ready();
        let current = self.site.current();
        // One that crashes serves between two crashes.
        eventually("the current release serves", SOON, || {
            (Some(self.site.version()) == current).then_some(())
        });
    }

    /// One is current and was healthy or is about to be known as that; each has its row.
    fn expect_table(&self) {
        let table = self.site.cli(&["releases"]).expect_success();
        let current = self.site.current().unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let named: Vec<_> = rows.iter().filter(|row| row.contains(&"current")).collect();
        assert_eq!(named.len(), 1, "{table}");
        assert_eq!(named[0][0], current, "{table}");
        assert!(["healthy", "staged"].contains(&named[0][2]), "{table}");
        assert!(!table.contains("unknown"), "{table}");
    }

    /// Meanwhile the command is stopped at the step.
    pub fn kill_the_keeper(&mut self, step: Step) {
        let (app, version) = self.next("", "");
        let stopped = self.stop_at(
            step,
            &["deploy", app.to_str().unwrap(), "--release", &version],
        );
        self.site.service.kill_keeper();
        process::signal(stopped.id(), Signal::CONT);
        let ended = finish(stopped);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(self.site.current(), Some(version.clone()));
        assert_eq!(self.site.version(), version);
        self.reboot();
    }

    fn stop_at(&self, step: Step, arguments: &[&str]) -> Child {
        let armed = self.steps.join(step.name());
        fs::write(&armed, STOP).unwrap();
        let child = self.begin(arguments);
        eventually(step.name(), SOON, || {
            let is_stopped = process::see(child.id())?.is_stopped();
            (is_stopped && !armed.exists()).then_some(())
        });
        child
    }

    pub fn fill_the_disk(&mut self, step: Step) {
        self.deploy();
        let old = self.site.current();
        let errand = if step == Step::ErrandHeard {
            ERRAND
        } else {
            ""
        };
        let (app, version) = self.next(errand, "");
        let stopped = self.stop_at(
            step,
            &["deploy", app.to_str().unwrap(), "--release", &version],
        );
        self.disk.as_ref().unwrap().fill();
        process::signal(stopped.id(), Signal::CONT);
        let ended = finish(stopped);
        let what = format!("{}: {ended:?}", step.name());
        if is_after(step, Step::ManifestWritten) {
            // All the room that it needs it has by then.
            assert_eq!(ended.code, Some(0), "{what}");
            assert_eq!(self.site.current(), Some(version.clone()), "{what}");
            assert_eq!(self.site.version(), version, "{what}");
            let is_noted = is_after(step, Step::ReleaseMarked);
            assert_eq!(ended.stdout.contains("not noted: "), !is_noted, "{what}");
        } else {
            self.expect_refusal(&ended, old.as_deref());
        }
        self.site.cli(&["releases"]).expect_success();
        self.disk.as_ref().unwrap().free();
    }

    /// Named are the place, what is left there, and what to do; nothing has changed.
    fn expect_refusal(&self, ended: &Ended, old: Option<&str>) {
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for words in ["store/gapless", "0 MiB", "make room"] {
            assert!(ended.stderr.contains(words), "{words}: {ended:?}");
        }
        assert!(
            ended.stderr.contains("the disk is full") || ended.stderr.contains("no room at"),
            "{ended:?}"
        );
        assert_eq!(self.site.current().as_deref(), old);
        assert_eq!(Some(self.site.version().as_str()), old);
        assert_eq!(self.site.left(), [""; 0]);
    }
}

#[derive(Debug)]
pub struct Ended {
    /// None: killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

fn finish(mut child: Child) -> Ended {
    let ended = process::wait(&mut child, Duration::from_mins(1));
    if ended.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
