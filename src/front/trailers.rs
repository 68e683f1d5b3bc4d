//! What may stand behind a body: RFC 9110 section 6.5.1.
//!
//! Apps and proxies merge trailers into the head that they have long acted on. So a client's pass
//! only where they are known to belong there; an app's pass but for what heads alone may say, since
//! gRPC puts whatever it likes into them.

use super::claims;
use hyper::body::{Bytes, Frame};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, TRAILER};

/// Digests and signatures of the body, which are known at its end. One that ends in `-` stands for
/// all that begin so.
const OF_REQUESTS: [&str; 10] = [
    "content-digest",
    "digest",
    "repr-digest",
    "signature",
    "signature-input",
    "x-amz-checksum-",
    "x-amz-trailer-signature",
    "x-checksum",
    "x-checksum-",
    "x-goog-hash",
];

/// Of all whose names begin with `content-`, these say what only the end can tell: RFC 9530.
const OF_CONTENT: [&str; 2] = ["content-digest", "content-md5"];

/// They frame, route, authenticate, set cookies, or say how to treat what is gone by then.
const OF_HEADS: [&str; 45] = [
    "accept",
    "accept-",
    "access-control-",
    "age",
    "alt-svc",
    "authorization",
    "cache-control",
    "cdn-cache-control",
    "clear-site-data",
    "connection",
    "content-",
    "cookie",
    "cookie2",
    "date",
    "early-data",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "if-",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy",
    "proxy-",
    "range",
    "refresh",
    "retry-after",
    "sec-",
    "set-cookie",
    "set-cookie2",
    "status",
    "strict-transport-security",
    "surrogate-control",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
    "x-request-id",
];

/// Which names pass, in one of the directions.
pub(super) type Which = fn(&str) -> bool;

/// From a client to the app. `name` has no capitals.
pub(super) fn may_end_request(name: &str) -> bool {
    is_listed(&OF_REQUESTS, name)
}

/// From the app to a client. `name` has no capitals.
pub(super) fn may_end_response(name: &str) -> bool {
    !is_for_heads_only(&claims::as_apps_see(name))
}

/// `name` as apps see it.
pub(super) fn is_for_heads_only(name: &str) -> bool {
    is_listed(&OF_HEADS, name) && !OF_CONTENT.contains(&name)
}

fn is_listed(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| {
        let is_beginning = known.ends_with('-');
        name == *known || (is_beginning && name.starts_with(known))
    })
}

/// Of trailers leaves those that may pass; hyper ends the body without the rest.
pub(super) fn settle(frame: Frame<Bytes>, may_pass: Which) -> Frame<Bytes> {
    if !frame.is_trailers() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut fields) => {
            claims::keep(&mut fields, may_pass);
            Frame::trailers(fields)
        }
        Err(frame) => frame,
    }
}

/// Makes the `Trailer` field say what passes of `announced`, the names in it.
pub(super) fn announce(headers: &mut HeaderMap, announced: &[String], may_pass: Which) {
    headers.remove(TRAILER);
    let passing: Vec<String> = announced
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok() && may_pass(name))
        .collect();
    if !passing.is_empty()
        && let Ok(names) = HeaderValue::from_str(&passing.join(", "))
    {
        headers.insert(TRAILER, names);
    }
}

#[cfg(test)]
mod tests;
