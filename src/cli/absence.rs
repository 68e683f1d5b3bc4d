//! Why nobody answers for an app: what its units are doing, as systemd sees them, and what to type.

mod ending;

use super::CliError;
use super::client::ClientError;
use super::footprint::{self, Footprint};
use super::instance::{self, FindError, InstanceName};
use crate::config;
use crate::systemd::job::{self, Job};
use crate::systemd::unit::{self, UnitState};
use ending::Ending;
use std::fmt;

/// A start that fails at once is over within some milliseconds, as one look is; and then systemd says why.
const LOOKS_MAX: usize = 20;

/// Nobody answers for this app.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.told())]
pub struct Absent {
    name: InstanceName,
    absence: Absence,
}

/// What is the case instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// There is no trace of it on this machine.
    Unknown {
        /// Those that are here.
        apps: Vec<InstanceName>,
    },
    /// Only configuration or data is left.
    Removed,
    /// Its units are there, and down.
    Stopped,
    /// The socket is open, and nothing was deployed.
    WaitsForAnApp,
    /// The socket is open, the service not started.
    WaitsForARequest,
    /// systemd is at work on it: `starting`.
    Changing(String),
    /// systemd starts it over and over again.
    Failing(Ending),
    /// systemd gave this unit up.
    Failed {
        /// `gapless.socket`
        unit: String,
        /// Why.
        ending: Ending,
    },
    /// systemd does not load this unit.
    Unloaded {
        /// `gapless.socket`
        unit: String,
        /// `masked`, `bad-setting`
        why: String,
    },
    /// It runs, and does not answer.
    Mute,
}

/// What is known of an app that does not answer.
struct Facts<'a> {
    name: &'a InstanceName,
    has_units: bool,
    has_app: bool,
    service: UnitState,
    socket: UnitState,
    job: Job,
}

impl Absence {
    /// By the states of its units; none: systemd cannot be asked.
    pub fn of(footprint: &Footprint, service: &UnitState, socket: &UnitState) -> Self {
        let name = &footprint.name;
        let has_job =
            ["activating", "deactivating", "reloading"].contains(&service.active.as_str());
        let job = |unit: &str| job::unit_job(unit).unwrap_or(Job::None);
        Self::from(&Facts {
            name,
            has_units: footprint.has_units(),
            has_app: has_app(footprint),
            service: service.clone(),
            socket: socket.clone(),
            job: if has_job {
                job(&name.unit())
            } else {
                Job::None
            },
        })
    }
}

impl From<&Facts<'_>> for Absence {
    fn from(facts: &Facts<'_>) -> Self {
        let Facts {
            name,
            service,
            socket,
            ..
        } = facts;
        let units = [(name.socket_unit(), socket), (name.unit(), service)];
        let mut units = units.iter();
        if let Some(changing) = changing(facts) {
            changing
        } else if service.is_up() {
            Self::Mute
        } else if let Some((unit, it)) = units.clone().find(|(_, it)| it.is_unloadable())
            && facts.has_units
        {
            Self::Unloaded {
                unit: unit.clone(),
                why: it.load.clone(),
            }
        } else if socket.is_up() && !facts.has_app {
            Self::WaitsForAnApp
        } else if socket.is_up() && service.active != "failed" {
            Self::WaitsForARequest
        } else if let Some((unit, it)) = units.find(|(_, it)| it.active == "failed")
            && facts.has_units
        {
            Self::Failed {
                unit: unit.clone(),
                ending: Ending::of(it),
            }
        } else if facts.has_units {
            Self::Stopped
        } else {
            Self::Removed
        }
    }
}

/// A release, or what its configuration says to run; also when we may not look.
fn has_app(footprint: &Footprint) -> bool {
    config::fixed(&footprint.configuration()).directory
        || !matches!(footprint.store().current(), Ok(None))
}

/// What systemd is doing with the service.
fn changing(facts: &Facts<'_>) -> Option<Absence> {
    let service = &facts.service;
    let is_between = ["activating", "deactivating"].contains(&service.active.as_str());
    let has_failed = !matches!(service.result.as_str(), "" | "success");
    let what = match (facts.job, service.active.as_str()) {
        (Job::Stop, _) => "stopping".to_owned(),
        // systemd's own next try is a restart, too.
        _ if is_between && has_failed => return Some(Absence::Failing(Ending::of(service))),
        (Job::Restart, _) | (Job::Start, "deactivating") => "restarting".to_owned(),
        (_, "activating") => starting(service),
        (_, "deactivating") => "stopping".to_owned(),
        (Job::Start | Job::Reload | Job::Other | Job::None, _) => return None,
    };
    Some(Absence::Changing(what))
}

fn starting(service: &UnitState) -> String {
    if is_tried_again(service) {
        let restarts = &service.restarts;
        format!("starting again (systemd restarted it before; NRestarts={restarts})")
    } else {
        "starting".to_owned()
    }
}

/// A try after others, which does not say any more how those ended.
fn is_tried_again(service: &UnitState) -> bool {
    service.active == "activating"
        && service.result == "success"
        && !matches!(service.restarts.as_str(), "" | "0")
}

/// Service and socket; nothing is known of them where systemd cannot be asked.
fn looked_at(name: &InstanceName) -> (UnitState, UnitState) {
    let (service, socket) = (name.unit(), name.socket_unit());
    let mut states = unit::states(&[service.clone(), socket.clone()]).unwrap_or_default();
    let mut state = |unit: &str| states.remove(unit).unwrap_or_default();
    (state(&service), state(&socket))
}

impl Absent {
    /// Asks systemd about the service of this name.
    pub(super) fn now(name: &InstanceName) -> Self {
        let footprint = Footprint::of(name);
        let mut looks = (0..LOOKS_MAX).map(|_| looked_at(name));
        let is_clear = |(service, _): &(UnitState, UnitState)| !is_tried_again(service);
        let (service, socket) = looks.find(is_clear).unwrap_or_else(|| looked_at(name));
        let name = name.clone();
        let absence = Absence::of(&footprint, &service, &socket);
        if absence == Absence::Removed {
            Self::without_units(name)
        } else {
            Self { name, absence }
        }
    }

    fn without_units(name: InstanceName) -> Self {
        let all = footprint::all();
        let absence = if all.contains(&name) && name != InstanceName::default() {
            Absence::Removed
        } else {
            let is_here = |it: &InstanceName| *it != name && Footprint::of(it).has_units();
            let mut apps: Vec<_> = all.into_iter().filter(is_here).collect();
            apps.extend(instance::foreground().into_iter().map(|it| it.name));
            Absence::Unknown { apps }
        };
        Self { name, absence }
    }

    fn told(&self) -> String {
        format!("{}; {}", self.fact(), self.remedy())
    }

    fn fact(&self) -> String {
        let Self { name, absence } = self;
        let (service, socket) = (name.unit(), name.socket_unit());
        match absence {
            Absence::Unknown { apps } => unknown(name, apps),
            Absence::Removed => {
                format!("{name} was removed, and only its configuration or data is left")
            }
            Absence::Stopped => format!("{name} is not running"),
            Absence::WaitsForAnApp => {
                format!("{name} is not running, because nothing is deployed; {socket} is active")
            }
            Absence::WaitsForARequest => format!(
                "{name} is not running; {socket} is active, and the next request starts {service}"
            ),
            Absence::Changing(what) => format!("{service} is {what}"),
            Absence::Failing(ending) => {
                format!(
                    "systemd cannot start {service}, and goes on trying: {}",
                    ending.why()
                )
            }
            Absence::Failed { unit, ending } => format!("{unit} failed: {}", ending.why()),
            Absence::Unloaded { unit, why } if why == "masked" => format!("{unit} is masked"),
            Absence::Unloaded { unit, why } => format!("systemd cannot load {unit} ({why})"),
            Absence::Mute => {
                format!("{service} is active, and nobody answers at its control socket")
            }
        }
    }

    fn remedy(&self) -> String {
        let Self { name, absence } = self;
        let (service, app, start) = (name.unit(), name.option(), start_command(name));
        match absence {
            Absence::Unknown { .. } if *name == InstanceName::default() => {
                "in the foreground: gapless run -- CMD".to_owned()
            }
            Absence::Unknown { .. } => format!(
                "to add it: sudo gapless add {name} --listen ADDRESS, or gapless --app {name} run -- CMD"
            ),
            Absence::Removed => format!(
                "to have it again: sudo gapless add {name} --listen ADDRESS; to delete the rest: sudo \
                 gapless remove {name} --purge"
            ),
            Absence::Stopped => format!("start it: {start}, or gapless{app} run -- CMD"),
            Absence::WaitsForAnApp => format!("next: sudo gapless{app} deploy ./myapp"),
            Absence::WaitsForARequest => format!("to start it now: {start}"),
            Absence::Changing(_) => {
                format!("ask again when that is done; what it does: gapless logs {name}")
            }
            Absence::Failing(ending) => ending.cure(&service),
            Absence::Failed { unit, ending } => format!("{}; then: {start}", ending.cure(unit)),
            Absence::Unloaded { unit, why } if why == "masked" => {
                format!("to start it: sudo systemctl unmask {unit} && {start}")
            }
            Absence::Unloaded { unit, .. } => {
                format!("see systemctl status {unit}, and its files: systemctl cat {unit}")
            }
            Absence::Mute => format!("see gapless logs {name}, or: sudo gapless restart {name}"),
        }
    }
}

/// Socket and service.
fn start_command(name: &InstanceName) -> String {
    if *name == InstanceName::default() {
        "sudo gapless start".to_owned()
    } else {
        format!("sudo gapless start {name}")
    }
}

fn unknown(name: &InstanceName, apps: &[InstanceName]) -> String {
    let apps: Vec<_> = apps.iter().map(InstanceName::as_str).collect();
    let here = if apps.is_empty() {
        "no app is on this machine".to_owned()
    } else {
        format!("apps here: {}", apps.join(", "))
    };
    if *name == InstanceName::default() {
        format!(
            "{name} is not running, and {} is not installed; {here}",
            name.unit()
        )
    } else {
        format!("there is no app {name}; {here}")
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changing(what) => f.write_str(what),
            Self::Failing(ending) | Self::Failed { ending, .. } => f.write_str(&ending.why()),
            Self::Unloaded { unit, why } => write!(f, "systemd cannot load {unit} ({why})"),
            Self::Mute => f.write_str("it runs, and does not answer"),
            Self::Removed => f.write_str("its configuration or data is left"),
            Self::Unknown { .. } | Self::Stopped | Self::WaitsForAnApp | Self::WaitsForARequest => {
                Ok(())
            }
        }
    }
}

/// Before anything is written for it: who mistypes a name makes no app.
pub(super) fn expect_app(name: &InstanceName) -> Result<(), Absent> {
    if Footprint::of(name).has_units() || instance::of_service(name).socket.exists() {
        return Ok(());
    }
    Err(Absent::without_units(name.clone()))
}

/// What became of a command, with the reason where nobody answered.
pub(super) fn explained(error: CliError) -> CliError {
    if let CliError::Client(ClientError::TimedOut {
        service: Some(name),
        ..
    }) = &error
    {
        let absent = Absent::now(name);
        // The keeper of one that runs hangs, or has no time: the error says so.
        let is_down = !matches!(absent.absence, Absence::Mute);
        return if is_down { absent.into() } else { error };
    }
    if let CliError::Find(FindError::NotRunning { name })
    | CliError::Client(ClientError::NotRunning { name }) = &error
    {
        return Absent::now(name).into();
    }
    error
}

#[cfg(test)]
mod tests;
