//! What the documentation shows in a terminal, and whether something printed is that.
//!
//! A sample is an indented block whose lines begin with `$ ` (a command), else are what it prints.
//! Numbers, times, sizes and widths of columns may differ; `...` stands for any lines.

use super::repository;
use std::fmt::Write;

/// A command and what it prints.
#[derive(Debug, PartialEq, Eq)]
pub struct Sample {
    pub command: String,
    pub prints: Vec<String>,
}

/// What failing tests say before what it really is.
pub const INSTEAD: &str = "the documentation shows something else than:";

impl Sample {
    /// As the documentation should have it, if it was something else.
    pub fn instead(&self, printed: &str) -> Option<String> {
        let printed: Vec<String> = printed.trim_end().lines().map(str::to_owned).collect();
        if is_shown(&self.prints, &printed) {
            return None;
        }
        let lines = printed.iter().map(|line| format!("    {line}\n"));
        Some(format!(
            "    $ {}\n{}",
            self.command,
            lines.collect::<String>()
        ))
    }

    /// Fails the test when it was something else.
    #[track_caller]
    pub fn expect(&self, printed: &str) {
        let instead = self.instead(printed);
        assert!(instead.is_none(), "{INSTEAD}\n{}", instead.unwrap());
    }
}

/// The samples of the README and of each file in docs/, by file.
pub fn of_documents() -> Vec<Vec<Sample>> {
    let directory = std::fs::read_dir(repository("docs")).unwrap();
    let mut paths: Vec<_> = directory.map(|entry| entry.unwrap().path()).collect();
    paths.push(repository("README.md"));
    let text = |path| std::fs::read_to_string(path).unwrap();
    paths.iter().map(|path| samples(&text(path))).collect()
}

/// The only sample in these documents that begins so; fails the test when there is none, or another.
#[track_caller]
pub fn in_documents(command: &str) -> Sample {
    let mut found: Vec<_> = of_documents().into_iter().flatten().collect();
    found.retain(|sample| sample.command.starts_with(command));
    assert_eq!(found.len(), 1, "{command}: {found:#?}");
    found.remove(0)
}

/// Those of a text, in their order.
pub fn samples(text: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        let shown = line.strip_prefix("    ");
        let shown = shown.or(line.is_empty().then_some(""));
        if let Some(command) = shown.and_then(|shown| shown.strip_prefix("$ ")) {
            is_inside = true;
            samples.push(Sample {
                command: command.to_owned(),
                prints: Vec::new(),
            });
        } else if let (Some(shown), true) = (shown, is_inside) {
            samples.last_mut().unwrap().prints.push(shown.to_owned());
        } else {
            is_inside = false;
        }
    }
    for sample in &mut samples {
        while sample.prints.last().is_some_and(String::is_empty) {
            sample.prints.pop();
        }
    }
    samples
}

/// What a page of the manual shows, without its markup, indented as in other texts.
pub fn of_page(text: &str) -> String {
    let mut plain = String::new();
    let mut is_literal = false;
    for line in text.lines() {
        match line {
            _ if line.starts_with(".Bd -literal") => is_literal = true,
            ".Ed" => {
                is_literal = false;
                plain.push_str("end\n");
            }
            _ if is_literal => {
                let line = unescaped(line);
                writeln!(plain, "    {}", line.trim_start_matches("\\&")).unwrap();
            }
            _ => (),
        }
    }
    plain
}

/// What mdoc(7) writes otherwise, so that it can be copied from the page.
fn unescaped(line: &str) -> String {
    let escapes = [
        ("\\-", "-"),
        ("\\(ha", "^"),
        ("\\(ga", "`"),
        ("\\(aq", "'"),
        ("\\e", "\\"),
    ];
    escapes
        .iter()
        .fold(line.to_owned(), |line, (escape, plain)| {
            line.replace(escape, plain)
        })
}

/// What stays the same from one machine and one day to the next.
fn essence(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let mut out = String::new();
        let mut number = false;
        for c in word.chars() {
            let is_number = c.is_ascii_digit() || number && matches!(c, '.' | ',' | ':');
            match (is_number, number) {
                (true, true) => (),
                (true, false) => out.push('0'),
                (false, _) => out.push(c),
            }
            number = is_number;
        }
        out
    });
    let words: Vec<String> = words.collect();
    let mut essence = words.join(" ");
    for (other, one) in [
        ("0 ms", "0 s"),
        ("0 min", "0 s"),
        ("0 KiB", "0 B"),
        ("0 MiB", "0 B"),
        ("requests", "request"),
        ("connections", "connection"),
        ("files,", "file,"),
    ] {
        essence = essence.replace(other, one);
    }
    essence
}

/// Whether the lines are those; `...` is any number of any lines.
pub fn is_shown(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any.trim() == "..." => {
            (0..=printed.len()).any(|skipped| is_shown(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed.split_first().is_some_and(|(first, others)| {
            essence(line) == essence(first) && is_shown(rest, others)
        }),
    }
}
