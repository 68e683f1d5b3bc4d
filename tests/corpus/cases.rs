//! The corpus as it is written: TOML, with escapes for bytes.
//!
//! In `send`, `answer`, `late` and `app_body`: `\r \n \t \0 \\ \xNN`, and `\{N|text}` for N times
//! text. A list is sent piece by piece.

use serde::Deserialize;
use std::path::PathBuf;

/// What the client does when it has sent everything.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    #[default]
    Stays,
    /// Shuts down its side.
    Shuts,
    Resets,
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The next request on it is answered.
    Open,
    Closed,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    One(String),
    Pieces(Vec<String>),
}

/// Bytes, in the pieces in which they are sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Text")]
pub struct Pieces(pub Vec<Vec<u8>>);

impl From<Text> for Pieces {
    fn from(text: Text) -> Self {
        Self(match text {
            Text::One(text) => vec![bytes(&text)],
            Text::Pieces(pieces) => pieces.iter().map(|piece| bytes(piece)).collect(),
        })
    }
}

/// A request, or what stands in its place.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCase {
    pub name: String,
    /// The reason for what is expected.
    pub why: String,
    pub send: Pieces,
    #[serde(default)]
    pub client: After,
    /// The status of every final answer, in order.
    pub answers: Vec<u16>,
    pub then: Then,
    /// Every request that the app sees whole, as `METHOD target`, in order.
    #[serde(default)]
    pub app: Vec<String>,
    /// Of the first of them: lines that are there, `!name` or `!name: value` that is not, `+name`. A
    /// trailer is a line that begins with `trailer `.
    #[serde(default)]
    pub app_head: Vec<String>,
    /// Of the first of them.
    pub app_body: Option<String>,
}

/// What the app does when it has sent everything.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum AppThen {
    /// Takes the next request on the connection.
    #[default]
    Stays,
    Closes,
    Resets,
}

/// An answer of an app, or what stands in its place.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerCase {
    pub name: String,
    pub why: String,
    #[serde(default = "get")]
    pub method: String,
    pub answer: Pieces,
    #[serde(default)]
    pub app: AppThen,
    /// Sent on the same connection when the client has its answer.
    pub late: Option<String>,
    /// What the client gets; 0 for none.
    pub status: u16,
    /// That the client gets it whole.
    #[serde(default = "yes")]
    pub whole: bool,
    pub body: Option<String>,
    /// As in `app_head`.
    #[serde(default)]
    pub head: Vec<String>,
}

fn get() -> String {
    "GET".into()
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct File<C> {
    case: Vec<C>,
}

/// All cases below `tests/corpus/<kind>`.
pub fn read<C: for<'de> Deserialize<'de>>(kind: &str) -> Vec<C> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(kind);
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File<C> =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        cases.extend(file.case);
    }
    cases
}

/// Undoes the escapes.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let (kind, behind) = escape.split_at(1);
        rest = behind;
        match kind {
            "r" => out.push(b'\r'),
            "n" => out.push(b'\n'),
            "t" => out.push(b'\t'),
            "0" => out.push(0),
            "\\" => out.push(b'\\'),
            "x" => {
                let (digits, behind) = behind.split_at(2);
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = behind;
            }
            "{" => {
                let (inside, behind) = behind.split_once('}').unwrap();
                let (times, what) = inside.split_once('|').unwrap();
                out.extend(bytes(what).repeat(times.parse().unwrap()));
                rest = behind;
            }
            other => panic!("no such escape: \\{other} in {text}"),
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// Whether `lines` (of a head, names in small letters) are as `expected` has it; else what is not.
pub fn disagreement(lines: &[String], expected: &[String]) -> Option<String> {
    let named = |name: &str| {
        lines
            .iter()
            .any(|line| line.split(':').next() == Some(name))
    };
    expected
        .iter()
        .find(|expected| {
            let agrees = match expected.split_at(1) {
                ("!", line) if line.contains(':') => !lines.iter().any(|found| found == line),
                ("!", name) => !named(name),
                ("+", name) => named(name),
                _ => lines.contains(expected),
            };
            !agrees
        })
        .cloned()
}
