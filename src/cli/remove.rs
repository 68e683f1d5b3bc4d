//! `gapless remove`: the end of an instance. What `add` made goes; what the app has stays, and is
//! named, unless it is purged.
//!
//! Told again, it goes on where it was ended: each step looks for what is left, the user goes last.
//!
//! A user is deleted last, and only when no data of the instance is left: its number is given to another
//! one then.

use super::add::delete_user;
use super::arguments::RemoveArgs;
use super::deeds::{Deed, Deeds};
use super::deploy::{self, DeployError};
use super::footprint::{self, Footprint, FootprintError};
use super::instance::InstanceName;
use super::output::{complain, say, say_json};
use super::progress::plural;
use super::{CliError, Exit};
use crate::causes::chain;
use crate::release::Lock;
use crate::systemd::job::{JobError, perform};
use crate::systemd::unit;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Longer than any drain and stop that a configuration may ask for in earnest.
const STOP_LIMIT: Duration = Duration::from_mins(30);
const LIMIT: Duration = Duration::from_mins(2);

/// It is still there.
#[derive(Debug, Error)]
pub enum RemoveError {
    /// No NAME.
    #[error("which app? gapless remove NAME; gapless list shows all")]
    Unnamed,
    /// It belongs to the installation.
    #[error(
        "gapless is the instance of gapless.service, which belongs to the installation; to end it: \
         sudo gapless stop && sudo systemctl disable gapless.socket gapless.service; with gapless \
         itself: sudo apt remove gapless, or dnf"
    )]
    Default,
    /// There is no trace of it.
    #[error("there is no {0} on this machine; gapless list shows what is there")]
    Unknown(InstanceName),
    /// A file.
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    /// A deploy is at work, or the lock cannot be had.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// systemd said no.
    #[error("{name} is not removed yet; when the cause is gone: sudo gapless remove {name}")]
    Systemd {
        /// The instance.
        name: InstanceName,
        /// What was run.
        #[source]
        source: JobError,
    },
}

impl RemoveError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Unnamed | Self::Default => Exit::Usage,
            Self::Footprint(error) => error.exit(),
            Self::Deploy(error) => error.exit(),
            Self::Unknown(_) | Self::Systemd { .. } => Exit::Failed,
        }
    }
}

/// What stays.
#[derive(Debug, Serialize)]
struct Left {
    what: String,
    about: String,
}

/// The answer for programs.
#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    done: &'a [Deed],
    left: &'a [Left],
    problems: Vec<String>,
}

/// Blocks until all requests are finished.
pub(super) fn run(args: &RemoveArgs) -> Result<Exit, CliError> {
    let name = args.name.as_ref().ok_or(RemoveError::Unnamed)?;
    if *name == InstanceName::default() {
        return Err(RemoveError::Default.into());
    }
    let footprint = Footprint::of(name);
    let _lock = footprint.lock().map_err(RemoveError::from)?;
    let _deploys = lock_store(&footprint)?;
    let mut work = Work {
        footprint: &footprint,
        deeds: Deeds::new(args.json),
        problems: Vec::new(),
    };
    let was_there = work.take_down()?;
    if !was_there && !has_traces(&footprint) {
        return Err(RemoveError::Unknown(name.clone()).into());
    }
    if args.purge {
        work.purge();
    }
    work.delete_user_without_data();
    let left = left(&footprint);
    report(args, &work, &left);
    Ok(if work.problems.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// No deploy begins, and none is under way. Without a store there is nothing to lock.
fn lock_store(footprint: &Footprint) -> Result<Option<Lock>, RemoveError> {
    let store = footprint.store();
    if !store.root().is_dir() {
        return Ok(None);
    }
    let what = format!("gapless remove {}", footprint.name);
    let lock = store.lock(&deploy::who(&what)).map_err(deploy::denied)?;
    Ok(Some(lock))
}

fn has_traces(footprint: &Footprint) -> bool {
    footprint.has_group() || !left(footprint).is_empty()
}

struct Work<'a> {
    footprint: &'a Footprint,
    deeds: Deeds,
    problems: Vec<String>,
}

impl Work<'_> {
    /// Units, and what `add` wrote for them. True: something of it was there.
    fn take_down(&mut self) -> Result<bool, RemoveError> {
        let footprint = self.footprint;
        let units = footprint.units();
        let states = unit::states(&units).map_err(|source| self.failed(source))?;
        let enabled: Vec<_> = units
            .iter()
            .filter(|unit| states.get(*unit).is_some_and(unit::UnitState::is_enabled))
            .map(String::as_str)
            .collect();
        if !enabled.is_empty() {
            self.systemctl("disable", &enabled, LIMIT, "it stays down after a reboot")?;
        }
        // All at once: a socket that stays would start its service again.
        let service = states
            .get(&footprint.name.unit())
            .cloned()
            .unwrap_or_default();
        let mut all: BTreeSet<_> = service.triggered_by.into_iter().collect();
        all.extend(units.iter().cloned());
        // It ends with the service, by StopWhenUnneeded=.
        all.remove(&footprint.name.control_unit());
        let all: Vec<_> = all.into_iter().collect();
        let states = unit::states(&all).map_err(|source| self.failed(source))?;
        let up = states.iter().filter(|(_, state)| state.is_up());
        let up: Vec<_> = up.map(|(unit, _)| unit.as_str()).collect();
        if !up.is_empty() {
            let about = "requests under way were finished";
            self.systemctl("stop", &up, STOP_LIMIT, about)?;
        }
        let was_up = !enabled.is_empty() || !up.is_empty();
        Ok(self.forget_units()? || was_up)
    }

    fn forget_units(&mut self) -> Result<bool, RemoveError> {
        let mut was_there = false;
        for path in [self.footprint.drop_in(), self.footprint.user_file()] {
            if footprint::remove_file(&path)? {
                self.deeds.tell("deleted", &path.display().to_string(), "");
                was_there = true;
            }
            // Also that of an add which was killed before it wrote.
            path.parent().map(footprint::remove_if_empty);
        }
        let units = self.footprint.units();
        let units = units.iter().map(String::as_str);
        let arguments: Vec<_> = ["reset-failed"].into_iter().chain(units).collect();
        // Fails for those that systemd does not know any more.
        drop(perform("systemctl", &arguments, LIMIT));
        if was_there {
            self.systemctl("daemon-reload", &[], LIMIT, "")?;
        }
        Ok(was_there)
    }

    fn systemctl(
        &mut self,
        verb: &str,
        units: &[&str],
        limit: Duration,
        about: &str,
    ) -> Result<(), RemoveError> {
        let arguments: Vec<_> = [verb].into_iter().chain(units.iter().copied()).collect();
        perform("systemctl", &arguments, limit).map_err(|source| self.failed(source))?;
        let line = format!("systemctl {}", arguments.join(" "));
        self.deeds.tell("ran", &line, about);
        Ok(())
    }

    fn failed(&self, source: JobError) -> RemoveError {
        let name = self.footprint.name.clone();
        RemoveError::Systemd { name, source }
    }

    /// What cannot be deleted is named, and the rest goes all the same.
    fn purge(&mut self) {
        let footprint = self.footprint;
        let store = footprint.store().root().to_owned();
        // The lock last: it is held. What else lies there is somebody else's.
        for part in ["incoming", "current", "previous", "releases", "lock"] {
            self.delete(&store.join(part), "");
        }
        footprint::remove_if_empty(&store);
        store.parent().map(footprint::remove_if_empty);
        for (path, about) in footprint.data().into_iter().zip([KEPT, CACHED]) {
            self.delete(&path, about);
        }
        self.delete(&footprint.configuration(), "");
        for path in footprint.variables() {
            self.delete(&path, "");
        }
    }

    fn delete(&mut self, path: &Path, about: &str) {
        match footprint::remove_tree(path) {
            Ok(true) => self
                .deeds
                .tell("deleted", &path.display().to_string(), about),
            Ok(false) => {}
            Err(error) => self.problems.push(chain(&error)),
        }
    }

    /// While there is data, nobody else may get its number.
    fn delete_user_without_data(&mut self) {
        let footprint = self.footprint;
        let owns = |path: PathBuf| path.symlink_metadata().is_ok();
        let store = footprint.store().root().to_owned();
        if owns(store) || footprint.data().into_iter().any(owns) {
            return;
        }
        let uid = footprint.uid();
        if uid.is_none() && !footprint.has_group() {
            return;
        }
        match delete_user(footprint) {
            Ok(()) => {
                let user = format!("the user {}", footprint.user());
                // None: who was ended before had come as far as its group.
                let about = uid.map_or_else(String::new, |uid| format!("uid {uid}, without data"));
                self.deeds.tell("deleted", &user, &about);
            }
            Err(error) => self.problems.push(chain(&error)),
        }
    }
}

const KEPT: &str = "what the app keeps";
const CACHED: &str = "its cache";

fn left(footprint: &Footprint) -> Vec<Left> {
    let mut left = Vec::new();
    let mut look = |path: PathBuf, about: &str| {
        if path.symlink_metadata().is_ok() {
            let (what, about) = (path.display().to_string(), about.to_owned());
            left.push(Left { what, about });
        }
    };
    look(footprint.configuration(), "its configuration");
    for path in footprint.variables() {
        look(path, "its environment");
    }
    for path in footprint.foreign_drop_ins() {
        look(path, "not written by gapless add, so it is yours to delete");
    }
    let store = footprint.store();
    let releases = store
        .list()
        .map_or(0, |all| u64::try_from(all.len()).unwrap_or(u64::MAX));
    look(store.root().to_owned(), &plural(releases, "release"));
    for (path, about) in footprint.data().into_iter().zip([KEPT, CACHED]) {
        look(path, about);
    }
    if let Some(uid) = footprint.uid() {
        left.push(Left {
            what: format!("the user {}", footprint.user()),
            about: format!("uid {uid}, kept for what is left"),
        });
    }
    left
}

fn report(args: &RemoveArgs, work: &Work<'_>, left: &[Left]) {
    let name = &work.footprint.name;
    if args.json {
        say_json(&Removed {
            name: name.as_str(),
            done: work.deeds.all(),
            left,
            problems: work.problems.clone(),
        });
        return;
    }
    for problem in &work.problems {
        complain(&format!("gapless: {problem}"));
    }
    if left.is_empty() {
        say(&format!("{name} is gone, and nothing of it is left."));
        return;
    }
    say(&format!("{name} is gone.  Left:"));
    let width = left.iter().map(|it| it.what.len()).max().unwrap_or(0);
    for Left { what, about } in left {
        say(&format!("  {what:<width$}  {about}"));
    }
    if !args.purge {
        say(&format!(
            "Back: sudo gapless add {name} --listen ADDRESS.  Delete that, too: sudo gapless remove \
             {name} --purge"
        ));
    }
}
