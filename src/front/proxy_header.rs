//! The PROXY protocol, versions 1 and 2: what a load balancer says before the first byte of HTTP
//! about whose connection it passes on. Of proxy-protocol.txt by HAProxy, sections 2.1 and 2.2.
//!
//! Pure, and asked anew with all bytes so far each time that more came: so it does not matter how
//! they were split. A byte that cannot belong to a header is an error at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a header, of either version. The protocol allows 64 KiB; the largest that are seen are
/// a few hundred bytes, more with the certificates of clients in them.
pub(super) const BYTES_MAX: usize = 4096;

/// With its CRLF.
const V1_BYTES_MAX: usize = 107;

const V1_BEGIN: &[u8] = b"PROXY ";

const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The above, version and command, family and protocol, and the length of what follows.
const V2_FIXED_BYTES: usize = 16;

/// `PP2_TYPE_CRC32C`
const CRC32C: u8 = 0x03;

/// As far as the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a header.
    More,
    /// A whole one.
    Header {
        /// What follows it is the client's.
        length: usize,
        /// None where it does not say: the load balancer itself (its health check), or a client
        /// without an IP address.
        client: Option<IpAddr>,
    },
}

/// What is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    #[error("it begins with neither version of a PROXY header")]
    Missing,
    #[error(
        "its PROXY header is longer than {BYTES_MAX} bytes, or than {V1_BYTES_MAX} in version 1"
    )]
    TooLong,
    #[error("its PROXY header is malformed")]
    Malformed,
    #[error("the checksum in its PROXY header is wrong")]
    Checksum,
}

/// See the module.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let begins = |begin: &[u8]| bytes.iter().zip(begin).all(|(is, meant)| is == meant);
    if begins(V1_BEGIN) {
        return parse_v1(bytes);
    }
    if begins(V2_BEGIN) {
        return parse_v2(bytes);
    }
    Err(ProxyHeaderError::Missing)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let within = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX {
            Ok(Parsed::More)
        } else {
            Err(ProxyHeaderError::TooLong)
        };
    };
    let line = bytes.get(V1_BEGIN.len()..end);
    let line = line.and_then(|line| str::from_utf8(line).ok());
    Ok(Parsed::Header {
        length: end.saturating_add(2),
        client: v1_client(line.ok_or(ProxyHeaderError::Malformed)?)?,
    })
}

fn v1_client(line: &str) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever follows is to be ignored.
        return Ok(None);
    }
    let mut address = || {
        let word = words.next()?;
        match family {
            Some("TCP4") => word.parse().ok().map(IpAddr::V4),
            Some("TCP6") => word.parse().ok().map(IpAddr::V6),
            Some(_) | None => None,
        }
    };
    let (client, server) = (address(), address());
    let (client_port, server_port) = (words.next(), words.next());
    let has_ports = [client_port, server_port].into_iter().all(is_port);
    match (client, server, words.next()) {
        (Some(client), Some(_), None) if has_ports => Ok(Some(client.to_canonical())),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

fn is_port(word: Option<&str>) -> bool {
    word.is_some_and(|word| {
        word.bytes().all(|byte| byte.is_ascii_digit())
            && (word == "0" || !word.starts_with('0'))
            && word.parse::<u16>().is_ok()
    })
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(Parsed::More);
    };
    let [.., command, family, high, low] = *fixed;
    let announced = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED_BYTES.saturating_add(announced);
    if length > BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    // Known before the rest is here, so that nobody waits for the rest of nonsense.
    let is_proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(ProxyHeaderError::Malformed),
    };
    let (Some(block), Some(header)) = (rest.get(..announced), bytes.get(..length)) else {
        return Ok(Parsed::More);
    };
    let client = if is_proxied {
        v2_client(family, block, header)?
    } else {
        None
    };
    Ok(Parsed::Header { length, client })
}

fn v2_client(family: u8, block: &[u8], header: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let malformed = ProxyHeaderError::Malformed;
    let (client, address_bytes) = match family {
        // Without an address, and without a known place for what follows.
        0x00 => return Ok(None),
        0x11 | 0x12 => {
            let octets = block.first_chunk::<4>().ok_or(malformed)?;
            (Some(IpAddr::V4(Ipv4Addr::from(*octets))), 12)
        }
        0x21 | 0x22 => {
            let octets = block.first_chunk::<16>().ok_or(malformed)?;
            (Some(IpAddr::V6(Ipv6Addr::from(*octets))), 36)
        }
        0x31 | 0x32 => (None, 216),
        _ => return Err(malformed),
    };
    check_additions(block.get(address_bytes..).ok_or(malformed)?, header)?;
    Ok(client.map(|ip| ip.to_canonical()))
}

/// Nothing in them is of use to us, but where they stand must make sense, and a checksum must be
/// right.
fn check_additions(mut rest: &[u8], header: &[u8]) -> Result<(), ProxyHeaderError> {
    while !rest.is_empty() {
        let (begin, more) = rest
            .split_first_chunk::<3>()
            .ok_or(ProxyHeaderError::Malformed)?;
        let [kind, high, low] = *begin;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, more) = more
            .split_at_checked(length)
            .ok_or(ProxyHeaderError::Malformed)?;
        if kind == CRC32C {
            let announced = <[u8; 4]>::try_from(value);
            let announced = announced.map_err(|_other_length| ProxyHeaderError::Malformed)?;
            let before = header.len().saturating_sub(more.len().saturating_add(4));
            if crc32c(header, before) != u32::from_be_bytes(announced) {
                return Err(ProxyHeaderError::Checksum);
            }
        }
        rest = more;
    }
    Ok(())
}

/// Castagnoli's, of `header` with zeros at the four bytes from `zeros` on. Bit by bit: it is rare,
/// and at most [`BYTES_MAX`].
fn crc32c(header: &[u8], zeros: usize) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in header.iter().enumerate() {
        let is_zeroed = at >= zeros && at < zeros.saturating_add(4);
        crc ^= u32::from(if is_zeroed { 0 } else { *byte });
        for _bit in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2_BEGIN, &[command, family], &length, block].concat()
    }

    /// 192.0.2.7:1 to 192.0.2.8:2.
    const BLOCK: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 8, 0, 1, 0, 2];

    fn client(bytes: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
        match parse(bytes)? {
            Parsed::Header { length, client } => {
                assert_eq!(length, bytes.len());
                Ok(client)
            }
            Parsed::More => panic!("{bytes:?} is only a beginning"),
        }
    }

    fn is(header: &[u8], ip: &str) {
        assert_eq!(client(header), Ok(Some(ip.parse().unwrap())));
    }

    /// With a right checksum.
    fn checked() -> Vec<u8> {
        let mut header = v2(
            0x21,
            0x11,
            &[&BLOCK[..], &[0x03, 0, 4, 0, 0, 0, 0], &[0x04, 0, 1, 9]].concat(),
        );
        let at = V2_FIXED_BYTES + 12 + 3;
        let crc = crc32c(&header, at).to_be_bytes();
        header[at..at + 4].copy_from_slice(&crc);
        header
    }

    #[test]
    fn version_1_names_the_client() {
        is(b"PROXY TCP4 192.0.2.7 192.0.2.8 56324 443\r\n", "192.0.2.7");
        is(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n",
            "2001:db8::1",
        );
        is(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7");
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), Ok(None));
        let ignored = client(b"PROXY UNKNOWN ffff::1 nonsense\r\n");
        assert_eq!(ignored, Ok(None));
    }

    #[test]
    fn version_1_has_exactly_one_form() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1 2 \r\n",
            "PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1 65536\r\n",
            "PROXY TCP4 192.0.2.07 192.0.2.8 1 2\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY tcp4 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.7\n192.0.2.8 1 2\r\n",
        ] {
            let parsed = parse(line.as_bytes());
            assert_eq!(parsed, Err(ProxyHeaderError::Malformed), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Err(ProxyHeaderError::TooLong));
    }

    #[test]
    fn a_version_1_line_may_have_107_bytes() {
        let line = |filling: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(filling));
        assert_eq!(line(91).len(), V1_BYTES_MAX);
        assert_eq!(client(line(91).as_bytes()), Ok(None));
        let longer = parse(line(92).as_bytes());
        assert_eq!(longer, Err(ProxyHeaderError::TooLong));
    }

    #[test]
    fn version_2_names_the_client() {
        is(&v2(0x21, 0x11, &BLOCK), "192.0.2.7");
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        six[15] = 1;
        is(&v2(0x21, 0x21, &six), "2001:db8::1");
    }

    #[test]
    fn version_2_may_leave_the_client_unnamed() {
        assert_eq!(client(&v2(0x20, 0x00, &[])), Ok(None));
        // The family of LOCAL means nothing, nor does what follows.
        assert_eq!(client(&v2(0x20, 0x11, &BLOCK)), Ok(None));
        assert_eq!(client(&v2(0x20, 0xff, b"?")), Ok(None));
        assert_eq!(client(&v2(0x21, 0x00, b"???")), Ok(None));
        assert_eq!(client(&v2(0x21, 0x31, &[0; 216])), Ok(None));
    }

    #[test]
    fn version_2_is_refused_where_it_makes_no_sense() {
        let malformed = Err(ProxyHeaderError::Malformed);
        for (command, family, block) in [
            (0x11, 0x11, &BLOCK[..]),
            (0x22, 0x11, &BLOCK[..]),
            (0x21, 0x13, &BLOCK[..]),
            (0x21, 0x41, &BLOCK[..]),
            (0x21, 0x11, &BLOCK[..11]),
            (0x21, 0x21, &BLOCK[..]),
            (0x21, 0x31, &BLOCK[..]),
            (0x21, 0x11, &[&BLOCK[..], &[4, 0]].concat()[..]),
            (0x21, 0x11, &[&BLOCK[..], &[4, 0, 2, 0]].concat()[..]),
            (0x21, 0x11, &[&BLOCK[..], &[3, 0, 1, 0]].concat()[..]),
        ] {
            let parsed = client(&v2(command, family, block));
            assert_eq!(parsed, malformed, "{command:x} {family:x} {block:?}");
        }
        let long = v2(0x21, 0x11, &[0; BYTES_MAX]);
        let begin = parse(&long[..V2_FIXED_BYTES]);
        assert_eq!(begin, Err(ProxyHeaderError::TooLong));
    }

    #[test]
    fn a_checksum_is_checked_and_other_additions_are_skipped() {
        is(&checked(), "192.0.2.7");
        let mut wrong = checked();
        wrong[V2_FIXED_BYTES] ^= 1;
        assert_eq!(client(&wrong), Err(ProxyHeaderError::Checksum));
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789", usize::MAX), 0xe306_9283);
    }

    #[test]
    fn http_is_told_from_a_header_by_its_first_byte() {
        for bytes in [&b"G"[..], b"POST", b"PROXY\r", b"\r\nGET", b"\x16\x03\x01"] {
            assert_eq!(parse(bytes), Err(ProxyHeaderError::Missing), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(Parsed::More));
        assert_eq!(parse(b"\r\n\r\n"), Ok(Parsed::More));
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"PROXY TCP4 192.0.2.7 192.0.2.8 56324 443\r\n".to_vec()),
            Just(b"PROXY UNKNOWN\r\n".to_vec()),
            Just(checked()),
            Just(v2(0x20, 0, &[])),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|block| v2(0x21, 0x00, &block)),
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(header in headers(), rest in prop::collection::vec(any::<u8>(), 0..50)) {
            let whole = parse(&header);
            let is_whole = matches!(whole, Ok(Parsed::Header { length, .. }) if length == header.len());
            prop_assert!(is_whole);
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end]), Ok(Parsed::More), "{}", end);
            }
            prop_assert_eq!(parse(&[header, rest].concat()), whole);
        }

        #[test]
        fn a_decision_stands_whatever_follows(
            begin in prop_oneof![Just(V1_BEGIN), Just(V2_BEGIN), Just(&b""[..]), Just(&b"PROXY TCP4 "[..])],
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let all = [begin, &bytes].concat();
            let mut decided = None;
            for end in 0..=all.len() {
                let parsed = parse(&all[..end]);
                match decided {
                    None if parsed == Ok(Parsed::More) => {}
                    None => decided = Some(parsed),
                    Some(decided) => prop_assert_eq!(parsed, decided),
                }
            }
            if let Some(Ok(Parsed::Header { length, .. })) = decided {
                prop_assert!(length <= BYTES_MAX.min(all.len()));
            }
        }

        #[test]
        fn what_version_1_says_is_read(ip: Ipv6Addr, four: Ipv4Addr, port: u16) {
            let line = format!("PROXY TCP6 {ip} ::1 {port} 1\r\n");
            prop_assert_eq!(client(line.as_bytes()), Ok(Some(IpAddr::V6(ip).to_canonical())));
            let line = format!("PROXY TCP4 {four} 127.0.0.1 1 {port}\r\n");
            prop_assert_eq!(client(line.as_bytes()), Ok(Some(IpAddr::V4(four))));
        }
    }
}
