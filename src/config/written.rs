//! As written: which keys stand in the file, of the right kind, each with its place in the text.
//!
//! Never judges whether a value makes sense: ranges, defaults and what depends on the machine belong
//! to `meant`. Every wrong key is reported, not only the first, so this walks the tree that `toml`
//! parses instead of deriving `Deserialize`, which ends at the first error.

mod reader;

use super::problem::{Place, Problem};
use reader::{Reader, Section};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// A value, the key it was written under, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// `[app] drain`
    pub key: Key,
    /// Of the value.
    pub span: Range<usize>,
    /// What was written.
    pub value: T,
}

/// A key in its table; shown as `[app] drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `app`
    pub table: &'static str,
    /// `drain`
    pub name: &'static str,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.table, self.name)
    }
}

/// A key that may be absent.
pub type Maybe<T> = Option<Placed<T>>;

/// The file.
#[derive(Debug)]
pub struct Written {
    pub app: AppWritten,
    pub health: HealthWritten,
    pub restart: RestartWritten,
    pub http: HttpWritten,
    pub limits: LimitsWritten,
    pub log: LogWritten,
}

/// `[app]`
#[derive(Debug)]
pub struct AppWritten {
    pub command: Maybe<Vec<String>>,
    /// A command was tried, but misspelt or of the wrong kind, which is reported already.
    pub means_command: bool,
    pub directory: Maybe<String>,
    /// A directory was written, but perhaps of the wrong kind: no other may take its place.
    pub has_directory: bool,
    pub env: BTreeMap<String, Placed<String>>,
    pub workers: Maybe<i64>,
    pub listen: Maybe<String>,
    pub boot: Maybe<Duration>,
    pub settle: Maybe<Duration>,
    pub drain: Maybe<Duration>,
    pub stop: Maybe<Duration>,
    pub kill_mode: Maybe<String>,
    pub stop_signal: Maybe<String>,
    pub watchdog: Maybe<Duration>,
    pub shared: Maybe<Vec<String>>,
    pub release_command: Maybe<Vec<String>>,
    pub console: Maybe<Vec<String>>,
    pub keep: Maybe<i64>,
    pub landlock: Maybe<bool>,
}

/// `[health]`
#[derive(Debug)]
pub struct HealthWritten {
    pub path: Maybe<String>,
    pub host: Maybe<String>,
    pub status: Maybe<String>,
    pub passes: Maybe<i64>,
    pub interval: Maybe<Duration>,
    pub timeout: Maybe<Duration>,
    pub every: Maybe<Duration>,
    pub fails: Maybe<i64>,
}

/// `[restart]`
#[derive(Debug)]
pub struct RestartWritten {
    pub burst: Maybe<i64>,
    pub interval: Maybe<Duration>,
    pub delay_min: Maybe<Duration>,
    pub delay_max: Maybe<Duration>,
}

/// `[http]`
#[derive(Debug)]
pub struct HttpWritten {
    pub lanes: Maybe<i64>,
    pub hold: Maybe<Duration>,
    pub held_max: Maybe<i64>,
    pub connections_max: Maybe<i64>,
    pub connections_per_address_max: Maybe<i64>,
    pub head_timeout: Maybe<Duration>,
    pub body_timeout: Maybe<Duration>,
    pub write_timeout: Maybe<Duration>,
    pub rate_min: Maybe<u64>,
    pub idle_timeout: Maybe<Duration>,
    pub response_timeout: Maybe<Duration>,
    pub tunnels: Maybe<Duration>,
    pub connect: Maybe<bool>,
    pub odd_field_names: Maybe<bool>,
    pub forwarded: Maybe<bool>,
    pub upgrade_drain: Maybe<Duration>,
    pub head_bytes_max: Maybe<u64>,
    pub headers_max: Maybe<i64>,
    pub body_bytes_max: Maybe<u64>,
    pub buffer_requests: Maybe<u64>,
    pub buffer_responses: Maybe<u64>,
    pub trusted_proxies: Maybe<Vec<String>>,
    pub proxy_protocol: Maybe<String>,
    pub retry_after: Maybe<Duration>,
}

/// `[limits]`
#[derive(Debug)]
pub struct LimitsWritten {
    pub memory: Maybe<u64>,
    pub tasks: Maybe<i64>,
    pub cpu: Maybe<String>,
}

/// `[log]`
#[derive(Debug)]
pub struct LogWritten {
    pub level: Maybe<String>,
    pub access: Maybe<String>,
    pub access_query: Maybe<bool>,
    pub access_format: Maybe<String>,
    pub app_lines_per_second_max: Maybe<i64>,
}

/// A table that can be written, and its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTable {
    /// `app`
    pub name: &'static str,
    /// In the order of the documentation.
    pub keys: Vec<&'static str>,
}

/// Every table and key that a file can have.
pub fn known_tables() -> Vec<KnownTable> {
    let mut reader = Reader::new("", DeTable::new());
    drop(reader.document());
    reader.known
}

/// Reads a whole file; the problems beside it do not keep the rest from being read. From `split` on
/// the text is a second file, of which only those keys count that the first leaves out.
///
/// # Errors
/// A file with syntax errors gives only those: what the rest means is unsure.
pub fn read(text: &str, split: usize) -> Result<(Written, Vec<Problem>), Vec<Problem>> {
    let (first, second) = text.split_at_checked(split).unwrap_or((text, ""));
    // So that every place in it is one in the whole text.
    let second = " ".repeat(first.len()) + second;
    let (mut document, mut errors) = DeTable::parse_recoverable(first);
    let (beside, more) = DeTable::parse_recoverable(&second);
    errors.extend(more);
    if !errors.is_empty() {
        let syntax = errors
            .iter()
            .map(|error| syntax_problem(text, error))
            .collect();
        return Err(first_of_each_line(syntax));
    }
    merge(document.get_mut(), beside.into_inner());
    let mut reader = Reader::new(text, document.into_inner());
    let mut written = reader.document();
    written.app.means_command |= reader.report_unknown();
    Ok((written, reader.problems))
}

/// Adds what is not there yet, also within tables.
fn merge<'t>(first: &mut DeTable<'t>, second: DeTable<'t>) {
    for (key, value) in second {
        let Some(there) = first.get_mut(key.get_ref().as_ref()) else {
            first.insert(key, value);
            continue;
        };
        if let (DeValue::Table(there), DeValue::Table(more)) = (there.get_mut(), value.into_inner())
        {
            merge(there, more);
        }
    }
}

/// The file has this key in `[app]`.
pub fn names(text: &str, key: &str) -> bool {
    let (document, _) = DeTable::parse_recoverable(text);
    let app = document.get_ref().get("app");
    let app = app.and_then(|app| app.get_ref().as_table());
    app.is_some_and(|app| app.contains_key(key))
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let place = Place::new(text, error.span().unwrap_or(text.len()..text.len()));
    let message = format!("not TOML: {}", error.message().replace('\n', ", "));
    let remedy = if error.message().contains("duplicate") {
        let first = first_of(text, error.span());
        let first = first.map_or_else(String::new, |line| {
            format!(", it is in line {line} already")
        });
        format!("what is there twice counts for nothing: put it together{first}")
    } else {
        "text is put in \"quotes\", lists in [brackets]; see https://toml.io".to_owned()
    };
    Problem {
        message,
        hint: None,
        remedy,
        place: Some(place),
    }
}

/// The line of the key or table whose second mention is at `span`.
fn first_of(text: &str, span: Option<Range<usize>>) -> Option<usize> {
    let again = span?;
    let name = text.get(again.clone())?.trim_matches(['[', ']', ' ']);
    let is_it = |line: &&str| {
        let line = line.trim_start().trim_start_matches(['[', ' ']);
        let rest = line.strip_prefix(name).map(str::trim_start);
        rest.is_some_and(|rest| rest.starts_with([']', '=']))
    };
    let before = text.get(..again.start)?.lines();
    let place = before.enumerate().find(|(_, line)| is_it(line))?.0;
    Some(place.saturating_add(1))
}

/// One slip makes the parser complain about several places of its line.
fn first_of_each_line(mut problems: Vec<Problem>) -> Vec<Problem> {
    let line = |problem: &Problem| problem.place.as_ref().map(|place| place.line);
    problems.sort_by_key(line);
    problems.dedup_by_key(|problem| line(problem));
    problems
}

impl AppWritten {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            means_command: section.entries.contains_key("command"),
            command: section.texts("command", r#"command = ["bin/server", "--quiet"]"#),
            has_directory: section.entries.contains_key("directory"),
            directory: section.text("directory", r#"directory = "/srv/shop""#),
            env: section.texts_by_name("env", r#"env = { RAILS_ENV = "production" }"#),
            workers: section.number("workers", "workers = 2"),
            listen: section.text("listen", r#"listen = "auto", or listen = "port:3000""#),
            boot: section.duration("boot", r#"boot = "60s""#),
            settle: section.duration("settle", r#"settle = "1s""#),
            drain: section.duration("drain", r#"drain = "15s""#),
            stop: section.duration("stop", r#"stop = "10s""#),
            kill_mode: section.text("kill_mode", r#"kill_mode = "mixed""#),
            stop_signal: section.text("stop_signal", r#"stop_signal = "SIGQUIT""#),
            watchdog: section.duration("watchdog", r#"watchdog = "30s""#),
            shared: section.texts("shared", r#"shared = ["uploads"]"#),
            release_command: section
                .texts("release_command", r#"release_command = ["bin/migrate"]"#),
            console: section.texts("console", r#"console = ["bin/app", "remote"]"#),
            keep: section.number("keep", "keep = 5"),
            landlock: section.claim("landlock", "landlock = false"),
        }
    }
}

impl HealthWritten {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            path: section.text("path", r#"path = "/health""#),
            host: section.text("host", r#"host = "shop.example""#),
            status: section.text_or_number("status", r#"status = "200-299", or status = 200"#),
            passes: section.number("passes", "passes = 1"),
            interval: section.duration("interval", r#"interval = "250ms""#),
            timeout: section.duration("timeout", r#"timeout = "2s""#),
            every: section.duration("every", r#"every = "5s""#),
            fails: section.number("fails", "fails = 3"),
        }
    }
}

impl RestartWritten {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            burst: section.number("burst", "burst = 6"),
            interval: section.duration("interval", r#"interval = "10s""#),
            delay_min: section.duration("delay_min", r#"delay_min = "100ms""#),
            delay_max: section.duration("delay_max", r#"delay_max = "30s""#),
        }
    }
}

impl HttpWritten {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            lanes: section.number("lanes", "lanes = 4"),
            hold: section.duration("hold", r#"hold = "15s""#),
            held_max: section.number("held_max", "held_max = 1000"),
            connections_max: section.number("connections_max", "connections_max = 10000"),
            connections_per_address_max: section.number(
                "connections_per_address_max",
                "connections_per_address_max = 200",
            ),
            head_timeout: section.duration("head_timeout", r#"head_timeout = "15s""#),
            body_timeout: section.duration("body_timeout", r#"body_timeout = "30s""#),
            write_timeout: section.duration("write_timeout", r#"write_timeout = "30s""#),
            rate_min: section.size("rate_min", r#"rate_min = "100B""#),
            idle_timeout: section.duration("idle_timeout", r#"idle_timeout = "15min""#),
            response_timeout: section.duration("response_timeout", r#"response_timeout = "5min""#),
            tunnels: section.duration("tunnels", r#"tunnels = "15s""#),
            connect: section.claim("connect", "connect = true"),
            odd_field_names: section.claim("odd_field_names", "odd_field_names = true"),
            forwarded: section.claim("forwarded", "forwarded = true"),
            upgrade_drain: section.duration("upgrade_drain", r#"upgrade_drain = "1h""#),
            head_bytes_max: section.size("head_bytes_max", r#"head_bytes_max = "16KiB""#),
            headers_max: section.number("headers_max", "headers_max = 100"),
            body_bytes_max: section.size("body_bytes_max", r#"body_bytes_max = "1GiB""#),
            buffer_requests: section.size("buffer_requests", r#"buffer_requests = "1MiB""#),
            buffer_responses: section.size("buffer_responses", r#"buffer_responses = "1MiB""#),
            trusted_proxies: section
                .texts("trusted_proxies", r#"trusted_proxies = ["10.0.0.0/8"]"#),
            proxy_protocol: section.text("proxy_protocol", r#"proxy_protocol = "require""#),
            retry_after: section.duration("retry_after", r#"retry_after = "5s""#),
        }
    }
}

impl LimitsWritten {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            memory: section.size("memory", r#"memory = "512MiB""#),
            tasks: section.number("tasks", "tasks = 512"),
            cpu: section.text("cpu", r#"cpu = "150%""#),
        }
    }
}

impl LogWritten {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            level: section.text("level", r#"level = "info""#),
            access: section.text("access", r#"access = "errors""#),
            access_query: section.claim("access_query", "access_query = true"),
            access_format: section.text("access_format", r#"access_format = "json""#),
            app_lines_per_second_max: section.number(
                "app_lines_per_second_max",
                "app_lines_per_second_max = 10000",
            ),
        }
    }
}
