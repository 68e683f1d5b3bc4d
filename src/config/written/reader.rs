//! Takes the known keys out of the tree that `toml` parsed, and reports what is of the wrong kind or
//! stays behind unknown.

use super::{
    AppWritten, HealthWritten, HttpWritten, Key, KnownTable, LimitsWritten, LogWritten, Maybe,
    Placed, RestartWritten, Written,
};
use crate::config::problem::{Place, Problem};
use crate::config::quantity::{self, QuantityError};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Takes the known keys out of the tree; what stays is unknown.
pub(super) struct Reader<'t> {
    text: &'t str,
    document: DeTable<'t>,
    pub(super) problems: Vec<Problem>,
    pub(super) known: Vec<KnownTable>,
    /// Table, key as written, its place.
    unknown: Vec<(&'static str, String, Range<usize>)>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, document: DeTable<'t>) -> Self {
        Self {
            text,
            document,
            problems: Vec::new(),
            known: Vec::new(),
            unknown: Vec::new(),
        }
    }

    pub(super) fn document(&mut self) -> Written {
        Written {
            app: self.table("app", AppWritten::read),
            health: self.table("health", HealthWritten::read),
            restart: self.table("restart", RestartWritten::read),
            http: self.table("http", HttpWritten::read),
            limits: self.table("limits", LimitsWritten::read),
            log: self.table("log", LogWritten::read),
        }
    }

    fn table<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let written = self.document.remove(name);
        let entries = match written.map(|value| (value.span(), value.into_inner())) {
            None => DeTable::new(),
            Some((_, DeValue::Table(table))) => table,
            Some((span, ref other)) => {
                self.not_a_table(name, span, other);
                DeTable::new()
            }
        };
        let mut section = Section {
            table: name,
            entries,
            known: Vec::new(),
            text: self.text,
            problems: &mut self.problems,
        };
        let read = read(&mut section);
        let rest = section.entries.iter();
        self.unknown
            .extend(rest.map(|(key, _)| (name, key.get_ref().to_string(), key.span())));
        self.known.push(KnownTable {
            name,
            keys: section.known,
        });
        read
    }

    fn not_a_table(&mut self, name: &str, span: Range<usize>, value: &DeValue<'_>) {
        self.problems.push(Problem {
            message: format!("{name} is {}, not a table", kind(value)),
            hint: Some(format!("[{name}] is a table")),
            remedy: format!("write [{name}] on a line of its own, and its keys below"),
            place: Some(Place::new(self.text, span)),
        });
    }

    /// Whether one of the unknown keys probably means the command.
    pub(super) fn report_unknown(&mut self) -> bool {
        let tables = self
            .document
            .iter()
            .map(|(key, _)| self.unknown_table(key.get_ref(), key.span()));
        let keys = self
            .unknown
            .iter()
            .map(|(table, key, span)| self.unknown_key(table, key, span.clone()));
        let unknown: Vec<_> = tables.chain(keys).collect();
        let means_command = unknown.iter().any(|(_, meant)| *meant == Some("command"));
        self.problems
            .extend(unknown.into_iter().map(|(problem, _)| problem));
        means_command
    }

    /// With the name that is probably meant.
    fn unknown_table(&self, name: &str, span: Range<usize>) -> (Problem, Option<&'static str>) {
        let tables: Vec<_> = self.known.iter().map(|table| table.name).collect();
        let app_keys = self.keys_of("app");
        let (meant, hint) = match (did_you_mean(name, &tables), self.home_of(name)) {
            (Some(table), _) => (Some(table), Some(format!("did you mean [{table}]?"))),
            (None, Some((key, table))) => {
                (Some(key), Some(format!("{name} belongs under [{table}]")))
            }
            (None, None) => match did_you_mean(name, app_keys) {
                Some(key) => (Some(key), Some(format!("did you mean {key} under [app]?"))),
                None => (None, None),
            },
        };
        let message = format!("unknown table or key \"{name}\"");
        let remedy = format!("the tables are [{}]", tables.join("], ["));
        let place = Some(Place::new(self.text, span));
        (
            Problem {
                message,
                hint,
                remedy,
                place,
            },
            meant,
        )
    }

    /// With the key that is probably meant.
    fn unknown_key(
        &self,
        table: &str,
        key: &str,
        span: Range<usize>,
    ) -> (Problem, Option<&'static str>) {
        let keys = self.keys_of(table);
        let (meant, hint) = match (self.home_of(key), did_you_mean(key, keys)) {
            (Some((key, home)), _) => (Some(key), Some(format!("{key} belongs under [{home}]"))),
            (None, Some(key)) => (Some(key), Some(format!("did you mean \"{key}\"?"))),
            (None, None) => (None, None),
        };
        let message = format!("unknown key \"{key}\" in [{table}]");
        let remedy = format!("[{table}] takes {}", keys.join(", "));
        let place = Some(Place::new(self.text, span));
        (
            Problem {
                message,
                hint,
                remedy,
                place,
            },
            meant,
        )
    }

    fn keys_of(&self, table: &str) -> &[&'static str] {
        let known = self.known.iter().find(|known| known.name == table);
        known.map(|known| known.keys.as_slice()).unwrap_or_default()
    }

    /// The key, and the table that has it.
    fn home_of(&self, written: &str) -> Option<(&'static str, &'static str)> {
        self.known.iter().find_map(|table| {
            let key = table.keys.iter().find(|key| **key == written)?;
            Some((*key, table.name))
        })
    }
}

/// Other servers' words for our keys, too far from ours in letters.
const SYNONYMS: [(&str, &str); 12] = [
    ("args", "command"),
    ("argv", "command"),
    ("cmd", "command"),
    ("cwd", "directory"),
    ("root", "directory"),
    ("environment", "env"),
    ("instances", "workers"),
    ("processes", "workers"),
    ("port", "listen"),
    ("bind", "listen"),
    ("url", "path"),
    ("threads", "lanes"),
];

fn did_you_mean<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = written.to_lowercase().replace('-', "_");
    let synonym = SYNONYMS
        .iter()
        .find(|(theirs, _)| *theirs == lower)
        .map(|(_, ours)| *ours);
    if let Some(known) = known.iter().find(|key| Some(**key) == synonym) {
        return Some(known);
    }
    let closeness = |key: &str| strsim::normalized_damerau_levenshtein(&lower, key);
    known
        .iter()
        .map(|key| (closeness(key), *key))
        .filter(|(closeness, _)| *closeness >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, key)| key)
}

/// One table while its keys are taken out.
pub(super) struct Section<'r, 't> {
    table: &'static str,
    pub(super) entries: DeTable<'t>,
    known: Vec<&'static str>,
    text: &'t str,
    problems: &'r mut Vec<Problem>,
}

impl<'t> Section<'_, 't> {
    fn take(&mut self, name: &'static str) -> Maybe<DeValue<'t>> {
        self.known.push(name);
        let value = self.entries.remove(name)?;
        let key = Key {
            table: self.table,
            name,
        };
        Some(Placed {
            key,
            span: value.span(),
            value: value.into_inner(),
        })
    }

    pub(super) fn text(&mut self, name: &'static str, example: &str) -> Maybe<String> {
        let placed = self.take(name)?;
        if let DeValue::String(text) = placed.value {
            let value = text.into_owned();
            return Some(Placed {
                key: placed.key,
                span: placed.span,
                value,
            });
        }
        self.wrong_kind(
            placed.key,
            placed.span,
            &placed.value,
            "text in quotes",
            example,
        )
    }

    pub(super) fn number(&mut self, name: &'static str, example: &str) -> Maybe<i64> {
        let placed = self.take(name)?;
        match integer(&placed.value) {
            Some(value) => Some(Placed {
                key: placed.key,
                span: placed.span,
                value,
            }),
            None => self.wrong_kind(
                placed.key,
                placed.span,
                &placed.value,
                "a whole number",
                example,
            ),
        }
    }

    pub(super) fn claim(&mut self, name: &'static str, example: &str) -> Maybe<bool> {
        let placed = self.take(name)?;
        if let DeValue::Boolean(value) = placed.value {
            return Some(Placed {
                key: placed.key,
                span: placed.span,
                value,
            });
        }
        self.wrong_kind(
            placed.key,
            placed.span,
            &placed.value,
            "true or false, without quotes",
            example,
        )
    }

    /// `200` or `"200-299"`.
    pub(super) fn text_or_number(&mut self, name: &'static str, example: &str) -> Maybe<String> {
        let placed = self.take(name)?;
        let value = match (integer(&placed.value), placed.value.as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(text)) => text.to_owned(),
            (None, None) => {
                let wanted = "a number or text in quotes";
                return self.wrong_kind(placed.key, placed.span, &placed.value, wanted, example);
            }
        };
        Some(Placed {
            key: placed.key,
            span: placed.span,
            value,
        })
    }

    pub(super) fn duration(&mut self, name: &'static str, example: &str) -> Maybe<Duration> {
        let units = "a duration: a number and ms, s, min or h, in quotes";
        self.quantity(name, example, ("s", units), quantity::parse_duration)
    }

    pub(super) fn size(&mut self, name: &'static str, example: &str) -> Maybe<u64> {
        let units = "a size: a number and B, KiB, MiB, GiB, KB, MB or GB, in quotes";
        self.quantity(name, example, ("KiB", units), quantity::parse_size)
    }

    fn quantity<T>(
        &mut self,
        name: &'static str,
        example: &str,
        (likely_unit, wanted): (&str, &str),
        parse: impl FnOnce(&str) -> Result<T, QuantityError>,
    ) -> Maybe<T> {
        let placed = self.take(name)?;
        let (message, hint) = match (placed.value.as_str().map(parse), integer(&placed.value)) {
            (Some(Ok(value)), _) => {
                return Some(Placed {
                    key: placed.key,
                    span: placed.span,
                    value,
                });
            }
            (Some(Err(error)), _) => {
                let hint = error
                    .proposal()
                    .map(|meant| format!("did you mean \"{meant}\"?"));
                (format!("{}: {error}", placed.key), hint)
            }
            (None, Some(number)) => {
                let message = format!("{} = {number} has no unit", placed.key);
                (
                    message,
                    Some(format!("did you mean \"{number}{likely_unit}\"?")),
                )
            }
            (None, None) => {
                return self.wrong_kind(placed.key, placed.span, &placed.value, wanted, example);
            }
        };
        let remedy = format!("write {wanted}: {example}");
        self.report(placed.span, message, hint, remedy);
        None
    }

    pub(super) fn texts(&mut self, name: &'static str, example: &str) -> Maybe<Vec<String>> {
        let placed = self.take(name)?;
        let DeValue::Array(array) = &placed.value else {
            let hint = placed.value.as_str().map(|text| as_list(name, text));
            let message = format!("{} is {}, not a list", placed.key, kind(&placed.value));
            let remedy = format!("write a list of texts in brackets: {example}");
            self.report(placed.span, message, hint, remedy);
            return None;
        };
        let mut value = Vec::new();
        for item in array {
            let DeValue::String(text) = item.get_ref() else {
                let message = format!("{} has {} in its list", placed.key, kind(item.get_ref()));
                let remedy = "put every item of the list in quotes".to_owned();
                self.report(item.span(), message, Some("not text".into()), remedy);
                return None;
            };
            value.push(text.to_string());
        }
        Some(Placed {
            key: placed.key,
            span: placed.span,
            value,
        })
    }

    /// `{ NAME = "value" }`, or a table `[app.env]`.
    pub(super) fn texts_by_name(
        &mut self,
        name: &'static str,
        example: &str,
    ) -> BTreeMap<String, Placed<String>> {
        let mut texts = BTreeMap::new();
        let Some(placed) = self.take(name) else {
            return texts;
        };
        let DeValue::Table(table) = &placed.value else {
            let _: Maybe<()> =
                self.wrong_kind(placed.key, placed.span, &placed.value, "a table", example);
            return texts;
        };
        for (name, item) in table {
            let name = name.get_ref().to_string();
            if let DeValue::String(text) = item.get_ref() {
                let value = text.to_string();
                texts.insert(
                    name,
                    Placed {
                        key: placed.key,
                        span: item.span(),
                        value,
                    },
                );
                continue;
            }
            let message = format!(
                "{}: {name} is {}, not text",
                placed.key,
                kind(item.get_ref())
            );
            let written = self.text.get(item.span()).unwrap_or_default();
            let remedy = format!("put the value in quotes: {name} = \"{written}\"");
            self.report(item.span(), message, Some("not text".into()), remedy);
        }
        texts
    }

    fn wrong_kind<T>(
        &mut self,
        key: Key,
        span: Range<usize>,
        value: &DeValue<'_>,
        wanted: &str,
        example: &str,
    ) -> Maybe<T> {
        let message = format!("{key} is {}, not {wanted}", kind(value));
        self.report(span, message, None, format!("write {example}"));
        None
    }

    fn report(
        &mut self,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
        remedy: String,
    ) {
        let place = Some(Place::new(self.text, span));
        self.problems.push(Problem {
            message,
            hint,
            remedy,
            place,
        });
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    let digits = integer.as_str().replace('_', "");
    i64::from_str_radix(&digits, integer.radix()).ok()
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What `name = "a b"` would be as a list.
fn as_list(name: &str, text: &str) -> String {
    let items: Vec<_> = text
        .split_whitespace()
        .map(|word| format!("{word:?}"))
        .collect();
    format!("did you mean {name} = [{}]?", items.join(", "))
}
