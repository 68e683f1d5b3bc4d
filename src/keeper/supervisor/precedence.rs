//! Who may begin what: a reload waits for nobody, but a deploy that is under way comes first, and so does one
//! that started the service.
//!
//! A deploy to a stopped service leaves a file `starting` in the store while systemd starts it. The keeper
//! then begins nothing for a minute (`Event::Await`). What is current waits, as what is tried again does.
//! It begins if the deploy does not come, is refused or fails, and is dropped when the new release is live.

use super::Keeper;
use super::reloading::{Answer, BeginError, Finishing, Reason, Waiter, Wanted};
use crate::api::{self, Verdict};
use crate::config::Config;
use crate::keeper::changes;
use crate::keeper::plan::Event;
use crate::release::{ReleaseId, Store};
use crate::systemd::message_id;
use std::path::PathBuf;
use std::time::Duration;

/// A deploy that started the service stages its release in this time, or what is current begins.
const ANNOUNCED: Duration = Duration::from_mins(1);

impl Keeper {
    /// The first start. What is current waits while a deploy is about to bring another release: its start
    /// would be for nothing, and it may fail.
    pub(super) fn begin_first(&mut self, config: Result<Config, BeginError>) {
        let is_announced = || self.options.store.as_ref().is_some_and(Store::is_announced);
        match config {
            Ok(config) if !config.app.command.is_empty() && is_announced() => {
                tracing::info!("started by a deploy, waiting for its release");
                self.use_settings(&config);
                let (_, terms) = self.take_in(&config, &Wanted::Current);
                self.events.push_back(Event::Await(terms, ANNOUNCED));
            }
            config => self.begin_configured(config, &Wanted::Current, None),
        }
    }

    pub(super) fn reload_by_signal(&mut self) {
        self.has_heard_reload = true;
        tracing::info!(name: message_id::RELOAD_ASKED.name, "reload asked for by signal");
        self.reload(None);
    }

    /// Not while a deploy is on its way: what is current may change at any moment, so a reload would
    /// supersede the new release by the old one.
    pub(super) fn reload(&mut self, answer: Option<Answer>) {
        let Some(id) = self.deploying() else {
            return self.begin_generation(&Wanted::Current, answer);
        };
        let cause = format!(
            "a deploy or rollback to {id} is under way; reload when it is decided, or end it first"
        );
        tracing::warn!(release = %id, cause, "nothing was reloaded: {cause}");
        let why = Reason::named(cause, Some(api::LOCKED));
        if let Some(answer) = answer {
            let refusal = self.not_begun(Verdict::Unhealthy, why, Vec::new());
            drop(answer.decided(refusal));
        }
        self.reload_is_told();
    }

    /// The release that somebody deploys and waits for, until the store calls it current. Who asked and
    /// left deploys no more.
    fn deploying(&self) -> Option<ReleaseId> {
        let errand = self.errand.as_ref().map(|errand| errand.id.clone());
        let waits = |waiter: &Waiter| match &waiter.answer {
            Answer::Steps(steps) if !steps.is_closed() => waiter.deploys.clone(),
            Answer::Steps(_) | Answer::Once(_) => None,
        };
        let current = || self.options.store.as_ref()?.current().ok()?;
        let is_moving = |finishing: &Finishing| {
            let deployed = finishing.deployed.clone();
            deployed.filter(|id| !finishing.steps.is_closed() && current().as_ref() != Some(id))
        };
        errand
            .or_else(|| self.waiters.iter().find_map(waits))
            .or_else(|| self.finishing.iter().find_map(is_moving))
    }

    pub(super) fn reload_by_change(&mut self, files: &[PathBuf]) {
        let changed = changes::summary(files);
        tracing::info!(name: message_id::RELOAD_ASKED.name, files = %changed, "{changed} changed, reloading");
        self.begin_generation(&Wanted::Current, None);
    }
}
