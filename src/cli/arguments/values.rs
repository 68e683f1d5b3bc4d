//! Values of options, read with a remedy for what cannot be meant.

use crate::api::HoldTimeError;
use crate::config::{QuantityError, parse_duration};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const TIMES: &str = "write a whole number with its unit: 500ms, 60s, 5min, 1h";

/// `60s`
pub fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| with_remedy(&error))
}

/// As long as `gapless hold` may hold.
pub fn hold_time(text: &str) -> Result<Duration, String> {
    crate::api::parse_hold(text).map_err(|error| match error {
        HoldTimeError::Quantity(error) => with_remedy(&error),
        HoldTimeError::Range { .. } => error.to_string(),
    })
}

fn with_remedy(error: &QuantityError) -> String {
    match error.proposal() {
        Some(proposal) => format!("{error}; did you mean {proposal}?"),
        None => format!("{error}; {TIMES}"),
    }
}

/// An address to listen on, also as people write it: `localhost`, `[::1]`.
pub fn host(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match bare.unwrap_or(text).parse() {
        Ok(address) => Ok(address),
        Err(_) if text == "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        Err(_) => Err(
            "it is no address; write 127.0.0.1 or ::1 for this machine, 0.0.0.0 or :: for everybody"
                .to_owned(),
        ),
    }
}

/// A port to listen on, which may also come from the variable `PORT`.
pub fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_no_number| {
        "it is no port; write a number up to 65535 after --port, or into the variable PORT"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn a_time_that_cannot_be_meant_says_how_to_write_one() {
        assert_eq!(time("60s"), Ok(Duration::from_mins(1)));
        let said = time("60").unwrap_err();
        assert_eq!(said, format!("\"60\" has no unit; {TIMES}"));
        assert!(time("1x").unwrap_err().contains("500ms"));
        assert!(
            time("2minutes")
                .unwrap_err()
                .ends_with("did you mean 2min?")
        );
        assert!(hold_time("5").unwrap_err().contains("500ms"));
        assert!(hold_time("1h").unwrap_err().contains("10min"));
    }

    #[test]
    fn a_port_is_a_number_of_16_bits() {
        assert_eq!(port("65535"), Ok(65_535));
        for wrong in ["", "abc", "65536", "-1", "80/tcp"] {
            assert!(port(wrong).unwrap_err().contains("PORT"), "{wrong}");
        }
    }

    #[test]
    fn an_address_may_be_written_as_people_do() {
        assert_eq!(host("localhost"), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(host("[::1]"), Ok(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(host("::"), Ok(Ipv6Addr::UNSPECIFIED.into()));
        for wrong in ["", "example.org", "[127.0.0.1", "127.0.0.1:80"] {
            assert!(host(wrong).unwrap_err().contains("0.0.0.0"), "{wrong}");
        }
    }
}
