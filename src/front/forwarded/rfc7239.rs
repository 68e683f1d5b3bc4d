//! `Forwarded`, RFC 7239: read where a trusted proxy says it, and written in agreement with the
//! `X-Forwarded-*` fields.

use super::{FOR, HOST_SEEN, PROTO, address_in};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// What one says, as the other fields have it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Addresses, joined by commas: none if one of them is hidden.
    pub(super) nodes: Option<String>,
    /// Of the last element, as `host`: that is the one which the proxy wrote that is believed. What stands
    /// before it may be its client's.
    proto: Option<String>,
    host: Option<String>,
}

impl Said {
    /// None if it cannot be read.
    pub(super) fn of(list: &[u8]) -> Option<Self> {
        let list = std::str::from_utf8(list).ok()?;
        let mut said = Self::default();
        let mut nodes = Vec::new();
        let mut has_hidden = false;
        for element in split(list, ',')? {
            (said.proto, said.host) = (None, None);
            for pair in split(element, ';')? {
                let Some((name, value)) = pair.split_once('=') else {
                    continue;
                };
                let value = unquoted(value.trim());
                match name.trim().to_ascii_lowercase().as_str() {
                    "for" => match address_in(&value) {
                        Some(address) => nodes.push(address.to_string()),
                        None => has_hidden = true,
                    },
                    "proto" => said.proto = Some(value),
                    "host" => said.host = Some(value),
                    _ => {}
                }
            }
        }
        said.nodes = (!has_hidden && !nodes.is_empty()).then(|| nodes.join(", "));
        Some(said)
    }

    /// Where the proxy sent no such field.
    pub(super) fn fill(self, headers: &mut HeaderMap) {
        let fields = [
            (FOR, self.nodes),
            (PROTO, self.proto),
            (HOST_SEEN, self.host),
        ];
        for (name, value) in fields {
            let value = value.and_then(|value| HeaderValue::from_maybe_shared(value).ok());
            if let Some(value) = value.filter(|_| !headers.contains_key(&name)) {
                headers.insert(name, value);
            }
        }
    }
}

/// `for=192.0.2.1`, `for="[2001:db8::1]"`, `for=unknown`; section 6.
pub(super) fn node(address: Option<&str>) -> String {
    match address {
        Some(address) if address.contains(':') => format!("for=\"[{address}]\""),
        Some(address) => format!("for={address}"),
        None => "for=unknown".to_owned(),
    }
}

/// The same as the other fields, which are as the app gets them.
pub(super) fn as_said_by(headers: &HeaderMap) -> Vec<u8> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let said = text(&FOR).unwrap_or_default();
    let mut nodes = said.split(',').map(|it| {
        let address = address_in(it.trim()).map(|address| address.to_string());
        node(address.as_deref())
    });
    let mut list = nodes.next().unwrap_or_default();
    for (name, field) in [(";host=\"", HOST_SEEN), (";proto=\"", PROTO)] {
        let value = text(&field).filter(|value| !value.is_empty() && !value.contains(['"', '\\']));
        if let Some(value) = value {
            list.push_str(name);
            list.push_str(value);
            list.push('"');
        }
    }
    for node in nodes {
        list.push_str(", ");
        list.push_str(&node);
    }
    list.into_bytes()
}

/// At a separator outside of quotes; none if a quote has no end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(|it: char| {
        let is_end = it == separator && !is_quoted;
        match it {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        is_end
    });
    let parts = parts.collect();
    (!is_quoted).then_some(parts)
}

fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let Some(inner) = inner else {
        return value.to_owned();
    };
    let mut is_escaped = false;
    let kept = inner.chars().filter(|it| {
        is_escaped = *it == '\\' && !is_escaped;
        !is_escaped
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_says_is_read() {
        let list =
            br#"for="[2001:db8::1]:4711";proto=http, For=10.0.0.1;Proto=https;host="a,\"b;""#;
        let said = Said::of(list).unwrap();
        assert_eq!(said.nodes.as_deref(), Some("2001:db8::1, 10.0.0.1"));
        assert_eq!(said.proto.as_deref(), Some("https"));
        assert_eq!(said.host.as_deref(), Some("a,\"b;"));
        assert_eq!(Said::of(b"for=_hidden, for=10.0.0.1").unwrap().nodes, None);
        assert_eq!(Said::of(b"x;;=, ,").unwrap(), Said::default());
        assert_eq!(Said::of(b"for=\"10.0.0.1"), None);
    }

    #[test]
    fn it_says_what_the_other_fields_say() {
        let mut headers = HeaderMap::new();
        assert_eq!(as_said_by(&headers), b"for=unknown");
        headers.insert(FOR, HeaderValue::from_static("192.0.2.7, odd, 2001:db8::1"));
        headers.insert(PROTO, HeaderValue::from_static("https"));
        headers.insert(HOST_SEEN, HeaderValue::from_static("a:8080"));
        let said = String::from_utf8(as_said_by(&headers)).unwrap();
        assert_eq!(
            said,
            "for=192.0.2.7;host=\"a:8080\";proto=\"https\", for=unknown, for=\"[2001:db8::1]\""
        );
    }
}
