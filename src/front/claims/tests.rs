use super::*;
use proptest::prelude::*;

const STRANGER: Rules = Rules {
    is_trusted: false,
    keeps_odd_names: false,
};
const ODD_STRANGER: Rules = Rules {
    is_trusted: false,
    keeps_odd_names: true,
};
const PROXY: Rules = Rules {
    is_trusted: true,
    keeps_odd_names: false,
};
const ODD_PROXY: Rules = Rules {
    is_trusted: true,
    keeps_odd_names: true,
};

const CLAIMS: [&str; 44] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-uri",
    "x-forwarded-client-cert",
    "x-forwarded-by",
    "x-forwarded-ssl",
    "x-forwarded-whatever-comes-next",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-original-url",
    "x-rewrite-url",
    "x-original-forwarded-for",
    "x-envoy-external-address",
    "x-amzn-oidc-identity",
    "x-amzn-mtls-clientcert",
    "x-goog-authenticated-user-email",
    "x-ms-client-principal-name",
    "x-auth-request-user",
    "x-remote-user",
    "remote-user",
    "x-webauth-user",
    "x-ssl-client-verify",
    "ssl-client-cert",
    "client-cert",
    "x-client-cert",
    "x-sendfile-type",
    "x-accel-mapping",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "x-script-name",
    "wl-proxy-client-ip",
];

const OF_CLIENTS: [&str; 28] = [
    "host",
    "accept",
    "accept-language",
    "user-agent",
    "authorization",
    "cookie",
    "content-type",
    "content-length",
    "content-md5",
    "forwards",
    "if-none-match",
    "origin",
    "referer",
    "sec-fetch-mode",
    "sec-websocket-key",
    "traceparent",
    "x-amz-date",
    "x-amzn-trace-id",
    "x-api-key",
    "x-auth-token",
    "x-client-data",
    "x-client-version",
    "x-correlation-id",
    "x-csrf-token",
    "x-goog-channel-id",
    "x-http-method-override",
    "x-requested-with",
    "x-vercel-signature",
];

const VARIABLES: [&str; 12] = [
    "script_name",
    "path_info",
    "path_translated",
    "remote_addr",
    "remote_user",
    "request_uri",
    "server_name",
    "https",
    "auth_type",
    "document_root",
    "wsgi.url_scheme",
    "rack.url_scheme",
];

#[test]
fn what_only_a_proxy_can_know_is_no_strangers_to_say() {
    for name in CLAIMS {
        for rules in [STRANGER, ODD_STRANGER] {
            assert!(!may_pass(name, rules), "{name}");
        }
        for rules in [PROXY, ODD_PROXY] {
            assert!(may_pass(name, rules), "{name}");
        }
    }
}

#[test]
fn what_clients_say_of_their_own_passes() {
    for name in OF_CLIENTS {
        for rules in [STRANGER, ODD_STRANGER, PROXY, ODD_PROXY] {
            assert!(may_pass(name, rules), "{name}");
        }
    }
}

#[test]
fn odd_names_pass_only_where_somebody_wants_them() {
    for name in ["x_mine", "my.field", "~a", "a!b", "x-mine_", "a|b", "a'b"] {
        assert!(
            !may_pass(name, STRANGER) && !may_pass(name, PROXY),
            "{name}"
        );
        assert!(
            may_pass(name, ODD_STRANGER) && may_pass(name, ODD_PROXY),
            "{name}"
        );
    }
}

#[test]
fn a_lookalike_passes_for_nobody() {
    let meant_for_servers = [
        "content-length",
        "content-type",
        "transfer-encoding",
        "x-request-id",
        "proxy-authorization",
        "keep-alive",
        "http-host",
        "http-x-forwarded-for",
    ];
    let real = CLAIMS.iter().chain(&meant_for_servers);
    for name in real.filter(|name| name.contains('-') && !name.starts_with("remote-")) {
        for odd in "_.~!#$%&'*+^`|".chars() {
            let all = name.replace('-', &odd.to_string());
            let one = name.replacen('-', &odd.to_string(), 1);
            for rules in [STRANGER, ODD_STRANGER, PROXY, ODD_PROXY] {
                assert!(!may_pass(&all, rules), "{all}");
                assert!(!may_pass(&one, rules), "{one}");
            }
        }
    }
}

#[test]
fn a_variable_of_cgi_is_a_trusted_proxys_to_say_where_odd_names_pass() {
    for name in VARIABLES {
        assert!(!may_pass(name, STRANGER), "{name}");
        assert!(!may_pass(name, ODD_STRANGER), "{name}");
        assert!(
            !may_pass(&name.replace(['_', '.'], "-"), STRANGER),
            "{name}"
        );
        assert!(may_pass(name, ODD_PROXY), "{name}");
    }
    assert!(!may_pass("script_name", PROXY));
}

/// So that none is where no letters lead.
const PROXIES: usize = 84;

#[test]
fn every_name_stands_where_it_is_looked_up_and_in_the_manual() {
    let manual = include_str!("../../../packaging/man/gapless.toml.5");
    let letters = || (b'a'..=b'z').chain([b'-']);
    let starts = letters().flat_map(|one| letters().map(move |two| [one, two]));
    let starts = starts.flat_map(|[one, two]| letters().map(move |three| [one, two, three]));
    let mut proxies = 0;
    for start in starts {
        for name in of_proxies(start).iter().chain(of_cgi(start)) {
            assert!(is_plain(name) && start_of(name) == start, "{name}");
            assert!(is_claim(name), "{name}");
        }
        for name in of_proxies(start) {
            let star = if name.ends_with('-') { "*" } else { "" };
            let written = format!(".Li {name}{star}");
            let is_told = manual
                .lines()
                .any(|line| line.trim_end_matches([' ', ',', ';']) == written);
            assert!(is_told, "{name} is not in gapless.toml(5)");
            proxies += 1;
        }
    }
    assert_eq!(proxies, PROXIES);
}

proptest! {
    #[test]
    fn no_spelling_of_a_claim_passes_for_a_stranger(
        at in 0..CLAIMS.len(),
        odd in proptest::collection::vec("[-_.~!#$%&'*+^`|]", 8),
        keeps_odd_names: bool,
    ) {
        let mut odd = odd.into_iter().cycle();
        let spelled: String = CLAIMS[at]
            .chars()
            .map(|it| if it == '-' { odd.next().unwrap() } else { it.to_string() })
            .collect();
        let rules = Rules { is_trusted: false, keeps_odd_names };
        prop_assert!(!may_pass(&spelled, rules));
    }

    #[test]
    fn no_name_makes_us_fail(name in "[a-z0-9!#$%&'*+.^_`|~-]{0,40}") {
        for rules in [STRANGER, ODD_STRANGER, PROXY, ODD_PROXY] {
            may_pass(&name, rules);
        }
    }
}
