//! `gapless explain`: what a name means that gapless prints.

use super::output::{printable, say, say_json};
use super::{Exit, ExplainArgs};
use crate::explain::{self, Field, Topic};
use anstyle::Style;
use serde::Serialize;
use thiserror::Error;

/// Nothing is called so.
#[derive(Debug, Error)]
#[error(
    "nothing is called {name:?}{}; gapless explain lists all names",
    nearest.map(|it| format!(", did you mean {it}?")).unwrap_or_default()
)]
pub struct ExplainError {
    name: String,
    nearest: Option<&'static str>,
}

/// The answer for programs.
#[derive(Serialize)]
struct Told {
    code: &'static str,
    field: &'static str,
    also: Vec<&'static str>,
    title: &'static str,
    text: &'static str,
}

impl From<Topic> for Told {
    fn from(topic: Topic) -> Self {
        Self {
            code: topic.code,
            field: topic.field.word(),
            also: topic.also,
            title: topic.title,
            text: topic.text,
        }
    }
}

/// Asks nobody.
pub(super) fn run(args: &ExplainArgs) -> Result<Exit, ExplainError> {
    let Some(name) = &args.code else {
        list(args.json);
        return Ok(Exit::Done);
    };
    let topic = explain::find(name).ok_or_else(|| ExplainError {
        name: printable(name),
        nearest: explain::nearest(name),
    })?;
    if args.json {
        say_json(&Told::from(topic));
    } else {
        let bold = Style::new().bold();
        let Topic {
            code, title, text, ..
        } = topic;
        say(&format!("{bold}{code}{bold:#}: {title}\n{text}"));
    }
    Ok(Exit::Done)
}

fn list(is_json: bool) {
    let all = explain::topics();
    if is_json {
        let all: Vec<_> = all.into_iter().map(Told::from).collect();
        return say_json(&all);
    }
    let width = all.iter().map(|topic| topic.code.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for field in Field::ALL {
        let bold = Style::new().bold();
        lines.push(format!("{bold}{}{bold:#}", field.heading()));
        let own = all.iter().filter(|topic| topic.field == field);
        lines.extend(own.map(|it| format!("  {:width$}  {}", it.code, it.title)));
    }
    say(&lines.join("\n"));
}

/// The line that leads from a name to its text; none for one that an older or newer gapless knows.
pub(super) fn more(code: Option<&str>) -> Option<String> {
    let topic = explain::find(code?)?;
    Some(format!("more: gapless explain {}", topic.code))
}
