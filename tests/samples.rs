//! Ring 2: what the documentation shows in a terminal is run, and must say what it shows.
//!
//! A sample is an indented block whose lines begin with `$ ` (a command), else are what it prints. The
//! blocks of a file run in their order in one world: those of `target/release/gapless` in the directory
//! of a fresh clone after `make run`, the others on a machine where gapless was just installed. Numbers,
//! times, sizes and widths of columns may differ; `...` stands for any lines.

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
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use world::service::Service;
use world::{Scratch, eventually, gapless, process, repository, tool, unique};

const AT_MOST: Duration = Duration::from_mins(1);

/// A command and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Sample {
    command: String,
    prints: Vec<String>,
}

/// Those of a text, in their order.
fn samples(text: &str) -> Vec<Sample> {
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
fn of_page(text: &str) -> String {
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
                let line = line.replace("\\-", "-").replace("\\e", "\\");
                writeln!(plain, "    {}", line.trim_start_matches("\\&")).unwrap();
            }
            _ => (),
        }
    }
    plain
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
fn is_shown(shown: &[String], printed: &[String]) -> bool {
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
        let printed = finished.output();
        let printed: Vec<String> = printed.trim_end().lines().map(str::to_owned).collect();
        if !is_shown(&sample.prints, &printed) {
            writeln!(wrong, "    $ {}", sample.command).unwrap();
            for line in printed {
                writeln!(wrong, "    {line}").unwrap();
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the documentation shows something else than:\n{wrong}"
    );
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
        fs::copy(tool("hello"), home.join("myapp")).unwrap();
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
        let release = directory.join("target/release");
        fs::create_dir_all(&release).unwrap();
        symlink(gapless(), release.join("gapless")).unwrap();
        let mark = unique();
        let mut run = Command::new(gapless());
        run.args(["run", "--port", "0", "--"]).arg(tool("hello"));
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
            let status = clone.run("target/release/gapless status");
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
    sample.command.contains("target/release/")
}

/// Several apps need units, which only a real systemd has: ring 3 tries them.
fn is_of_units(sample: &Sample) -> bool {
    sample.command.contains("blog") || sample.command == "gapless list"
}

#[test]
fn what_the_readme_shows_of_a_fresh_clone_is_so() {
    let text = fs::read_to_string(repository("README.md")).unwrap();
    let mut samples = samples(&text);
    samples.retain(is_of_a_clone);
    let clone = Clone::new();
    run_all(&samples, |command| clone.run(command));
}

#[test]
fn the_first_minute_in_the_readme_is_as_it_shows() {
    let text = fs::read_to_string(repository("README.md")).unwrap();
    let mut samples = samples(&text);
    samples.retain(|sample| !is_of_a_clone(sample) && !is_of_units(sample));
    let machine = Installed::new();
    run_all(&samples, |command| machine.run(command));
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
