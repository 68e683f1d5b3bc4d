//! `gapless front`: becomes a front. Only a keeper starts it.

use super::{CliError, Exit};
use crate::causes;
use crate::front::confinement;
use crate::front::trustee::{self, Trustee};
use crate::front::{self, FrontFds, Listening, Spool};
use crate::keeper::spawn;
use crate::link::settings::{CLOSING, ESTATE, HTTP, LINK, PROBE, SETTINGS, SLOTS};
use crate::link::{FrontSettings, Orphaned};
use crate::steps::{self, Step};
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
    steps::reached(Step::Begun);
    let hardened = spawn::harden_self();
    let http = &settings.http;
    let spool = Spool::open(http.buffer_requests.max(http.buffer_responses));
    // Before anything here starts a thread, and before the trustee, which is to have it, too.
    let confined = confinement::confine();
    let trustee = trust(fds.slots.take(), fds.estate.take());
    steps::reached(Step::Trusted);
    let level = journal::init(&settings.log_level, &settings.name)?;
    hardened.map_err(|source| CliError::Internal {
        what: "make a front unreadable",
        source,
    })?;
    if let Err(error) = confined {
        let error = causes::chain(&error);
        tracing::warn!(
            error,
            "this front may call whatever the unit allows, serving: {error}"
        );
    }
    refuse_tracer(&settings)?;
    let trustee = trustee.unwrap_or_else(|error| {
        tracing::error!(%error, "no trustee for this front: if it dies, its connections die with it: {error}");
        Trustee::default()
    });
    let spool = spool.unwrap_or_else(|error| {
        let directory = std::env::temp_dir();
        let directory = directory.display();
        tracing::warn!(%error, "no file for buffers can be made in {directory}, so each holds 64 KiB: {error}");
        Spool::default()
    });
    let fds = FrontFds {
        link,
        listeners: fds.listeners,
        probes: fds.probes,
        trustee,
        spool,
    };
    front::run(fds, settings, Some(level))?;
    Ok(Exit::Done)
}

/// As the keeper does: where it serves on without one, it is that of a service.
fn refuse_tracer(settings: &FrontSettings) -> Result<(), CliError> {
    match (spawn::refuse_tracer(), settings.orphaned) {
        (Ok(()), _) => {}
        (Err(error), Orphaned::ServeOn) => {
            tracing::error!(%error, "a front does not start: {error}");
            return Err(CliError::Internal {
                what: "keep the memory of a front to itself",
                source: error,
            });
        }
        (Err(error), Orphaned::EndAll) => {
            tracing::warn!(%error, "the memory of a front is open: {error}");
        }
    }
    Ok(())
}

/// A keeper of an older gapless passes nothing to trust anybody with.
fn trust(slots: Option<OwnedFd>, estate: Option<OwnedFd>) -> io::Result<Trustee> {
    match (slots, estate) {
        (Some(slots), Some(estate)) => trustee::appoint(&slots, estate),
        (None, _) | (_, None) => Ok(Trustee::default()),
    }
}

#[derive(Default)]
struct Passed {
    link: Option<OwnedFd>,
    settings: Option<OwnedFd>,
    listeners: Vec<Listening>,
    probes: Vec<OwnedFd>,
    slots: Option<OwnedFd>,
    estate: Option<OwnedFd>,
}

impl Passed {
    /// What no front knows is closed.
    fn sort(&mut self, name: &str, fd: OwnedFd) {
        match name {
            LINK => self.link = Some(fd),
            SETTINGS => self.settings = Some(fd),
            HTTP | CLOSING => self.listeners.push(Listening {
                fd,
                is_closing: name == CLOSING,
            }),
            PROBE => self.probes.push(fd),
            SLOTS => self.slots = Some(fd),
            ESTATE => self.estate = Some(fd),
            _ => drop(fd),
        }
    }
}
