//! The manuals and the example configuration tell the truth: every key, every command, every exit
//! code, and the defaults.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use gapless::cli::Exit;
use gapless::config::{self, AppConfig, Config, ConfigSource, Overrides};
use gapless::systemd::message_id;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn packaged(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(file)
}

fn text_of(file: &str) -> String {
    std::fs::read_to_string(packaged(file)).unwrap()
}

/// The part of gapless.toml(5) about a table.
fn section<'m>(manual: &'m str, table: &str) -> &'m str {
    let heading = format!(".Sh [{table}]\n");
    let (_, section) = manual
        .split_once(&heading)
        .unwrap_or_else(|| panic!("no {heading}"));
    section.split(".Sh ").next().unwrap()
}

#[test]
fn every_key_is_in_the_manual_with_its_default_and_an_example() {
    let manual = text_of("man/gapless.toml.5");
    for table in config::known_tables() {
        let section = section(&manual, table.name);
        for key in &table.keys {
            let (_, entry) = section
                .split_once(&format!(".It Ic {key} No = "))
                .unwrap_or_else(|| panic!("[{}] {key} is not in gapless.toml.5", table.name));
            let entry = entry.split(".It Ic ").next().unwrap();
            assert!(
                entry.contains("efault"),
                "[{}] {key} has no default:\n{entry}",
                table.name
            );
            let example = format!(".Li {key} = ");
            assert!(
                entry.contains(&example),
                "[{}] {key} has no example:\n{entry}",
                table.name
            );
        }
        let documented = section.matches(".It Ic ").count();
        assert_eq!(
            documented,
            table.keys.len(),
            "[{}] has a key that does not exist",
            table.name
        );
    }
}

#[test]
fn the_examples_of_the_manual_are_valid() {
    let manual = text_of("man/gapless.toml.5");
    for table in config::known_tables() {
        let examples = section(&manual, table.name).lines().filter_map(|line| {
            let example = line.strip_prefix(".Li ")?.replace("\\(dq", "\"");
            example.contains(" = ").then_some(example)
        });
        for example in examples.filter(|it| !it.starts_with("command") && !it.starts_with("dire")) {
            let text = format!("[{}]\n{example}\n", table.name);
            let directory = Directory::new(&format!("manual-{}", table.name));
            let loaded = directory.load(&text, "true");
            assert!(loaded.is_ok(), "{text}{}", loaded.unwrap_err());
        }
    }
}

#[test]
fn every_command_is_in_the_manual_with_its_options() {
    let manual = text_of("man/gapless.1");
    for command in gapless::cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(
            manual.contains(&format!(".It Cm {name}")),
            "{name} is not in gapless.1"
        );
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let is_of_all = ["help", "version"].contains(&option);
            let written = format!("Fl -{option}");
            assert!(
                is_of_all || manual.contains(&written),
                "{name} --{option} is not in gapless.1"
            );
        }
    }
    assert!(manual.contains(".It Cm exec"));
}

/// What `journalctl -x` says: for every event, with a subject, an explanation and the next command.
#[test]
fn the_catalogue_explains_every_event_and_no_other() {
    let catalogue = text_of("gapless.catalog");
    let entries: BTreeMap<_, _> = catalogue
        .split("\n-- ")
        .skip(1)
        .map(|entry| entry.split_once('\n').unwrap())
        .collect();
    let ids: BTreeSet<_> = message_id::ALL.iter().map(|message| message.id).collect();
    assert_eq!(entries.keys().copied().collect::<BTreeSet<_>>(), ids);
    assert_eq!(catalogue.matches("\n-- ").count(), ids.len(), "one twice");
    for (id, entry) in entries {
        let (head, text) = entry.split_once("\n\n").unwrap();
        assert!(head.starts_with("Subject: "), "{id}: {head}");
        let (explanation, next) = text.split_once("\n\nNext: ").unwrap();
        assert!(explanation.ends_with('.'), "{id}: {explanation}");
        assert!(!next.trim().is_empty(), "{id}");
    }
}

/// `@FIELD@` in the catalogue is one of an entry: a wrong name would be shown as it is.
#[test]
fn the_catalogue_takes_its_values_from_fields_that_every_entry_has() {
    for word in text_of("gapless.catalog").split('@').skip(1).step_by(2) {
        assert!(["GAPLESS_NAME", "_SYSTEMD_UNIT"].contains(&word), "{word}");
    }
}

#[test]
fn every_exit_code_is_in_the_manual() {
    let manual = text_of("man/gapless.1");
    for exit in Exit::ALL {
        let line = format!(".It {}\n{}\n", exit.code(), exit.meaning());
        assert!(manual.contains(&line), "{line}");
    }
}

/// The pages of all commands, as `make install` has them written.
fn pages_of_commands(directory: &Path) {
    let written = Command::new(env!("CARGO_BIN_EXE_gapless"))
        .arg("manual")
        .arg(directory)
        .output()
        .unwrap();
    assert!(written.status.success(), "{written:?}");
}

#[test]
fn every_visible_command_has_a_page_with_what_its_help_says() {
    let directory = Directory::new("pages");
    pages_of_commands(&directory.0);
    let grammar = gapless::cli::command();
    let mut commands = 0;
    for command in grammar.get_subcommands().filter(|it| !it.is_hide_set()) {
        let name = command.get_name();
        let file = directory.0.join(format!("gapless-{name}.1"));
        let page = std::fs::read_to_string(file).unwrap();
        let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
        let about = command.get_about().unwrap().to_string();
        assert!(page.contains(&about), "{name}: {about}\n{page}");
        let help = command.get_after_help().map(ToString::to_string);
        let mut said: Vec<_> = help.iter().flat_map(|it| it.lines()).collect();
        said.retain(|line| !line.ends_with("Examples:"));
        let arguments = command.get_arguments().filter_map(clap::Arg::get_help);
        let arguments: Vec<_> = arguments.map(ToString::to_string).collect();
        said.extend(arguments.iter().map(String::as_str));
        for line in said {
            assert!(page.contains(line.trim()), "{name}: {line}\n{page}");
        }
        for exit in Exit::ALL {
            assert!(page.contains(exit.meaning()), "{name}: {page}");
        }
        commands += 1;
    }
    assert_eq!(pages_in(&directory.0).len(), commands);
}

fn pages_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}

/// The first of these linters that is installed has nothing to say.
#[test]
fn the_manuals_are_well_formed() {
    let directory = Directory::new("lint");
    pages_of_commands(&directory.0);
    let mut pages = pages_in(&packaged("man"));
    pages.extend(pages_in(&directory.0));
    for page in pages {
        let mandoc = Command::new("mandoc")
            .args(["-Tlint", "-Wwarning"])
            .arg(&page)
            .output();
        let groff = || {
            Command::new("groff")
                .args(["-ww", "-mandoc", "-Tutf8", "-z"])
                .arg(&page)
                .output()
        };
        match mandoc.or_else(|_| groff()) {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let linted = String::from_utf8_lossy(&output.stdout);
                let is_silent = said.is_empty() && linted.is_empty();
                assert!(output.status.success() && is_silent, "{said}{linted}");
            }
            Err(error) => {
                let skipped = format!("SKIPPED: neither mandoc nor groff is here: {error}\n");
                std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            }
        }
    }
}

/// The shipped units, and what no drop-in may change.
#[test]
fn the_manual_of_the_units_names_each_of_them_and_what_holds_a_restart_together() {
    let manual = text_of("man/gapless.service.8");
    let units = packaged("../units");
    for unit in pages_in(&units) {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let is_unit = name.ends_with(".service") || name.ends_with(".socket");
        let name = name.replace('@', "@NAME");
        let named = manual.contains(&format!(".Nm {name}"));
        assert!(!is_unit || named, "{name} is not in gapless.service.8");
    }
    let (_, kept) = manual.split_once("should stay as they are:").unwrap();
    let (kept, _) = kept.split_once(".Sh ").unwrap();
    let settings = kept.split_whitespace().filter(|word| word.ends_with('='));
    for setting in settings {
        for unit in ["gapless.service", "gapless@.service"] {
            let text = std::fs::read_to_string(units.join(unit)).unwrap();
            assert!(text.contains(&format!("\n{setting}")), "{unit}: {setting}");
        }
    }
}

/// A directory of its own, gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("gapless-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join("bin")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", path.join("bin/server")).ok();
        Self(path.canonicalize().unwrap())
    }

    /// Loads a text; `command` is what the command line says, empty for nothing.
    fn load(&self, text: &str, command: &str) -> Result<Config, config::ConfigError> {
        let file = self.0.join("gapless.toml");
        std::fs::write(&file, text).unwrap();
        let command = (!command.is_empty()).then(|| vec![command.to_owned()]);
        let overrides = Overrides {
            command,
            ..Overrides::default()
        };
        config::load(&ConfigSource {
            file: Some(file),
            overrides,
            ..ConfigSource::default()
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn defaults(directory: &Path) -> Config {
    Config {
        app: AppConfig::new(vec!["true".to_owned()], directory.to_owned()),
        health: config::HealthConfig::default(),
        restart: config::RestartConfig::default(),
        http: config::HttpConfig::default(),
        limits: config::LimitsConfig::default(),
        log: config::LogConfig::default(),
    }
}

/// `#key = value` without the `#`; sentences have a space after theirs.
fn uncommented(example: &str, keep: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') && !setting.is_empty() && keep(setting) => {
            format!("{setting}\n")
        }
        Some(_) | None => format!("{line}\n"),
    };
    example.lines().map(line).collect()
}

#[test]
fn the_packaged_configuration_lacks_only_a_command() {
    let directory = Directory::new("packaged");
    let error = directory.load(&text_of("gapless.toml"), "").unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    assert!(error.summary().contains("there is no command"), "{error}");
    let config = directory.load(&text_of("gapless.toml"), "true").unwrap();
    assert_eq!(config, defaults(&directory.0));
}

#[test]
fn the_packaged_configuration_shows_the_defaults() {
    let directory = Directory::new("defaults");
    let examples = [
        "command",
        "directory",
        "env",
        "watchdog",
        "shared",
        "release_command",
        "console",
        "path",
        "lanes",
        "connections_per_address_max",
        "upgrade_drain",
        "memory",
        "tasks",
        "cpu",
    ];
    let is_default = |line: &str| {
        !examples
            .iter()
            .any(|key| line.starts_with(&format!("{key} =")))
    };
    let text = uncommented(&text_of("gapless.toml"), is_default);
    assert_eq!(
        directory.load(&text, "true").unwrap(),
        defaults(&directory.0)
    );
}

#[test]
fn the_packaged_configuration_is_valid_with_every_key() {
    let directory = Directory::new("uncommented");
    let text = uncommented(&text_of("gapless.toml"), |_| true).replace("/srv/app", ".");
    let config = directory
        .load(&text, "")
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.app.command[1..], ["--quiet"]);
    for table in config::known_tables() {
        let (_, part) = text.split_once(&format!("[{}]\n", table.name)).unwrap();
        let part = part.split("\n[").next().unwrap();
        for key in &table.keys {
            assert!(
                part.contains(&format!("\n{key} = ")),
                "[{}] {key} is not shown",
                table.name
            );
        }
    }
}

/// The documents of the repository, with their texts.
fn documents() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories: Vec<_> = ["", "docs", "examples", "packaging", "tests/bench"]
        .iter()
        .map(|it| root.join(it))
        .collect();
    let examples = std::fs::read_dir(root.join("examples")).unwrap();
    directories.extend(
        examples
            .map(|it| it.unwrap().path())
            .filter(|it| it.is_dir()),
    );
    let entries = directories
        .iter()
        .flat_map(|it| std::fs::read_dir(it).unwrap());
    let paths = entries.map(|it| it.unwrap().path());
    let paths = paths.filter(|it| it.extension().is_some_and(|it| it == "md"));
    paths
        .map(|it| (it.clone(), std::fs::read_to_string(it).unwrap()))
        .collect()
}

/// Where the links of a document lead, but for those to other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text
        .split("](")
        .skip(1)
        .map(|it| it.split(')').next().unwrap());
    targets.filter(|it| !it.contains("://"))
}

/// The headings of a document, as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.split_once("# "));
    let headings = headings.filter(|(before, _)| before.chars().all(|it| it == '#'));
    let anchor = |(_, heading): (&str, &str)| {
        let words = heading.to_lowercase().replace(' ', "-");
        let is_part = |it: &char| it.is_alphanumeric() || matches!(it, '-' | '_');
        words.chars().filter(is_part).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_of_it() {
    let documents = documents();
    let mut found = 0;
    for (path, text) in &documents {
        for link in links(text) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = path.parent().unwrap().join(file);
            let target = if file.is_empty() { path } else { &target };
            let from = path.display();
            assert!(target.exists(), "{from}: {link} leads nowhere");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(target).unwrap();
                assert!(
                    anchors(&text).contains(heading),
                    "{from}: {link}: no such heading"
                );
            }
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn the_readme_leads_to_every_file_in_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = documents();
    let linked: BTreeSet<_> = links(&documents[&root.join("README.md")])
        .map(|it| root.join(it))
        .collect();
    let mut of_docs = documents
        .keys()
        .filter(|it| it.starts_with(root.join("docs")));
    assert!(of_docs.all(|it| linked.contains(it)), "{linked:#?}");
}

#[test]
fn every_file_that_the_architecture_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let words = text.split('`').skip(1).step_by(2);
    let files: Vec<_> = words
        .filter(|it| Path::new(it).extension().is_some_and(|it| it == "rs"))
        .collect();
    let is_there = |file: &str| {
        ["", "src"]
            .iter()
            .any(|it| root.join(it).join(file).exists())
    };
    let missing: Vec<_> = files.iter().filter(|it| !is_there(it)).collect();
    assert!(files.len() > 50 && missing.is_empty(), "{missing:?}");
}
