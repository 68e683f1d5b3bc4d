//! What keeper and front say to each other.

use super::Histogram;
use crate::id::{GenerationId, Slot};
use crate::usage::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where one worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// On loopback.
    Tcp(SocketAddr),
    /// A stream socket in the runtime directory.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// One worker that requests may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its place in the generation.
    pub slot: Slot,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// Counts up with each respawn of the slot: connections to an earlier life are worthless.
    pub life: u64,
    /// Of the worker, as seen by the keeper; the front of a `gapless run` ends it when it is
    /// orphaned.
    pub pid: u32,
}

/// What the live cell of every lane has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// This generation is live. Without backends (all respawning) requests are held.
    Live {
        /// Which.
        generation: GenerationId,
        /// Its ready workers.
        backends: Vec<Backend>,
    },
    /// Nothing is live, but something may soon be: requests are held.
    Hold,
    /// Nothing is live and nothing is expected soon (restart budget spent): 503 at once.
    Refuse,
}

/// The cell as the keeper wants it, numbered so that an acknowledgement names what it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Counts up with every cell that the keeper sends, also across keepers.
    pub seq: u64,
    /// What to lease from now on.
    pub target: Target,
    /// Nothing was ever deployed: requests are told so, and do not wait. Absent from keepers that
    /// refuse to run without an app; fronts that do not know it let requests wait.
    #[serde(default)]
    pub is_bare: bool,
}

/// Keeper → front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToFront {
    /// A keeper (perhaps a new one that adopts) is at the other end: answer with `Ready` (if so)
    /// and a `Report`.
    Hello,
    /// Replace the cell in every lane, then answer `Acknowledged`.
    Serve(Cell),
    /// The drain limit passed: end what still runs on this generation, counted and logged.
    Cut {
        /// Which.
        generation: GenerationId,
    },
    /// One fd comes along: a SOCK_SEQPACKET on which an older front sends its idle connections.
    /// Serve them until it ends.
    Inherit,
    /// One fd comes along: stop accepting, send idle connections on it (those that are in use
    /// when they become idle), end when none is left.
    Retire,
    /// Goes before `Retire` when only gapless itself is replaced: tunnels go on to their own end. A
    /// front that does not know the word ends them in their window, as at a restart.
    KeepTunnels,
    /// A real stop: stop accepting, close idle connections, finish requests with
    /// `Connection: close`, end when none is left.
    Drain,
    /// End now.
    End,
    /// Answer with a `Report`.
    Ask,
    /// From now on log at this level, as RUST_LOG. A front that does not know this message logs on
    /// as before.
    LogLevel(String),
}

/// Front → keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and they are moved once or twice"
)]
pub enum FromFront {
    /// Every lane accepts connections.
    Ready,
    /// Every lane serves from the cell with this number.
    Acknowledged {
        /// [`Cell::seq`].
        seq: u64,
    },
    /// The whole state, sent when asked, when the leases of a generation that is not in the cell
    /// reach zero, and every second while something changes.
    Report(Report),
}

/// What a front is and has done. Counters count from its birth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The cell that every lane serves from; 0 before the first.
    pub seq: u64,
    /// Leases by generation; one that is missing has none.
    pub leases: BTreeMap<GenerationId, u64>,
    /// Open client connections.
    pub connections: u64,
    /// Those of them that would live on if the front died. Absent from fronts that keep none.
    #[serde(default)]
    pub settled: u64,
    /// Those of them that switched protocols. Absent from fronts that know no tunnels.
    #[serde(default)]
    pub tunnels: u64,
    /// Requests that wait for a live generation now.
    pub held: u64,
    /// Requests in flight now, held ones included.
    pub in_flight: u64,
    /// Since birth.
    pub counters: Counters,
    /// Memory, CPU time, threads and fds of the front: only itself may see them. Absent from
    /// fronts that do not look.
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// Counters of a front. All of them only count up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections taken over from an older front.
    pub connections_inherited: u64,
    /// Connections that were closed before a request, to protect the others, by cause
    /// (`address_full`, `idle_when_full`, `proxy_header`, `proxy_not_trusted`). Absent from fronts
    /// that close none.
    #[serde(default)]
    pub connections_refused: BTreeMap<String, u64>,
    /// Finished requests by status class: 1xx to 5xx, index 0 is 1xx.
    pub responses: [u64; 5],
    /// Requests that had to wait for a live generation.
    pub held: u64,
    /// Responses that gapless wrote itself, by cause (`no_live_generation`, `app_refused`, …).
    pub refusals: BTreeMap<String, u64>,
    /// Requests that gapless or the app lost, by cause: the client got no whole response though it
    /// did nothing wrong (`app_died`, `cut`, `held_too_long`, …).
    pub lost: BTreeMap<String, u64>,
    /// Requests sent a second time.
    pub retries: u64,
    /// Tunnels that were told to end because their generation or front had to go. Absent from
    /// fronts that know no tunnels.
    #[serde(default)]
    pub tunnels_ended: u64,
    /// Entries of the access log that nobody took. Absent from fronts that have none.
    #[serde(default)]
    pub access_dropped: u64,
    /// Durations from the whole head to the end of the response: one count per bound of
    /// [`REQUEST_BOUNDS`](super::REQUEST_BOUNDS), and one for the longer ones; not cumulated.
    pub duration_counts: Vec<u64>,
    /// Sum of all durations, in microseconds.
    pub duration_micros: u64,
    /// How long requests waited for a live generation. Absent from fronts that do not measure it.
    #[serde(default)]
    pub hold: Histogram,
    /// By the generation that answered, or should have; of the newest ones only. Absent from fronts that do
    /// not tell them apart.
    #[serde(default)]
    pub served: BTreeMap<GenerationId, Served>,
}

/// What became of the requests of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Those that ended.
    pub requests: u64,
    /// Those of them that were answered with 5xx, or not to the end.
    pub failed: u64,
}

/// So many generations are told apart.
const SERVED_MAX: usize = 8;

impl Counters {
    /// Adds what one generation served. A front that sees many generations forgets the oldest.
    pub fn add_served(&mut self, generation: GenerationId, more: Served) {
        let sum = self.served.entry(generation).or_default();
        sum.requests = sum.requests.saturating_add(more.requests);
        sum.failed = sum.failed.saturating_add(more.failed);
        while self.served.len() > SERVED_MAX {
            self.served.pop_first();
        }
    }
}
