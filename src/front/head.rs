//! What a proxy must change in heads: RFC 9110 section 7.6 and RFC 9112 section 3.2.

mod host;

use super::forwarded;
use super::refusal::Refusal;
use super::trailers::{self, Which};
use super::tunnel::Protocol;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// CGI hands it to programs as HTTP_PROXY, which they take for their own proxy (httpoxy).
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// And what `Connection` lists; see [`concerns_a_proxy`].
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The longest method in IANA's registry has 18 letters.
const METHOD_BYTES_MAX: usize = 32;

/// Among the extensions of an OPTIONS: a target that was written with a scheme has no path. Its URI
/// does not tell, as it has a slash then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pathless;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A response.
    Response,
    /// To speak another protocol from now on, or a response.
    Upgrade,
    /// A tunnel to a host and port, or a response.
    Connect,
}

/// Whether an answer makes a tunnel of the connection: RFC 9110 sections 7.8 and 9.3.6.
pub(super) fn opens_tunnel(is_connect: bool, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success())
}

/// Nobody asked for a 101 without an upgrade. And hyper goes on with HTTP behind a 204 to CONNECT,
/// where RFC 9110 has a tunnel begin; an app that means one says 200.
pub(super) fn is_possible(wish: Wish, status: StatusCode) -> bool {
    match wish {
        Wish::Upgrade => true,
        Wish::Response => status != StatusCode::SWITCHING_PROTOCOLS,
        Wish::Connect => {
            status != StatusCode::SWITCHING_PROTOCOLS && status != StatusCode::NO_CONTENT
        }
    }
}

/// Makes a client's head one that can go to the app, CONNECT too. `body`: what hyper found.
///
/// # Errors
/// The refusal that the client gets instead.
pub(super) fn prepare_request(head: &mut Parts, body: BodyKind) -> Result<Wish, Refusal> {
    let is_connect = head.method == Method::CONNECT;
    // What a client sent to us would come back with our fields in it (RFC 9110 section 9.3.8).
    if !is_plausible(&head.method) || head.method == Method::TRACE {
        return Err(Refusal::BadMethod);
    }
    let upgrade = if head.headers.keys().any(concerns_a_proxy) {
        prepare_own_fields(head, body)?
    } else {
        None
    };
    if is_connect {
        host::settle_connect(head, body)?;
    } else {
        host::settle(head)?;
    }
    if body == BodyKind::Chunked {
        // Explicitly: hyper would send a GET of unknown length without its body.
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    pad_no_length(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let wish = match &upgrade {
        Some(_) => Wish::Upgrade,
        None if is_connect => Wish::Connect,
        None => Wish::Response,
    };
    set_upgrade(&mut head.headers, upgrade);
    Ok(wish)
}

/// Fields with which a proxy has to do something. One look at all names is cheaper than a search for
/// each, and many heads have none of them.
fn concerns_a_proxy(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "proxy"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// The protocols that are wanted instead.
fn prepare_own_fields(head: &mut Parts, body: BodyKind) -> Result<Option<HeaderValue>, Refusal> {
    take_expectation(head, body)?;
    let upgrade = wanted_upgrade(head, body);
    let accepts_trailers = accepts_trailers(&head.headers);
    remove_hop_by_hop(&mut head.headers);
    head.headers.remove(PROXY);
    if head.method != Method::CONNECT {
        // Else the app is the proxy that is asked, and who may use it is its matter.
        head.headers.remove(PROXY_AUTHORIZATION);
    }
    if accepts_trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    announce_trailers(
        &mut head.headers,
        match body {
            BodyKind::Chunked => trailers::may_end_request,
            // Then nothing stands behind it.
            BodyKind::Empty | BodyKind::Sized => |_| false,
        },
    );
    Ok(upgrade)
}

/// Methods are case-sensitive, and an app that takes `head` for `HEAD` answers without the body
/// that its length announces.
fn is_plausible(method: &Method) -> bool {
    let method = method.as_str();
    method.len() <= METHOD_BYTES_MAX && !method.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// An app hears of an expectation only when somebody waits for its word on it: RFC 9110 section
/// 10.1.1.
fn take_expectation(head: &mut Parts, body: BodyKind) -> Result<(), Refusal> {
    if head.version == Version::HTTP_11
        && tokens(&head.headers, &EXPECT).any(|word| !word.eq_ignore_ascii_case("100-continue"))
    {
        return Err(Refusal::ExpectationUnknown);
    }
    if !expects_continue(head, body) {
        head.headers.remove(EXPECT);
    }
    Ok(())
}

/// Whether the client sends its body only when told to.
pub(super) fn expects_continue(head: &Parts, body: BodyKind) -> bool {
    let is_expected = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    head.version == Version::HTTP_11
        && body != BodyKind::Empty
        && head.headers.get(EXPECT).is_some_and(is_expected)
}

/// The body of a request is here, `bytes` of it if that is all: whoever waits for a 100 has it, and the app is
/// told a length in place of chunks, which not all servers read.
pub(super) fn is_collected(headers: &mut HeaderMap, bytes: Option<u64>) {
    headers.remove(EXPECT);
    if let Some(bytes) = bytes
        && headers.remove(TRANSFER_ENCODING).is_some()
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// By nothing: there is none.
    Empty,
    /// By Content-Length.
    Sized,
    /// By chunks.
    Chunked,
}

/// What an answer's framing says about the connection that it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// It ends where it says.
    Clear,
    /// Bytes that do not belong to it may follow: the connection is not for another request.
    Doubtful,
    /// Two readings: it is no answer (RFC 9112 section 6.3).
    Broken,
}

/// hyper lets Transfer-Encoding win, merges lengths, and reads unknown codings to the end.
pub(super) fn framing<B>(method: &Method, response: &Response<B>) -> Framing {
    if opens_tunnel(*method == Method::CONNECT, response.status()) {
        // RFC 9110 section 9.3.6: whatever it says of a body, there is none.
        return Framing::Clear;
    }
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    let is_number =
        |value: &HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    let is_clear = lengths.next().is_none()
        && codings.next().is_none()
        && length.is_none_or(is_number)
        && coding.is_none_or(is_chunked)
        && !(length.is_some() && coding.is_some());
    let announces = match response.status() {
        StatusCode::NO_CONTENT => {
            coding.is_some() || length.is_some_and(|length| length.as_bytes() != b"0")
        }
        StatusCode::NOT_MODIFIED => coding.is_some(),
        // The body that some send after all may come late.
        _ => *method == Method::HEAD,
    };
    match (is_clear, announces) {
        (false, _) => Framing::Broken,
        (true, true) => Framing::Doubtful,
        (true, false) => Framing::Clear,
    }
}

/// Makes the app's head one that can go to the client.
pub(super) fn prepare_response(is_connect: bool, status: StatusCode, headers: &mut HeaderMap) {
    if headers.keys().any(concerns_a_proxy) {
        remove_hop_by_hop(headers);
        if !is_connect {
            headers.remove(PROXY_AUTHENTICATE);
        }
        announce_trailers(headers, trailers::may_end_response);
    }
    pad_no_length(headers);
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        // RFC 9110 section 8.6.
        headers.remove(CONTENT_LENGTH);
    }
}

/// Whether the app ends its connection with this answer: RFC 9112 section 9.3.
pub(super) fn says_close(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| tokens(headers, &CONNECTION).any(|it| it.eq_ignore_ascii_case(word));
    says("close") || (version == Version::HTTP_10 && !says("keep-alive"))
}

/// Makes the head of an answer that opens a tunnel one that can go to the client; what the app
/// switched to.
pub(super) fn prepare_switch(status: StatusCode, headers: &mut HeaderMap) -> Protocol {
    let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = headers.get(UPGRADE).filter(|_| is_upgrade).cloned();
    prepare_response(!is_upgrade, status, headers);
    headers.remove(CONTENT_LENGTH);
    let is_websocket = upgrade
        .as_ref()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    set_upgrade(headers, upgrade);
    if is_websocket {
        Protocol::WebSocket
    } else {
        Protocol::Other
    }
}

/// The protocols among which the app may choose: RFC 9110 section 7.8. A server may ignore the
/// wish, and does so with a body, which would have to be passed on first.
fn wanted_upgrade(head: &Parts, body: BodyKind) -> Option<HeaderValue> {
    let is_asked = head.version == Version::HTTP_11
        && head.method != Method::CONNECT
        && body == BodyKind::Empty
        && tokens(&head.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    if !is_asked {
        return None;
    }
    let protocols: Vec<&str> = tokens(&head.headers, &UPGRADE)
        .filter(|protocol| !protocol.is_empty() && !is_http(protocol))
        .collect();
    if protocols.is_empty() {
        return None;
    }
    HeaderValue::from_str(&protocols.join(", ")).ok()
}

/// Requests inside such a tunnel would reach the app past everything that we check and set: h2c
/// smuggling. Clients offer these without need, and get an ordinary response.
fn is_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or(protocol);
    ["h2c", "h2", "http", "tls"]
        .iter()
        .any(|http| name.trim().eq_ignore_ascii_case(http))
}

fn set_upgrade(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// What a field lists.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn announce_trailers(headers: &mut HeaderMap, may_pass: Which) {
    if headers.contains_key(TRAILER) {
        let announced: Vec<String> = tokens(headers, &TRAILER).map(str::to_owned).collect();
        trailers::announce(headers, &announced, may_pass);
    }
}

/// A length is a number, and so `0005` is 5; but some read it as octal, or give up.
fn pad_no_length(headers: &mut HeaderMap) {
    let Some([b'0', digits @ ..]) = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) else {
        return;
    };
    if digits.is_empty() {
        return;
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let plain = digits.get(zeros..).filter(|plain| !plain.is_empty());
    if let Ok(length) = HeaderValue::from_bytes(plain.unwrap_or(b"0")) {
        headers.insert(CONTENT_LENGTH, length);
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            // End-to-end by nature; listing them is an attack on what comes behind us.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH && !forwarded::is_ours(name))
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
