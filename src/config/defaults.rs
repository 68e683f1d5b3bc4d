//! What holds when nothing is written.

use super::{
    AccessConfig, AppConfig, HealthConfig, HttpConfig, KillMode, Listen, LogConfig, ProxyProtocol,
    RestartConfig, StopSignal,
};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

impl AppConfig {
    /// The two that have no default, and the defaults of the others.
    pub fn new(command: Vec<String>, directory: PathBuf) -> Self {
        Self {
            command,
            directory,
            env: BTreeMap::new(),
            workers: NonZeroU32::MIN,
            listen: Listen::Auto,
            boot: Duration::from_mins(1),
            settle: Duration::from_secs(1),
            drain: Duration::from_secs(15),
            stop: Duration::from_secs(10),
            kill_mode: KillMode::default(),
            stop_signal: StopSignal::default(),
            watchdog: None,
            release: None,
            shared: Vec::new(),
            release_command: None,
            console: None,
            keep: Self::keep_by_default(),
            landlock: Self::landlock_by_default(),
        }
    }

    pub(super) fn landlock_by_default() -> bool {
        true
    }

    pub(super) fn keep_by_default() -> u32 {
        5
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            path: None,
            host: Self::host_by_default(),
            status: (200, 399),
            passes: NonZeroU32::MIN,
            interval: Duration::from_millis(250),
            timeout: Duration::from_secs(2),
            every: Self::every_by_default(),
            fails: Self::fails_by_default(),
        }
    }
}

impl HealthConfig {
    pub(super) fn host_by_default() -> String {
        "localhost".to_owned()
    }

    pub(super) fn every_by_default() -> Duration {
        Duration::from_secs(5)
    }

    pub(super) fn fails_by_default() -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(2)
    }
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            // A death every other second is answered at once for as long as it goes on; deaths with
            // doubling delays between them reach it within the interval, which ten never do.
            burst: 6,
            interval: Duration::from_secs(10),
            delay_min: Duration::from_millis(100),
            delay_max: Duration::from_secs(30),
        }
    }
}

impl HttpConfig {
    /// As `[app] drain`: a longer window is cut short by that.
    pub(super) fn tunnels_by_default() -> Duration {
        Duration::from_secs(15)
    }

    /// Far below any line that people use, and enough to end a client that sends a byte now and
    /// then.
    pub(super) fn rate_min_by_default() -> u64 {
        100
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            lanes: None,
            hold: Duration::from_secs(15),
            held_max: 1000,
            connections_max: 10_000,
            // Off: a load balancer that nobody named in trusted_proxies is one address, too.
            connections_per_address_max: None,
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            rate_min: Self::rate_min_by_default(),
            idle_timeout: Duration::from_mins(15),
            // An answer that the app would still have given, and we cut off, is a request lost by
            // us, and a 504 makes clients send again what is being worked on. What a slow app can
            // cost is bounded by connections_max, and by clients that hang up earlier.
            response_timeout: Duration::from_mins(5),
            tunnels: Self::tunnels_by_default(),
            connect: false,
            odd_field_names: false,
            forwarded: false,
            // What is under way is no reason to keep anybody waiting, and costs little.
            upgrade_drain: None,
            head_bytes_max: 16 * 1024,
            headers_max: 100,
            body_bytes_max: 1 << 30,
            // Who is never slow to answer other requests needs none, and streams would wait.
            buffer_requests: 0,
            buffer_responses: 0,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            retry_after_seconds: 5,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            app_lines_per_second_max: 10_000,
            access: AccessConfig::default(),
        }
    }
}
