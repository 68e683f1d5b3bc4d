//! What systemd knows of units, and what their files say: `systemctl show`, and `ListenStream=` as
//! it is merged from a unit and its drop-ins.
//!
//! For commands, as `job`: every function blocks, for a bounded time.

use super::job::{JobError, perform};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// systemd answers within milliseconds, but may be busy at boot.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Where unit files and drop-ins are, what counts more first.
const DIRECTORIES: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
];

/// A unit, as far as it concerns who adds and removes instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active: String,
    /// `enabled`, `disabled`, `masked`, …
    pub file: String,
    /// `auto-restart`, `listening`, `stop-sigterm`, …
    pub sub: String,
    /// How it ended last: `success`, `exit-code`, …
    pub result: String,
    /// Of the main process, if it ended.
    pub exit_status: String,
    /// So often systemd started it again by itself.
    pub restarts: String,
    /// `loaded`, `masked`, `not-found`, `bad-setting`, …
    pub load: String,
    /// Sockets that start it.
    pub triggered_by: Vec<String>,
}

impl UnitState {
    /// There is something to stop.
    pub fn is_up(&self) -> bool {
        !matches!(self.active.as_str(), "" | "inactive" | "failed")
    }

    /// systemd does not take what its files say, or they are not there.
    pub fn is_unloadable(&self) -> bool {
        !matches!(self.load.as_str(), "" | "loaded" | "stub" | "merged")
    }

    /// It comes with the next boot.
    pub fn is_enabled(&self) -> bool {
        self.file == "enabled"
    }
}

/// What systemd says of each.
///
/// # Errors
/// [`JobError`].
pub fn states(units: &[String]) -> Result<BTreeMap<String, UnitState>, JobError> {
    let mut arguments = vec![
        "show",
        "--property=Id",
        "--property=ActiveState",
        "--property=SubState",
        "--property=Result",
        "--property=ExecMainStatus",
        "--property=NRestarts",
        "--property=LoadState",
        "--property=UnitFileState",
        "--property=TriggeredBy",
        "--",
    ];
    arguments.extend(units.iter().map(String::as_str));
    Ok(parsed(&perform("systemctl", &arguments, ASK_LIMIT)?))
}

/// Blocks of `Key=value`, with an empty line between units.
fn parsed(answer: &str) -> BTreeMap<String, UnitState> {
    let mut states = BTreeMap::new();
    for block in answer.split("\n\n") {
        let values: BTreeMap<_, _> = block.lines().filter_map(|it| it.split_once('=')).collect();
        let value = |key: &str| values.get(key).copied().unwrap_or_default();
        if value("Id").is_empty() {
            continue;
        }
        let triggers = value("TriggeredBy").split_whitespace();
        let state = UnitState {
            active: value("ActiveState").to_owned(),
            file: value("UnitFileState").to_owned(),
            sub: value("SubState").to_owned(),
            result: value("Result").to_owned(),
            exit_status: value("ExecMainStatus").to_owned(),
            restarts: value("NRestarts").to_owned(),
            load: value("LoadState").to_owned(),
            triggered_by: triggers.map(str::to_owned).collect(),
        };
        states.insert(value("Id").to_owned(), state);
    }
    states
}

/// The socket units that start a service, by the addresses at which they listen, as the kernel shows
/// them: `[::]:8888`, `/run/x.sock`.
///
/// # Errors
/// [`JobError`].
pub fn listening_for(service: &str) -> Result<BTreeMap<String, String>, JobError> {
    let states = states(&[service.to_owned()])?;
    let sockets = states.into_values().flat_map(|it| it.triggered_by);
    let mut arguments = vec!["show".to_owned()];
    arguments.extend(["--property=Id", "--property=Listen", "--"].map(str::to_owned));
    arguments.extend(sockets);
    if arguments.len() == 4 {
        return Ok(BTreeMap::new());
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Ok(listens(&perform("systemctl", &arguments, ASK_LIMIT)?))
}

/// `Listen=[::]:8888 (Stream)`, a line for each.
fn listens(answer: &str) -> BTreeMap<String, String> {
    let mut listens = BTreeMap::new();
    for block in answer.split("\n\n") {
        let id = block.lines().find_map(|line| line.strip_prefix("Id="));
        let places = block
            .lines()
            .filter_map(|line| line.strip_prefix("Listen="));
        let streams = places.filter_map(|it| it.strip_suffix(" (Stream)"));
        listens.extend(
            streams
                .zip(id.into_iter().cycle())
                .map(|(at, id)| (at.to_owned(), id.to_owned())),
        );
    }
    listens
}

/// Names of loaded units that a pattern matches; none where there is no systemd.
pub fn loaded(pattern: &str) -> Vec<String> {
    let arguments = [
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        "--no-pager",
        "--",
        pattern,
    ];
    let listed = perform("systemctl", &arguments, ASK_LIMIT).unwrap_or_default();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    listed.lines().filter_map(first).collect()
}

/// It is wanted by the target of all sockets, whether it is loaded or not.
pub fn is_enabled_socket(root: &Path, unit: &str) -> bool {
    let wants = "etc/systemd/system/sockets.target.wants";
    root.join(wants).join(unit).symlink_metadata().is_ok()
}

/// Files in the directories of units below a root: `/etc/systemd/system/NAME` and so on.
pub fn named<'a>(root: &'a Path, name: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    let paths = DIRECTORIES.iter().map(move |it| root.join(it).join(name));
    paths.filter(|path| path.symlink_metadata().is_ok())
}

/// Every entry in the directories of units, by its name.
pub fn entries(root: &Path) -> impl Iterator<Item = String> {
    let listed = DIRECTORIES.map(|it| std::fs::read_dir(root.join(it)));
    let entries = listed.into_iter().flatten().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Where a socket unit listens, by its files; `daemon-reload` may still be due.
pub fn listen_streams(root: &Path, unit: &str) -> Vec<String> {
    let template = unit.split_once('@').map(|(prefix, _)| {
        let suffix = unit.rsplit_once('.').map_or("", |(_, suffix)| suffix);
        format!("{prefix}@.{suffix}")
    });
    let main = named(root, unit).next();
    let main = main.or_else(|| named(root, template.as_deref()?).next());
    // Of drop-ins with the same name the first counts; the order is that of the names.
    let mut drop_ins = BTreeMap::new();
    for of in [Some(unit), template.as_deref()].into_iter().flatten() {
        for directory in named(root, &format!("{of}.d")) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let is_conf = entry.path().extension().is_some_and(|it| it == "conf");
                if is_conf {
                    drop_ins.entry(entry.file_name()).or_insert(entry.path());
                }
            }
        }
    }
    let files = main.into_iter().chain(drop_ins.into_values());
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    merged(&texts.collect::<Vec<_>>().join("\n"))
}

/// An empty value takes away what was said before.
fn merged(text: &str) -> Vec<String> {
    let mut streams = Vec::new();
    for line in text.lines() {
        match line.split_once('=') {
            Some((key, value)) if key.trim() == "ListenStream" => match value.trim() {
                "" => streams.clear(),
                value => streams.push(value.to_owned()),
            },
            Some(_) | None => {}
        }
    }
    streams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_an_answer_is_found() {
        let answer = "Id=a.socket\nActiveState=active\nUnitFileState=enabled\n\n\
                      TriggeredBy=a.socket x.socket\nId=a.service\nActiveState=inactive\n\
                      UnitFileState=\n";
        let states = parsed(answer);
        assert!(states["a.socket"].is_up() && states["a.socket"].is_enabled());
        let service = &states["a.service"];
        assert!(!service.is_up() && !service.is_enabled());
        assert_eq!(service.triggered_by, ["a.socket", "x.socket"]);
        assert!(parsed("").is_empty());
    }

    #[test]
    fn every_address_of_a_unit_is_found_whichever_line_comes_first() {
        let answer = "Listen=[::]:8888 (Stream)\nListen=/run/x.sock (Stream)\nId=a.socket\n\n\
                      Id=b.socket\nListen=127.0.0.1:53 (Datagram)\nListen=127.0.0.1:1 (Stream)\n";
        let wanted = [
            ("/run/x.sock", "a.socket"),
            ("127.0.0.1:1", "b.socket"),
            ("[::]:8888", "a.socket"),
        ];
        let found = listens(answer);
        let found: Vec<_> = found.iter().map(|(at, unit)| (&**at, &**unit)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn an_empty_listen_stream_takes_away_what_was_said_before() {
        let text = "# ListenStream=1\n[Socket]\nListenStream=8888\nListenStream = 80 \n";
        assert_eq!(merged(text), ["8888", "80"]);
        assert_eq!(
            merged(&format!("{text}ListenStream=\nListenStream=81")),
            ["81"]
        );
        assert!(merged("FileDescriptorName=http").is_empty());
    }
}
