//! The tasks of a worker in the keeper: see it end, hear it, miss its heartbeat, ask how it is.

use crate::causes::chain;
use crate::config::HealthConfig;
use crate::keeper::happening::{Felt, Happening, Outbox, WorkerLife};
use crate::keeper::health::{self, Observation};
use crate::keeper::kin::{Extent, Kin, Relative, Told};
use crate::keeper::notice::NoticeSocket;
use crate::keeper::output::Tail;
use crate::keeper::plan::Pulse;
use crate::keeper::reaper::{self, Ending};
use crate::keeper::yard::Yard;
use crate::link::Endpoint;
use crate::systemd::given;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// After the death of a worker its last lines may still be in the pipe for so long.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A worker that is not ready is looked at this often; twice within `boot`, if that is shorter.
const LATE: Duration = Duration::from_secs(3);

pub(super) async fn watch_end(
    who: WorkerLife,
    pidfd: AsyncFd<OwnedFd>,
    (kin, told): (Kin, watch::Receiver<Told>),
    tail: Tail,
    notices: Rc<NoticeSocket>,
    yard: Yard,
) {
    let pid = kin.pid;
    let ending = all_ended(&pidfd, &kin, told).await.unwrap_or_else(|error| {
        tracing::error!(pid, %error, "cannot watch a worker any more, it counts as ended: {error}");
        Ending::Unknown
    });
    if !tail.settled(LAST_LINES).await {
        tracing::debug!(pid, "a worker's last lines may be missing");
    }
    // What it kept for the next one may be the last that it said.
    for said in notices.pending() {
        yard.outbox.put(Happening::Notices(who, said)).await;
    }
    yard.outbox.put(Happening::WorkerExited(who, ending)).await;
}

/// Waits until the main process has ended and, if they were told to end, also the others, or until
/// they were killed. What is left then is killed.
async fn all_ended(
    pidfd: &AsyncFd<OwnedFd>,
    kin: &Kin,
    mut told: watch::Receiver<Told>,
) -> io::Result<Ending> {
    let is_out_of_reach = |told: &Told| *told == Told::OutOfReach;
    let mut hears = told.clone();
    tokio::select! {
        biased;
        over = reaper::over(pidfd) => over?,
        // An error: the worker was dropped, and this task with it.
        _ = hears.wait_for(is_out_of_reach) => return Ok(Ending::Unknown),
    }
    let is_held = || given::pid_of_pidfd(pidfd).is_some();
    let mut extent = Extent::default();
    loop {
        extent = match &*told.borrow_and_update() {
            Told::ToEnd(extent) => extent.clone(),
            Told::Nothing | Told::Killed | Told::OutOfReach => break,
        };
        let left = kin.find(&extent, is_held());
        if left.is_empty() {
            break;
        }
        tokio::select! {
            over = all_over(left) => over?,
            _ = told.changed() => {}
        }
    }
    kin.kill(&extent, is_held());
    reaper::ended(pidfd, kin.pid).await
}

async fn all_over(relatives: Vec<Relative>) -> io::Result<()> {
    for relative in relatives {
        relative.over().await?;
    }
    Ok(())
}

pub(super) async fn hear(who: WorkerLife, notices: Rc<NoticeSocket>, yard: Yard) {
    loop {
        match notices.receive().await {
            Ok(said) => yard.outbox.put(Happening::Notices(who, said)).await,
            Err(error) => {
                tracing::warn!(generation = %who.generation, worker = %who.slot, error = %chain(&error), "{} {} is not heard any more, its NOTIFY_SOCKET failed: {error}", who.generation, who.slot);
                return;
            }
        }
    }
}

/// Waits for the answer. Until it is there, the keeper looks what is to be seen of the worker: an app that
/// listens on another port must not keep everybody waiting in silence for the whole of `boot`.
pub(super) async fn tell_lateness<T>(
    who: WorkerLife,
    boot: Duration,
    answering: impl Future<Output = T>,
    outbox: &Outbox,
) -> T {
    let every = LATE.min(boot / 2);
    let mut answering = std::pin::pin!(answering);
    loop {
        match tokio::time::timeout(every, &mut answering).await {
            Ok(answer) => return answer,
            Err(_late) => outbox.put(Happening::WorkerLate(who)).await,
        }
    }
}

/// Waits for WATCHDOG=1 within the interval that holds; a worker without one is never silent.
pub(super) async fn watch_heartbeat(
    who: WorkerLife,
    mut beats: watch::Receiver<Option<Duration>>,
    yard: Yard,
) {
    let mut is_silent = false;
    loop {
        let interval = *beats.borrow_and_update();
        let beat = match interval {
            Some(interval) if !is_silent => tokio::time::timeout(interval, beats.changed()).await,
            Some(_) | None => Ok(beats.changed().await),
        };
        match beat {
            Ok(Ok(())) if is_silent => {
                is_silent = false;
                let felt = Happening::WorkerFelt(who, Felt::SpeaksAgain);
                yard.outbox.put(felt).await;
            }
            Ok(Ok(())) => {}
            Ok(Err(_ended)) => return,
            Err(_late) => {
                is_silent = true;
                let felt = Happening::WorkerFelt(who, Felt::Silent);
                yard.outbox.put(felt).await;
            }
        }
    }
}

/// Asks a worker that serves how it is, and tells what changes.
pub(super) async fn watch_health(
    who: WorkerLife,
    endpoint: Endpoint,
    path: String,
    health: HealthConfig,
    yard: Yard,
) {
    let mut failures = 0_u32;
    // Also that it is well: an earlier keeper may have found otherwise.
    let mut told = None;
    loop {
        tokio::time::sleep(health.every).await;
        let seen = health::ask_again(&endpoint, &path, &health).await.err();
        failures = seen.as_ref().map_or(0, |_| failures.saturating_add(1));
        let pulse = match &seen {
            None => Pulse::Well,
            Some(_) if failures < health.fails.get() => Pulse::Suspected,
            Some(seen) => Pulse::Unwell {
                is_used: matches!(seen, Observation::Status { .. }),
            },
        };
        let now = told.map_or(pulse, |told: Pulse| told.then(pulse));
        if told.replace(now) != Some(now) {
            let felt = Happening::WorkerFelt(who, Felt::Health(pulse, seen));
            yard.outbox.put(felt).await;
        }
    }
}
