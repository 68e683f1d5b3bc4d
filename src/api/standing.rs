//! What is said of standing orders: drained, on hold.

use crate::config::{AsDuration, QuantityError, parse_duration};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;

/// Whoever forgets to resume costs no more than this.
pub const HOLD_MAX: Duration = Duration::from_mins(10);

/// No time for a hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HoldTimeError {
    /// Not a time.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// Too short or too long.
    #[error("{} is too {}; a hold lasts from 1ms to {}", AsDuration(*time), if time.is_zero() { "short" } else { "long" }, AsDuration(HOLD_MAX))]
    Range {
        /// What was asked for.
        time: Duration,
    },
}

/// `TIME` of `POST /hold/TIME`: as in the configuration, at most [`HOLD_MAX`].
///
/// # Errors
/// [`HoldTimeError`].
pub fn parse_hold(text: &str) -> Result<Duration, HoldTimeError> {
    let time = parse_duration(text)?;
    if time.is_zero() || time > HOLD_MAX {
        return Err(HoldTimeError::Range { time });
    }
    Ok(time)
}

/// That all new requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// When it began.
    pub since_unix_seconds: u64,
    /// It ends by itself then.
    pub until_unix_seconds: u64,
    /// Nothing is in flight any more.
    pub is_quiet: bool,
}

/// Answer to `POST /hold/TIME` and `POST /resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldOutcome {
    /// What came of it.
    pub verdict: HoldVerdict,
    /// Of a hold: from the request to this answer. Of a resume: how long requests were held.
    pub elapsed_ms: u64,
    /// Requests that workers still have.
    pub in_flight: u64,
    /// Tunnels, which go on: no request of theirs can be held.
    pub tunnels: u64,
    /// So long waits a request; then it gets 503: `[http] hold`.
    pub patience_ms: u64,
    /// As it is now.
    pub hold: Option<HoldStatus>,
}

/// What came of a hold or a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldVerdict {
    /// Nothing is in flight any more, and new requests wait.
    Quiet,
    /// Something was still in flight when the time was over; requests go on.
    TimedOut,
    /// Told to go on.
    Resumed,
    /// There was nothing to resume.
    NotHeld,
    /// gapless is stopping.
    Stopping,
}

/// Answer to `POST /drain` and `POST /undrain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// None: load balancers are told how it is.
    pub drained_since_unix_seconds: Option<u64>,
    /// It was otherwise before.
    pub has_changed: bool,
    /// Where load balancers ask `/readyz`; perhaps nowhere.
    pub asked_at: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_has_an_end_within_ten_minutes() {
        assert_eq!(parse_hold("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_hold("10min"), Ok(HOLD_MAX));
        let long = parse_hold("11min").unwrap_err().to_string();
        assert_eq!(long, "11min is too long; a hold lasts from 1ms to 10min");
        assert!(
            parse_hold("0s")
                .unwrap_err()
                .to_string()
                .contains("too short")
        );
        assert!(parse_hold("10").is_err());
    }
}
