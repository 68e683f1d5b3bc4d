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
    assert_eq!(headers.len(), 4);
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
    let forwarded = "for=192.0.2.7;proto=https, for=10.1.2.3";
    assert_eq!(headers[FORWARDED], forwarded);
}

#[test]
fn a_v6_address_is_quoted_and_a_unix_peer_is_trusted_and_unknown() {
    let mut six = headers(&[("host", "a")]);
    let six_says = origin("2001:db8::1", "10.0.0.0/8").with_forwarded(true);
    six_says.describe(&mut six);
    assert_eq!(
        six[FORWARDED],
        "for=\"[2001:db8::1]\";host=\"a\";proto=\"http\""
    );
    let mut local = headers(&[("host", "a"), ("x-forwarded-for", "192.0.2.7")]);
    Origin::new(Peer::Local, None, &[]).describe(&mut local);
    assert_eq!(local[FOR], "192.0.2.7");
    assert!(!local.contains_key(FORWARDED));
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
    assert!(!headers.contains_key(FORWARDED));
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
        let stranger = || origin("192.0.2.7", "10.0.0.0/8");
        let mut said = headers.clone();
        stranger().with_forwarded(true).describe(&mut said);
        prop_assert_eq!(&said[FORWARDED], "for=192.0.2.7;host=\"a\";proto=\"http\"");
        stranger().describe(&mut headers);
        prop_assert_eq!(&headers[FOR], "192.0.2.7");
        prop_assert!(!headers.contains_key(FORWARDED));
    }
}

/// Whichever of the fields a proxy uses, the app finds the same in all.
#[test]
fn fields_never_contradict_each_other() {
    let described = |fields: &[(&str, &str)], says_forwarded| {
        let mut headers = headers(fields);
        headers.insert(HOST, HeaderValue::from_static("inner"));
        let proxy = origin("10.1.2.3", "10.0.0.0/8");
        let proxy = proxy.with_forwarded(says_forwarded);
        let client = proxy
            .claim(&headers)
            .client(&["10.0.0.0/8".parse().unwrap()]);
        proxy.describe(&mut headers);
        assert_eq!(client.as_deref(), Some("203.0.113.9"));
        headers
    };
    let x = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.org"),
    ];
    assert!(!described(&x, false).contains_key(FORWARDED));
    let said = described(&x, true);
    assert_eq!(
        said[FORWARDED],
        "for=203.0.113.9;host=\"example.org\";proto=\"https\", for=10.1.2.3"
    );
    let forwarded = [("forwarded", "for=203.0.113.9;proto=https;host=example.org")];
    for says_forwarded in [false, true] {
        let said = described(&forwarded, says_forwarded);
        assert_eq!(said[FOR], "203.0.113.9, 10.1.2.3");
        assert_eq!(said[PROTO], "https");
        assert_eq!(said[HOST_SEEN], "example.org");
        assert_eq!(
            said[FORWARDED],
            "for=203.0.113.9;proto=https;host=example.org, for=10.1.2.3"
        );
    }
}
