//! Names of fields by which a proxy says who asks, how and for what: believed by apps and
//! frameworks, so only a trusted proxy may use them.
//!
//! CGI and its heirs (WSGI, Rack, PHP) make a variable of each name, and many bytes become `_` on the
//! way. So names are compared as such apps see them: what is no letter and no digit is a `-`.

use super::trailers;
use hyper::header::{HeaderMap, HeaderName};
use std::borrow::Cow;

/// What the names of a client may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// A trusted proxy's.
    pub(super) is_trusted: bool,
    /// `odd_field_names`: names with other bytes than letters, digits and `-` pass.
    pub(super) keeps_odd_names: bool,
}

impl Rules {
    pub(super) fn of_peer(is_trusted: bool) -> Self {
        Self {
            is_trusted,
            keeps_odd_names: false,
        }
    }
}

/// How a name begins. No name below is shorter.
type Start = [u8; 3];

/// Those of proxies, load balancers and their modules, by their first letters: most fields begin like
/// none of these, and are compared with nothing. A name that ends in `-` stands for all that begin so.
const fn of_proxies(start: Start) -> &'static [&'static str] {
    match &start {
        b"aka" => &["akamai-"],
        b"cf-" => &["cf-"],
        b"cli" => &["client-cert", "client-cert-", "client-ip"],
        b"fas" => &["fastly-"],
        b"fly" => &["fly-"],
        b"for" => &["forwarded", "forwarded-"],
        b"fro" => &["front-end-https"],
        b"pro" => &["proxy-client-ip", "proxy-user"],
        b"ssl" => &["ssl-"],
        b"tai" => &["tailscale-"],
        b"tru" => &["true-client-ip"],
        b"wl-" => &["wl-proxy-"],
        b"x-a" => &[
            "x-accel-",
            "x-akamai-",
            "x-amzn-mtls-",
            "x-amzn-oidc-",
            "x-amzn-tls-",
            "x-anonymous-consumer",
            "x-appengine-",
            "x-arr-",
            "x-auth-request-",
            "x-authenticated-",
            "x-authentik-",
            "x-azure-",
        ],
        b"x-c" => &[
            "x-client-cert",
            "x-client-cert-",
            "x-client-dn",
            "x-client-ip",
            "x-client-ssl-",
            "x-client-verify",
            "x-clientcert",
            "x-cluster-client-ip",
            "x-coming-from",
            "x-consumer-",
            "x-credential-identifier",
        ],
        b"x-e" => &["x-envoy-"],
        b"x-f" => &["x-forwarded", "x-forwarded-", "x-forwarder-for"],
        b"x-g" => &["x-goog-authenticated-user-", "x-goog-iap-"],
        b"x-h" => &["x-host", "x-http-host-override", "x-https"],
        b"x-m" => &[
            "x-ms-client-principal",
            "x-ms-client-principal-",
            "x-ms-token-",
        ],
        b"x-n" => &["x-nf-client-connection-ip"],
        b"x-o" => &[
            "x-original-for",
            "x-original-forwarded-",
            "x-original-host",
            "x-original-ip",
            "x-original-method",
            "x-original-proto",
            "x-original-remote-",
            "x-original-scheme",
            "x-original-uri",
            "x-original-url",
            "x-originating-ip",
        ],
        b"x-p" => &["x-pomerium-", "x-proto", "x-proxyuser-ip"],
        b"x-r" => &["x-real-", "x-remote-", "x-rewrite-"],
        b"x-s" => &[
            "x-scheme",
            "x-script-name",
            "x-sendfile",
            "x-sendfile-",
            "x-ssl",
            "x-ssl-",
        ],
        b"x-t" => &["x-tls-", "x-true-client-ip"],
        b"x-u" => &["x-url-scheme"],
        b"x-v" => &[
            "x-vercel-forwarded-",
            "x-vercel-ip-",
            "x-vercel-proxied-",
            "x-vouch-",
        ],
        b"x-w" => &["x-webauth-", "x-wl-proxy-"],
        _ => &[],
    }
}

/// The variables of CGI, WSGI and Rack themselves, which say where a request came in: gunicorn takes
/// SCRIPT_NAME and PATH_INFO of a client on 127.0.0.1, and that is us.
const fn of_cgi(start: Start) -> &'static [&'static str] {
    match &start {
        b"aut" => &["auth-type", "auth-user"],
        b"con" => &["context-document-root", "context-prefix"],
        b"doc" => &["document-root", "document-uri"],
        b"gat" => &["gateway-interface"],
        b"htt" => &["https", "https-"],
        b"ori" => &["orig-path-info", "orig-script-name"],
        b"pat" => &["path-info", "path-translated"],
        b"php" => &["php-"],
        b"que" => &["query-string"],
        b"rac" => &["rack-"],
        b"raw" => &["raw-uri"],
        b"red" => &["redirect-"],
        b"rem" => &["remote-"],
        b"req" => &["request-method", "request-scheme", "request-uri"],
        b"scr" => &["script-"],
        b"ser" => &["server-"],
        b"une" => &["unencoded-url"],
        b"wsg" => &["wsgi-"],
        _ => &[],
    }
}

/// Whether a field of a client reaches the app. `name` has no capitals, as in a HeaderMap.
pub(super) fn may_pass(name: &str, rules: Rules) -> bool {
    if is_plain(name) {
        return rules.is_trusted || !is_claim(name);
    }
    rules.keeps_odd_names && is_harmless(&as_apps_see(name), rules.is_trusted)
}

/// Names that only look like others. Proxies pass on what their clients say so: also those of a
/// trusted one mean nothing. But SCRIPT_NAME and its like are spelled with `_` by who means it.
fn is_harmless(meant: &str, is_trusted: bool) -> bool {
    let meant = bare(meant);
    if is_listed(of_cgi(start_of(meant)), meant) {
        return is_trusted;
    }
    !is_claim(meant) && !trailers::is_for_heads_only(meant)
}

/// Whether it tells apps what only a proxy can know; `name` as apps see it.
pub(super) fn is_claim(name: &str) -> bool {
    let bare = bare(name);
    let start = start_of(bare);
    is_listed(of_proxies(start), bare) || is_listed(of_cgi(start), bare)
}

/// Some apps look for the variable itself in the head: HTTP_CLIENT_IP.
fn bare(name: &str) -> &str {
    name.strip_prefix("http-").unwrap_or(name)
}

fn start_of(name: &str) -> Start {
    name.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn is_listed(names: &[&str], name: &str) -> bool {
    names
        .iter()
        .any(|known| name == *known || (known.ends_with('-') && name.starts_with(known)))
}

/// Of a name without capitals.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'-' | b'0'..=b'9'))
}

/// As in a variable of CGI, with `-` for its `_`.
pub(super) fn as_apps_see(name: &str) -> Cow<'_, str> {
    if is_plain(name) {
        return Cow::Borrowed(name);
    }
    let seen = name
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() { it } else { '-' });
    Cow::Owned(seen.collect())
}

/// Removes all fields that may not pass.
pub(super) fn keep(fields: &mut HeaderMap, may_pass: impl Fn(&str) -> bool) {
    let barred: Vec<HeaderName> = fields
        .keys()
        .filter(|name| !may_pass(name.as_str()))
        .cloned()
        .collect();
    for name in barred {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests;
