//! Durations and sizes as people write them: one number, one unit.
//!
//! Never guesses a unit: `drain = 15` has meant seconds, milliseconds and minutes to three people.

use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Units of a duration, longest first, in nanoseconds.
const DURATION_UNITS: [(&str, u64); 4] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// What people write for a unit of time, and what we call it.
const DURATION_SYNONYMS: [(&str, &str); 12] = [
    ("m", "min"),
    ("mins", "min"),
    ("minute", "min"),
    ("minutes", "min"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("hr", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("msec", "ms"),
];

/// Units of a size, largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// What people write for a unit of size, and what we call it. `K` is 1024 to systemd and 1000 to
/// others, so it is not taken, but the likelier meaning is proposed.
const SIZE_SYNONYMS: [(&str, &str); 9] = [
    ("K", "KiB"),
    ("k", "KiB"),
    ("kB", "KB"),
    ("M", "MiB"),
    ("m", "MiB"),
    ("G", "GiB"),
    ("g", "GiB"),
    ("T", "TiB"),
    ("b", "B"),
];

/// Why a text is no quantity. The message is what is wrong;
/// [`QuantityError::proposal`] is what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// `"15"`: could be anything.
    #[error("\"{0}\" has no unit")]
    NoUnit(String),
    /// `"15 parsecs"`.
    #[error("\"{0}\" has the unknown unit \"{1}\"")]
    UnknownUnit(String, String, Option<String>),
    /// `"fast"`, `""`, `"1.5h"`, `"-1s"`.
    #[error("\"{0}\" is not a whole number with a unit")]
    NotANumber(String),
    /// More than 64 bits.
    #[error("\"{0}\" is too large")]
    TooLarge(String),
}

impl QuantityError {
    /// The likeliest right text, where there is one.
    pub fn proposal(&self) -> Option<&str> {
        match self {
            QuantityError::UnknownUnit(_, _, proposal) => proposal.as_deref(),
            QuantityError::NoUnit(_)
            | QuantityError::NotANumber(_)
            | QuantityError::TooLarge(_) => None,
        }
    }
}

/// Reads `10s`, `250ms`, `5min`, `1h`; a space before the unit is allowed.
///
/// # Errors
/// Says what is wrong with the text; nothing is rounded.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    parse(text, &DURATION_UNITS, &DURATION_SYNONYMS).map(Duration::from_nanos)
}

/// Reads `512B`, `16KiB`, `64MB`, `1GiB`; a space before the unit is allowed.
///
/// # Errors
/// Says what is wrong with the text; nothing is rounded.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    parse(text, &SIZE_UNITS, &SIZE_SYNONYMS)
}

fn parse(
    text: &str,
    units: &[(&str, u64)],
    synonyms: &[(&str, &str)],
) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    let digits_end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (digits, rest) = trimmed.split_at(digits_end);
    let unit = rest.trim_start();
    if digits.is_empty() || unit.starts_with(['.', ',']) {
        return Err(QuantityError::NotANumber(text.to_owned()));
    }
    if unit.is_empty() {
        return Err(QuantityError::NoUnit(text.to_owned()));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let proposal = meant_unit(unit, units, synonyms).map(|unit| format!("{digits}{unit}"));
        return Err(QuantityError::UnknownUnit(
            text.to_owned(),
            unit.to_owned(),
            proposal,
        ));
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))
}

fn meant_unit<'a>(
    unit: &str,
    units: &[(&'a str, u64)],
    synonyms: &[(&str, &'a str)],
) -> Option<&'a str> {
    let synonym = synonyms
        .iter()
        .find(|(written, _)| *written == unit)
        .map(|(_, meant)| *meant);
    let other_case = || {
        units
            .iter()
            .map(|(name, _)| *name)
            .find(|name| name.eq_ignore_ascii_case(unit))
    };
    synonym.or_else(other_case)
}

/// Writes a duration the way [`parse_duration`] reads it, in the longest unit that is exact.
/// Parts below a millisecond, which no key can hold, are cut off.
#[derive(Clone, Copy, Debug)]
pub struct AsDuration(pub Duration);

impl fmt::Display for AsDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let exact = DURATION_UNITS
            .iter()
            .map(|(unit, nanos)| (unit, u128::from(*nanos) / 1_000_000))
            .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(f, "{}{unit}", millis / factor),
            None => f.write_str("0s"),
        }
    }
}

/// Writes a size the way [`parse_size`] reads it, in the largest unit that is exact.
#[derive(Clone, Copy, Debug)]
pub struct AsSize(pub u64);

impl fmt::Display for AsSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => f.write_str("0B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10 s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("5min"), Ok(Duration::from_mins(5)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_hours(1)));
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        assert_eq!(parse_size("16KiB"), Ok(16_384));
        assert_eq!(parse_size("64MB"), Ok(64_000_000));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        assert_eq!(
            parse_duration("15"),
            Err(QuantityError::NoUnit("15".into()))
        );
    }

    #[test]
    fn an_unknown_unit_comes_with_a_proposal() {
        assert_eq!(parse_duration("5m").unwrap_err().proposal(), Some("5min"));
        assert_eq!(parse_size("16kib").unwrap_err().proposal(), Some("16KiB"));
        assert_eq!(parse_duration("5 parsecs").unwrap_err().proposal(), None);
    }

    #[test]
    fn fractions_signs_and_overflow_are_refused() {
        assert!(matches!(
            parse_duration("1.5h"),
            Err(QuantityError::NotANumber(_))
        ));
        assert!(matches!(
            parse_duration("-1s"),
            Err(QuantityError::NotANumber(_))
        ));
        assert!(matches!(
            parse_duration(""),
            Err(QuantityError::NotANumber(_))
        ));
        assert!(matches!(
            parse_duration("99999999999h"),
            Err(QuantityError::TooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0_u64..1 << 40) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&AsDuration(duration).to_string()), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes: u64) {
            prop_assert_eq!(parse_size(&AsSize(bytes).to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_makes_a_quantity_panic(text in ".*") {
            drop((parse_duration(&text), parse_size(&text)));
        }
    }
}
