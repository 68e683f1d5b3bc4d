//! What the fuzzers of the front's parsers call; see tests/fuzz.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "it finds by panicking"
)]

use super::claims;
use super::forwarded::{Origin, RequestIds};
use super::guard::{Guard, Verdict};
use super::parcel;
use super::proxy_header::{self, Parsed};
use super::stream::Peer;
use super::tunnel::frames::Frames;
use crate::link::seqpacket::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::fs::File;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

/// A byte that says whether the client is trusted, and fields of its request, as `name: value` lines.
///
/// # Panics
/// When one that is not trusted tells the app who it is.
pub fn forwarded(input: &[u8]) {
    let (first, fields) = input.split_first().unwrap_or((&0, &[]));
    let is_trusted = first % 2 == 1;
    let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let trusted = if is_trusted { vec![ip.into()] } else { vec![] };
    // So that all four are tried.
    let keeps_odd_names = fields.len() % 2 == 1;
    let says_forwarded = fields.len() % 4 >= 2;
    let origin = Origin::new(Peer::Ip(ip), None, &trusted)
        .with_odd_names(keeps_odd_names)
        .with_forwarded(says_forwarded);
    let mut headers = headers(fields);
    origin.describe(&mut headers);
    let id = origin.request_id(&mut headers, &RequestIds::new());
    let last = headers.get("x-forwarded-for").map(HeaderValue::as_bytes);
    assert!(last.is_some_and(|list| list.ends_with(b"192.0.2.7")));
    assert_eq!(headers.get("x-request-id"), Some(&id));
    if !is_trusted {
        assert_eq!(last, Some(b"192.0.2.7".as_slice()));
        let forwarded: Vec<_> = headers.get_all("forwarded").iter().collect();
        assert_eq!(forwarded.len(), usize::from(says_forwarded));
        let is_ours = |said: &&HeaderValue| said.as_bytes().starts_with(b"for=192.0.2.7;");
        assert!(forwarded.iter().all(is_ours), "{forwarded:?}");
        let ours = [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ];
        for name in headers.keys().map(HeaderName::as_str) {
            let is_theirs = !claims::is_claim(&claims::as_apps_see(name));
            assert!(is_theirs || ours.contains(&name), "{name}");
        }
    }
}

fn headers(fields: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in fields.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let name = halves.next().map(HeaderName::from_bytes);
        let value = halves.next().map(HeaderValue::from_bytes);
        if let (Some(Ok(name)), Some(Ok(value))) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// A byte that says how many fds came, and a message of a parcel with them.
///
/// # Panics
/// When it gives more or fewer connections than it had fds; or /dev/null cannot be opened.
pub fn parcel(input: &[u8]) {
    let (first, bytes) = input.split_first().unwrap_or((&0, &[]));
    let null = || OwnedFd::from(File::open("/dev/null").expect("/dev/null opens"));
    let fds: Vec<_> = iter::repeat_with(null).take((first % 4).into()).collect();
    let announced = fds.len();
    if let Ok(unpacked) = parcel::unpack(Incoming {
        bytes: bytes.to_vec(),
        fds,
        is_cut_off: false,
    }) {
        assert_eq!(unpacked.parked.len(), announced);
    }
}

/// A byte that says where to cut, and the bytes of a WebSocket.
///
/// # Panics
/// When it matters how they were cut into pieces.
pub fn frames(input: &[u8]) {
    let (cut, bytes) = input.split_first().unwrap_or((&0, &[]));
    let (first, second) = bytes.split_at(bytes.len().min((*cut).into()));
    let mut whole = Frames::default();
    whole.pass(bytes);
    let mut pieces = Frames::default();
    pieces.pass(first);
    assert!(pieces.until_boundary(second) <= second.len());
    pieces.pass(second);
    assert_eq!(whole.is_at_boundary(), pieces.is_at_boundary());
    assert_eq!(whole.has_closed(), pieces.has_closed());
}

/// What a load balancer says first.
///
/// # Panics
/// When less of it than a whole header is taken for one, or for none at all.
pub fn proxy_header(bytes: &[u8]) {
    let whole = proxy_header::parse(bytes);
    if let Ok(Parsed::Header { length, .. }) = whole {
        assert!(length <= bytes.len() && length <= proxy_header::BYTES_MAX);
        assert_eq!(proxy_header::parse(&bytes[..length]), whole);
        for less in 0..length {
            assert_eq!(proxy_header::parse(&bytes[..less]), Ok(Parsed::More));
        }
    }
}

/// Two bytes that say where to cut, and the bytes of a client's requests.
///
/// # Panics
/// When what has a fault depends on how they were cut into pieces, or the end of a line passes in
/// one cut and not in the other.
pub fn requests(input: &[u8]) {
    let (cut, bytes) = input.split_first_chunk().unwrap_or((&[0; 2], &[]));
    let (first, second) = bytes.split_at(bytes.len().min(u16::from_le_bytes(*cut).into()));
    let (whole, pieces) = (passing(&[bytes]), passing(&[first, second]));
    if !bytes.is_ascii() {
        // A character that is cut is encoded, one that is not is none of the guard's business.
        return;
    }
    assert_eq!(whole.1, pieces.1, "one has a fault");
    let (short, long) = if whole.0.len() < pieces.0.len() {
        (whole.0, pieces.0)
    } else {
        (pieces.0, whole.0)
    };
    let between = long.strip_prefix(&*short).expect("they differ");
    assert!(!between.contains(&b'\n'), "a line passes");
    assert!(whole.1 || between.is_empty());
}

/// Which bytes pass, and whether they ended with a fault.
fn passing(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut guard = Guard::new();
    let mut passed = Vec::new();
    for piece in pieces {
        let mut rest = piece.to_vec();
        while !rest.is_empty() {
            match guard.check(&rest) {
                Verdict::Pass => passed.append(&mut rest),
                Verdict::Hold(bytes) => {
                    assert!(bytes > 0, "it would never go on");
                    passed.extend(rest.drain(..bytes));
                }
                Verdict::Encode(bytes) => {
                    passed.extend(rest.drain(..bytes));
                    let encoded = guard.encoded(&rest);
                    assert!(encoded.len() > rest.len(), "it would never go on");
                    rest = encoded;
                }
                Verdict::Fault(bytes, _) => {
                    passed.extend(rest.drain(..bytes));
                    return (passed, true);
                }
            }
        }
    }
    (passed, false)
}

#[cfg(test)]
mod tests {
    use crate::replay::corpus;

    #[test]
    fn what_was_found_stays_found() {
        corpus("forwarded", super::forwarded);
        corpus("frames", super::frames);
        corpus("parcel", super::parcel);
        corpus("proxy_header", super::proxy_header);
        corpus("requests", super::requests);
    }
}
