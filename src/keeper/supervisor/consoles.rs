//! Consoles of the live generation, as somebody at a terminal asks for them.

use super::{Keeper, now};
use crate::api::{ConsoleRefusal, ConsoleStep};
use crate::causes::chain;
use crate::keeper::console::{self, Console, ConsoleError, Wanted};
use crate::keeper::{cgroup, reaper};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// One that runs.
pub(super) struct Open {
    pid: u32,
    pidfd: OwnedFd,
    /// The name of its control group, whether there is one or not.
    group: String,
}

/// Which kind of reason, and the rest of it.
type Refusal = (ConsoleRefusal, String);

impl Keeper {
    pub(super) fn open_console(&mut self, wanted: &Wanted) {
        if let Err((reason, detail)) = self.try_open_console(wanted) {
            tracing::info!(?reason, detail, "no console was opened");
            drop(
                wanted
                    .steps
                    .try_send(ConsoleStep::Refused { reason, detail }),
            );
        }
    }

    fn try_open_console(&mut self, wanted: &Wanted) -> Result<(), Refusal> {
        let refused = |reason| (reason, String::new());
        let live = self
            .memory
            .plan
            .live()
            .filter(|_| !self.memory.plan.is_stopping());
        let crew = live.and_then(|live| self.crews.get(&live.id));
        let env = crew.and_then(|crew| Some((crew, crew.environment(&self.yard, now())?)));
        let (crew, mut env) = env.ok_or(refused(ConsoleRefusal::NothingLive))?;
        let app = &crew.release.app;
        let command = app.console.clone();
        let command = command.ok_or(refused(ConsoleRefusal::NotConfigured))?;
        let group = self.free_console().ok_or_else(|| {
            let most = console::CONSOLES_MAX.to_string();
            (ConsoleRefusal::TooMany, most)
        })?;
        let tty = wanted
            .terminal()
            .map_err(|error| (ConsoleRefusal::Terminal, chain(&error)))?;
        env.extend(
            wanted
                .term
                .iter()
                .map(|term| ("TERM".into(), term.clone().into())),
        );
        let console = Console {
            directory: app.directory.clone(),
            cgroup: self.console_group(&group),
            steps: wanted.steps.clone(),
            is_caged: self.yard.cages(&crew.release),
            command,
            env,
            tty,
        };
        self.start_console(console, group)
            .map_err(|error| (ConsoleRefusal::Failed, chain(&error)))
    }

    fn start_console(&mut self, console: Console, group: String) -> Result<(), ConsoleError> {
        let (tty, command) = (console.tty.clone(), console.command.join(" "));
        let (pid, pidfd) = console.start(self.yard.outbox.clone())?;
        tracing::info!(pid, tty = %tty.display(), "a console was opened: {command}");
        self.consoles.push(Open { pid, pidfd, group });
        Ok(())
    }

    fn free_console(&self) -> Option<String> {
        console::groups().find(|name| self.consoles.iter().all(|open| open.group != *name))
    }

    fn console_group(&self, name: &str) -> Option<PathBuf> {
        self.group.as_ref()?.create(name).ok()
    }

    pub(super) fn console_ended(&mut self, pid: u32) {
        tracing::info!(pid, "a console was closed");
        self.consoles.retain(|open| open.pid != pid);
    }

    /// Their pids, which nobody else may reap.
    pub(super) fn console_pids(&self) -> impl Iterator<Item = u32> {
        self.consoles.iter().map(|open| open.pid)
    }

    /// With this keeper, whoever comes after it.
    pub(super) fn end_consoles(&mut self) {
        for open in std::mem::take(&mut self.consoles) {
            // True: nobody has reaped it, so that its pid is still its own.
            if reaper::signal(&open.pidfd, Signal::KILL).is_ok_and(|is_there| is_there) {
                reaper::kill_session(open.pid);
            }
            if let Some(group) = &self.group {
                cgroup::discard(&group.path().join(open.group));
            }
        }
    }
}
