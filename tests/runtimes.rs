//! Ring 3, `make test-apps`: the apps of examples/, each on its real runtime, as an instance of its own
//! in the sandbox of the shipped units, in one container with systemd 257.
//!
//! For each: a deploy under the strict client, the death of the app, a stop with requests in flight;
//! and at the end one reboot with all of them enabled. Not in `make test`, as the runtimes are a
//! download of some 400 MB.
//!
//! The runtimes are those of Debian and npm. The client is told `--plain`: such an app proves only its
//! version. A runtime that cannot be had is named in tests/runtimes/table.rs with the reason, or fails the
//! test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::print_stderr,
    reason = "what was measured goes to stderr: make test-apps shows it"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

#[path = "runtimes/consoles.rs"]
mod consoles;
#[path = "runtimes/in_flight.rs"]
mod in_flight;
#[path = "runtimes/instance.rs"]
mod instance;
#[path = "runtimes/measured.rs"]
mod measured;
#[path = "runtimes/starter.rs"]
mod starter;
#[path = "runtimes/table.rs"]
mod table;
mod world;

use instance::Instance;
use measured::Measured;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use table::{EXAMPLES, Example, KNOWN_MISSING, NO_APPS};
use world::container::{self, Container, RUNTIMES};
use world::{alone, repository, skip};

#[test]
#[ignore = "downloads runtimes of 400 MB once, and takes minutes: make test-apps"]
fn every_example_is_deployed_killed_stopped_and_rebooted_on_its_own_runtime() {
    if let Some(missing) = container::missing() {
        return skip(&missing);
    }
    let _held = alone();
    let mut container = Container::boot(RUNTIMES);
    let mut lived = Vec::new();
    let mut failed = Vec::new();
    for (number, example) in chosen() {
        let instance = Instance::new(&container, example, number);
        if let Some(why) = instance.is_known_missing() {
            eprintln!("*** {} is NOT TESTED: {why}", example.name);
            continue;
        }
        let life = catch_unwind(AssertUnwindSafe(|| instance.live_and_stop()));
        if let Ok(measured) = life {
            lived.push((number, example, measured));
        } else {
            eprintln!("*** {} failed\n{}", example.name, instance.story());
            failed.push(example.name);
        }
    }
    container.reboot();
    for (number, example, measured) in &mut lived {
        measured.boot = Instance::new(&container, example, *number).is_back();
    }
    eprintln!(
        "{}",
        Measured::table(lived.iter().map(|it| (it.1.name, &it.2)))
    );
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// All of them, with a number that is theirs; `GAPLESS_APPS=go,php` while one is being written.
fn chosen() -> Vec<(u16, &'static Example)> {
    let all = (0..).zip(EXAMPLES);
    let Ok(wanted) = std::env::var("GAPLESS_APPS") else {
        return all.collect();
    };
    eprintln!("*** only {wanted}");
    all.filter(|(_, example)| wanted.split(',').any(|name| name == example.name))
        .collect()
}

#[test]
fn every_example_is_in_the_table_and_has_a_readme_that_deploys_it() {
    let directories = std::fs::read_dir(repository("examples")).unwrap();
    let directories = directories
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !NO_APPS.contains(&name.as_str()));
    let tested = EXAMPLES.iter().map(|example| example.directory.to_owned());
    assert_eq!(
        directories.collect::<BTreeSet<_>>(),
        tested.collect::<BTreeSet<_>>(),
        "left: examples/, right: tests/runtimes/table.rs"
    );
    for example in EXAMPLES {
        let path = repository("examples").join(example.directory);
        let readme = std::fs::read_to_string(path.join("README.md"));
        let readme = readme.unwrap_or_else(|error| panic!("{}/README.md: {error}", path.display()));
        let add = format!("sudo gapless add {} --listen ", example.name);
        assert!(readme.contains(&add), "{add}is not in {readme}");
        let lines = readme.lines().count();
        assert!(lines <= 40, "{}: {lines} lines of README", example.name);
        let versioned = std::fs::read_to_string(path.join(example.version_in)).unwrap();
        assert_eq!(
            versioned.matches("v1").count(),
            1,
            "{}: the harness changes v1 to v2 there",
            example.version_in
        );
    }
    for (name, _) in KNOWN_MISSING {
        assert!(
            EXAMPLES.iter().any(|example| example.name == *name),
            "{name}"
        );
    }
}
