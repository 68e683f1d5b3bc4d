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
fn what_is_said_to_a_proxy_does_not_travel_where_it_is_the_only_such_field() {
    let requests = [PROXY, PROXY_AUTHORIZATION, EXPECT];
    for name in HOP_BY_HOP.iter().chain(&requests) {
        let head = prepared("/", &[("host", "a"), (name.as_str(), "100-continue")]);
        assert!(!head.unwrap().headers.contains_key(name), "{name}");
    }
    for name in HOP_BY_HOP.iter().chain(&[PROXY_AUTHENTICATE]) {
        let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("a"))]);
        prepare_response(false, StatusCode::OK, &mut headers);
        assert!(headers.is_empty(), "{name}");
    }
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
    let protocol = prepare_switch(StatusCode::SWITCHING_PROTOCOLS, &mut headers);
    assert_eq!(protocol, Protocol::WebSocket);
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
                "host, content-length, X-Forwarded-For, x-request-id, X-Forwarded-User",
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
        "a,b", "a:b", "a:80:80", "u@a", "a:65536", ":80", "[::1", "[]", "[::1]x", "[a b]", "a\\b",
        "\"a\"",
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
fn options_of_a_whole_server_in_absolute_form_become_an_asterisk() {
    let of = |method, target| {
        let mut head = head(method, target, &[("host", "b")]);
        head.extensions.insert(Pathless);
        prepare_request(&mut head, BodyKind::Empty).unwrap();
        assert!(head.extensions.is_empty());
        head.uri.to_string()
    };
    assert_eq!(of("OPTIONS", "http://a"), "*");
    assert_eq!(of("OPTIONS", "HTTPS://a:80"), "*");
    assert_eq!(of("GET", "http://a"), "/");
    // Three marks, but no scheme.
    assert_eq!(of("OPTIONS", "/a/b"), "/a/b");
}

#[test]
fn a_length_travels_without_padding_in_both_directions() {
    for (padded, plain) in [
        ("0005", "5"),
        ("05", "5"),
        ("000", "0"),
        ("0", "0"),
        ("50", "50"),
        ("00000000000000000000000000000000000000050", "50"),
    ] {
        let mut request = head("POST", "/", &[("host", "a"), ("content-length", padded)]);
        prepare_request(&mut request, BodyKind::Sized).unwrap();
        assert_eq!(request.headers[CONTENT_LENGTH], plain);
        let value = HeaderValue::from_static(padded);
        let mut headers = HeaderMap::from_iter([(CONTENT_LENGTH, value)]);
        prepare_response(false, StatusCode::OK, &mut headers);
        assert_eq!(headers[CONTENT_LENGTH], plain);
    }
}

#[test]
fn the_trailer_field_agrees_with_what_passes() {
    let announced = |value, body| {
        let mut head = head("POST", "/", &[("host", "a"), ("trailer", value)]);
        prepare_request(&mut head, body).unwrap();
        head.headers.get(TRAILER).cloned()
    };
    let told = announced("Cookie, Digest , X-Real-IP", BodyKind::Chunked);
    assert_eq!(told.unwrap(), "digest");
    assert_eq!(announced("Cookie", BodyKind::Chunked), None);
    assert_eq!(announced("Digest", BodyKind::Sized), None);
    let value = HeaderValue::from_static("Set-Cookie, Grpc-Status");
    let mut headers = HeaderMap::from_iter([(TRAILER, value)]);
    prepare_response(false, StatusCode::OK, &mut headers);
    assert_eq!(headers[TRAILER], "grpc-status");
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
fn connect_names_a_host_and_a_port_once_and_the_app_sees_them_twice() {
    let of = |target: &str, fields: &[(&str, &str)], body| {
        let mut head = head("CONNECT", target, fields);
        let wish = prepare_request(&mut head, body)?;
        assert_eq!(wish, Wish::Connect);
        Ok((head.uri.to_string(), head.headers[HOST].clone()))
    };
    let with_host = |target, host| of(target, &[("host", host)], BodyKind::Empty);
    for (target, host) in [
        ("b.example:443", "B.example:443"),
        ("b.example:443", "b.example"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("[::1]:65535", "[::1]"),
    ] {
        let (uri, host) = with_host(target, host).unwrap();
        assert_eq!((uri.as_str(), host.to_str().unwrap()), (target, target));
    }
    for target in [
        "b",
        "b:",
        "b:0",
        "b:080",
        "b:65536",
        "[::1]",
        "u@b:443",
        "/a",
        "*",
        "http://b:443/",
        "b,c:443",
    ] {
        let refused = with_host(target, "b:443");
        assert_eq!(refused, Err(Refusal::BadConnect), "{target}");
    }
    for host in ["", "c", "c:443", "b:80", "b:443, b:443"] {
        assert_eq!(with_host("b:443", host), Err(Refusal::BadHost), "{host}");
    }
    assert_eq!(of("b:443", &[], BodyKind::Empty), Err(Refusal::BadHost));
    for body in [BodyKind::Sized, BodyKind::Chunked] {
        let refused = of("b:443", &[("host", "b:443")], body);
        assert_eq!(refused, Err(Refusal::BadConnect));
    }
}

#[test]
fn connect_upgrades_to_nothing_and_keeps_what_is_meant_for_a_proxy() {
    let fields = [
        ("host", "b:1"),
        ("connection", "upgrade"),
        ("upgrade", "echo"),
        ("content-length", "0"),
        ("proxy-authorization", "Basic eDp5"),
    ];
    let mut head = head("CONNECT", "b:1", &fields);
    let wish = prepare_request(&mut head, BodyKind::Empty);
    assert_eq!(wish, Ok(Wish::Connect));
    let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "proxy-authorization"]);
}

#[test]
fn a_2xx_to_connect_has_no_framing() {
    let (ok, denied) = (StatusCode::OK, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    let mut response = Response::builder()
        .header("content-length", "5")
        .header("content-length", "6");
    response = response
        .header("transfer-encoding", "chunked")
        .header("via", "x");
    let (mut head, ()) = response.body(()).unwrap().into_parts();
    let answer = Response::from_parts(head.clone(), ());
    assert_eq!(framing(&Method::CONNECT, &answer), Framing::Clear);
    assert_eq!(prepare_switch(ok, &mut head.headers), Protocol::Other);
    let names: Vec<_> = head.headers.keys().collect();
    assert_eq!(names, ["via"]);
    head.headers
        .insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic"));
    prepare_response(true, denied, &mut head.headers);
    assert!(head.headers.contains_key(PROXY_AUTHENTICATE));
    prepare_response(false, denied, &mut head.headers);
    assert!(!head.headers.contains_key(PROXY_AUTHENTICATE));
    let possible = |wish, status: u16| is_possible(wish, StatusCode::from_u16(status).unwrap());
    assert!(possible(Wish::Upgrade, 101) && possible(Wish::Connect, 200));
    assert!(!possible(Wish::Connect, 101) && !possible(Wish::Connect, 204));
    assert!(!possible(Wish::Response, 101) && possible(Wish::Response, 204));
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
