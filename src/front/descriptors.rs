//! The file descriptors of a front: as many as it may have, and no more connections than these
//! allow. So that a flood of clients never takes the one that the link, a parcel, a probe or a
//! connection to the app needs.
//!
//! A connection needs two descriptors, and a reserve is kept for link, probes, parcels and listeners. So a
//! flood meets the limit of connections, which sheds, before that of descriptors, which would also take the
//! app and the probes away.

use crate::config::HttpConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of a client, and of the app for it.
const OF_A_CONNECTION: u64 = 2;

/// Link, parcels, signals, the runtime of the main thread, and what the log opens.
const OF_THE_FRONT: u64 = 64;

/// Listeners, probes, the runtime, and idle connections to the app.
const OF_A_LANE: u64 = 96;

/// Takes what the hard limit allows (the soft one is for programs that use select(2)), and lowers `connections_max` to what fits.
pub(super) fn fit(http: &mut HttpConfig, lanes: usize) {
    let limit = raised();
    let fitting = fitting(limit, lanes);
    let wanted = http.connections_max;
    if fitting >= wanted {
        return;
    }
    http.connections_max = fitting;
    let needed = needed(wanted, lanes);
    tracing::warn!(
        limit,
        needed,
        wanted,
        allowed = fitting,
        "connections_max = {wanted} needs {needed} file descriptors, and the limit is {limit}: allowing {fitting} connections; raise LimitNOFILE= of the service (without systemd: ulimit -Hn), or lower connections_max in [http]"
    );
}

/// Takes what the hard limit allows.
pub(super) fn raise() {
    raised();
}

/// The limit from now on. None would be as good as infinite.
fn raised() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::debug!(%error, "cannot raise the limit of file descriptors");
            current.unwrap_or(u64::MAX)
        }
    }
}

fn needed(connections: u32, lanes: usize) -> u64 {
    u64::from(connections)
        .saturating_mul(OF_A_CONNECTION)
        .saturating_add(reserve(lanes))
}

fn reserve(lanes: usize) -> u64 {
    let lanes = u64::try_from(lanes).unwrap_or(u64::MAX);
    OF_THE_FRONT.saturating_add(OF_A_LANE.saturating_mul(lanes))
}

/// Never none: with less, it is better to try.
fn fitting(limit: u64, lanes: usize) -> u32 {
    let connections = limit.saturating_sub(reserve(lanes)) / OF_A_CONNECTION;
    u32::try_from(connections).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_unit_holds_the_default_on_many_cores() {
        let default = HttpConfig::default().connections_max;
        assert!(needed(default, 256) <= 65_536);
        assert_eq!(fitting(needed(default, 4), 4), default);
        assert_eq!(
            fitting(needed(default, 4).saturating_sub(1), 4),
            default - 1
        );
    }

    #[test]
    fn a_front_serves_somebody_under_any_limit() {
        assert_eq!(fitting(0, 256), 1);
        assert_eq!(fitting(1024, 1), 432);
        assert_eq!(fitting(u64::MAX, 1), u32::MAX);
    }
}
