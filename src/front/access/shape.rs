//! What an entry looks like: fields for the journal, or a line. Everything that a client wrote is
//! bounded, and escaped so that it cannot end the value or the line that it stands in.
//!
//! Fields have our prefix (`GAPLESS_HTTP_STATUS`), as all fields of ours: journald has no names for HTTP,
//! and an app may well use the bare ones.

use super::super::progress::Progress;
use super::account::Account;
use crate::config::AccessFormat;
use crate::systemd::entries::Entry;
use crate::systemd::message_id;
use hyper::header::HeaderValue;
use hyper::{StatusCode, Uri, Version};
use ipnet::IpNet;
use jiff::Timestamp;
use std::fmt::Write;
use std::time::Duration;

const PATH_BYTES_MAX: usize = 2048;
const REFERER_BYTES_MAX: usize = 1024;
const USER_AGENT_BYTES_MAX: usize = 512;
const METHOD_BYTES_MAX: usize = 32;

/// `journalctl -t gapless-access`
const IDENTIFIER: &str = "gapless-access";

/// An account in words and numbers.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    /// None where the head could not be read.
    asked: Option<Asked<'a>>,
    status: Option<u16>,
    request_bytes: u64,
    response_bytes: u64,
    duration: Duration,
    first_byte: Option<Duration>,
    held: Duration,
    generation: Option<String>,
    worker: Option<String>,
    client: Option<String>,
    user_agent: Option<String>,
    referer: Option<String>,
    outcome: &'static str,
    is_failure: bool,
}

#[derive(Debug)]
struct Asked<'a> {
    method: String,
    path: String,
    protocol: &'static str,
    id: &'a str,
}

enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

impl<'a> Shape<'a> {
    pub(super) fn of(account: &'a Account, trusted: &[IpNet], has_query: bool) -> Self {
        let text = |value: &HeaderValue, bytes_max| escaped(value.as_bytes(), bytes_max);
        let referer = account.referer.as_ref();
        let (generation, worker) = account.served_by.unzip();
        Self {
            asked: Some(Asked {
                method: escaped(account.method.as_str().as_bytes(), METHOD_BYTES_MAX),
                path: escaped(target(&account.uri, has_query), PATH_BYTES_MAX),
                protocol: if account.version == Version::HTTP_10 {
                    "HTTP/1.0"
                } else {
                    "HTTP/1.1"
                },
                id: account.id.to_str().unwrap_or_default(),
            }),
            status: account.status.as_ref().map(StatusCode::as_u16),
            request_bytes: account.request_bytes,
            response_bytes: account.response_bytes,
            duration: account.began.elapsed(),
            first_byte: account.first_byte,
            held: account.held,
            generation: generation.map(|id| id.to_string()),
            worker: worker.map(|slot| slot.to_string()),
            client: account.claim.client(trusted),
            user_agent: account
                .user_agent
                .as_ref()
                .map(|it| text(it, USER_AGENT_BYTES_MAX)),
            referer: referer.map(|it| {
                let bytes = without_secrets(it.as_bytes(), has_query);
                escaped(bytes, REFERER_BYTES_MAX)
            }),
            outcome: account.outcome,
            is_failure: account.is_failure(),
        }
    }

    pub(super) fn of_refused_head(
        progress: &Progress,
        client: Option<String>,
        outcome: &'static str,
    ) -> Self {
        Self {
            asked: None,
            status: progress.own_answer(),
            request_bytes: 0,
            response_bytes: 0,
            duration: progress
                .head_since()
                .map_or(Duration::ZERO, |it| it.elapsed()),
            first_byte: None,
            held: Duration::ZERO,
            generation: None,
            worker: None,
            client,
            user_agent: None,
            referer: None,
            outcome,
            is_failure: false,
        }
    }

    /// Every field that has a value. Documented in gapless(1).
    fn fields(&self, put: &mut impl FnMut(&'static str, Value<'_>)) {
        let micros =
            |time: Duration| Value::Number(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let mut text = |name, value: Option<&str>| {
            if let Some(value) = value {
                put(name, Value::Text(value));
            }
        };
        text("CLIENT", self.client.as_deref());
        let asked = self.asked.as_ref();
        text("HTTP_METHOD", asked.map(|it| &*it.method));
        text("HTTP_PATH", asked.map(|it| &*it.path));
        text("HTTP_PROTOCOL", asked.map(|it| it.protocol));
        text("HTTP_USER_AGENT", self.user_agent.as_deref());
        text("HTTP_REFERER", self.referer.as_deref());
        text("GENERATION", self.generation.as_deref());
        text("WORKER", self.worker.as_deref());
        text("REQUEST_ID", asked.map(|it| it.id));
        text("OUTCOME", Some(self.outcome));
        if let Some(status) = self.status {
            put("HTTP_STATUS", Value::Number(status.into()));
        }
        put("REQUEST_BYTES", Value::Number(self.request_bytes));
        put("RESPONSE_BYTES", Value::Number(self.response_bytes));
        put("DURATION_US", micros(self.duration));
        if let Some(first_byte) = self.first_byte {
            put("FIRST_BYTE_US", micros(first_byte));
        }
        put("HELD_US", micros(self.held));
    }

    /// `GET /cart 200 in 3.2 ms, 512 bytes, g7 w0, 203.0.113.9`
    fn sentence(&self) -> String {
        let mut text = match &self.asked {
            Some(asked) => format!("{} {} ", asked.method, asked.path),
            None => "no request, ".to_owned(),
        };
        match self.status {
            Some(status) => put(&mut text, format_args!("{status}")),
            None => text.push_str("without an answer"),
        }
        let millis = self.duration.as_secs_f64() * 1000.0;
        put(
            &mut text,
            format_args!(" in {millis:.1} ms, {} bytes", self.response_bytes),
        );
        if let (Some(generation), Some(worker)) = (&self.generation, &self.worker) {
            put(&mut text, format_args!(", {generation} {worker}"));
        }
        if let Some(client) = &self.client {
            put(&mut text, format_args!(", {client}"));
        }
        if self.outcome != "whole" {
            put(&mut text, format_args!(": {}", self.outcome));
        }
        text
    }

    /// For the journal. Failures are warnings, so that `-p warning` shows them.
    pub(super) fn entry(&self, name: &str) -> Entry {
        let mut entry = Entry::default();
        entry.put("PRIORITY", if self.is_failure { "4" } else { "6" });
        entry.put("MESSAGE", &self.sentence());
        entry.put("MESSAGE_ID", message_id::REQUEST.id);
        entry.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry.put("GAPLESS_NAME", name);
        let mut key = String::new();
        self.fields(&mut |field, value| {
            key.clear();
            key.push_str("GAPLESS_");
            key.push_str(field);
            match value {
                Value::Text(text) => entry.put(&key, text),
                Value::Number(number) => entry.put_number(&key, number),
            }
        });
        entry
    }

    /// With its line break.
    pub(super) fn line(&self, format: AccessFormat) -> String {
        let mut line = match format {
            AccessFormat::Common => self.common(),
            AccessFormat::Combined => {
                let quoted = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), quotable);
                let (referer, agent) = (self.referer.as_deref(), self.user_agent.as_deref());
                let common = self.common();
                format!("{common} \"{}\" \"{}\"", quoted(referer), quoted(agent))
            }
            AccessFormat::Json => self.json(),
        };
        line.push('\n');
        line
    }

    fn began(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_sub(self.duration).unwrap_or(now)
    }

    fn common(&self) -> String {
        let asked = self.asked.as_ref().map_or_else(
            || "-".to_owned(),
            |it| {
                format!(
                    "{} {} {}",
                    quotable(&it.method),
                    quotable(&it.path),
                    it.protocol
                )
            },
        );
        format!(
            "{} - - [{}] \"{asked}\" {} {}",
            self.client.as_deref().unwrap_or("-"),
            self.began().strftime("%d/%b/%Y:%H:%M:%S +0000"),
            self.status
                .map_or_else(|| "-".to_owned(), |it| it.to_string()),
            self.response_bytes,
        )
    }

    /// The names of the fields in lower case, and the time.
    fn json(&self) -> String {
        let mut object = serde_json::Map::new();
        object.insert("time".to_owned(), format!("{:.6}", self.began()).into());
        self.fields(&mut |field, value| {
            let value = match value {
                Value::Text(text) => text.into(),
                Value::Number(number) => number.into(),
            };
            object.insert(field.to_ascii_lowercase(), value);
        });
        serde_json::Value::Object(object).to_string()
    }
}

fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    // A String takes everything.
    text.write_fmt(more).unwrap_or_default();
}

/// The path, or whatever else was asked for; never the credentials of an absolute target.
fn target(uri: &Uri, has_query: bool) -> &[u8] {
    let path = uri.path_and_query();
    match (path, uri.authority()) {
        (Some(path), _) if has_query => path.as_str().as_bytes(),
        (Some(path), _) => path.path().as_bytes(),
        (None, Some(authority)) => {
            let text = authority.as_str();
            text.rsplit('@').next().unwrap_or(text).as_bytes()
        }
        (None, None) => b"*",
    }
}

/// A referer is a URL: what is secret in ours is in those of others, too.
fn without_secrets(url: &[u8], has_query: bool) -> &[u8] {
    let end = url.iter().position(|byte| matches!(byte, b'?' | b'#'));
    match end {
        Some(end) if !has_query => url.get(..end).unwrap_or(url),
        Some(_) | None => url,
    }
}

/// As text in which nothing is invisible: control characters, what is not UTF-8, and the backslash
/// that tells them become `\xHH`. Cut at `bytes_max`, which an ellipsis shows.
fn escaped(bytes: &[u8], bytes_max: usize) -> String {
    let (bytes, is_cut) = bytes
        .split_at_checked(bytes_max)
        .map_or((bytes, false), |(head, rest)| (head, !rest.is_empty()));
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut buffer = [0; 4];
                hex(&mut text, c.encode_utf8(&mut buffer).as_bytes());
            } else {
                text.push(c);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    if is_cut {
        text.push('…');
    }
    text
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        put(text, format_args!("\\x{byte:02X}"));
    }
}

/// `text` is escaped already; within quotes, those are escaped too.
fn quotable(text: &str) -> String {
    text.replace('"', "\\x22")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_client_wrote_stays_in_its_place() {
        assert_eq!(escaped(b"/a\nb\x1b[1m\\", 99), r"/a\x0Ab\x1B[1m\x5C");
        assert_eq!(escaped(b"caf\xc3\xa9 \xff", 99), r"café \xFF");
        assert_eq!(escaped(b"12345", 4), "1234…");
        assert_eq!(quotable(&escaped(br#"" 200 ""#, 9)), r"\x22 200 \x22");
    }

    #[test]
    fn a_head_that_nobody_can_read_is_a_line_without_a_request() {
        let progress = Progress::new(true);
        progress.goes_out(b"HTTP/1.1 431 Request Header Fields Too Large\r\n");
        let client = Some("192.0.2.1".to_owned());
        let shape = Shape::of_refused_head(&progress, client, "malformed_head");
        let line = shape.line(AccessFormat::Common);
        assert!(line.starts_with("192.0.2.1 - - ["), "{line}");
        assert!(line.ends_with("] \"-\" 431 0\n"), "{line}");
        let line = shape.line(AccessFormat::Json);
        assert!(!line.contains("http_path") && !line.contains("request_id"));
    }

    #[test]
    fn queries_and_credentials_are_left_out() {
        let uri: Uri = "http://me:secret@shop.example/cart?token=1"
            .parse()
            .unwrap();
        assert_eq!(target(&uri, false), b"/cart");
        assert_eq!(target(&uri, true), b"/cart?token=1");
        let authority: Uri = "me:secret@shop.example:443".parse().unwrap();
        assert_eq!(target(&authority, true), b"shop.example:443");
        assert_eq!(without_secrets(b"https://a/b?c#d", false), b"https://a/b");
        assert_eq!(
            without_secrets(b"https://a/b?c#d", true),
            b"https://a/b?c#d"
        );
    }

    proptest! {
        #[test]
        fn escaped_text_is_one_short_line(bytes: Vec<u8>, max in 0_usize..64) {
            let text = escaped(&bytes, max);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert!(text.len() <= 4 * max + '…'.len_utf8());
        }
    }
}
