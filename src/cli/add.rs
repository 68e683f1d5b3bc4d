//! `gapless add`: an instance of its own for one more app, file by file, or nothing.
//!
//! Every step looks first whether it was done, and leaves what `remove` finds; so whoever is killed,
//! and wherever, is completed by the same command. The drop-in comes after all that the service
//! needs, and systemd hears of it last.
//!
//! It writes nothing that the manual does not tell an administrator to write, each file by rename(2), and
//! undoes what fails. Whoever adds or removes holds flock(2) on /etc/systemd/system; a removal also holds
//! the deploy lock. Files written here begin with a mark, by which a purge of the package knows them.

use super::address::{self, Address, TakenError};
use super::arguments::AddArgs;
use super::deeds::{Deed, Deeds};
use super::footprint::{self, Footprint, FootprintError};
use super::instance::InstanceName;
use super::output::{say, say_json};
use super::{CliError, Exit};
use crate::systemd::job::{JobError, perform};
use crate::systemd::unit;
use rustix::fs::Mode;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A socket is started within milliseconds; on a machine that boots, later.
const LIMIT: Duration = Duration::from_mins(2);

/// systemd takes 31 for the name of a user, which is gapless-NAME.
const NAME_BYTES_MAX: usize = 31 - "gapless-".len();

/// Nothing was added.
#[derive(Debug, Error)]
pub enum AddError {
    /// No NAME.
    #[error("which app? gapless add NAME --listen ADDRESS")]
    Unnamed,
    /// It is there by the installation.
    #[error(
        "gapless is the instance of gapless.service, which the installation brings; start it: sudo \
         gapless start; another port: sudo systemctl edit gapless.socket"
    )]
    Default,
    /// Its user could not have that name.
    #[error(
        "{0} cannot be the name of an app: its user is gapless-{0}, so it may have {NAME_BYTES_MAX} \
         letters, digits, _ and -"
    )]
    Name(InstanceName),
    /// It listens elsewhere.
    #[error(
        "{name} is there already, and listens on {has}; nothing was changed. To change that: sudo \
         systemctl edit gapless@{name}.socket, with an empty ListenStream= before the new one, then \
         sudo systemctl restart gapless@{name}.socket"
    )]
    Elsewhere {
        /// The instance.
        name: InstanceName,
        /// Its addresses.
        has: String,
    },
    /// An address is not to be had.
    #[error(transparent)]
    Taken(#[from] TakenError),
    /// A file.
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    /// systemd said no.
    #[error(
        "{}; more: journalctl -u gapless@{name}.socket",
        crate::causes::chain(why)
    )]
    Systemd {
        /// The instance.
        name: InstanceName,
        /// What was run.
        why: JobError,
    },
    /// After some steps were done.
    #[error(
        "{name} was not added: {}; {}",
        crate::causes::chain(&**why),
        undone(name, left)
    )]
    Undone {
        /// The instance.
        name: InstanceName,
        /// What failed.
        why: Box<AddError>,
        /// What could not be undone.
        left: Vec<String>,
    },
}

fn undone(name: &InstanceName, left: &[String]) -> String {
    if left.is_empty() {
        return "what was done for it is undone".to_owned();
    }
    let left = left.join(", ");
    format!("{left} could not be undone: sudo gapless remove {name} --purge")
}

impl AddError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Unnamed | Self::Default | Self::Name(_) => Exit::Usage,
            Self::Footprint(error) => error.exit(),
            Self::Undone { why, .. } => why.exit(),
            Self::Elsewhere { .. } | Self::Taken(_) | Self::Systemd { .. } => Exit::Failed,
        }
    }
}

/// The answer for programs.
#[derive(Serialize)]
struct Added<'a> {
    name: &'a str,
    listen: Vec<String>,
    has_changed: bool,
    done: &'a [Deed],
    next: &'a str,
}

/// All of it, or nothing.
pub(super) fn run(args: &AddArgs) -> Result<Exit, CliError> {
    let name = args.name.as_ref().ok_or(AddError::Unnamed)?;
    suits(name)?;
    // Whatever the shell of root says: systemd and the service have to read what is made here.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let footprint = Footprint::of(name);
    let _lock = footprint.lock().map_err(AddError::from)?;
    expect_addresses(&footprint, &args.listen)?;
    let mut work = Work {
        footprint: &footprint,
        deeds: Deeds::new(args.json),
        undo: Vec::new(),
    };
    if let Err(why) = work.all(&args.listen) {
        let left = work.undo();
        return Err(AddError::Undone {
            name: name.clone(),
            why: Box::new(why),
            left,
        }
        .into());
    }
    report(args, &footprint, &work.deeds);
    Ok(Exit::Done)
}

fn suits(name: &InstanceName) -> Result<(), AddError> {
    if *name == InstanceName::default() {
        return Err(AddError::Default);
    }
    let is_short = name.as_str().len() <= NAME_BYTES_MAX;
    if is_short && !name.as_str().contains('.') {
        Ok(())
    } else {
        Err(AddError::Name(name.clone()))
    }
}

/// Of an instance that is there: the same. Else: free ones.
fn expect_addresses(footprint: &Footprint, wanted: &[Address]) -> Result<(), AddError> {
    let name = &footprint.name;
    let has = footprint.addresses();
    let parsed: Vec<Address> = has.iter().filter_map(|it| it.parse().ok()).collect();
    let is_in = |one: &Address, all: &[Address]| all.iter().any(|it| it.is(one));
    let is_same = parsed.len() == has.len()
        && parsed.iter().all(|it| is_in(it, wanted))
        && wanted.iter().all(|it| is_in(it, &parsed));
    if !has.is_empty() && !is_same {
        let (name, has) = (name.clone(), has.join(", "));
        return Err(AddError::Elsewhere { name, has });
    }
    if !states(footprint)?.socket.is_up() {
        address::expect_free(wanted, name, &footprint.root)?;
    }
    Ok(())
}

struct States {
    service: unit::UnitState,
    socket: unit::UnitState,
}

fn states(footprint: &Footprint) -> Result<States, AddError> {
    let name = &footprint.name;
    let units = [name.unit(), name.socket_unit()];
    let mut found = unit::states(&units).map_err(|source| systemd(name, source))?;
    let [service, socket] = units.map(|unit| found.remove(&unit).unwrap_or_default());
    Ok(States { service, socket })
}

fn systemd(name: &InstanceName, why: JobError) -> AddError {
    let name = name.clone();
    AddError::Systemd { name, why }
}

/// What to do if a later step fails.
enum Undo {
    Delete(PathBuf),
    DeleteDirectory(PathBuf),
    DeleteUser,
    Reload,
    Disable,
    Stop,
}

struct Work<'a> {
    footprint: &'a Footprint,
    deeds: Deeds,
    undo: Vec<Undo>,
}

impl Work<'_> {
    fn all(&mut self, listen: &[Address]) -> Result<(), AddError> {
        let footprint = self.footprint;
        let user = footprint.user();
        let about = format!("the user {user}");
        self.write(&footprint.user_file(), &footprint.user_text(), &about)?;
        self.make_user(&user)?;
        let about = "its configuration, which may stay as it is";
        let (file, text) = (footprint.configuration(), footprint.configuration_text());
        self.write(&file, &text, about)?;
        let about = format!("it listens on {}", address::shown(listen));
        if footprint.addresses().is_empty() {
            self.write(
                &footprint.drop_in(),
                &footprint::drop_in_text(listen),
                &about,
            )?;
        } else {
            let drop_in = footprint.drop_in().display().to_string();
            self.deeds.tell("kept", &drop_in, &about);
        }
        self.bring_up(listen)
    }

    /// What somebody wrote stays as it is.
    fn write(&mut self, path: &Path, text: &str, about: &str) -> Result<(), AddError> {
        let shown = path.display().to_string();
        if path.symlink_metadata().is_ok() {
            self.deeds.tell("kept", &shown, about);
            return Ok(());
        }
        self.undo.push(Undo::Delete(path.to_owned()));
        if let Some(made) = footprint::make_directory(path)? {
            self.undo
                .insert(self.undo.len() - 1, Undo::DeleteDirectory(made));
        }
        footprint::write_whole(path, text)?;
        self.deeds.tell("wrote", &shown, about);
        Ok(())
    }

    fn make_user(&mut self, user: &str) -> Result<(), AddError> {
        if let Some(uid) = self.footprint.uid() {
            self.deeds
                .tell("kept", &format!("the user {user}"), &format!("uid {uid}"));
            return Ok(());
        }
        let file = self.footprint.user_file().display().to_string();
        self.undo.push(Undo::DeleteUser);
        self.perform("systemd-sysusers", &[&file])?;
        self.deeds
            .tell("made", &format!("the user {user}"), "by systemd-sysusers");
        Ok(())
    }

    /// Enabled before it is started: a reboot in between brings it up, too.
    fn bring_up(&mut self, listen: &[Address]) -> Result<(), AddError> {
        let name = &self.footprint.name;
        let (service, socket) = (name.unit(), name.socket_unit());
        let before = states(self.footprint)?;
        let is_enabled = before.service.is_enabled() && before.socket.is_enabled();
        let is_up = before.socket.is_up();
        let about = format!("{socket} and {service}");
        if is_enabled && is_up {
            self.deeds
                .tell("kept", &about, "enabled, and the socket is active");
            return Ok(());
        }
        self.undo.push(Undo::Reload);
        self.systemctl(&["daemon-reload"], "")?;
        if !is_enabled {
            self.undo.push(Undo::Disable);
            let about = "also after a reboot";
            self.systemctl(&["enable", &socket, &service], about)?;
        }
        if !is_up {
            self.undo.push(Undo::Stop);
            let about = "the service starts with the first request, or deploy";
            let started = self.systemctl(&["start", &socket], about);
            if let Err(error) = started {
                // Who was quicker is the better answer.
                address::expect_free(listen, name, &self.footprint.root)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn systemctl(&mut self, arguments: &[&str], about: &str) -> Result<(), AddError> {
        self.perform("systemctl", arguments)?;
        let line = format!("systemctl {}", arguments.join(" "));
        self.deeds.tell("ran", &line, about);
        Ok(())
    }

    fn perform(&self, program: &str, arguments: &[&str]) -> Result<(), AddError> {
        let done = perform(program, arguments, LIMIT);
        let name = &self.footprint.name;
        done.map(drop).map_err(|source| systemd(name, source))
    }

    /// The newest first; what cannot be undone is named.
    fn undo(&mut self) -> Vec<String> {
        let name = &self.footprint.name;
        let (service, socket) = (name.unit(), name.socket_unit());
        let systemctl = |arguments: &[&str]| perform("systemctl", arguments, LIMIT).map(drop);
        let mut left = Vec::new();
        let mut is_reload_due = false;
        for step in self.undo.drain(..).rev() {
            let is_undone = match &step {
                Undo::Stop => {
                    // A socket that failed is not active; what failed would be shown for good.
                    drop(systemctl(&["reset-failed", &socket]));
                    systemctl(&["stop", &socket, &service]).is_ok()
                }
                Undo::Disable => systemctl(&["disable", &socket, &service]).is_ok(),
                Undo::Reload => {
                    is_reload_due = true;
                    true
                }
                Undo::DeleteUser => delete_user(self.footprint).is_ok(),
                Undo::Delete(path) => footprint::remove_file(path).is_ok(),
                Undo::DeleteDirectory(path) => {
                    footprint::remove_if_empty(path);
                    true
                }
            };
            if !is_undone {
                left.push(match step {
                    Undo::Stop => format!("systemctl start {socket}"),
                    Undo::Disable => format!("systemctl enable {socket} {service}"),
                    Undo::Reload => "systemctl daemon-reload".to_owned(),
                    Undo::DeleteUser => format!("the user {}", self.footprint.user()),
                    Undo::Delete(path) | Undo::DeleteDirectory(path) => path.display().to_string(),
                });
            }
        }
        if is_reload_due && systemctl(&["daemon-reload"]).is_err() {
            left.push("systemctl daemon-reload".to_owned());
        }
        left
    }
}

/// systemd makes users, and deletes none.
pub(super) fn delete_user(footprint: &Footprint) -> Result<(), JobError> {
    let user = footprint.user();
    if footprint.uid().is_some() {
        perform("userdel", &[&user], LIMIT)?;
    }
    if footprint.has_group() {
        perform("groupdel", &[&user], LIMIT)?;
    }
    Ok(())
}

fn report(args: &AddArgs, footprint: &Footprint, deeds: &Deeds) {
    let name = &footprint.name;
    let release = footprint.store().current().unwrap_or(None);
    let next = match &release {
        None => format!("sudo gapless --app {name} deploy ./myapp"),
        Some(_) => format!("sudo gapless start {name}"),
    };
    if args.json {
        say_json(&Added {
            name: name.as_str(),
            listen: args.listen.iter().map(ToString::to_string).collect(),
            has_changed: deeds.has_changed(),
            done: deeds.all(),
            next: &next,
        });
        return;
    }
    let listens = format!("listens on {}", address::shown(&args.listen));
    say(&match release {
        _ if !deeds.has_changed() => {
            format!("{name} was there already, and {listens}; nothing was changed.")
        }
        None => format!("{name} {listens}, and waits for an app.  Next: {next}"),
        Some(release) => {
            format!("{name} {listens}; {release} starts with the first request, or by {next}")
        }
    });
}
