//! The tasks of a worker in the keeper: see it end, hear it, miss its heartbeat.

use crate::causes::chain;
use crate::keeper::happening::{Happening, WorkerLife};
use crate::keeper::notice::NoticeSocket;
use crate::keeper::output::Tail;
use crate::keeper::reaper::{self, Ending};
use crate::keeper::yard::Yard;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::watch;

/// After the death of a worker its last lines may still be in the pipe for so long.
const LAST_LINES: Duration = Duration::from_millis(500);

pub(super) async fn watch_end(
    who: WorkerLife,
    pidfd: tokio::io::unix::AsyncFd<OwnedFd>,
    pid: u32,
    tail: Tail,
    yard: Yard,
) {
    let ending = reaper::ended(&pidfd, pid).await.unwrap_or_else(|error| {
        tracing::error!(pid, %error, "cannot watch a worker any more, it counts as ended: {error}");
        Ending::Unknown
    });
    if !tail.settled(LAST_LINES).await {
        tracing::debug!(pid, "a worker's last lines may be missing");
    }
    yard.outbox.put(Happening::WorkerExited(who, ending)).await;
}

pub(super) async fn hear(who: WorkerLife, notices: NoticeSocket, yard: Yard) {
    loop {
        match notices.receive().await {
            Ok(notices) => yard.outbox.put(Happening::Notices(who, notices)).await,
            Err(error) => {
                tracing::warn!(generation = %who.generation, worker = %who.slot, error = %chain(&error), "{} {} is not heard any more, its NOTIFY_SOCKET failed: {error}", who.generation, who.slot);
                return;
            }
        }
    }
}

/// Waits for WATCHDOG=1 within the interval that holds; a worker without one is never silent.
pub(super) async fn watch_heartbeat(
    who: WorkerLife,
    mut beats: watch::Receiver<Option<Duration>>,
    yard: Yard,
) {
    loop {
        let interval = *beats.borrow_and_update();
        let beat = match interval {
            None => Ok(beats.changed().await),
            Some(interval) => tokio::time::timeout(interval, beats.changed()).await,
        };
        match beat {
            Ok(Ok(())) => {}
            Ok(Err(_ended)) => return,
            Err(_silent) => {
                yard.outbox.put(Happening::WorkerSilent(who)).await;
                return;
            }
        }
    }
}
