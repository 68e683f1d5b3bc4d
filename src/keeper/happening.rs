//! What the keeper's loop hears: everything that takes time happens in a task and ends up here.

use super::control::Asked;
use super::errand::Ended;
use super::health::Observation;
use super::notice::Said;
use super::plan::Pulse;
use super::reaper::Ending;
use super::upgrade::Fitness;
use crate::id::{FrontId, GenerationId, Slot};
use crate::link::{Endpoint, FromFront};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// One life of one worker: what is said of an earlier life is not said of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerLife {
    /// Its generation.
    pub generation: GenerationId,
    /// Its place there.
    pub slot: Slot,
    /// Counts up with each respawn.
    pub life: u64,
}

/// What is found about a worker that serves.
#[derive(Debug)]
pub enum Felt {
    /// Its answers to the health check, since the last change.
    Health(Pulse, Option<Observation>),
    /// It sent no WATCHDOG=1 in time, or says itself that it hangs.
    Silent,
    /// It sends WATCHDOG=1 again.
    SpeaksAgain,
}

/// One thing that happened.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and they are moved once or twice"
)]
pub enum Happening {
    /// A worker ended, and all it wrote was read.
    WorkerExited(WorkerLife, Ending),
    /// A worker answers here.
    WorkerAnswers(WorkerLife, Endpoint),
    /// A worker is not ready yet, though it has had some time.
    WorkerLate(WorkerLife),
    /// A worker said something.
    Notices(WorkerLife, Said),
    /// How well a worker is has changed.
    WorkerFelt(WorkerLife, Felt),
    /// A front said something.
    FrontSaid(FrontId, FromFront),
    /// A front ended.
    FrontExited(FrontId, Ending),
    /// A lane did not answer a probe, or a link broke.
    FrontHung(FrontId),
    /// Every lane of the serving front answered a probe.
    LanesAnswered,
    /// A release command ended.
    ErrandEnded(Ended),
    /// The console of this pid ended.
    ConsoleEnded(u32),
    /// SIGHUP.
    Reload,
    /// Files that are watched.
    Changed(Vec<PathBuf>),
    /// SIGUSR2.
    Upgrade,
    /// The installed binary said whether it can take over, or failed to.
    UpgradeChecked(Result<Fitness, String>),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGCHLD.
    ChildEnded,
    /// Somebody asks over the control socket.
    Asked(Asked),
}

/// The tasks' end of the keeper's queue. Bounded: a task waits until the keeper has taken what is
/// there.
#[derive(Clone, Debug)]
pub struct Outbox(mpsc::Sender<Happening>);

impl Outbox {
    /// A queue of this length.
    pub fn new(length: usize) -> (Self, mpsc::Receiver<Happening>) {
        let (sender, receiver) = mpsc::channel(length);
        (Self(sender), receiver)
    }

    /// Waits for room. When the keeper is gone there is nobody to tell, and the task ends soon.
    pub async fn put(&self, happening: Happening) {
        if self.0.send(happening).await.is_err() {
            tracing::debug!("the keeper's loop has ended");
        }
    }

    /// From a thread that may wait. Whether there still is a keeper.
    pub fn put_blocking(&self, happening: Happening) -> bool {
        self.0.blocking_send(happening).is_ok()
    }
}
