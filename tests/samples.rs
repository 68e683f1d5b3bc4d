//! Ring 2: what the documentation shows in a terminal is run, and must say what it shows.
//!
//! The samples of a file (`world::samples`) run in their order in one world: those of
//! `target/debug/gapless` in the directory of a fresh clone after `make run`, the others on a machine
//! where gapless was just installed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use world::samples::{INSTEAD, Sample, is_shown, of_documents, of_page, samples};
use world::service::Service;
use world::{Scratch, eventually, gapless, hello, process, repository, unique};

const AT_MOST: Duration = Duration::from_mins(1);

/// Programs that stand for those of the machine, first in its PATH.
fn play(directory: &Path, programs: &[(&str, String)]) {
    fs::create_dir_all(directory).unwrap();
    for (name, script) in programs {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Runs each, and fails with all that differ, as the documentation should have them.
fn run_all(samples: &[Sample], mut prepare: impl FnMut(&str) -> Command) {
    assert!(!samples.is_empty(), "no sample was found");
    let mut wrong = String::new();
    for sample in samples {
        let mut command = prepare(&sample.command);
        command.env("SUDO_USER", "admin").env("COLUMNS", "100");
        let finished = process::run(command, AT_MOST);
        wrong.extend(sample.instead(&finished.output()));
    }
    assert!(wrong.is_empty(), "{INSTEAD}\n{wrong}");
}

fn shell(command: &str, programs: &Path) -> Command {
    let mut shell = Command::new("bash");
    let path = std::env::var("PATH").unwrap();
    shell
        .args(["-c", &format!("{{ {command}\n}} 2>&1")])
        .env("PATH", format!("{}:{path}", programs.display()));
    shell
}

/// A machine where gapless was just installed: its service runs and has no app yet.
struct Installed {
    service: Service,
}

impl Installed {
    fn new() -> Self {
        let mut service = Service::new("gapless");
        service.listen_tcp("http");
        service.start();
        service.wait_ready();
        let home = service.scratch.0.join("home");
        fs::create_dir(&home).unwrap();
        fs::copy(hello(), home.join("myapp")).unwrap();
        service
            .scratch
            .write("home/bad", "#!/bin/sh\necho no database\nexit 3\n");
        let bad = home.join("bad");
        fs::set_permissions(bad, fs::Permissions::from_mode(0o755)).unwrap();
        let address = service.address();
        let (host, port) = address.rsplit_once(':').unwrap();
        let curl = format!(
            "exec 3<>/dev/tcp/{host}/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
             sed '1,/^\\r$/d' <&3"
        );
        let itself = format!("exec {} \"$@\"", gapless().display());
        let programs = [
            ("sudo", "exec \"$@\"".to_owned()),
            ("curl", curl),
            ("gapless", itself),
        ];
        play(&service.scratch.0.join("programs"), &programs);
        Self { service }
    }

    fn run(&self, command: &str) -> Command {
        let mut shell = shell(command, &self.service.scratch.0.join("programs"));
        for (key, value) in self.service.command(&[]).get_envs() {
            if key != "PATH" {
                shell.env(key, value.unwrap());
            }
        }
        shell.current_dir(self.service.scratch.0.join("home"));
        shell
    }
}

/// A fresh clone after `make run`, which serves in another terminal.
struct Clone {
    scratch: Scratch,
    directory: PathBuf,
    mark: String,
    run: Child,
}

impl Clone {
    fn new() -> Self {
        let scratch = Scratch::new();
        let directory = scratch.0.join("gapless");
        let built = directory.join("target/debug");
        fs::create_dir_all(&built).unwrap();
        symlink(gapless(), built.join("gapless")).unwrap();
        let mark = unique();
        let mut run = Command::new(gapless());
        run.args(["run", "--port", "0", "--"]).arg(hello());
        run.env("XDG_RUNTIME_DIR", &scratch.0)
            .env("TEST_MARK", &mark)
            .current_dir(&directory);
        let run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let clone = Self {
            scratch,
            directory,
            mark,
            run: run.unwrap(),
        };
        eventually("it serves", AT_MOST, || {
            let status = clone.run("target/debug/gapless status");
            (process::run(status, AT_MOST).code() == 0).then_some(())
        });
        clone
    }

    fn run(&self, command: &str) -> Command {
        let mut shell = shell(command, &self.directory);
        shell
            .env("XDG_RUNTIME_DIR", &self.scratch.0)
            .current_dir(&self.directory);
        shell
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        for seen in process::marked(&format!("TEST_MARK={}", self.mark)) {
            process::end(seen.pid, Signal::KILL);
        }
        let _ended = process::wait(&mut self.run, AT_MOST);
    }
}

/// Of those who try it, in a fresh clone.
fn is_of_a_clone(sample: &Sample) -> bool {
    sample.command.contains("target/debug/")
}

/// Several apps, and a restart, need units, which only a real systemd has: ring 3 tries them.
fn is_of_units(sample: &Sample) -> bool {
    ["blog", "gapless list", "verify"]
        .iter()
        .any(|words| sample.command.contains(words))
}

/// Of the README and of docs/, the samples that are wanted, by file; at least in so many files.
fn in_files(at_least: usize, is_wanted: impl Fn(&Sample) -> bool) -> Vec<Vec<Sample>> {
    let mut files = of_documents();
    for samples in &mut files {
        samples.retain(&is_wanted);
    }
    files.retain(|samples| !samples.is_empty());
    assert!(files.len() >= at_least, "{files:#?}");
    files
}

#[test]
fn what_the_documents_show_of_a_fresh_clone_is_so() {
    for samples in in_files(1, is_of_a_clone) {
        let clone = Clone::new();
        run_all(&samples, |command| clone.run(command));
    }
}

/// The first deploy in the README, and what docs/ show after it.
#[test]
fn what_the_documents_show_of_a_machine_is_so() {
    for samples in in_files(2, |sample| !is_of_a_clone(sample) && !is_of_units(sample)) {
        let machine = Installed::new();
        run_all(&samples, |command| machine.run(command));
    }
}

#[test]
fn what_the_manual_shows_of_what_is_wrong_is_so() {
    let machine = Installed::new();
    let home = |name: &str, text: &str| {
        machine.service.scratch.write(&format!("home/{name}"), text);
    };
    let mistaken = "[app]\ncomand = [\"bin/server\"]\nboot = \"60\"\n";
    home("shop.toml", mistaken);
    let elsewhere =
        "[app]\ncommand = [\"python3\", \"-m\", \"http.server\", \"0\"]\nboot = \"5s\"\n";
    home("wrong-port/gapless.toml", elsewhere);
    let lacking = "[app]\ncommand = [\"/opt/bun/bin/bun\", \"server.ts\"]\n";
    home("no-runtime/gapless.toml", lacking);
    home("unknown/notes.txt", "nothing that runs\n");
    let deployed = process::run(machine.run("gapless deploy ./myapp"), AT_MOST);
    deployed.expect_success();
    let text = fs::read_to_string(repository("packaging/man/gapless.1")).unwrap();
    run_all(&samples(&of_page(&text)), |command| machine.run(command));
}

/// Every key of an object, and of what is in it; but for those of `settings`, which are the keys of the
/// configuration.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                found.insert(key.clone());
                if key != "settings" {
                    keys(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

#[test]
fn every_key_of_every_json_is_in_the_manual() {
    let machine = Installed::new();
    let write = |name: &str, text: &str| machine.service.scratch.write(name, text);
    write("home/shop.toml", "[app]\ncomand = []\n");
    write("home/good.toml", "[app]\ncommand = [\"/bin/true\"]\n");
    let text = fs::read_to_string(repository("packaging/man/gapless.1")).unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: BTreeSet<_> = text.split(|c| !is_part(c)).collect();
    for (line, code) in [
        ("deploy ./myapp", 0),
        ("deploy ./bad", 6),
        ("rollback nosuch", 1),
        ("releases", 0),
        ("reload", 0),
        ("upgrade --check", 0),
        ("upgrade", 0),
        ("hold", 0),
        ("drain", 0),
        ("status", 0),
        ("resume", 0),
        ("undrain", 0),
        ("log-level debug", 0),
        ("check good.toml", 0),
        ("check shop.toml", 5),
        ("list", 0),
        ("explain", 0),
        ("explain 6", 0),
        ("init .", 0),
        ("verify --only quiet --for 1s --connections 2", 0),
    ] {
        let command = machine.run(&format!("gapless {line} --json 2>/dev/null"));
        let said = process::run(command, AT_MOST);
        assert_eq!(said.code(), code, "{line}: {said}");
        assert_eq!(said.stdout.lines().count(), 1, "{line}: {said}");
        let object = serde_json::from_str(&said.stdout).unwrap();
        let mut found = BTreeSet::new();
        keys(&object, &mut found);
        let missing: Vec<_> = found
            .iter()
            .filter(|it| !words.contains(it.as_str()))
            .collect();
        assert!(
            missing.is_empty(),
            "{line}: {missing:?} is not in gapless(1)"
        );
        assert!(!found.is_empty(), "{line}: {said}");
    }
}

/// What prints something has it for programs, too.
#[test]
fn every_command_that_prints_has_json() {
    let grammar = gapless::cli::command();
    let without = grammar.get_subcommands().filter(|command| {
        let has_json = command
            .get_arguments()
            .any(|it| it.get_long() == Some("json"));
        !command.is_hide_set() && !has_json
    });
    let without: Vec<_> = without.map(clap::Command::get_name).collect();
    assert_eq!(
        without,
        ["serve", "run", "console"],
        "these log, or become something else"
    );
}

#[test]
fn what_a_page_shows_is_found() {
    let page = ".Bd -literal -offset indent\n$ gapless status \\-w\nfine\n\nmore\n.Ed\n.Pp\nText\n";
    let text = of_page(page);
    let wanted = Sample {
        command: "gapless status -w".into(),
        prints: vec!["fine".into(), String::new(), "more".into()],
    };
    assert_eq!(samples(&text), [wanted]);
}

#[test]
fn only_numbers_and_widths_may_differ() {
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let shown = lines("g1 is live after 1.01 s: 0 of 1 request lost\n...\n  end  7 MiB");
    let other = "g12 is live after 2 ms: 0 of 7 requests lost\nthis\nand that\n end 10 KiB";
    assert!(is_shown(&shown, &lines(other)));
    assert!(!is_shown(&shown, &lines(&other.replace("lost", "found"))));
    assert!(!is_shown(
        &shown,
        &lines(&other.replace(" end", " end and"))
    ));
}
