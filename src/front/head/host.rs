//! Who is meant: the `Host` field and the target's authority, RFC 9112 sections 3.2 and 3.3.

use super::{BodyKind, Pathless};
use crate::front::refusal::Refusal;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Uri, Version};

/// One Host field, and a target in origin-form (or `*`): RFC 9112 section 3.2.
pub(super) fn settle(head: &mut Parts) -> Result<(), Refusal> {
    settle_host(head)?;
    if head.uri.scheme().is_some() {
        return take_absolute_form(head);
    }
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.starts_with('/') || (target == "*" && head.method == Method::OPTIONS) {
        Ok(())
    } else {
        Err(Refusal::BadTarget)
    }
}

/// A target in authority-form, a Host field that says the same, and no body: RFC 9112 section 3.2.3,
/// RFC 9110 section 9.3.6. The app sees both alike.
pub(super) fn settle_connect(head: &mut Parts, body: BodyKind) -> Result<(), Refusal> {
    settle_host(head)?;
    let is_bare = head.uri.scheme().is_none() && head.uri.path_and_query().is_none();
    let authority = head.uri.authority().filter(|_| is_bare);
    let target = authority.ok_or(Refusal::BadConnect)?.as_str();
    let (name, port) = target.rsplit_once(':').ok_or(Refusal::BadConnect)?;
    // With a zero in front it is 0, or padded to look like another.
    let is_port = !port.starts_with('0') && port.parse::<u16>().is_ok();
    if body != BodyKind::Empty || !is_port || !is_authority(target.as_bytes()) {
        return Err(Refusal::BadConnect);
    }
    let host = HeaderValue::from_str(target).map_err(|_invalid| Refusal::BadConnect)?;
    let found = head.headers.insert(HOST, host);
    let is_same = found.is_some_and(|found| {
        let is = |other: &str| found.as_bytes().eq_ignore_ascii_case(other.as_bytes());
        is(target) || is(name) || (found.is_empty() && head.version == Version::HTTP_10)
    });
    head.headers.remove(CONTENT_LENGTH);
    if is_same {
        Ok(())
    } else {
        Err(Refusal::BadHost)
    }
}

/// One Host field that is one.
fn settle_host(head: &mut Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    // An empty one is how to say that there is none.
    let is_usable = |host: &HeaderValue| host.is_empty() || is_authority(host.as_bytes());
    if second.is_some() || !first.is_none_or(is_usable) {
        return Err(Refusal::BadHost);
    }
    match (first.is_some(), head.version) {
        (true, _) => Ok(()),
        // HTTP/1.0 knows no Host; the app gets HTTP/1.1.
        (false, Version::HTTP_10) => {
            head.headers.insert(HOST, HeaderValue::from_static(""));
            Ok(())
        }
        (false, _) => Err(Refusal::BadHost),
    }
}

/// The authority of the target wins over the Host field: RFC 9112 section 3.2.2. One with
/// credentials is there to deceive: RFC 9110 section 4.2.4.
fn take_absolute_form(head: &mut Parts) -> Result<(), Refusal> {
    if !matches!(head.uri.scheme_str(), Some("http" | "https")) {
        return Err(Refusal::BadTarget);
    }
    let authority = head.uri.authority().ok_or(Refusal::BadTarget)?.as_str();
    if !is_authority(authority.as_bytes()) {
        return Err(Refusal::BadHost);
    }
    let host = HeaderValue::from_str(authority).map_err(|_invalid| Refusal::BadHost)?;
    head.headers.insert(HOST, host);
    head.uri = Uri::from(path_meant(head));
    Ok(())
}

/// Without a path and a query it is a slash; but OPTIONS then asks the server, and not for a resource:
/// RFC 9112 section 3.2.4.
fn path_meant(head: &Parts) -> PathAndQuery {
    if head.method == Method::OPTIONS && head.extensions.get::<Pathless>().is_some() {
        return PathAndQuery::from_static("*");
    }
    let path = head.uri.path_and_query().cloned();
    path.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// A name or an address, and a port: RFC 3986 section 3.2, but no comma, which joins two fields to
/// a list.
fn is_authority(authority: &[u8]) -> bool {
    let end = match authority {
        [b'[', ..] => authority.iter().position(|byte| *byte == b']'),
        _ => authority.iter().position(|byte| *byte == b':'),
    };
    match (authority, end) {
        ([b'[', address @ ..], Some(end)) => {
            let (inside, port) = address.split_at(end.saturating_sub(1));
            let is_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            !inside.is_empty()
                && inside.iter().all(is_address)
                && is_port(port.get(1..).unwrap_or_default())
        }
        ([b'[', ..], None) => false,
        (_, Some(end)) => {
            let (name, port) = authority.split_at(end);
            is_name(name) && is_port(port)
        }
        (_, None) => is_name(authority),
    }
}

fn is_name(name: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    !name.is_empty() && name.iter().all(is_allowed)
}

/// Nothing, or a colon and a number; RFC 3986 allows the number to be missing.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            let number = std::str::from_utf8(digits).unwrap_or_default();
            digits.iter().all(u8::is_ascii_digit) && number.parse::<u16>().is_ok()
        }
        _ => false,
    }
}
