//! What a proxy must change in heads: RFC 9110 section 7.6 and RFC 9112 section 3.2.

use super::forwarded;
use super::refusal::Refusal;
use super::tunnel::Protocol;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Response, StatusCode, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// CGI hands it to programs as HTTP_PROXY, which they take for their own proxy (httpoxy).
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// The longest method in IANA's registry has 18 letters.
const METHOD_BYTES_MAX: usize = 32;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A response.
    Response,
    /// To speak another protocol from now on, or a response.
    Upgrade,
}

/// Makes a client's head one that can go to the app. `body`: what hyper found.
///
/// # Errors
/// The refusal that the client gets instead.
pub(super) fn prepare_request(head: &mut Parts, body: BodyKind) -> Result<Wish, Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::ConnectUnsupported);
    }
    if !is_plausible(&head.method) {
        return Err(Refusal::BadMethod);
    }
    take_expectation(head, body)?;
    let upgrade = wanted_upgrade(head, body);
    let accepts_trailers = accepts_trailers(&head.headers);
    remove_hop_by_hop(&mut head.headers);
    head.headers.remove(PROXY_AUTHORIZATION);
    head.headers.remove(PROXY);
    if accepts_trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if body == BodyKind::Chunked {
        // Explicitly: hyper would send a GET of unknown length without its body.
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    name_the_host(head)?;
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let wish = match &upgrade {
        Some(_) => Wish::Upgrade,
        None => Wish::Response,
    };
    set_upgrade(&mut head.headers, upgrade);
    Ok(wish)
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
pub(super) fn prepare_response(status: StatusCode, headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHENTICATE);
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        // RFC 9110 section 8.6.
        headers.remove(CONTENT_LENGTH);
    }
}

/// Makes the head of a 101 one that can go to the client; what the app switched to.
pub(super) fn prepare_switch(headers: &mut HeaderMap) -> Protocol {
    let upgrade = headers.get(UPGRADE).cloned();
    prepare_response(StatusCode::SWITCHING_PROTOCOLS, headers);
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
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// One Host field, and a target in origin-form (or `*`): RFC 9112 section 3.2.
fn name_the_host(head: &mut Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    // An empty one is how to say that there is none.
    let is_usable = |host: &HeaderValue| host.is_empty() || is_authority(host.as_bytes());
    if second.is_some() || !first.is_none_or(is_usable) {
        return Err(Refusal::BadHost);
    }
    match (first.is_some(), head.version) {
        (true, _) => {}
        // HTTP/1.0 knows no Host; the app gets HTTP/1.1.
        (false, Version::HTTP_10) => {
            head.headers.insert(HOST, HeaderValue::from_static(""));
        }
        (false, _) => return Err(Refusal::BadHost),
    }
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
    let path = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use proptest::prelude::*;

    fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn prepared(target: &str, fields: &[(&str, &str)]) -> Result<Parts, Refusal> {
        let mut head = head("GET", target, fields);
        prepare_request(&mut head, BodyKind::Empty).map(|_| head)
    }

    #[test]
    fn hop_by_hop_fields_do_not_travel() {
        let head = prepared(
            "/",
            &[
                ("host", "a"),
                ("connection", "keep-alive, X-Private"),
                ("x-private", "1"),
                ("upgrade", "websocket"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic eDp5"),
                ("te", "gzip"),
                ("accept", "text/html"),
            ],
        )
        .unwrap();
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host"]);
    }

    #[test]
    fn a_wish_to_upgrade_travels_without_the_rest() {
        let fields = [
            ("host", "a"),
            ("connection", "keep-alive, Upgrade, x-private"),
            ("upgrade", "h2c, websocket"),
            ("upgrade", "HTTP/2.0"),
            ("x-private", "1"),
            ("sec-websocket-key", "k"),
        ];
        let mut head = head("GET", "/", &fields);
        let wish = prepare_request(&mut head, BodyKind::Empty);
        assert_eq!(wish, Ok(Wish::Upgrade));
        assert_eq!(head.headers[CONNECTION], "upgrade");
        assert_eq!(head.headers[UPGRADE], "websocket");
        assert!(head.headers.contains_key("sec-websocket-key"));
        assert!(!head.headers.contains_key("x-private"));
    }

    #[test]
    fn no_upgrade_to_http_none_with_a_body_and_none_from_http_1_0() {
        let wish = |protocol, body, version| {
            let fields = [
                ("host", "a"),
                ("connection", "upgrade"),
                ("upgrade", protocol),
            ];
            let mut head = head("GET", "/", &fields);
            head.version = version;
            let wish = prepare_request(&mut head, body).unwrap();
            assert_eq!(head.headers.contains_key(UPGRADE), wish == Wish::Upgrade);
            wish
        };
        let (empty, sized) = (BodyKind::Empty, BodyKind::Sized);
        assert_eq!(wish("h2c", empty, Version::HTTP_11), Wish::Response);
        assert_eq!(wish("echo", sized, Version::HTTP_11), Wish::Response);
        assert_eq!(wish("echo", empty, Version::HTTP_10), Wish::Response);
        assert_eq!(wish("echo", empty, Version::HTTP_11), Wish::Upgrade);
    }

    #[test]
    fn a_switch_keeps_what_it_switches_to() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(KEEP_ALIVE, HeaderValue::from_static("1"));
        assert_eq!(prepare_switch(&mut headers), Protocol::WebSocket);
        assert_eq!(headers[UPGRADE], "WebSocket");
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn te_trailers_travels_alone() {
        let head = prepared(
            "/",
            &[
                ("host", "a"),
                ("connection", "te"),
                ("te", "gzip, Trailers"),
            ],
        );
        assert_eq!(head.unwrap().headers[TE], "trailers");
    }

    #[test]
    fn a_connection_field_cannot_take_away_the_host_or_who_asks() {
        let head = prepared(
            "/",
            &[
                ("host", "a"),
                (
                    "connection",
                    "host, content-length, X-Forwarded-For, x-request-id",
                ),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-request-id", "1"),
            ],
        );
        let headers = head.unwrap().headers;
        assert_eq!(headers[HOST], "a");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-request-id"], "1");
    }

    #[test]
    fn a_request_needs_exactly_one_usable_host() {
        assert_eq!(prepared("/", &[]).unwrap_err(), Refusal::BadHost);
        let two = prepared("/", &[("host", "a"), ("host", "b")]);
        assert_eq!(two.unwrap_err(), Refusal::BadHost);
        assert_eq!(
            prepared("/", &[("host", "a b")]).unwrap_err(),
            Refusal::BadHost
        );
        assert_eq!(
            prepared("/", &[("host", "a/x")]).unwrap_err(),
            Refusal::BadHost
        );
        for host in [
            "[::1]:80",
            "[::1]",
            "a",
            "a:",
            "a:80",
            "",
            "127.0.0.1:65535",
            "a_b.c",
        ] {
            assert!(prepared("/", &[("host", host)]).is_ok(), "{host}");
        }
        for host in [
            "a,b", "a:b", "a:80:80", "u@a", "a:65536", ":80", "[::1", "[]", "[::1]x", "[a b]",
            "a\\b", "\"a\"",
        ] {
            assert!(prepared("/", &[("host", host)]).is_err(), "{host}");
        }
    }

    #[test]
    fn http_1_0_may_leave_the_host_out() {
        let mut head = head("GET", "/", &[]);
        head.version = Version::HTTP_10;
        prepare_request(&mut head, BodyKind::Empty).unwrap();
        assert_eq!(head.headers[HOST], "");
        assert_eq!(head.version, Version::HTTP_11);
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_a_host() {
        let head = prepared("http://example.org:81/a?b=1", &[("host", "other")]).unwrap();
        assert_eq!(head.headers[HOST], "example.org:81");
        assert_eq!(head.uri.to_string(), "/a?b=1");
        let bare = prepared("http://example.org", &[("host", "x")]).unwrap();
        assert_eq!(bare.uri.to_string(), "/");
        for (target, why) in [
            ("http://u:p@example.org/", Refusal::BadHost),
            ("ftp://example.org/", Refusal::BadTarget),
            ("example.org:80", Refusal::BadTarget),
        ] {
            let refused = prepared(target, &[("host", "other")]);
            assert_eq!(refused.unwrap_err(), why, "{target}");
        }
        let no_host = prepared("http://example.org/", &[]);
        assert_eq!(no_host.unwrap_err(), Refusal::BadHost);
    }

    #[test]
    fn the_asterisk_form_stays() {
        let mut head = head("OPTIONS", "*", &[("host", "a")]);
        prepare_request(&mut head, BodyKind::Empty).unwrap();
        assert_eq!(head.uri.to_string(), "*");
        let other = prepared("*", &[("host", "a")]);
        assert_eq!(other.unwrap_err(), Refusal::BadTarget);
    }

    #[test]
    fn an_expectation_travels_only_when_somebody_waits() {
        let expecting = |value, body, version| {
            let mut head = head("POST", "/", &[("host", "a"), ("expect", value)]);
            head.version = version;
            prepare_request(&mut head, body).map(|_| head.headers.contains_key(EXPECT))
        };
        let (one, zero) = (Version::HTTP_11, Version::HTTP_10);
        assert_eq!(expecting("100-Continue", BodyKind::Sized, one), Ok(true));
        assert_eq!(expecting("100-continue", BodyKind::Empty, one), Ok(false));
        assert_eq!(expecting("100-continue", BodyKind::Sized, zero), Ok(false));
        let unknown = Err(Refusal::ExpectationUnknown);
        assert_eq!(expecting("200-ok", BodyKind::Sized, one), unknown);
        assert_eq!(expecting("200-ok", BodyKind::Sized, zero), Ok(false));
    }

    #[test]
    fn a_method_is_in_capitals_and_short() {
        for method in ["get", "Head", "connect", &"M".repeat(33)] {
            let mut head = head(method, "/", &[("host", "a")]);
            let refused = prepare_request(&mut head, BodyKind::Empty);
            assert_eq!(refused, Err(Refusal::BadMethod), "{method}");
        }
        let mut head = head("M-SEARCH", "/", &[("host", "a")]);
        assert!(prepare_request(&mut head, BodyKind::Empty).is_ok());
    }

    #[test]
    fn an_answer_ends_where_it_says_or_is_none() {
        let of = |method: Method, status: u16, fields: &[(&str, &str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            framing(&method, &response.body(()).unwrap())
        };
        let (length, chunked) = (("content-length", "5"), ("transfer-encoding", "Chunked"));
        assert_eq!(of(Method::GET, 200, &[length]), Framing::Clear);
        assert_eq!(of(Method::GET, 200, &[chunked]), Framing::Clear);
        assert_eq!(of(Method::GET, 304, &[length]), Framing::Clear);
        assert_eq!(of(Method::GET, 200, &[length, length]), Framing::Broken);
        assert_eq!(of(Method::GET, 200, &[length, chunked]), Framing::Broken);
        assert_eq!(of(Method::GET, 200, &[chunked, chunked]), Framing::Broken);
        for odd in ["5, 5", "+5", "", "-1"] {
            let answer = of(Method::HEAD, 200, &[("content-length", odd)]);
            assert_eq!(answer, Framing::Broken, "{odd}");
        }
        let gzip = ("transfer-encoding", "gzip");
        assert_eq!(of(Method::GET, 200, &[gzip]), Framing::Broken);
        assert_eq!(of(Method::GET, 204, &[length]), Framing::Doubtful);
        assert_eq!(of(Method::GET, 304, &[chunked]), Framing::Doubtful);
        assert_eq!(of(Method::HEAD, 200, &[length]), Framing::Doubtful);
    }

    #[test]
    fn connect_is_refused() {
        let mut head = head("CONNECT", "a:80", &[("host", "a:80")]);
        let refused = prepare_request(&mut head, BodyKind::Empty);
        assert_eq!(refused, Err(Refusal::ConnectUnsupported));
    }

    #[test]
    fn a_chunked_get_stays_chunked() {
        let mut head = head(
            "GET",
            "/",
            &[("host", "a"), ("transfer-encoding", "chunked")],
        );
        prepare_request(&mut head, BodyKind::Chunked).unwrap();
        assert_eq!(head.headers[TRANSFER_ENCODING], "chunked");
    }

    proptest! {
        #[test]
        fn no_connection_field_makes_us_fail_or_lose_the_host(value in "[ -~]{0,40}") {
            let head = prepared("/", &[("host", "a"), ("connection", &value)]).unwrap();
            prop_assert_eq!(&head.headers[HOST], "a");
            prop_assert!(!head.headers.contains_key(CONNECTION));
            prop_assert!(!head.headers.contains_key(UPGRADE));
        }
    }
}
