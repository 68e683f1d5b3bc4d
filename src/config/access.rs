//! `[log] access…`: which requests are logged, and how.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Parts into which "all requests" is divided: a share has up to four decimals of a percent.
const WHOLE: u32 = 1_000_000;

/// Which requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessWanted {
    /// None.
    Off,
    /// What a worker was asked for and the client did not get: 5xx answers and lost requests.
    Errors,
    /// Those, and this share of the others.
    Share {
        /// Of a million.
        per_million: u32,
    },
}

impl AccessWanted {
    /// Every request.
    pub const ALL: Self = Self::Share { per_million: WHOLE };

    /// `off`, `errors`, `all`, `1%`, `0.5%`
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "off" => Some(Self::Off),
            "errors" => Some(Self::Errors),
            "all" => Some(Self::ALL),
            share => Some(Self::Share {
                per_million: per_million(share.strip_suffix('%')?.trim_end())?,
            }),
        }
    }
}

/// Of percents; without floats, so that what is written is what is meant.
fn per_million(percents: &str) -> Option<u32> {
    let (whole, decimals) = percents.split_once('.').unwrap_or((percents, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 4 {
        return None;
    }
    let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
    let share = whole
        .parse::<u32>()
        .ok()?
        .checked_mul(WHOLE / 100)?
        .checked_add(decimals)?;
    (1..=WHOLE).contains(&share).then_some(share)
}

impl fmt::Display for AccessWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Off => f.write_str("off"),
            Self::Errors => f.write_str("errors"),
            Self::Share { per_million: WHOLE } => f.write_str("all"),
            Self::Share { per_million } => {
                let hundredth = WHOLE / 100;
                let decimals = format!("{:04}", per_million % hundredth);
                let number = format!("{}.{decimals}", per_million / hundredth);
                write!(f, "{}%", number.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

/// How an entry looks where it is a line: on stdout, when no journal listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessFormat {
    /// The Common Log Format of NCSA httpd.
    Common,
    /// That and the quoted Referer and User-Agent, as every log tool reads it.
    #[default]
    Combined,
    /// Everything, one JSON object a line.
    Json,
}

impl AccessFormat {
    /// `common`, `combined`, `json`
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Common, Self::Combined, Self::Json]
            .into_iter()
            .find(|format| format.to_string() == text)
    }
}

impl fmt::Display for AccessFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Common => "common",
            Self::Combined => "combined",
            Self::Json => "json",
        })
    }
}

/// All that a front has to know of its access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessConfig {
    /// Which requests.
    pub wanted: AccessWanted,
    /// With what comes after the `?`, which may be secret.
    pub has_query: bool,
    /// Off the journal.
    pub format: AccessFormat,
}

/// Failures alone: they are what somebody looks for, and rare. A line for each request buries the
/// lifecycle and is dear for journald, so that has to be asked for.
impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            wanted: AccessWanted::Errors,
            has_query: false,
            format: AccessFormat::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_reads_as_it_is_written() {
        for text in ["off", "errors", "all", "1%", "0.5%", "12.25%", "0.0001%"] {
            let wanted = AccessWanted::parse(text).unwrap();
            assert_eq!(wanted.to_string(), text);
        }
        assert_eq!(AccessWanted::parse("100%"), Some(AccessWanted::ALL));
        assert_eq!(AccessWanted::parse("1.5 %").unwrap().to_string(), "1.5%");
    }

    #[test]
    fn nonsense_is_no_share() {
        for text in [
            "", "%", "0%", "101%", "-1%", "1", "1.%", ".5%", "0.00001%", "1e1%", "on",
        ] {
            assert_eq!(AccessWanted::parse(text), None, "{text}");
        }
    }

    #[test]
    fn formats_have_one_name_each() {
        assert_eq!(AccessFormat::parse("json"), Some(AccessFormat::Json));
        assert_eq!(AccessFormat::parse("JSON"), None);
    }
}
