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
use crate::keeper::upgrade::{Check, Fitness, IMAGE, Stage, Upgrade, VERSION};
use crate::link::settings::HTTP;
use crate::systemd::notify;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;

/// Old fronts that may still finish requests and tunnels while the next upgrade begins: with the one
/// that it makes old, there are two.
const OLD_FRONTS_MAX: usize = 1;

/// For the runtime to look at what came before signals were held back.
const LAST_LOOK: Duration = Duration::from_millis(1);

impl Keeper {
    /// Asks the installed binary; the answer says under which number the outcome will be told.
    pub(super) fn upgrade(&mut self, only: bool, answer: Option<oneshot::Sender<UpgradeOutcome>>) {
        let last = self.upgrade.as_ref();
        let is_under_way = last.is_some_and(|it| it.stage != Stage::Decided);
        let number = last.map_or(0, |it| it.outcome.number);
        let mut upgrade = Upgrade::begin(number, &self.program, only, now());
        let refusal = if is_under_way {
            Some("another upgrade is under way; wait for its end")
        } else if self.plan.is_stopping() {
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
            self.upgrade = Some(upgrade);
            self.start_check();
        }
    }

    fn start_check(&mut self) {
        let remembered = self.remember();
        let file = self.options.source.file.as_deref();
        match Check::start(&self.program, &remembered, file, &self.yard.env) {
            Ok(check) => {
                self.checked = Some(check.pid());
                let outbox = self.yard.outbox.clone();
                tokio::task::spawn_local(check.run(outbox));
            }
            Err(error) => self.decide_upgrade(UpgradeVerdict::Refused, chain(&error)),
        }
        self.is_dirty = true;
    }

    pub(super) fn upgrade_checked(&mut self, result: Result<Fitness, String>) {
        self.checked = None;
        let stage = self.upgrade.as_ref().map(|upgrade| upgrade.stage);
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
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.outcome.to = Some(fitness.gapless);
            upgrade.stage = Stage::Waiting;
            "waiting for the end of a reload, or of an old front"
                .clone_into(&mut upgrade.outcome.cause);
        }
        if only {
            self.decide_upgrade(UpgradeVerdict::Fit, "it can take over".to_owned());
        }
    }

    /// Nothing is under way that an exec would break off or make ambiguous.
    fn is_quiet(&self) -> bool {
        self.plan.coming().is_none()
            && !self.plan.is_stopping()
            && self.waiters.is_empty()
            && self.untold.is_empty()
            && self.released.is_none()
            && self.readiness == Readiness::Said
            && !self.is_reloading
            && !self.fronts.is_any_starting()
            && self.fronts.retiring() <= OLD_FRONTS_MAX
    }

    /// Whether the time for the next image has come. Signals are held back then, so that none is
    /// lost between two images.
    pub(super) async fn is_to_be_replaced(&self, has_heard_all: impl Fn() -> bool) -> bool {
        let stage = self.upgrade.as_ref().map(|upgrade| upgrade.stage);
        if stage != Some(Stage::Waiting) || !self.is_quiet() || !has_heard_all() {
            return false;
        }
        if let Err(error) = relay::hold() {
            tracing::error!(%error, "signals cannot be held back, no upgrade: {error}");
            return false;
        }
        tokio::time::sleep(LAST_LOOK).await;
        if has_heard_all() {
            return true;
        }
        log_up("signals", relay::hear());
        false
    }

    /// The last thing in this image.
    pub(super) fn leave_to_next_image(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.stage = Stage::Executing;
            tracing::info!(program = %self.program.display(), "becoming {}", self.program.display());
        }
        self.end = Some(End::Replaced);
        self.save_state();
        log_up("watchdog", notify::watchdog());
    }

    /// What to become, if that is how this keeper ends.
    pub(super) fn next_image(&self) -> io::Result<Option<Next>> {
        if self.end != Some(End::Replaced) {
            return Ok(None);
        }
        let mut fds = stored::take_all();
        fds.retain(|(name, _)| name != IMAGE);
        for listener in &self.listeners {
            fds.push((HTTP.to_owned(), listener.fd.try_clone()?));
        }
        for admin in &self.admin {
            fds.push((ADMIN.to_owned(), admin.try_clone()?.fd));
        }
        fds.push((IMAGE.to_owned(), File::open(OWN_IMAGE)?.into()));
        Ok(Some(Next {
            relay: PathBuf::from(OWN_IMAGE),
            image: Some(self.program.clone()),
            back: None,
            program: self.program.clone(),
            arguments: std::env::args_os().skip(1).collect(),
            fds,
        }))
    }

    /// In the next image, or in the old one again, once everything is adopted.
    pub(super) fn arrive(&mut self) {
        let back = self.env.remove(std::ffi::OsStr::new(relay::BACK));
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        match upgrade.stage {
            Stage::Executing => {}
            Stage::Checking { .. } | Stage::Waiting => {
                let why = "the keeper was replaced before it was decided".to_owned();
                return self.decide_upgrade(UpgradeVerdict::Refused, why);
            }
            Stage::Arriving(_) | Stage::Decided => return,
        }
        if let Some(back) = back {
            let why = back.to_string_lossy().into_owned();
            return self.decide_upgrade(UpgradeVerdict::Refused, why);
        }
        upgrade.outcome.to = Some(VERSION.to_owned());
        upgrade.stage = Stage::Arriving(FrontId(self.fronts.next()));
        self.bear_front();
    }

    /// Whether what is born now replaces only the binary.
    pub(super) fn is_arriving(&self) -> bool {
        let stage = self.upgrade.as_ref().map(|upgrade| upgrade.stage);
        matches!(stage, Some(Stage::Arriving(_)))
    }

    /// An upgrade is over when the next image serves by a front of its own.
    pub(super) fn find_arrived(&mut self) {
        let Some(Stage::Arriving(id)) = self.upgrade.as_ref().map(|upgrade| upgrade.stage) else {
            return;
        };
        if self.fronts.serves_since(id) {
            self.decide_upgrade(UpgradeVerdict::InPlace, "it is in place".to_owned());
        } else if !self.fronts.lives_since(id) && self.front_due.is_none() {
            let why = "its front did not come up, the old front serves on".to_owned();
            self.decide_upgrade(UpgradeVerdict::Refused, why);
        }
    }

    fn decide_upgrade(&mut self, verdict: UpgradeVerdict, cause: String) {
        let Some(upgrade) = &mut self.upgrade else {
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
    }
}
