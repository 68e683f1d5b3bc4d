//! What happens to the app while it is asked, and when that is over for everybody.

use crate::api::{ReloadOutcome, Status, UpgradeVerdict, Verdict};
use crate::causes::chain;
use crate::cli::arguments::{Happening, UpgradeArgs};
use crate::cli::client::{self, ANSWER_LIMIT};
use crate::cli::instance::Instance;
use crate::cli::{CliError, ClientError, UnitsError, units, upgrade};
use crate::id::{GenerationId, Slot};
use hyper::Method;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two questions whether it is over: nobody tells.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// What was asked for is there by then.
const OVER_WITHIN: Duration = Duration::from_mins(2);
/// What is older may finish long answers for so long.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With what there is to say of it.
    Done(String),
    /// It could not be done, and nothing happened.
    Skipped(String),
    /// It was begun, and did not end as it should.
    Failed(String),
}

/// Why it cannot be done, as far as that is known before.
pub(super) fn obstacle(happening: Happening, instance: &Instance) -> Option<String> {
    match happening {
        Happening::Restart => {
            let name = &instance.name;
            let why = format!("only services are restarted, and {name} is in the foreground");
            instance.is_in_foreground().then_some(why)
        }
        Happening::Quiet | Happening::Reload | Happening::Upgrade | Happening::Kill => None,
    }
}

/// Asks once.
pub(super) async fn status(instance: &Instance) -> Result<Status, ClientError> {
    let answer = client::ask_async(instance, Method::GET, "/status", Some(ANSWER_LIMIT)).await?;
    answer.read()
}

/// Until it is over for everybody.
pub(super) async fn happen(happening: Happening, instance: &Instance) -> Outcome {
    let began = Instant::now();
    let done = match happening {
        Happening::Quiet => Ok(Outcome::Done(String::new())),
        Happening::Reload => reload(instance).await,
        Happening::Upgrade => upgrade(instance).await,
        Happening::Restart => restart(instance).await,
        Happening::Kill => kill(instance).await,
    };
    match done {
        Ok(Outcome::Done(what)) => {
            let took = began.elapsed().as_secs_f64();
            match wait_over(instance).await {
                Ok(()) => Outcome::Done(format!("{what} after {took:.1} s")),
                Err(why) => Outcome::Failed(why),
            }
        }
        Ok(outcome) => outcome,
        Err(error) => refused(&error),
    }
}

/// Who may not do it is told how; the rest goes on.
fn refused(error: &CliError) -> Outcome {
    let why = chain(error);
    if matches!(
        error,
        CliError::Client(ClientError::NotAllowed { .. })
            | CliError::Units(UnitsError::NotAllowed { .. } | UnitsError::Missing(_))
    ) {
        return Outcome::Skipped(why);
    }
    Outcome::Failed(why)
}

async fn reload(instance: &Instance) -> Result<Outcome, CliError> {
    let answer = client::ask_async(instance, Method::POST, "/reload", None).await?;
    let outcome: ReloadOutcome = answer.read()?;
    Ok(match outcome.verdict {
        Verdict::Live => {
            let generation = outcome.generation.or(outcome.live);
            let live = generation.map_or_else(String::new, |id| format!("{id} "));
            Outcome::Done(format!("{live}live"))
        }
        Verdict::Unhealthy | Verdict::TimedOut | Verdict::ConfigInvalid | Verdict::Stopping => {
            Outcome::Failed(outcome.cause)
        }
    })
}

async fn upgrade(instance: &Instance) -> Result<Outcome, CliError> {
    let args = UpgradeArgs {
        name: None,
        check: false,
        timeout: None,
        json: false,
    };
    let outcome = upgrade::ask(instance, &args).await?;
    Ok(match outcome.verdict {
        UpgradeVerdict::InPlace | UpgradeVerdict::Fit => {
            let to = outcome.to.unwrap_or_default();
            Outcome::Done(format!("gapless {} → {to} in place", outcome.from))
        }
        UpgradeVerdict::Refused | UpgradeVerdict::NotNow | UpgradeVerdict::UnderWay => {
            Outcome::Failed(outcome.cause)
        }
    })
}

/// In a thread of its own: the load goes on in this one.
async fn restart(instance: &Instance) -> Result<Outcome, CliError> {
    let before = status(instance).await?;
    let (name, unit) = (instance.name.clone(), instance.name.unit());
    let restarted = tokio::task::spawn_blocking(move || {
        let unit = name.unit();
        units::systemctl("restart", &[unit], &name)
    });
    let restarted = restarted.await.map_err(|error| CliError::Internal {
        what: "run systemctl",
        source: io::Error::other(error),
    })?;
    restarted?;
    let newest = |status: &Status| status.generations.last().map(|it| it.id);
    let is_next = |status: &Status| status.pid != before.pid && newest(status) > newest(&before);
    Ok(if wait_until(instance, OVER_WITHIN, is_next).await {
        Outcome::Done(format!("systemctl restart {unit}, done"))
    } else {
        Outcome::Failed(format!(
            "systemctl restart {unit}: no new generation was begun"
        ))
    })
}

/// A ready worker of the live generation.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Victim {
    generation: GenerationId,
    slot: Slot,
    respawns: u64,
    pid: u32,
}

impl Victim {
    fn of(status: &Status) -> Option<Self> {
        let live = status.generations.iter().find(|it| it.state == "live")?;
        let worker = live.workers.iter().find(|it| it.state == "ready")?;
        Some(Self {
            generation: live.id,
            slot: worker.slot,
            respawns: worker.respawns,
            pid: worker.pid?,
        })
    }

    /// Another one works there, or its generation is not live any more, and it need not come back.
    fn is_followed(&self, status: &Status) -> bool {
        let live = status.generations.iter().find(|it| it.state == "live");
        live.is_some_and(|live| {
            let is_next = live.workers.iter().any(|it| {
                it.slot == self.slot && it.respawns > self.respawns && it.state == "ready"
            });
            is_next || live.id != self.generation
        })
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }
}

async fn kill(instance: &Instance) -> Result<Outcome, CliError> {
    let Some(victim) = Victim::of(&status(instance).await?) else {
        return Ok(Outcome::Failed("no worker is ready".to_owned()));
    };
    let pidfd = victim.pidfd().map_err(|source| CliError::Internal {
        what: "find the worker",
        source,
    })?;
    // The number could have become somebody else's before the fd was there.
    if Victim::of(&status(instance).await?) != Some(victim) {
        let why = "the worker was replaced in this moment".to_owned();
        return Ok(Outcome::Failed(why));
    }
    let (slot, pid) = (victim.slot, victim.pid);
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            let why = format!("not allowed to kill worker process {pid}; run this with sudo");
            return Ok(Outcome::Skipped(why));
        }
        Err(error) => {
            let why = format!("cannot kill worker process {pid}: {error}");
            return Ok(Outcome::Failed(why));
        }
    }
    let is_followed = |status: &Status| victim.is_followed(status);
    Ok(if wait_until(instance, OVER_WITHIN, is_followed).await {
        Outcome::Done(format!("{slot}, process {pid}, followed by another"))
    } else {
        Outcome::Failed(format!("{slot} did not come back"))
    })
}

/// One generation serves and all of its workers are ready; what is older is gone, or takes its time.
async fn wait_over(instance: &Instance) -> Result<(), String> {
    let mut last = String::new();
    let is_there = wait_until(instance, OVER_WITHIN, |status| {
        status.summary.clone_into(&mut last);
        let is_serving = status.fronts.last().is_some_and(|it| it.state == "serving");
        let newest = status.generations.last();
        is_serving
            && newest.is_some_and(|newest| {
                newest.state == "live" && newest.workers.iter().all(|it| it.state == "ready")
            })
    });
    if !is_there.await {
        let seconds = OVER_WITHIN.as_secs();
        return Err(format!("not over within {seconds} s: {last}"));
    }
    let is_alone = |status: &Status| status.generations.len() == 1 && status.fronts.len() == 1;
    // Either is fine.
    let _is_alone = wait_until(instance, GONE_WITHIN, is_alone).await;
    Ok(())
}

/// Whether it came to be so in this time.
async fn wait_until(
    instance: &Instance,
    limit: Duration,
    mut is_so: impl FnMut(&Status) -> bool,
) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        // Between two keepers nobody answers.
        if let Ok(status) = status(instance).await
            && is_so(&status)
        {
            return true;
        }
        sleep(ASK_EVERY).await;
    }
    false
}
