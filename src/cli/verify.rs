//! `gapless verify`: asks the user's own running app, strictly, while things happen to it, and says
//! what was lost.

mod happen;
mod report;

use super::arguments::Happening;
use super::client;
use super::instance::{self, Instance};
use super::{CliError, Exit, FindError, VerifyArgs};
use crate::api::Status;
use crate::verify::{Address, Load, Wanted};
use happen::Outcome;
use report::{Teller, Undone};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For a status that is only looked at.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Nothing could be proved.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Not even without anything happening.
    #[error("{target} is not answered at rest, so there is nothing to compare with: {why}")]
    NotAnswered {
        /// `GET /`
        target: String,
        /// In words.
        why: String,
    },
    /// No socket for HTTP.
    #[error("{name} listens nowhere that can be asked; say where: --address 127.0.0.1:80")]
    NoListener {
        /// The instance.
        name: String,
    },
    /// It was asked for by name.
    #[error("{what} cannot be done: {why}")]
    Impossible {
        /// `restart`
        what: &'static str,
        /// In words, with the remedy.
        why: String,
    },
}

impl VerifyError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotAnswered { .. } => Exit::Failed,
            Self::NoListener { .. } | Self::Impossible { .. } => Exit::Usage,
        }
    }
}

/// Blocks until all phases are over.
pub(super) fn run(args: &VerifyArgs) -> Result<Exit, CliError> {
    raise_limit();
    let runtime = client::runtime()?;
    runtime.block_on(LocalSet::new().run_until(prove(args)))
}

/// Whom to ask, whom to make things happen to, and what.
struct Plan {
    instance: Option<Instance>,
    wanted: Wanted,
    happenings: Vec<Happening>,
    skipped: Vec<Undone>,
}

async fn prove(args: &VerifyArgs) -> Result<Exit, CliError> {
    let Plan {
        instance,
        wanted,
        happenings,
        mut skipped,
    } = plan(args).await?;
    let teller = Teller::new(args, &wanted);
    let run = rustix::process::getpid().as_raw_pid().unsigned_abs();
    let mut load =
        Load::begin(wanted, run)
            .await
            .map_err(|(target, broken)| VerifyError::NotAnswered {
                target: target.to_string(),
                why: broken.to_string(),
            })?;
    teller.begins(&skipped);
    let peak = Rc::new(Cell::new(0));
    let watch = instance
        .clone()
        .map(|instance| tokio::task::spawn_local(watch_memory(instance, Rc::clone(&peak))));
    let share = share(args.time, happenings.len());
    let mut failed = Vec::new();
    rest(&mut load, &teller, share).await;
    for happening in happenings {
        match event(&mut load, &teller, happening, instance.as_ref(), share).await {
            Outcome::Done(_) => {}
            Outcome::Skipped(why) => skipped.push(Undone::new(happening, why)),
            Outcome::Failed(why) => failed.push(Undone::new(happening, why)),
        }
        rest(&mut load, &teller, share).await;
    }
    load.finish().await;
    teller.leaves(&load);
    let peak = watch.map(|watch| {
        watch.abort();
        peak.get()
    });
    Ok(teller.ends(&load, &skipped, &failed, peak))
}

/// Of the whole time, for each phase: there is rest before, between and after what happens.
fn share(time: Duration, happenings: usize) -> Duration {
    let phases = u32::try_from(2 * happenings + 1).unwrap_or(u32::MAX);
    time.checked_div(phases).unwrap_or(time)
}

async fn rest(load: &mut Load, teller: &Teller, share: Duration) {
    teller.leaves(load);
    teller.enters();
    load.enter(Happening::Quiet.word(), true);
    sleep(share).await;
}

/// Until it is over for everybody, at least for its share of the time.
async fn event(
    load: &mut Load,
    teller: &Teller,
    happening: Happening,
    instance: Option<&Instance>,
    share: Duration,
) -> Outcome {
    teller.leaves(load);
    teller.enters();
    let began = Instant::now();
    load.enter(happening.word(), false);
    let outcome = match instance {
        Some(instance) => happen::happen(happening, instance).await,
        None => Outcome::Skipped("no instance to do it to".to_owned()),
    };
    teller.note(&outcome);
    sleep(share.saturating_sub(began.elapsed())).await;
    outcome
}

async fn plan(args: &VerifyArgs) -> Result<Plan, CliError> {
    let mut happenings: Vec<_> = args.only.clone();
    happenings.sort_unstable();
    happenings.dedup();
    let is_named = !happenings.is_empty();
    if !is_named {
        use Happening::{Kill, Reload, Restart, Upgrade};
        happenings = vec![Reload, Upgrade, Restart, Kill];
    }
    happenings.retain(|it| *it != Happening::Quiet);
    let is_needed = !happenings.is_empty() || args.address.is_none();
    let (instance, status) = match found(args).await {
        Ok((instance, status)) => (Some(instance), Some(status)),
        Err(error) if is_needed => return Err(error),
        Err(_) => (None, None),
    };
    let mut skipped = Vec::new();
    if let Some(instance) = &instance {
        for happening in happenings.clone() {
            let Some(why) = happen::obstacle(happening, instance) else {
                continue;
            };
            if is_named {
                let what = happening.word();
                return Err(VerifyError::Impossible { what, why }.into());
            }
            happenings.retain(|it| *it != happening);
            skipped.push(Undone::new(happening, why));
        }
    }
    let address = match (&args.address, &status) {
        (Some(address), _) => address.clone(),
        (None, Some(status)) => listener(status).ok_or_else(|| VerifyError::NoListener {
            name: status.name.clone(),
        })?,
        (None, None) => return Err(FindError::NotRunning { name: name(args) }.into()),
    };
    let host = if address.starts_with("unix:") {
        "localhost"
    } else {
        &address
    };
    let wanted = Wanted {
        host: args.host.clone().unwrap_or_else(|| host.to_owned()),
        address: Address(address),
        gets: args.paths.clone(),
        post: args.post.clone(),
        connections: usize::from(args.connections),
    };
    Ok(Plan {
        instance,
        wanted,
        happenings,
        skipped,
    })
}

fn name(args: &VerifyArgs) -> super::InstanceName {
    args.name.clone().unwrap_or_default()
}

async fn found(args: &VerifyArgs) -> Result<(Instance, Status), CliError> {
    let instance = instance::find(args.name.as_ref())?;
    let status = happen::status(&instance).await?;
    Ok((instance, status))
}

/// The first that is not for load balancers; what listens everywhere is asked on loopback.
fn listener(status: &Status) -> Option<String> {
    let mut all = status.listeners.iter().filter(|it| it.name != "admin");
    let address = &all.next()?.address;
    if address.starts_with('/') {
        return Some(format!("unix:{address}"));
    }
    let mut address: SocketAddr = address.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address.to_string())
}

/// The most that keeper, fronts and workers had together. Between two keepers nobody answers.
async fn watch_memory(instance: Instance, peak: Rc<Cell<u64>>) {
    loop {
        if let Ok(Ok(status)) = timeout(LOOK_LIMIT, happen::status(&instance)).await {
            peak.set(peak.get().max(memory(&status)));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn memory(status: &Status) -> u64 {
    let keeper = crate::usage::of(status.pid).map(|usage| usage.memory_bytes);
    let fronts = status.fronts.iter().filter_map(|it| it.usage);
    let workers = status.generations.iter().flat_map(|it| &it.workers);
    keeper.unwrap_or(0)
        + fronts.map(|it| it.memory_bytes).sum::<u64>()
        + workers.filter_map(|it| it.memory_bytes).sum::<u64>()
}

/// As many descriptors as the hard limit allows; who has too few is told by what is lost.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        super::output::complain(&format!(
            "gapless: cannot raise the limit of files: {error}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_shared_by_what_happens_and_the_rest_around_it() {
        let thirty = Duration::from_secs(27);
        assert_eq!(share(thirty, 4), Duration::from_secs(3));
        assert_eq!(share(thirty, 0), thirty);
    }
}
