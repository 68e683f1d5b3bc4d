//! Configuration, in two stages: what was written (`written`, the TOML file with its places in the
//! text) becomes what is meant ([`Config`]). Only the second travels.
//!
//! This module never looks at the environment of the process and never starts anything: what a key
//! means must be the same for `gapless check` as for the service.

mod access;
mod defaults;
mod ending;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod level;
mod load;
mod meant;
mod problem;
mod program;
mod quantity;
mod written;

pub use access::{AccessConfig, AccessFormat, AccessWanted};
pub use ending::{EndingError, KillMode, StopSignal};
pub use level::{LevelError, parse_level};
pub use load::{ConfigSource, Fixed, Overrides, ReleaseSource, fixed, load};
pub use problem::{ConfigError, Look, Place, Problem};
pub use quantity::{AsDuration, AsSize, QuantityError, parse_duration, parse_size};
pub use written::{KnownTable, known_tables};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// All that one `NAME.toml` means, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What to run and how it is started, drained and ended.
    pub app: AppConfig,
    /// When a worker counts as ready.
    pub health: HealthConfig,
    /// How often a dead worker may be respawned.
    pub restart: RestartConfig,
    /// What the front is born with; a change needs a new front.
    pub http: HttpConfig,
    /// What a generation may take of the machine.
    pub limits: LimitsConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// `[app]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppConfig {
    /// Program and arguments; no shell. Empty only where the source allows that nothing is there to
    /// run yet.
    pub command: Vec<String>,
    /// Working directory of the workers, absolute and resolved.
    pub directory: PathBuf,
    /// Added to the environment that workers inherit from the unit.
    pub env: BTreeMap<String, String>,
    /// Processes of the app.
    pub workers: NonZeroU32,
    /// How a worker is reached.
    pub listen: Listen,
    /// A start takes at most this long (an app can ask for more by EXTEND_TIMEOUT_USEC).
    pub boot: Duration,
    /// A ready generation must live this long before it is swapped in, so that one that dies at
    /// once never serves.
    pub settle: Duration,
    /// Requests of a superseded generation may finish within this time.
    pub drain: Duration,
    /// Between the stop signal and SIGKILL.
    pub stop: Duration,
    /// Who of a worker gets the stop signal. Absent from what a keeper without it wrote down, as the
    /// next is.
    #[serde(default)]
    pub kill_mode: KillMode,
    /// What tells a worker to end.
    #[serde(default)]
    pub stop_signal: StopSignal,
    /// WATCHDOG_USEC for the app; none: the app is not watched.
    pub watchdog: Option<Duration>,
    /// The release of the store that this is; none: a directory that the file names. Absent from
    /// what a keeper without it wrote down, as the next three are.
    #[serde(default)]
    pub release: Option<String>,
    /// Directories that all releases share: links in each to the state directory.
    #[serde(default)]
    pub shared: Vec<PathBuf>,
    /// Run once in each new release before its first start; none: nothing.
    #[serde(default)]
    pub release_command: Option<Vec<String>>,
    /// What `gapless console` runs; none: nothing.
    #[serde(default)]
    pub console: Option<Vec<String>>,
    /// Releases that stay in the store.
    #[serde(default = "AppConfig::keep_by_default")]
    pub keep: u32,
    /// Its processes are apart from those of gapless, by Landlock.
    #[serde(default = "AppConfig::landlock_by_default")]
    pub landlock: bool,
}

/// `[app] listen`: how the app is told where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listen {
    /// All of `Port`, `Fd` and `Unix` are offered; what the app takes is used.
    Auto,
    /// A free loopback port in `$PORT`.
    Port,
    /// The app insists on this port: one worker, and the old stops before the new starts.
    FixedPort(u16),
    /// Our listening socket as LISTEN_FDS=1; it stays open over the death of the worker.
    Fd,
    /// A unix socket path in `$GAPLESS_SOCKET`.
    Unix,
}

/// `[health]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// Asked by GET; none: a connection is enough.
    pub path: Option<String>,
    /// The `Host` of that GET.
    #[serde(default = "HealthConfig::host_by_default")]
    pub host: String,
    /// Lowest and highest status that count as healthy.
    pub status: (u16, u16),
    /// So many good answers in a row make a worker ready.
    pub passes: NonZeroU32,
    /// Between two questions to a worker that is not ready yet.
    pub interval: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Between two questions to a worker that serves; only with `path`.
    #[serde(default = "HealthConfig::every_by_default")]
    pub every: Duration,
    /// So many bad answers in a row, or none, and a worker that serves is replaced.
    #[serde(default = "HealthConfig::fails_by_default")]
    pub fails: NonZeroU32,
}

/// `[restart]`: the restart budget, as OTP's intensity and period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartConfig {
    /// Respawns allowed within `interval` before the budget is spent.
    pub burst: u32,
    /// Over which `burst` is counted.
    pub interval: Duration,
    /// First delay when workers die young or the budget is spent; doubles up to `delay_max`.
    pub delay_min: Duration,
    /// The longest delay between two tries.
    pub delay_max: Duration,
}

/// `[limits]`: what all processes of one generation may take together; none: as much as the unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Bytes, without swap.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u32>,
    /// Percent of one CPU.
    pub cpu: Option<u32>,
}

/// `[http]`: everything that the front needs to know. It is born with it and never reconfigured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpConfig {
    /// Threads that serve; none: one per core.
    pub lanes: Option<NonZeroU32>,
    /// A request waits at most this long for a live generation.
    pub hold: Duration,
    /// So many requests wait at most, in all lanes together; the next gets 503.
    pub held_max: u32,
    /// Client connections in all lanes together.
    pub connections_max: u32,
    /// Those of one address (IPv6: of one /64); none: as many as there are. Trusted proxies and
    /// unix sockets are not limited. Absent from what a keeper without it wrote down.
    #[serde(default)]
    pub connections_per_address_max: Option<NonZeroU32>,
    /// From the first byte of a request to the end of its head.
    pub head_timeout: Duration,
    /// Between two reads of a request body.
    pub body_timeout: Duration,
    /// A client that takes no byte of the response for so long is gone.
    pub write_timeout: Duration,
    /// Bytes a second that a client must at least send of a body and take of a response, while we
    /// wait for it; 0: any trickle will do. Absent from what a keeper without it wrote down.
    #[serde(default = "HttpConfig::rate_min_by_default")]
    pub rate_min: u64,
    /// A connection without a request is closed after this time.
    pub idle_timeout: Duration,
    /// From the whole request to the head of the app's response.
    pub response_timeout: Duration,
    /// Tunnels of a superseded generation or a retiring front end within this time. Absent from
    /// what a keeper without it wrote down.
    #[serde(default = "HttpConfig::tunnels_by_default")]
    pub tunnels: Duration,
    /// CONNECT goes to the app, which makes a tunnel of it or not. Absent from what a keeper without
    /// it wrote down.
    #[serde(default)]
    pub connect: bool,
    /// Fields whose names have other bytes than letters, digits and `-` reach the app. Absent from what
    /// a keeper without it wrote down.
    #[serde(default)]
    pub odd_field_names: bool,
    /// The app gets `Forwarded` (RFC 7239) also where no trusted proxy sends it. Absent from what a keeper
    /// without it wrote down.
    #[serde(default)]
    pub forwarded: bool,
    /// After an upgrade, the front that it made old has so long for its requests and tunnels; none:
    /// as long as they take. Absent from what a keeper without it wrote down.
    #[serde(default)]
    pub upgrade_drain: Option<Duration>,
    /// Bytes of a request head, request line included.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// So much of a request body is collected before the app gets the request; 0: nothing. Absent from what a
    /// keeper without it wrote down.
    #[serde(default)]
    pub buffer_requests: u64,
    /// So much of a response is read ahead of the client; 0: no more than hyper does. Absent from what a keeper
    /// without it wrote down.
    #[serde(default)]
    pub buffer_responses: u64,
    /// Peers whose Forwarded and X-Forwarded-* are believed and extended, not replaced, and whose
    /// PROXY headers are.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY header. Absent from what a keeper without it wrote
    /// down.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// The Retry-After of a refusal, in seconds.
    pub retry_after_seconds: u32,
}

/// `[http] proxy_protocol`. There is no "if it is there": then any client could write one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyProtocol {
    /// Connections begin with HTTP.
    #[default]
    Off,
    /// Every connection begins with a PROXY header (version 1 or 2), from a trusted proxy or over
    /// a unix socket; others are closed.
    Require,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// As RUST_LOG: `info`, `gapless=debug`.
    pub level: String,
    /// Lines a second and worker that are passed on; the rest is counted and dropped.
    pub app_lines_per_second_max: u32,
    /// Which requests are logged, and how. Fronts are born with it.
    #[serde(default)]
    pub access: AccessConfig,
}
