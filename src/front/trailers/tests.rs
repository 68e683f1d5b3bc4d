use super::*;

fn fields(names: &[&str]) -> HeaderMap {
    let name = |name: &&str| HeaderName::from_bytes(name.as_bytes()).unwrap();
    let value = HeaderValue::from_static("1");
    names.iter().map(|it| (name(it), value.clone())).collect()
}

fn passing(names: &[&str], which: Which) -> Vec<String> {
    let frame = settle(Frame::trailers(fields(names)), which);
    let mut passing: Vec<_> = frame
        .trailers_ref()
        .unwrap()
        .keys()
        .map(ToString::to_string)
        .collect();
    passing.sort();
    passing
}

const NEVER: [&str; 24] = [
    "content-length",
    "transfer-encoding",
    "trailer",
    "te",
    "connection",
    "keep-alive",
    "upgrade",
    "proxy",
    "proxy-authorization",
    "host",
    "forwarded",
    "authorization",
    "cookie",
    "set-cookie",
    "www-authenticate",
    "cache-control",
    "expect",
    "range",
    "if-match",
    "content-type",
    "content-encoding",
    "location",
    "x-request-id",
    "via",
];

#[test]
fn what_only_a_head_may_say_stands_behind_no_body() {
    for name in NEVER {
        assert_eq!(passing(&[name], may_end_request), [""; 0], "{name}");
        assert_eq!(passing(&[name], may_end_response), [""; 0], "{name}");
        let alike = name.replace('-', "_");
        assert_eq!(passing(&[&alike], may_end_request), [""; 0], "{alike}");
        assert_eq!(passing(&[&alike], may_end_response), [""; 0], "{alike}");
    }
}

#[test]
fn a_client_ends_its_body_with_digests_and_signatures_and_nothing_else() {
    let listed = [
        "content-digest",
        "repr-digest",
        "signature",
        "x-amz-checksum-crc32",
    ];
    for name in listed {
        assert_eq!(passing(&[name, "x-mine"], may_end_request), [name]);
    }
    let others = [
        "x-forwarded-for",
        "x-real-ip",
        "x_forwarded_for",
        "script_name",
        "remote-user",
        "x-http-method-override",
        "x-admin",
        "grpc-status",
        "content_digest",
    ];
    assert_eq!(passing(&others, may_end_request), [""; 0]);
}

#[test]
fn an_app_ends_its_body_with_what_it_likes_but_for_heads() {
    let own = [
        "etag",
        "grpc-message",
        "grpc-status",
        "my_key",
        "my-key-bin",
        "server-timing",
    ];
    let mut both = own.to_vec();
    both.extend(NEVER);
    let mut expected = own.map(String::from).to_vec();
    expected.sort();
    assert_eq!(passing(&both, may_end_response), expected);
}

#[test]
fn data_passes_untouched() {
    let frame = settle(Frame::data(Bytes::from_static(b"x")), may_end_request);
    assert_eq!(frame.into_data().unwrap(), "x");
}

#[test]
fn the_trailer_field_says_what_passes() {
    let announced = |names: &[&str], which| {
        let mut headers = fields(&["trailer", "host"]);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        announce(&mut headers, &names, which);
        assert!(headers.contains_key("host"));
        headers
            .get(TRAILER)
            .map(|it| it.to_str().unwrap().to_owned())
    };
    let names = ["Digest", "Cookie", "X-Mine", "", "a b", "\u{e9}"];
    assert_eq!(
        announced(&names, may_end_request).as_deref(),
        Some("digest")
    );
    assert_eq!(
        announced(&names, may_end_response).as_deref(),
        Some("digest, x-mine")
    );
    assert_eq!(announced(&["Cookie"], may_end_request), None);
}
