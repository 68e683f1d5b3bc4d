//! `gapless check --json`; gapless(1) has it. Only extended, never changed.

use super::{changed, settings};
use crate::config::{Config, ConfigError, Listen};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What a file means, or what is wrong with it.
#[derive(Serialize)]
pub(super) struct Checked<'a> {
    file: &'a Path,
    is_valid: bool,
    problems: Vec<Told<'a>>,
    #[serde(flatten)]
    meaning: Option<Meaning<'a>>,
    /// Why `[limits]` may not be in force.
    limits_doubt: Option<String>,
    /// Why the program may not be found.
    program_doubt: Option<String>,
}

/// One problem, and where it is.
#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    hint: Option<&'a str>,
    remedy: &'a str,
    file: Option<&'a Path>,
    line: Option<usize>,
    column: Option<usize>,
}

#[derive(Serialize)]
struct Meaning<'a> {
    command: &'a [String],
    directory: &'a Path,
    listen: String,
    workers: u32,
    /// By table and key, as they could be written.
    settings: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    /// Those that are not as by default: `app.boot`.
    changed: Vec<String>,
}

impl<'a> Checked<'a> {
    pub(super) fn of(
        file: &'a Path,
        loaded: &'a Result<Config, ConfigError>,
        (limits_doubt, program_doubt): (Option<String>, Option<String>),
    ) -> Self {
        let problems = loaded.as_ref().err().map(problems);
        Self {
            file,
            is_valid: loaded.is_ok(),
            problems: problems.unwrap_or_default(),
            meaning: loaded.as_ref().ok().map(Meaning::of),
            limits_doubt,
            program_doubt,
        }
    }
}

fn problems(error: &ConfigError) -> Vec<Told<'_>> {
    let told = error.problems.iter().map(|problem| {
        let (file, place) = error.place_of(problem);
        Told {
            message: &problem.message,
            hint: problem.hint.as_deref(),
            remedy: &problem.remedy,
            file,
            line: place.as_ref().map(|place| place.line),
            column: place.as_ref().map(|place| place.column),
        }
    });
    told.collect()
}

impl<'a> Meaning<'a> {
    fn of(config: &'a Config) -> Self {
        let mut by_table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (name, value) in settings(config) {
            let (table, key) = parts(name);
            by_table.entry(table).or_default().insert(key, value);
        }
        let changed = changed(config).into_iter().map(|((name, _), _)| {
            let (table, key) = parts(name);
            format!("{table}.{key}")
        });
        Self {
            command: &config.app.command,
            directory: &config.app.directory,
            listen: listen(config.app.listen),
            workers: config.app.workers.get(),
            settings: by_table,
            changed: changed.collect(),
        }
    }
}

/// `[app] boot`
fn parts(name: &'static str) -> (&'static str, &'static str) {
    let (table, key) = name.split_once("] ").unwrap_or(("", name));
    (table.trim_start_matches('['), key)
}

/// As it is written.
fn listen(listen: Listen) -> String {
    match listen {
        Listen::Auto => "auto".to_owned(),
        Listen::Port => "port".to_owned(),
        Listen::FixedPort(port) => format!("port:{port}"),
        Listen::Fd => "fd".to_owned(),
        Listen::Unix => "unix".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, ConfigSource, Overrides};
    use serde_json::{Value, json};

    fn checked(name: &str, text: &str) -> Value {
        let name = format!("gapless-check-{}-{name}.toml", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).unwrap();
        let loaded = config::load(&ConfigSource {
            file: Some(file.clone()),
            overrides: Overrides {
                command: Some(vec!["/bin/true".to_owned()]),
                ..Overrides::default()
            },
            ..ConfigSource::default()
        });
        std::fs::remove_file(&file).unwrap();
        let told = Checked::of(Path::new("x.toml"), &loaded, (None, None));
        serde_json::to_value(told).unwrap()
    }

    #[test]
    fn every_setting_is_there_by_table_and_key_and_what_was_changed_is_named() {
        let told = checked("good", "[app]\nboot = \"2min\"\nlisten = \"port:3000\"\n");
        assert_eq!(
            (&told["is_valid"], &told["problems"]),
            (&json!(true), &json!([]))
        );
        assert_eq!(told["command"], json!(["/bin/true"]));
        assert_eq!(
            (&told["listen"], &told["workers"]),
            (&json!("port:3000"), &json!(1))
        );
        assert_eq!(told["settings"]["app"]["boot"], "2min");
        assert_eq!(told["settings"]["http"]["hold"], "15s");
        assert_eq!(told["changed"], json!(["app.boot"]));
        let shown_above = ["command", "directory", "workers", "listen"];
        for table in config::known_tables() {
            for key in table.keys.iter().filter(|key| !shown_above.contains(key)) {
                assert!(told["settings"][table.name][key].is_string(), "{key}");
            }
        }
    }

    #[test]
    fn every_problem_is_there_with_its_place_and_its_remedy() {
        let told = checked("bad", "[app]\ncomand = [\"x\"]\nboot = \"60\"\n");
        assert_eq!(told["is_valid"], false);
        assert_eq!(told["problems"].as_array().unwrap().len(), 2, "{told}");
        let first = &told["problems"][0];
        assert_eq!((&first["line"], &first["column"]), (&json!(2), &json!(1)));
        assert!(
            first["message"].as_str().unwrap().contains("comand"),
            "{first}"
        );
        assert!(!first["remedy"].as_str().unwrap().is_empty(), "{first}");
        assert_eq!(told["command"], Value::Null);
    }
}
