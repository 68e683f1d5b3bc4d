//! `gapless front`: becomes a front. Only a keeper starts it.

use super::{CliError, Exit};
use crate::front::{self, FrontFds};
use crate::keeper::spawn;
use crate::link::FrontSettings;
use crate::link::settings::{HTTP, LINK, PROBE, SETTINGS};
use crate::systemd::given::{self, Given};
use crate::systemd::journal;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

pub(super) fn run() -> Result<Exit, CliError> {
    let mut fds = Passed::default();
    for Given { name, fd } in given::take()? {
        fds.sort(&name, fd);
    }
    let (Some(link), Some(settings)) = (fds.link, fds.settings) else {
        return Err(CliError::NotByHand("front"));
    };
    let settings: FrontSettings =
        serde_json::from_reader(File::from(settings)).map_err(|error| CliError::Internal {
            what: "read the settings of a front",
            source: io::Error::from(error),
        })?;
    let level = journal::init(&settings.log_level, &settings.name)?;
    spawn::harden_self().map_err(|source| CliError::Internal {
        what: "make a front unreadable",
        source,
    })?;
    let fds = FrontFds {
        link,
        listeners: fds.listeners,
        probes: fds.probes,
    };
    front::run(fds, settings, Some(level))?;
    Ok(Exit::Done)
}

#[derive(Default)]
struct Passed {
    link: Option<OwnedFd>,
    settings: Option<OwnedFd>,
    listeners: Vec<OwnedFd>,
    probes: Vec<OwnedFd>,
}

impl Passed {
    /// What no front knows is closed.
    fn sort(&mut self, name: &str, fd: OwnedFd) {
        match name {
            LINK => self.link = Some(fd),
            SETTINGS => self.settings = Some(fd),
            HTTP => self.listeners.push(fd),
            PROBE => self.probes.push(fd),
            _ => drop(fd),
        }
    }
}
