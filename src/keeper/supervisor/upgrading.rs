//! An upgrade from the request to the answer: ask the installed binary, wait for a quiet moment,
//! leave the process to it; and in the next image: bear a front of its own, and say that it is done.

use super::{End, Keeper, Readiness, log_up, now};
use crate::api::{UpgradeOutcome, UpgradeVerdict};
use crate::causes::chain;
use crate::config;
use crate::exec::OWN_IMAGE;
use crate::exec::relay::{self, Next};
use crate::id::FrontId;
use crate::keeper::listeners::ADMIN;
use crate::keeper::stored;
use crate::keeper::upgrade::{Check, Fitness, IMAGE, Identity, Stage, Upgrade, VERSION, WayBack};
use crate::link::settings::HTTP;
use crate::steps::{self, Step};
use crate::systemd::notify;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;

/// Old fronts that may still finish requests and tunnels while the next upgrade begins: with the one
/// that it makes old, there are two.
const OLD_FRONTS_MAX: usize = 1;

/// For the front of the next image; longer than one front may take.
const ARRIVAL: Duration = Duration::from_secs(30);

/// For systemd to take what it is to keep; well below its watchdog.
const STORED: Duration = Duration::from_secs(5);

/// For the runtime to look at what came before signals were held back.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// So that a process that systemd starts in place of a dead one can go back, too. It must be there
/// before the exec: systemd heeds nothing that it reads after the end of who sent it.
fn keep_image() -> io::Result<()> {
    stored::keep(IMAGE, File::open(OWN_IMAGE)?);
    notify::barrier(STORED)
}

/// The image that is to be next, and the one before.
#[derive(Debug)]
pub(super) struct Images {
    /// The installed binary.
    program: PathBuf,
    checked: Option<Checked>,
    /// Why the image before this one is to run again.
    back: Option<String>,
}

impl Images {
    pub(super) fn new(program: PathBuf) -> Self {
        Self {
            program,
            checked: None,
            back: None,
        }
    }

    /// The process of the dry run, until it ended.
    pub(super) fn check_pid(&self) -> Option<u32> {
        self.checked.and_then(|checked| checked.pid)
    }
}

/// A dry run.
#[derive(Clone, Copy, Debug)]
struct Checked {
    /// Until it ended.
    pid: Option<u32>,
    /// Of what it was asked.
    identity: Option<Identity>,
}

impl Keeper {
    /// Asks the installed binary; the answer says under which number the outcome will be told.
    pub(super) fn upgrade(&mut self, only: bool, answer: Option<oneshot::Sender<UpgradeOutcome>>) {
        let last = self.memory.upgrade.as_ref();
        let is_under_way = last.is_some_and(|it| it.stage != Stage::Decided);
        let number = last.map_or(0, |it| it.outcome.number);
        let mut upgrade = Upgrade::begin(number, &self.images.program, only, now());
        let refusal = if is_under_way {
            Some("another upgrade is under way; wait for its end")
        } else if self.memory.plan.is_stopping() {
            Some("gapless is stopping")
        } else {
            None
        };
        if let Some(why) = refusal {
            tracing::warn!("no upgrade: {why}");
            upgrade.outcome.verdict = UpgradeVerdict::NotNow;
            why.clone_into(&mut upgrade.outcome.cause);
        }
        if let Some(answer) = answer {
            // Who asked may have left.
            drop(answer.send(upgrade.outcome.clone()));
        }
        if refusal.is_none() {
            self.memory.upgrade = Some(upgrade);
            self.start_check();
        }
    }

    fn start_check(&mut self) {
        let remembered = self.remember();
        let file = self.options.source.file.as_deref();
        match Check::start(&self.images.program, &remembered, file, &self.yard.env) {
            Ok(check) => {
                self.images.checked = Some(Checked {
                    pid: Some(check.pid()),
                    identity: check.identity(),
                });
                let outbox = self.yard.outbox.clone();
                tokio::task::spawn_local(check.run(outbox));
            }
            Err(error) => self.decide_upgrade(UpgradeVerdict::Refused, chain(&error)),
        }
        self.is_dirty = true;
        steps::reached(Step::UpgradeAsked);
    }

    pub(super) fn upgrade_checked(&mut self, result: Result<Fitness, String>) {
        if let Some(checked) = &mut self.images.checked {
            checked.pid = None;
        }
        let stage = self.memory.upgrade.as_ref().map(|upgrade| upgrade.stage);
        let Some(Stage::Checking { only }) = stage else {
            return;
        };
        let fitness = match result {
            Ok(fitness) => fitness,
            Err(why) => return self.decide_upgrade(UpgradeVerdict::Refused, why),
        };
        // What is wrong for both is no reason: the app runs, whatever stands in the file now.
        if let Some(problem) = fitness.config_problem
            && config::load(&self.options.source).is_ok()
        {
            let why = format!("it does not understand the configuration: {problem}");
            return self.decide_upgrade(UpgradeVerdict::Refused, why);
        }
        if let Some(upgrade) = &mut self.memory.upgrade {
            upgrade.outcome.to = Some(fitness.gapless);
            upgrade.stage = Stage::Waiting;
            "waiting for the end of a reload, or of an old front"
                .clone_into(&mut upgrade.outcome.cause);
        }
        if only {
            self.decide_upgrade(UpgradeVerdict::Fit, "it can take over".to_owned());
        }
        steps::reached(Step::UpgradeChecked);
    }

    /// Nothing is under way that an exec would break off or make ambiguous.
    fn is_quiet(&self) -> bool {
        self.memory.plan.coming().is_none()
            && !self.memory.plan.is_stopping()
            && self.waiters.is_empty()
            && self.quieting.is_empty()
            && self.untold.is_empty()
            && self.errand.is_none()
            && self.memory.released.is_none()
            && self.readiness == Readiness::Said
            && !self.is_reloading
            && !self.fronts.is_any_starting()
            && (self.images.back.is_some() || self.fronts.retiring() <= OLD_FRONTS_MAX)
    }

    /// The next image is wanted, or the one before.
    fn is_due(&self) -> bool {
        let stage = self.memory.upgrade.as_ref().map(|upgrade| upgrade.stage);
        stage == Some(Stage::Waiting) || self.images.back.is_some()
    }

    /// Whether the time for the next image has come. Signals are held back then, so that none is
    /// lost between two images.
    pub(super) async fn is_to_be_replaced(&self, has_heard_all: impl Fn() -> bool) -> bool {
        if !self.is_due() || !self.is_quiet() || !has_heard_all() {
            return false;
        }
        if let Err(error) = relay::hold() {
            tracing::error!(%error, "signals cannot be held back, no upgrade: {error}");
            return false;
        }
        tokio::time::sleep(LAST_LOOK).await;
        if has_heard_all() && self.fronts.has_said_all() {
            return true;
        }
        log_up("signals", relay::hear());
        false
    }

    /// The last thing in this image, unless another binary was installed since the dry run: then
    /// that is asked first.
    pub(super) fn leave_to_next_image(&mut self) {
        if self.images.back.is_none() && !self.begin_exec() {
            log_up("signals", relay::hear());
            return;
        }
        self.end = Some(End::Replaced);
        self.save_state();
        steps::reached(Step::UpgradeSaved);
        log_up("watchdog", notify::watchdog());
    }

    fn begin_exec(&mut self) -> bool {
        let Some(upgrade) = &mut self.memory.upgrade else {
            return false;
        };
        let asked = self.images.checked.and_then(|checked| checked.identity);
        if asked.is_none() || Identity::of(&self.images.program) != asked {
            tracing::info!("another gapless was installed meanwhile, asking that");
            upgrade.stage = Stage::Checking { only: false };
            self.start_check();
            return false;
        }
        if let Err(error) = keep_image() {
            let why = format!("no way back from it, the image that runs cannot be kept: {error}");
            self.decide_upgrade(UpgradeVerdict::Refused, why);
            return false;
        }
        steps::reached(Step::ImageKept);
        upgrade.stage = Stage::Executing;
        tracing::info!(program = %self.images.program.display(), "becoming {}", self.images.program.display());
        true
    }

    /// What to become, if that is how this keeper ends.
    pub(super) fn next_image(&self) -> io::Result<Option<Next>> {
        if self.end != Some(End::Replaced) {
            return Ok(None);
        }
        let mut fds = stored::take_all();
        for listener in &self.listeners {
            fds.push((HTTP.to_owned(), listener.fd.try_clone()?));
        }
        for admin in &self.admin {
            fds.push((ADMIN.to_owned(), admin.try_clone()?.fd));
        }
        if let Some(why) = &self.images.back {
            let way_back = WayBack::with(fds, &self.images.program);
            return Ok(way_back.map(|way_back| way_back.next(why)));
        }
        Ok(Some(Next {
            relay: PathBuf::from(OWN_IMAGE),
            image: Some(self.images.program.clone()),
            back: None,
            program: self.images.program.clone(),
            arguments: std::env::args_os().skip(1).collect(),
            fds,
        }))
    }

    /// In the next image, or in the old one again, once everything is adopted.
    pub(super) fn arrive(&mut self, bears_front: bool) {
        let back = self.env.remove(std::ffi::OsStr::new(relay::BACK));
        if let Some(back) = back {
            return self.give_up_upgrade(&back.to_string_lossy());
        }
        let Some(upgrade) = &mut self.memory.upgrade else {
            return;
        };
        match upgrade.stage {
            Stage::Executing => {}
            Stage::Checking { .. } | Stage::Waiting => {
                return self.give_up_upgrade("the keeper was replaced before it was decided");
            }
            Stage::Arriving(_) | Stage::Decided => return,
        }
        upgrade.outcome.to = Some(VERSION.to_owned());
        upgrade.stage = Stage::Arriving(FrontId(self.fronts.next()));
        steps::reached(Step::UpgradeArriving);
        if bears_front {
            self.bear_front();
        }
    }

    /// Whether what is born now replaces only the binary.
    pub(super) fn is_arriving(&self) -> bool {
        let stage = self.memory.upgrade.as_ref().map(|upgrade| upgrade.stage);
        matches!(stage, Some(Stage::Arriving(_)))
    }

    /// An upgrade is over when the next image serves by a front of its own.
    pub(super) fn find_arrived(&mut self) {
        let Some(Stage::Arriving(id)) = self.memory.upgrade.as_ref().map(|upgrade| upgrade.stage)
        else {
            return;
        };
        let is_late = now() - self.began() > ARRIVAL;
        let has_failed = !self.fronts.lives_since(id) && (is_late || self.front_due.is_none());
        if self.fronts.serves_since(id) {
            self.decide_upgrade(UpgradeVerdict::InPlace, "it is in place".to_owned());
        } else if has_failed && stored::has(IMAGE) {
            let why = "it ran, but its front did not come up";
            self.images.back.get_or_insert_with(|| why.to_owned());
        } else if has_failed {
            self.give_up_upgrade("its front did not come up, the old front serves on");
        }
    }

    /// One that is under way has failed.
    pub(super) fn give_up_upgrade(&mut self, why: &str) {
        let upgrade = self.memory.upgrade.as_ref();
        if upgrade.is_some_and(|it| it.stage != Stage::Decided) {
            self.decide_upgrade(UpgradeVerdict::Refused, why.to_owned());
        }
    }

    fn decide_upgrade(&mut self, verdict: UpgradeVerdict, cause: String) {
        stored::forget(IMAGE);
        self.images.checked = None;
        let Some(upgrade) = &mut self.memory.upgrade else {
            return;
        };
        upgrade.stage = Stage::Decided;
        let outcome = &mut upgrade.outcome;
        let took = now() - upgrade.asked;
        outcome.elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        (outcome.verdict, outcome.cause) = (verdict, cause);
        let (from, seconds) = (&outcome.from, took.as_secs_f64());
        let to = outcome.to.as_deref().unwrap_or("unknown");
        if verdict == UpgradeVerdict::Refused {
            tracing::error!(
                from,
                to,
                cause = outcome.cause,
                "gapless {from} serves on, the installed {} failed: {}",
                outcome.program.display(),
                outcome.cause
            );
        } else {
            tracing::info!(
                from,
                to,
                "gapless {from} → {to}: {} after {seconds:.2} s",
                outcome.cause
            );
        }
        self.is_dirty = true;
        steps::reached(Step::UpgradeDecided);
    }
}
