//! `gapless start`, `stop` and `restart`: what systemctl would do to the units of an instance, and
//! what that means for requests.

use super::absence::{self, Absent};
use super::arguments::ServiceArgs;
use super::instance::{self, InForeground, InstanceName};
use super::output::{printable, say};
use super::{CliError, Exit};
use serde::Serialize;
use std::io;
use std::process::{Command, Stdio};
use thiserror::Error;
use tokio::time::Instant;

const SYSTEMCTL: &str = "systemctl";

/// What systemctl exits with, as LSB has it, when the caller may not.
const NO_PERMISSION: i32 = 4;

/// systemd did not do it.
#[derive(Debug, Error)]
pub enum UnitsError {
    /// There is no such app.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// It runs in the foreground.
    #[error(transparent)]
    InForeground(#[from] InForeground),
    /// There is no systemctl.
    #[error("cannot run systemctl; is this machine run by systemd? Without it: gapless run -- CMD")]
    Missing(#[source] io::Error),
    /// The caller is not root.
    #[error("not allowed: run this with sudo ({said})")]
    NotAllowed {
        /// By systemctl.
        said: String,
    },
    /// The unit failed.
    #[error("{command} failed: {said}; what it wrote: gapless logs {name}")]
    Failed {
        /// What was run.
        command: String,
        /// The instance.
        name: InstanceName,
        /// By systemctl.
        said: String,
    },
}

impl UnitsError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Absent(_) => Exit::NotRunning,
            Self::InForeground(_) => Exit::Usage,
            Self::NotAllowed { .. } => Exit::NotAllowed,
            Self::Missing(_) | Self::Failed { .. } => Exit::Failed,
        }
    }
}

/// The answer for programs.
#[derive(Serialize)]
struct Told<'a> {
    command: &'a [String],
    requests: &'a str,
    elapsed_ms: u64,
}

/// Socket and service, so that nobody waits for the first request.
pub(super) fn start(args: &ServiceArgs) -> Result<Exit, CliError> {
    let name = service(args)?;
    let units = [name.socket_unit(), name.unit()];
    let requests = "requests are taken from now on, and wait until the app is ready";
    Ok(run(args, &name, "start", &units, requests)?)
}

/// In one transaction: a socket that stays would start its service again.
pub(super) fn stop(args: &ServiceArgs) -> Result<Exit, CliError> {
    let name = service(args)?;
    let mut units = vec![name.socket_unit(), name.unit()];
    units.extend(other_sockets(&name));
    let requests = "those under way are finished, new ones are refused; the sockets stop too, else \
                    the next request would start it again";
    Ok(run(args, &name, "stop", &units, requests)?)
}

/// The sockets stay: nothing of them would be better for it.
pub(super) fn restart(args: &ServiceArgs) -> Result<Exit, CliError> {
    let name = service(args)?;
    let requests =
        "none is lost, what serves goes on until the next is ready; idle connections stay";
    Ok(run(args, &name, "restart", &[name.unit()], requests)?)
}

fn service(args: &ServiceArgs) -> Result<InstanceName, UnitsError> {
    Ok(instance::service(args.name.as_ref())?)
}

/// Those of load balancers, and those that the administrator added. Unknown: systemd stops at least
/// what is PartOf= the main one.
fn other_sockets(name: &InstanceName) -> Vec<String> {
    let asked = Command::new(SYSTEMCTL)
        .args(["show", "--property=TriggeredBy", "--value", &name.unit()])
        .stdin(Stdio::null())
        .output();
    let known = asked.map(|asked| asked.stdout).unwrap_or_default();
    let known = String::from_utf8_lossy(&known).into_owned();
    let is_other = |unit: &&str| *unit != name.socket_unit();
    known
        .split_whitespace()
        .filter(is_other)
        .map(str::to_owned)
        .collect()
}

fn run(
    args: &ServiceArgs,
    name: &InstanceName,
    verb: &str,
    units: &[String],
    requests: &str,
) -> Result<Exit, UnitsError> {
    // What systemctl says of units that are not there is hard to read.
    absence::expect_app(name)?;
    let words = [SYSTEMCTL, verb].map(str::to_owned);
    let command: Vec<String> = words.into_iter().chain(units.iter().cloned()).collect();
    let line = command.join(" ");
    if !args.json {
        say(&format!("{line}: {requests}"));
    }
    let began = Instant::now();
    systemctl(verb, units, name)?;
    let elapsed = began.elapsed();
    if args.json {
        let told = Told {
            command: &command,
            requests,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        super::output::say_json(&told);
    } else {
        say(&format!("done in {:.1} s", elapsed.as_secs_f64()));
    }
    Ok(Exit::Done)
}

/// Runs `systemctl VERB UNITS`, and blocks until it is done.
pub(super) fn systemctl(
    verb: &str,
    units: &[String],
    name: &InstanceName,
) -> Result<(), UnitsError> {
    let done = Command::new(SYSTEMCTL)
        .arg(verb)
        .args(units)
        .stdin(Stdio::null())
        .output()
        .map_err(UnitsError::Missing)?;
    let said = printable(
        &String::from_utf8_lossy(&done.stderr)
            .trim()
            .replace('\n', " "),
    );
    if done.status.success() {
        return Ok(());
    }
    let line = format!("{SYSTEMCTL} {verb} {}", units.join(" "));
    Err(failure(done.status.code(), line, name, said))
}

fn failure(code: Option<i32>, command: String, name: &InstanceName, said: String) -> UnitsError {
    let is_denied = code == Some(NO_PERMISSION)
        || ["authentication required", "Access denied"]
            .iter()
            .any(|denial| said.contains(denial));
    if is_denied {
        return UnitsError::NotAllowed { said };
    }
    UnitsError::Failed {
        command,
        name: name.clone(),
        said,
    }
}
