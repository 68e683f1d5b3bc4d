//! The world that gapless is tested in: a play of systemd for single processes ([`service`]), real
//! ones in containers ([`container`]), and the load that counts what is lost ([`load`]).
//!
//! Its helpers are verbs that wait for the event they cause, with a deadline, and that fail with all
//! that a person needs to see: command, output, journal, messages.

#![allow(dead_code, reason = "every test crate uses its own part of the world")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::print_stderr,
    reason = "what a failing test has to say goes to stderr"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

pub mod cgroup;
pub mod container;
pub mod journal;
pub mod load;
pub mod long;
pub mod metrics;
pub mod process;
pub mod samples;
pub mod service;
pub mod site;
pub mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// The binary under test.
pub fn gapless() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_gapless"))
}

/// The app of `make run`.
pub fn hello() -> PathBuf {
    env!("CARGO_BIN_EXE_gapless-hello").into()
}

/// A helper program of the repository: `probe-app`, `strict-client`. Built here, because
/// `cargo test --test NAME` does not build examples.
pub fn tool(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let directory = gapless().parent().unwrap().to_owned();
    BUILT.get_or_init(|| {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--examples", "--manifest-path"])
            .arg(repository("Cargo.toml"));
        cargo.arg("--target-dir").arg(directory.parent().unwrap());
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        process::run(cargo, Duration::from_mins(10)).expect_success();
    });
    directory.join("examples").join(name)
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The long forms are wanted (`make test-long`).
pub fn is_long() -> bool {
    std::env::var_os("GAPLESS_LONG").is_some_and(|value| value == "1")
}

/// Says that a test is skipped and why; in CI that is a failure.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(
        std::env::var_os("CI").is_none_or(|value| value != "true"),
        "skipped in CI: {why}"
    );
    // Not eprintln!: the test harness would keep that to itself, and a skip must be seen.
    let line = format!("\n*** SKIPPED {test}: {why}\n");
    rustix::io::write(std::io::stderr(), line.as_bytes()).unwrap();
}

static LOADED: RwLock<()> = RwLock::new(());

/// Held by tests that measure, or that load the machine: none of the others runs beside it.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that failed while holding it says nothing about the next one.
    LOADED.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held by tests that load the machine but measure no time: they run beside each other.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    LOADED.read().unwrap_or_else(PoisonError::into_inner)
}

/// Asks `question` until it has an answer.
///
/// The world outside gives no event for much of what tests wait for (another process's state, a
/// unit's), so this asks again and again, every 20 ms; the deadline is what counts.
pub fn eventually<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory of its own, gone with the value. Short, because socket paths end at 107 bytes.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let mut path = std::env::temp_dir();
        path.push(format!("gl-{}", unique()));
        // A process with our number may have been killed, and left its own.
        while path.exists() {
            path.set_file_name(format!("gl-{}", unique()));
        }
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_whole(&path, text);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Writes a file so that a reader sees the old or the new, never half.
pub fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Differs for every call and every test process: `4711-3`.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// What the probe app does from its next start on: the keys of `tests/apps/probe.rs`, without
/// their `PROBE_`.
#[derive(Clone, Debug)]
pub struct Behaviour(BTreeMap<String, String>);

/// A good one of this version.
pub fn version(version: &str) -> Behaviour {
    Behaviour(BTreeMap::from([("VERSION".into(), version.into())]))
}

impl Behaviour {
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// As `$PROBE_FILE` has it.
    pub fn text(&self) -> String {
        self.0
            .iter()
            .map(|(key, value)| format!("PROBE_{key}={value}\n"))
            .collect::<Vec<_>>()
            .concat()
    }
}

/// A configuration for the probe app: `[app]` with `keys`, then `more` as it stands.
pub fn probe_config(directory: &str, program: &str, keys: &str, more: &str) -> String {
    format!(
        "[app]\ncommand = [\"{program}\"]\ndirectory = \"{directory}\"\n\
         env = {{ PROBE_FILE = \"{directory}/behaviour\" }}\n{keys}\n\n{more}\n"
    )
}
