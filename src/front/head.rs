//! What a proxy must change in heads: RFC 9110 section 7.6 and RFC 9112 section 3.2.

use super::refusal::Refusal;
use super::tunnel::Protocol;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

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
    let upgrade = wanted_upgrade(head, body);
    let accepts_trailers = accepts_trailers(&head.headers);
    remove_hop_by_hop(&mut head.headers);
    head.headers.remove(PROXY_AUTHORIZATION);
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

/// Makes the app's head one that can go to the client.
pub(super) fn prepare_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHENTICATE);
}

/// Makes the head of a 101 one that can go to the client; what the app switched to.
pub(super) fn prepare_switch(headers: &mut HeaderMap) -> Protocol {
    let upgrade = headers.get(UPGRADE).cloned();
    prepare_response(headers);
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
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
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
    let is_well_formed = second.is_none() && first.is_none_or(is_authority);
    if !is_well_formed {
        return Err(Refusal::BadHost);
    }
    let has_host = first.is_some();
    if head.uri.scheme().is_some() {
        return take_absolute_form(head);
    }
    if head.uri.path_and_query().is_none() {
        return Err(Refusal::BadTarget);
    }
    match (has_host, head.version) {
        (true, _) => Ok(()),
        // HTTP/1.0 knows no Host; the app gets HTTP/1.1, where an empty one is how to say so.
        (false, Version::HTTP_10) => {
            head.headers.insert(HOST, HeaderValue::from_static(""));
            Ok(())
        }
        (false, _) => Err(Refusal::BadHost),
    }
}

/// The authority of the target wins over the Host field: RFC 9112 section 3.2.2.
fn take_absolute_form(head: &mut Parts) -> Result<(), Refusal> {
    let authority = head.uri.authority().ok_or(Refusal::BadTarget)?.as_str();
    // Credentials in a target are none of the app's business: RFC 9110 section 4.2.4.
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let host = HeaderValue::from_str(host).map_err(|_invalid| Refusal::BadHost)?;
    head.headers.insert(HOST, host);
    let path = head.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    Ok(())
}

fn is_authority(host: &HeaderValue) -> bool {
    host.as_bytes()
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
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
    fn a_connection_field_cannot_take_the_host_away() {
        let head = prepared(
            "/",
            &[("host", "a"), ("connection", "host, content-length")],
        );
        assert_eq!(head.unwrap().headers[HOST], "a");
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
        assert!(prepared("/", &[("host", "[::1]:80")]).is_ok());
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
        let head = prepared("http://u:p@example.org:81/a?b=1", &[("host", "other")]).unwrap();
        assert_eq!(head.headers[HOST], "example.org:81");
        assert_eq!(head.uri.to_string(), "/a?b=1");
        let bare = prepared("http://example.org", &[("host", "x")]).unwrap();
        assert_eq!(bare.uri.to_string(), "/");
    }

    #[test]
    fn the_asterisk_form_stays() {
        let mut head = head("OPTIONS", "*", &[("host", "a")]);
        prepare_request(&mut head, BodyKind::Empty).unwrap();
        assert_eq!(head.uri.to_string(), "*");
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
