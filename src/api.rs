//! What the control socket speaks: HTTP with JSON bodies of these types.
//!
//! Shared by the keeper, which answers, and the command line, which asks as any client would.

mod console;
mod standing;

pub use console::{ConsoleRefusal, ConsoleStep, is_term};
pub use standing::{
    HOLD_MAX, HoldOutcome, HoldStatus, HoldTimeError, HoldVerdict, Rotation, parse_hold,
};

use crate::exec::cage::Cage;
use crate::id::{FrontId, GenerationId, Slot};
use crate::usage::Usage;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// [`ReloadOutcome::code`] of a reload that was refused because a deploy is under way: as the exit code is
/// called.
pub const LOCKED: &str = "locked";

/// Answer to `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The instance: `NAME` of `gapless serve NAME`.
    pub name: String,
    /// Of the running keeper.
    pub gapless_version: String,
    /// The keeper's.
    pub pid: u32,
    /// Seconds since this keeper began or adopted.
    pub uptime_seconds: u64,
    /// `state` is that.
    pub healthy: bool,
    /// How the app does; absent from version 0.1.0.
    #[serde(default)]
    pub state: Option<AppState>,
    /// Why it is not healthy, where the summary does not say it.
    #[serde(default)]
    pub because: Option<String>,
    /// One true sentence, the same as in `systemctl status`.
    pub summary: String,
    /// Listening sockets.
    pub listeners: Vec<ListenerStatus>,
    /// Oldest first.
    pub generations: Vec<GenerationStatus>,
    /// Oldest first.
    pub fronts: Vec<FrontStatus>,
    /// Since the counters began.
    pub requests: RequestTotals,
    /// How the last begun generation ended up, if one was decided.
    pub last_outcome: Option<ReloadOutcome>,
    /// Why `[limits]` cannot be in force in this unit, whether there are any or not.
    #[serde(default)]
    pub limits_obstacle: Option<String>,
    /// Why those of the newest generation are not in force; none when they are, or it has none.
    #[serde(default)]
    pub limits_not_in_force: Option<String>,
    /// How far the processes of the app are kept apart from those of gapless; none in the foreground.
    #[serde(default)]
    pub landlock: Option<Cage>,
    /// The newest upgrade, if there was one.
    #[serde(default)]
    pub last_upgrade: Option<UpgradeOutcome>,
    /// `gapless drain` was told then: `/readyz` says 503, and serving goes on.
    #[serde(default)]
    pub drained_since_unix_seconds: Option<u64>,
    /// What the live generation served; none while nothing is live.
    #[serde(default)]
    pub served_live: Option<ServedLive>,
    /// What the one before served, as far as it is known by now.
    #[serde(default)]
    pub served_before: Option<ServedLive>,
    /// `gapless hold` was told: new requests wait.
    #[serde(default)]
    pub hold: Option<HoldStatus>,
    /// What belongs to the app and outlives releases; what they share is in `shared` there.
    #[serde(default)]
    pub state_directory: Option<PathBuf>,
}

impl Status {
    /// How the app does.
    pub fn app_state(&self) -> AppState {
        let known = if self.healthy {
            AppState::Healthy
        } else {
            AppState::Failing
        };
        self.state.unwrap_or(known)
    }

    /// Nothing runs, and nothing was ever to run.
    pub fn is_bare(&self) -> bool {
        self.generations.is_empty() && self.last_outcome.is_none()
    }

    /// Why the app is not healthy; empty where nobody knows.
    pub fn reason(&self) -> &str {
        self.because.as_deref().unwrap_or(&self.summary)
    }
}

/// How an app does, by what its clients get. A deploy that was refused changes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppState {
    /// Something is live, and does well.
    Healthy,
    /// Requests wait, workers die again and again, or half of the answers are errors.
    Degraded,
    /// Requests get 503, or only errors.
    Failing,
}

impl AppState {
    /// As commands say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// FileDescriptorName=
    pub name: String,
    /// `127.0.0.1:8888`, `[::]:80`, `/run/x.sock`.
    pub address: String,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// `7` of g7.
    pub id: GenerationId,
    /// `waiting`, `starting`, `settling`, `settled`, `live`, `draining` or `stopping`.
    pub state: String,
    /// Why it is in this state, where there is something to say.
    pub why: Option<String>,
    /// Seconds since it began.
    pub age_seconds: u64,
    /// Requests in flight on it.
    pub leases: u64,
    /// What it runs: the name of a release in the store, or of a directory.
    #[serde(default)]
    pub release: String,
    /// Resolved working directory.
    pub directory: PathBuf,
    /// argv.
    pub command: Vec<String>,
    /// argv of its console; none: empty.
    #[serde(default)]
    pub console: Vec<String>,
    /// By slot.
    pub workers: Vec<WorkerStatus>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Place in its generation.
    pub slot: Slot,
    /// None between two lives.
    pub pid: Option<u32>,
    /// `booting`, `ready`, `waiting to respawn`, `ended`.
    pub state: String,
    /// What it said by STATUS=.
    pub said: Option<String>,
    /// `127.0.0.1:4711` or a path.
    pub endpoint: Option<String>,
    /// Seconds since it was started.
    pub age_seconds: u64,
    /// How often this slot was respawned.
    pub respawns: u64,
    /// Resident memory; none where /proc does not tell.
    pub memory_bytes: Option<u64>,
    /// CPU time used.
    pub cpu_seconds: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open fds.
    #[serde(default)]
    pub fds: Option<u64>,
    /// Names of the fds that it keeps for the one after it.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// One front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontStatus {
    /// `3` of f3.
    pub id: FrontId,
    /// Of the process.
    pub pid: u32,
    /// `starting`, `serving`, `retiring`, `draining`.
    pub state: String,
    /// Client connections.
    pub connections: u64,
    /// Those of them that would live on if the front died.
    #[serde(default)]
    pub settled: u64,
    /// Those of them that switched protocols.
    #[serde(default)]
    pub tunnels: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests waiting for a live generation.
    pub held: u64,
    /// What it last told of its memory, CPU time, threads and fds.
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// Requests of all fronts, dead ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestTotals {
    /// Finished.
    pub total: u64,
    /// Lost by gapless or the app.
    pub lost: u64,
    /// Sent a second time.
    pub retries: u64,
    /// That had to wait for a live generation.
    pub held: u64,
    /// Unix time from which this counts.
    pub since_unix_seconds: u64,
}

/// Requests of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedLive {
    /// Which.
    pub generation: GenerationId,
    /// All.
    pub requests: u64,
    /// Answered with 5xx, or not to the end.
    pub failed: u64,
}

/// What became of a generation that was to be live. Answer to `POST /reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReloadOutcome {
    /// The generation that was begun; none when the configuration was refused before.
    pub generation: Option<GenerationId>,
    /// How it ended.
    pub verdict: Verdict,
    /// What happened, one sentence: `worker w0 exited with status 1 after 0.3 s`.
    pub cause: String,
    /// Its name, where it has one: `gapless explain` says more of `wrong-path`.
    #[serde(default)]
    pub code: Option<String>,
    /// What is likely to mend it, if that can be told: `let it use $PORT`.
    #[serde(default)]
    pub cure: Option<String>,
    /// The last lines that the app wrote, oldest first.
    pub last_lines: Vec<String>,
    /// From the request to the decision.
    pub elapsed_ms: u64,
    /// What serves now.
    pub live: Option<GenerationId>,
    /// The release in the store that this is about; none: there was none, or it has no name there.
    #[serde(default)]
    pub release: Option<String>,
}

/// A line of the answer to `POST /deploy/ID`, sent when it is true. After `Decided` only `Drained`
/// follows, and only where the verdict is `Live`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Its release command has done what it had to do.
    Prepared {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// Its workers are being started.
    Started {
        /// As which generation.
        generation: GenerationId,
        /// How many.
        workers: u32,
    },
    /// A worker is not ready, though it has had some time; told again when something else is seen. Absent
    /// from older keepers.
    Waiting {
        /// Of which generation.
        generation: GenerationId,
        /// `w0 is not ready yet: it listens on 0.0.0.0:3000 instead of $PORT, which is 41234`
        seen: String,
    },
    /// All of its workers are ready.
    Healthy {
        /// Which.
        generation: GenerationId,
        /// Where they answer: `127.0.0.1:4711` or a path.
        endpoints: Vec<String>,
    },
    /// It is live, or it is not.
    Decided(ReloadOutcome),
    /// What it superseded has finished its requests.
    Drained {
        /// Those that had some when it became live.
        generations: Vec<GenerationId>,
    },
}

/// The decision about a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is live.
    Live,
    /// It died or could not be started; the old one serves.
    Unhealthy,
    /// It was not ready in time; the old one serves.
    TimedOut,
    /// The configuration is invalid; nothing was started.
    ConfigInvalid,
    /// gapless is stopping.
    Stopping,
}

/// Answer to `POST /log-level/LEVEL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelInUse {
    /// As RUST_LOG.
    pub level: String,
}

/// What became of replacing gapless by its installed binary. Answer to `POST /upgrade` and
/// `POST /upgrade/check`, where it is [`UpgradeVerdict::UnderWay`]; then in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeOutcome {
    /// Counts up with every request for one.
    pub number: u64,
    /// How it ended.
    pub verdict: UpgradeVerdict,
    /// The version before.
    pub from: String,
    /// The version of the installed binary, once it told.
    pub to: Option<String>,
    /// The installed binary.
    pub program: PathBuf,
    /// What happened or is waited for, one sentence.
    pub cause: String,
    /// From the request to the decision.
    pub elapsed_ms: u64,
}

/// The decision about an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeVerdict {
    /// Not decided yet.
    UnderWay,
    /// The installed binary would do; nothing else was asked for.
    Fit,
    /// It runs, and its front serves.
    InPlace,
    /// The installed binary failed; the old one serves.
    Refused,
    /// gapless is stopping, or another upgrade is under way.
    NotNow,
}

/// Answer to `POST /release`: everything is written down, the keeper waits to be replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Fronts and workers that live on.
    pub pids: Vec<u32>,
}
