//! What the app learns about the client: `X-Forwarded-*`, `Forwarded` (RFC 7239), `X-Request-Id`.
//!
//! What an untrusted client says about itself, in these fields and in those of [`claims`], never
//! reaches the app.

mod rfc7239;

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
    /// Whether the app gets `Forwarded` where no trusted proxy sends it.
    says_forwarded: bool,
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

    /// The app gets `Forwarded` from us.
    pub(super) fn with_forwarded(mut self, says_forwarded: bool) -> Self {
        self.says_forwarded = says_forwarded;
        self
    }

    fn of(peer: Peer, trusted: &[IpNet]) -> Self {
        match peer {
            Peer::Local => Self {
                rules: Rules::of_peer(true),
                address: None,
                says_forwarded: false,
            },
            Peer::Ip(ip) => Self {
                rules: Rules::of_peer(trusted.iter().any(|net| net.contains(&ip))),
                address: HeaderValue::from_str(&ip.to_string()).ok(),
                says_forwarded: false,
            },
        }
    }

    /// What tells who the client is. Cheap unless a proxy says something.
    pub(super) fn claim(&self, headers: &HeaderMap) -> Claim {
        Claim {
            peer: self.address.clone(),
            said: self.said(headers, &FOR).or_else(|| {
                let said = self.said(headers, &FORWARDED)?;
                rfc7239::Said::of(&said)?.nodes.map(Vec::from)
            }),
        }
    }

    /// Sets the fields on their way to the app. `Host` must be settled already.
    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        let may_pass = |name: &str| claims::may_pass(name, self.rules);
        // One look at all names, as those of most requests pass.
        if !headers.keys().all(|name| may_pass(name.as_str())) {
            claims::keep(headers, may_pass);
        }
        let forwarded = self.said(headers, &FORWARDED);
        if let Some(said) = forwarded.as_deref().and_then(rfc7239::Said::of) {
            said.fill(headers);
        }
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
        self.set_forwarded(forwarded, headers);
    }

    /// By the proxy that the request comes from, if it is believed.
    fn said(&self, headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
        self.rules
            .is_trusted
            .then(|| joined(headers, name))
            .flatten()
    }

    fn extend_for(&self, headers: &mut HeaderMap) {
        let Some(address) = &self.address else {
            if !self.rules.is_trusted {
                headers.remove(FOR);
            }
            return;
        };
        let before = self.said(headers, &FOR);
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

    /// Apps that know it believe it before the others, so it is never there to say something else. What a
    /// trusted proxy said is extended by its address alone: the rest would describe our end of its
    /// connection.
    fn set_forwarded(&self, before: Option<Vec<u8>>, headers: &mut HeaderMap) {
        let value = match before {
            Some(mut list) => {
                let address = self.address.as_ref().and_then(|it| it.to_str().ok());
                list.extend_from_slice(b", ");
                list.extend_from_slice(rfc7239::node(address).as_bytes());
                Some(list)
            }
            None if self.says_forwarded => Some(rfc7239::as_said_by(headers)),
            None => None,
        };
        match value.map(|value| HeaderValue::from_maybe_shared(Bytes::from(value))) {
            Some(Ok(value)) => drop(headers.insert(FORWARDED, value)),
            Some(Err(_)) | None => drop(headers.remove(FORWARDED)),
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
mod tests;
