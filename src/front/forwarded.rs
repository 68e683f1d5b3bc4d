//! What the app learns about the client: `X-Forwarded-*`, `Forwarded` (RFC 7239), `X-Request-Id`.
//!
//! What an untrusted client says about itself, in these fields and in those of [`claims`], never
//! reaches the app.

use super::claims::{self, Rules};
use super::introduction::Introduced;
use super::stream::Peer;
use hyper::body::Bytes;
use hyper::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST_SEEN: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Set on requests and on their responses.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Of a `Forwarded` field.
const END: &[u8] = b";proto=http";

const REQUEST_ID_BYTES_MAX: usize = 128;

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Of an id of ours: a number of 64 bits, and one of 32.
const ID_BYTES: usize = 24;

const IDS_AT_ONCE: usize = 64;

/// One client connection, as these fields describe it; made once per connection.
#[derive(Debug)]
pub(super) struct Origin {
    rules: Rules,
    /// None for a unix peer, which has no address.
    address: Option<HeaderValue>,
    /// `for=` of RFC 7239 section 6.
    node: String,
}

impl Origin {
    /// `introduced`: what a PROXY header said. Then the load balancer at the other end speaks no
    /// HTTP, and these fields are the client's own.
    pub(super) fn new(peer: Peer, introduced: Option<Introduced>, trusted: &[IpNet]) -> Self {
        match introduced {
            None => Self::of(peer, trusted),
            Some(Introduced::As(client)) => Self::of(Peer::Ip(client), trusted),
            Some(Introduced::AsNobody) => Self {
                rules: Rules::default(),
                ..Self::of(peer, trusted)
            },
        }
    }

    /// Names with other bytes than letters, digits and `-` may pass.
    pub(super) fn with_odd_names(mut self, keeps: bool) -> Self {
        self.rules.keeps_odd_names = keeps;
        self
    }

    fn of(peer: Peer, trusted: &[IpNet]) -> Self {
        match peer {
            Peer::Local => Self {
                rules: Rules::of_peer(true),
                address: None,
                node: "unknown".to_owned(),
            },
            Peer::Ip(ip) => Self {
                rules: Rules::of_peer(trusted.iter().any(|net| net.contains(&ip))),
                address: HeaderValue::from_str(&ip.to_string()).ok(),
                node: match ip {
                    IpAddr::V4(ip) => ip.to_string(),
                    IpAddr::V6(ip) => format!("\"[{ip}]\""),
                },
            },
        }
    }

    /// What tells who the client is. Cheap unless a proxy says something.
    pub(super) fn claim(&self, headers: &HeaderMap) -> Claim {
        Claim {
            peer: self.address.clone(),
            said: if self.rules.is_trusted {
                joined(headers, &FOR)
            } else {
                None
            },
        }
    }

    /// Sets the fields on their way to the app. `Host` must be settled already.
    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        let may_pass = |name: &str| claims::may_pass(name, self.rules);
        // One look at all names, as those of most requests pass.
        if !headers.keys().all(|name| may_pass(name.as_str())) {
            claims::keep(headers, may_pass);
        }
        self.extend_forwarded(headers);
        self.extend_for(headers);
        if !(self.rules.is_trusted && headers.contains_key(PROTO)) {
            headers.insert(PROTO, HeaderValue::from_static("http"));
        }
        if !(self.rules.is_trusted && headers.contains_key(HOST_SEEN)) {
            match headers.get(HOST).cloned() {
                Some(host) => drop(headers.insert(HOST_SEEN, host)),
                None => drop(headers.remove(HOST_SEEN)),
            }
        }
    }

    fn extend_for(&self, headers: &mut HeaderMap) {
        let Some(address) = &self.address else {
            if !self.rules.is_trusted {
                headers.remove(FOR);
            }
            return;
        };
        let before = if self.rules.is_trusted {
            joined(headers, &FOR)
        } else {
            None
        };
        let value = match before {
            None => Ok(address.clone()),
            Some(mut list) => {
                list.extend_from_slice(b", ");
                list.extend_from_slice(address.as_bytes());
                HeaderValue::from_bytes(&list)
            }
        };
        if let Ok(value) = value {
            headers.insert(FOR, value);
        }
    }

    fn extend_forwarded(&self, headers: &mut HeaderMap) {
        let before = if self.rules.is_trusted {
            joined(headers, &FORWARDED)
        } else {
            None
        };
        let mut parts: [&[u8]; 8] = [b"", b"", b"for=", self.node.as_bytes(), b"", b"", b"", END];
        if let Some(before) = &before {
            [parts[0], parts[1]] = [before.as_slice(), b", "];
        }
        // A Host that passed head::prepare_request has no quote and no backslash in it.
        if let Some(host) = headers.get(HOST).filter(|host| !host.is_empty()) {
            [parts[4], parts[5], parts[6]] = [b";host=\"", host.as_bytes(), b"\""];
        }
        // Not copied again.
        match HeaderValue::from_maybe_shared(Bytes::from(parts.concat())) {
            Ok(value) => drop(headers.insert(FORWARDED, value)),
            Err(_invalid) => drop(headers.remove(FORWARDED)),
        }
    }

    /// The request's id: its own if it may have one, else a new one.
    pub(super) fn request_id(&self, headers: &mut HeaderMap, ids: &RequestIds) -> HeaderValue {
        let own = headers
            .get(REQUEST_ID)
            .filter(|id| self.rules.is_trusted && is_sane_id(id));
        if let Some(own) = own {
            return own.clone();
        }
        let id = ids.next();
        headers.insert(REQUEST_ID, id.clone());
        id
    }
}

/// Who the client of a request is, as far as its proxies are believed.
#[derive(Debug)]
pub(super) struct Claim {
    peer: Option<HeaderValue>,
    /// X-Forwarded-For, of a trusted peer.
    said: Option<Vec<u8>>,
}

impl Claim {
    /// The nearest address that is not a trusted proxy's; the farthest where all are. None for a
    /// unix peer that says nothing.
    pub(super) fn client(&self, trusted: &[IpNet]) -> Option<String> {
        let peer = || Some(self.peer.as_ref()?.to_str().ok()?.to_owned());
        let Some(said) = self
            .said
            .as_deref()
            .and_then(|it| std::str::from_utf8(it).ok())
        else {
            return peer();
        };
        let mut nearest = None;
        // What stands left of something odd was not written by the proxy that we trust.
        for address in said.rsplit(',').map_while(|node| address_in(node.trim())) {
            nearest = Some(address.to_string());
            if !trusted.iter().any(|network| network.contains(&address)) {
                break;
            }
        }
        nearest.or_else(peer)
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`
fn address_in(node: &str) -> Option<IpAddr> {
    let bare = node.trim_start_matches('[').trim_end_matches(']');
    let with_port = || node.parse::<SocketAddr>().ok().map(|it| it.ip());
    bare.parse().ok().or_else(with_port)
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut values = headers.get_all(name).iter();
    let mut list = values.next()?.as_bytes().to_vec();
    for value in values {
        list.extend_from_slice(b", ");
        list.extend_from_slice(value.as_bytes());
    }
    Some(list)
}

/// Fields that say who asks, and under which id: no `Connection` field takes them away.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    name == REQUEST_ID || claims::is_claim(name.as_str())
}

fn is_sane_id(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte))
}

/// Makes ids that are unique without asking anyone: random at the birth of the lane, then counted.
#[derive(Debug)]
pub(super) struct RequestIds {
    prefix: String,
    count: Cell<u32>,
    /// The next ones, in one piece of memory.
    made: RefCell<Bytes>,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        // The one source of randomness in std: keys of the process from the kernel, and another
        // value for each state. Ids are names, not secrets.
        Self {
            prefix: format!("{:016x}", RandomState::new().hash_one("request id")),
            count: Cell::new(0),
            made: RefCell::default(),
        }
    }

    fn next(&self) -> HeaderValue {
        let mut made = self.made.borrow_mut();
        if made.is_empty() {
            *made = self.some();
        }
        let length = made.len().min(ID_BYTES);
        HeaderValue::from_maybe_shared(made.split_to(length))
            .unwrap_or_else(|_invalid| HeaderValue::from(self.count.get()))
    }

    /// An allocation and a format for each would be a part of what a small request costs.
    fn some(&self) -> Bytes {
        let mut some = Vec::with_capacity(IDS_AT_ONCE.saturating_mul(ID_BYTES));
        for _ in 0..IDS_AT_ONCE {
            let count = self.count.get();
            self.count.set(count.wrapping_add(1));
            some.extend_from_slice(self.prefix.as_bytes());
            let digits = (0..u32::BITS / 4)
                .rev()
                .map(|digit| (count >> (4 * digit)) & 15);
            some.extend(digits.filter_map(|digit| HEX_DIGITS.get(usize::try_from(digit).ok()?)));
        }
        Bytes::from(some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(ip: &str, trusted: &str) -> Origin {
        let peer = Peer::Ip(ip.parse().unwrap());
        Origin::new(peer, None, &[trusted.parse().unwrap()])
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn what_a_stranger_says_about_itself_is_replaced() {
        let mut headers = headers(&[
            ("host", "example.org"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-real-ip", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("content_length", "5"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        origin("192.0.2.7", "10.0.0.0/8").describe(&mut headers);
        assert_eq!(headers[FOR], "192.0.2.7");
        assert_eq!(headers[PROTO], "http");
        assert_eq!(headers[HOST_SEEN], "example.org");
        assert_eq!(
            headers[FORWARDED],
            "for=192.0.2.7;host=\"example.org\";proto=http"
        );
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn what_passes_depends_on_who_says_it() {
        let said = [
            ("host", "a"),
            ("x-forwarded-user", "1"),
            ("x_mine", "1"),
            ("x-mine", "1"),
        ];
        let described = |origin: Origin| {
            let mut headers = headers(&said);
            origin.describe(&mut headers);
            let passes = |name| headers.contains_key(name);
            assert!(passes("x-mine") && passes("host"));
            (passes("x-forwarded-user"), passes("x_mine"))
        };
        let stranger = || origin("192.0.2.7", "10.0.0.0/8");
        let proxy = || origin("10.1.2.3", "10.0.0.0/8");
        assert_eq!(described(stranger()), (false, false));
        assert_eq!(described(stranger().with_odd_names(true)), (false, true));
        assert_eq!(described(proxy()), (true, false));
        assert_eq!(described(proxy().with_odd_names(true)), (true, true));
        let local = || Origin::new(Peer::Local, None, &[]);
        assert_eq!(described(local()), (true, false));
        assert_eq!(described(local().with_odd_names(true)), (true, true));
    }

    #[test]
    fn ids_are_many_and_each_another_one() {
        let ids = RequestIds::new();
        let all: Vec<_> = (0..3 * IDS_AT_ONCE).map(|_| ids.next()).collect();
        assert!(all.iter().all(|id| id.len() == ID_BYTES));
        let last = all.last().unwrap().to_str().unwrap();
        assert!(last.ends_with("000000bf"), "{last}");
        let unique: std::collections::BTreeSet<_> = all.iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(unique.len(), all.len());
    }

    #[test]
    fn what_a_trusted_proxy_says_is_extended() {
        let mut headers = headers(&[
            ("host", "inner"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "192.0.2.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "example.org"),
            ("forwarded", "for=192.0.2.7;proto=https"),
        ]);
        origin("10.1.2.3", "10.0.0.0/8").describe(&mut headers);
        assert_eq!(headers[FOR], "192.0.2.7, 192.0.2.8, 10.1.2.3");
        assert_eq!(headers[PROTO], "https");
        assert_eq!(headers[HOST_SEEN], "example.org");
        let forwarded = "for=192.0.2.7;proto=https, for=10.1.2.3;host=\"inner\";proto=http";
        assert_eq!(headers[FORWARDED], forwarded);
    }

    #[test]
    fn a_v6_address_is_quoted_and_a_unix_peer_is_trusted_and_unknown() {
        let mut six = headers(&[("host", "a")]);
        origin("2001:db8::1", "10.0.0.0/8").describe(&mut six);
        assert_eq!(
            six[FORWARDED],
            "for=\"[2001:db8::1]\";host=\"a\";proto=http"
        );
        let mut local = headers(&[("host", "a"), ("x-forwarded-for", "192.0.2.7")]);
        Origin::new(Peer::Local, None, &[]).describe(&mut local);
        assert_eq!(local[FOR], "192.0.2.7");
        assert_eq!(local[FORWARDED], "for=unknown;host=\"a\";proto=http");
    }

    #[test]
    fn behind_a_load_balancer_the_client_is_who_the_proxy_header_names() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let described = |introduced| {
            let mut headers = headers(&[("host", "a"), ("x-forwarded-for", "1.1.1.1")]);
            let balancer = Peer::Ip("10.1.2.3".parse().unwrap());
            Origin::new(balancer, Some(introduced), &trusted).describe(&mut headers);
            headers
        };
        let as_ip = |text: &str| described(Introduced::As(text.parse().unwrap()));
        assert_eq!(as_ip("192.0.2.7")[FOR], "192.0.2.7");
        // A proxy behind the load balancer.
        assert_eq!(as_ip("10.9.9.9")[FOR], "1.1.1.1, 10.9.9.9");
        // That the load balancer is trusted says nothing of a client that it does not name.
        assert_eq!(described(Introduced::AsNobody)[FOR], "10.1.2.3");
        let local = Origin::new(Peer::Local, Some(Introduced::AsNobody), &trusted);
        let mut headers = headers(&[("host", "a"), ("forwarded", "for=1.1.1.1")]);
        headers.insert(FOR, HeaderValue::from_static("1.1.1.1"));
        local.describe(&mut headers);
        assert!(!headers.contains_key(FOR));
        assert_eq!(headers[FORWARDED], "for=unknown;host=\"a\";proto=http");
    }

    #[test]
    fn a_request_id_is_kept_only_from_those_we_trust_and_only_if_sane() {
        let ids = RequestIds::new();
        let trusted = origin("10.1.2.3", "10.0.0.0/8");
        let stranger = origin("192.0.2.7", "10.0.0.0/8");
        let given = || headers(&[("x-request-id", "abc-1")]);
        assert_eq!(trusted.request_id(&mut given(), &ids), "abc-1");
        assert_ne!(stranger.request_id(&mut given(), &ids), "abc-1");
        let mut odd = headers(&[("x-request-id", "a b\"c")]);
        let made = trusted.request_id(&mut odd, &ids);
        assert_eq!(odd[REQUEST_ID], made);
        assert_ne!(made, ids.next());
    }

    proptest! {
        #[test]
        fn no_field_of_a_stranger_reaches_the_app(value in "[ -~]{0,60}") {
            let mut headers = headers(&[("host", "a"), ("x-forwarded-for", &value), ("forwarded", &value)]);
            origin("192.0.2.7", "10.0.0.0/8").describe(&mut headers);
            prop_assert_eq!(&headers[FOR], "192.0.2.7");
            prop_assert_eq!(&headers[FORWARDED], "for=192.0.2.7;host=\"a\";proto=http");
        }
    }
}
