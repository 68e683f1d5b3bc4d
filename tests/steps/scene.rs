//! One service, one handover, one end of a process at one step of it.

use crate::table::{Handover, is_of_front, is_of_trustee};
use crate::world::load::Counted;
use crate::world::process::{self, Finished, Seen};
use crate::world::service::{Heard, SOON, Service};
use crate::world::{eventually, version};
use gapless::steps::{DIRECTORY, STOP, Step};
use gapless::usage;
use rustix::process::Signal;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

const QUICK: &str = "settle = \"20ms\"";
const IDLE: u64 = 20;
/// Whoever asks the control socket takes one or two of the keeper's for a moment.
const SLACK_FDS: u64 = 2;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Whoever gets to the step.
    Itself,
    /// While that one is stopped there.
    Keeper,
    OldestFront,
    NewestFront,
}

/// What there is at rest.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    stored: usize,
    files: usize,
    keeper_fds: u64,
    front_fds: u64,
}

pub struct Scene {
    service: Service,
    steps: PathBuf,
    rest: Rest,
    /// A front was killed, by the handover or as the victim.
    has_front_died: bool,
    command: Option<JoinHandle<Finished>>,
}

impl Scene {
    pub fn new() -> Self {
        Self::with("")
    }

    /// With these keys of `[app]`.
    pub fn with(keys: &str) -> Self {
        let mut service = Service::new("gapless");
        let steps = service.scratch.0.join("steps");
        std::fs::create_dir(&steps).unwrap();
        service.set(DIRECTORY, steps.to_str().unwrap());
        service.listen_tcp("http");
        service.behave(&version("v1"));
        service.configure_probe(&format!("{QUICK}\n{keys}"), "");
        service.start();
        service.wait_ready();
        let rest = eventually("it is at rest", SOON, || rest(&service));
        Self {
            service,
            steps,
            rest,
            has_front_died: false,
            command: None,
        }
    }

    pub fn play(mut self, step: Step, handover: Handover, victim: Victim) {
        let arguments = ["--clients", "7", "--idle", &IDLE.to_string(), "--slow-ms"];
        let load = self.service.load(&[&arguments[..], &["100"]].concat());
        let armed = self.steps.join(step.name());
        let what = if victim == Victim::Itself { "" } else { STOP };
        std::fs::write(&armed, what).unwrap();
        self.hand_over(handover);
        let reached = format!("{} is reached in {handover:?}", step.name());
        eventually(&reached, SOON, || {
            self.go_on();
            (!armed.exists()).then_some(())
        });
        self.has_front_died |= is_of_front(step) && victim == Victim::Itself;
        self.kill(victim);
        self.come_to_rest();
        let counted = load.finish();
        let loses_settled = is_of_trustee(step) && victim == Victim::Itself;
        self.expect_no_more_lost_than_was_under_way(&counted, loses_settled);
        self.expect_nothing_left_over();
    }

    /// A stop of which the keeper dies at this step.
    pub fn stop(mut self, step: Step) {
        let armed = self.steps.join(step.name());
        std::fs::write(&armed, "").unwrap();
        self.service.signal(Signal::TERM);
        let ended = self.service.wait_end(SOON);
        assert!(!ended.success() && !armed.exists(), "{step:?}: {ended}");
        self.service.start();
        let ended = self.service.wait_end(SOON);
        assert!(ended.success(), "after {step:?}: {ended}");
        eventually("no process is left", SOON, || {
            self.service.processes().is_empty().then_some(())
        });
        eventually("nothing is left in the store", SOON, || {
            self.service.heard(Heard::stored).is_empty().then_some(())
        });
    }

    fn hand_over(&mut self, handover: Handover) {
        match handover {
            Handover::Restart => {
                if self.service.try_control("POST", "/release").is_some() {
                    self.service.signal(Signal::TERM);
                }
            }
            Handover::Upgrade => self.command = Some(self.service.begin_cli(&["upgrade"])),
            Handover::Settings => {
                self.service
                    .configure_probe(QUICK, "[http]\nidle_timeout = \"20min\"");
                self.command = Some(self.service.begin_cli(&["reload"]));
            }
            Handover::FrontCrash => self.kill_front(),
            Handover::KeeperCrash => self.service.signal(Signal::KILL),
            Handover::Crash => {
                let front = self.service.status().fronts[0].pid;
                self.service.signal(Signal::KILL);
                self.service.wait_end(SOON);
                process::end(front, Signal::KILL);
                self.has_front_died = true;
            }
        }
    }

    fn kill_front(&mut self) {
        process::end(self.service.status().fronts[0].pid, Signal::KILL);
        self.has_front_died = true;
    }

    /// As systemd does, whatever the keeper ended by.
    fn go_on(&mut self) {
        if !self.service.is_running() {
            self.service.start();
        }
    }

    /// Whoever is stopped at the step stays so until the victim is gone.
    fn kill(&mut self, victim: Victim) {
        if victim == Victim::Itself {
            return;
        }
        let stopped = eventually("one is stopped at the step", SOON, || {
            let mut all = self.service.all_processes().into_iter();
            all.find(Seen::is_stopped).map(|it| it.pid)
        });
        let mut fronts: Vec<u32> = self.service.fronts();
        fronts.retain(|pid| *pid != stopped);
        let pid = match victim {
            Victim::Itself => None,
            Victim::Keeper => Some(self.service.main_pid()).filter(|pid| *pid != stopped),
            Victim::OldestFront => fronts.first().copied(),
            Victim::NewestFront => fronts.last().copied(),
        };
        if let Some(pid) = pid {
            process::end(pid, Signal::KILL);
            self.has_front_died |= victim != Victim::Keeper;
        }
        process::signal(stopped, Signal::CONT);
    }

    fn come_to_rest(&mut self) {
        eventually(
            "one front serves one generation",
            Duration::from_mins(1),
            || {
                self.go_on();
                let status = self.service.try_status()?;
                let is_alone = status.generations.len() == 1 && status.fronts.len() == 1;
                let is_serving = is_alone
                    && status.generations[0].state == "live"
                    && status.fronts[0].state == "serving";
                let is_over = self.command.as_ref().is_none_or(JoinHandle::is_finished);
                (is_serving && is_over && self.service.processes().len() == 3).then_some(())
            },
        );
    }

    fn expect_no_more_lost_than_was_under_way(&self, counted: &Counted, loses_settled: bool) {
        let failed = counted.lost + counted.closed;
        let under_way = self.service.status().requests.lost;
        if !self.has_front_died {
            counted.expect_nothing_lost().expect_nothing_closed();
        }
        assert!(
            failed <= under_way || loses_settled,
            "{failed} failed, {under_way} were under way: {counted:#?}"
        );
        assert!(
            loses_settled || counted.idle.answered == IDLE && counted.idle.closed == 0,
            "settled connections were lost: {counted:#?}"
        );
        for loss in &counted.losses {
            let reason = loss["reason"].as_str().unwrap();
            let is_mixed_up = ["wrong answer", "not HTTP", "status", "no whole"];
            assert!(!is_mixed_up.iter().any(|it| reason.contains(it)), "{loss}");
        }
    }

    /// No process, fd, socket, or thing in the store more than before all this.
    fn expect_nothing_left_over(&mut self) {
        self.service.behave(&version("rest"));
        self.service.reload().expect_success();
        let mut last = None;
        let end = std::time::Instant::now() + SOON;
        loop {
            let now = rest(&self.service);
            if now.as_ref().is_some_and(|now| now.fits(&self.rest)) {
                return;
            }
            last = now.or(last);
            assert!(
                std::time::Instant::now() < end,
                "at rest before: {:?}, now: {last:?}, {:?}",
                self.rest,
                self.service.heard(Heard::stored)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Rest {
    fn fits(&self, before: &Self) -> bool {
        (self.stored, self.files) == (before.stored, before.files)
            && self.keeper_fds <= before.keeper_fds + SLACK_FDS
            && self.front_fds <= before.front_fds + SLACK_FDS
    }
}

/// None while it is not.
fn rest(service: &Service) -> Option<Rest> {
    let status = service.try_status()?;
    let is_alone = status.generations.len() == 1 && status.fronts.len() == 1;
    let front = status.fronts.first().filter(|_| is_alone)?;
    // Before, a front has not opened all that it will.
    let is_idle =
        front.state == "serving" && front.connections == 0 && service.processes().len() == 3;
    let fds = |pid| usage::of(pid)?.fds;
    is_idle.then_some(())?;
    Some(Rest {
        stored: service.heard(Heard::stored).len(),
        files: std::fs::read_dir(service.runtime_directory())
            .unwrap()
            .count(),
        keeper_fds: fds(service.main_pid())?,
        front_fds: fds(front.pid)?,
    })
}
