//! Ring 2: `gapless run`, as somebody starts it in a terminal.

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

use gapless::api::Status;
use rustix::process::Signal;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use world::load::Load;
use world::process::{self, Finished, Seen};
use world::service::{SOON, get};
use world::{Behaviour, Scratch, alone, eventually, gapless, hello, tool, unique, version};

/// A gapless in the foreground, with the example app. Dropped, all of it is killed.
struct Foreground {
    scratch: Scratch,
    mark: String,
    main: Child,
}

impl Foreground {
    fn start() -> Self {
        let hello = hello();
        let hello = hello.to_str().unwrap();
        Self::start_in(Scratch::new(), &["--admin", "127.0.0.1:0", "--", hello])
    }

    fn start_in(scratch: Scratch, arguments: &[&str]) -> Self {
        let foreground = Self::begin_in(scratch, arguments);
        eventually("it is healthy", SOON, || {
            foreground.status().filter(|status| status.healthy)
        });
        foreground
    }

    fn begin_in(scratch: Scratch, arguments: &[&str]) -> Self {
        let mark = format!("TEST_MARK={}", unique());
        let mut command = Self::command(&scratch, &mark);
        command.args(["run", "--port", "0"]).args(arguments);
        let log = std::fs::File::create(scratch.0.join("log")).unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let main = command.spawn().unwrap();
        Self {
            scratch,
            mark,
            main,
        }
    }

    fn command(scratch: &Scratch, mark: &str) -> Command {
        let (key, value) = mark.split_once('=').unwrap();
        let mut command = Command::new(gapless());
        // Hidden, so that --watch does not see what gapless keeps there.
        command.env("XDG_RUNTIME_DIR", scratch.0.join(".run"));
        command.env(key, value);
        command.env_remove("PORT").current_dir(&scratch.0);
        command
    }

    fn cli(&self, arguments: &[&str]) -> Finished {
        let mut command = Self::command(&self.scratch, &self.mark);
        command.args(arguments);
        process::run(command, SOON)
    }

    fn status(&self) -> Option<Status> {
        serde_json::from_str(&self.cli(&["status", "--json"]).stdout).ok()
    }

    fn address(&self, name: &str) -> String {
        let listeners = self.status().unwrap().listeners;
        let of_name = listeners.into_iter().find(|it| it.name == name);
        of_name.unwrap().address
    }

    fn processes(&self) -> Vec<Seen> {
        process::marked(&self.mark)
    }

    fn signal(&self, signal: Signal) {
        assert!(process::signal(self.main.id(), signal));
    }

    fn expect_nothing_left(&self) {
        eventually("no process is left", SOON, || {
            self.processes().is_empty().then_some(())
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.0.join("log")).unwrap()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        for seen in self.processes() {
            process::end(seen.pid, Signal::KILL);
        }
        let _ended = process::wait(&mut self.main, SOON);
    }
}

#[test]
fn it_serves_reloads_and_stops_cleanly_on_ctrl_c() {
    let mut foreground = Foreground::start();
    let address = foreground.address("http");
    let admin = foreground.address("admin");
    assert!(get(&address, "/").expect_ok().contains("gapless"));
    let reload = foreground.cli(&["reload"]);
    assert_eq!(reload.code(), 0, "{reload}");
    assert!(reload.output().contains("g2 is live"), "{reload}");
    assert_eq!(get(&admin, "/readyz").expect_ok(), "ok\n");
    assert_eq!(get(&address, "/readyz").status, 404, "that is the app's");
    foreground.signal(Signal::INT);
    let ended = process::wait(&mut foreground.main, SOON).unwrap();
    assert!(ended.success(), "{ended}: {}", foreground.log());
    foreground.expect_nothing_left();
    assert_eq!(foreground.cli(&["status"]).code(), 3, "not running");
}

#[test]
fn it_becomes_the_installed_gapless_and_the_app_goes_on() {
    let mut foreground = Foreground::start();
    let before = foreground.status().unwrap();
    let held = foreground.cli(&["hold", "--for", "5min"]);
    assert_eq!(held.code(), 0, "{held}");
    for _ in 0..2 {
        let upgrade = foreground.cli(&["upgrade"]);
        assert_eq!(upgrade.code(), 0, "{upgrade}\n{}", foreground.log());
    }
    let after = foreground.status().unwrap();
    assert_eq!(after.listeners, before.listeners);
    assert_eq!((after.pid, after.healthy), (foreground.main.id(), true));
    let app = |status: &Status| status.generations[0].workers[0].pid;
    assert_eq!(app(&after), app(&before));
    assert!(after.hold.is_some(), "that goes on, too");
    assert_eq!(foreground.cli(&["resume"]).code(), 0);
    let page = get(&foreground.address("http"), "/");
    assert!(page.expect_ok().contains("gapless"));
    let ready = get(&foreground.address("admin"), "/readyz");
    assert_eq!(ready.expect_ok(), "ok\n");
    foreground.signal(Signal::INT);
    let ended = process::wait(&mut foreground.main, SOON).unwrap();
    assert!(ended.success(), "{ended}: {}", foreground.log());
    foreground.expect_nothing_left();
}

/// What a developer has: the app's source, here the behaviour of the test app, in versions; and the
/// file that says which one runs.
fn source(versions: &[&str]) -> Scratch {
    let scratch = Scratch::new();
    for name in versions {
        write_version(&scratch, name, &version(name));
    }
    scratch.write("starter", versions[0]);
    scratch
}

fn write_version(scratch: &Scratch, name: &str, behaviour: &Behaviour) {
    scratch.write(&format!("{name}/behaviour"), &behaviour.text());
}

/// Starts the version that the starter file names.
fn starter() -> String {
    let probe = tool("probe-app");
    let probe = probe.to_str().unwrap();
    format!("PROBE_FILE=$(cat starter)/behaviour exec {probe}")
}

fn expect_version(address: &str, wanted: &str) {
    eventually(&format!("{wanted} serves"), SOON, || {
        get(address, "/").expect_ok().contains(wanted).then_some(())
    });
}

impl Foreground {
    fn expect_log(&self, wanted: &str) {
        eventually(wanted, SOON, || self.log().contains(wanted).then_some(()));
    }

    /// Ends it; this many swaps were made.
    fn expect_swaps(self, wanted: usize) {
        let swaps = self.log().matches(" is live").count() - 1;
        assert_eq!(swaps, wanted, "{}", self.log());
    }
}

#[test]
fn a_change_of_a_watched_file_swaps_and_a_broken_one_changes_nothing() {
    let _alone = alone();
    let arguments = ["--watch", "--", "sh", "-c", &starter()];
    let foreground = Foreground::start_in(source(&["v1"]), &arguments);
    let (address, source) = (foreground.address("http"), &foreground.scratch);
    let load = Load::start(&address, &["--clients", "8", "--idle", "20"]);
    for number in 2..12 {
        let next = format!("v{number}");
        write_version(source, "v1", &version(&next));
        expect_version(&address, &next);
    }
    source.write("v1/behaviour", "PROBE_EXIT_BEFORE_READY=3\n");
    foreground.expect_log("exited with status 3");
    expect_version(&address, "v11");
    write_version(source, "v1", &version("v12"));
    expect_version(&address, "v12");
    foreground.expect_log("v1/behaviour changed, reloading");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    foreground.expect_swaps(11);
}

#[test]
fn files_change_in_any_order_and_the_starter_file_says_when() {
    let _alone = alone();
    let arguments = ["--watch", "starter", "--", "sh", "-c", &starter()];
    let foreground = Foreground::start_in(source(&["v1"]), &arguments);
    let (address, source) = (foreground.address("http"), &foreground.scratch);
    let load = Load::start(&address, &["--clients", "8", "--idle", "20"]);
    for number in 2..7 {
        let next = format!("v{number}");
        write_version(source, &next, &version("half done"));
        source.write(&format!("{next}/part"), "more");
        write_version(source, &next, &version(&next));
        source.write("starter", &next);
        expect_version(&address, &next);
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert!(!counted.versions.contains_key("half done"), "{counted:?}");
    foreground.expect_swaps(5);
}

#[test]
fn what_cannot_be_watched_is_said_before_anything_starts() {
    let scratch = Scratch::new();
    let mut command = Foreground::command(&scratch, &format!("TEST_MARK={}", unique()));
    command.args(["run", "--port", "0", "--watch", "nosuch", "--", "/bin/true"]);
    let finished = process::run(command, SOON);
    assert_eq!(finished.code(), 1, "{finished}");
    let output = finished.output();
    assert!(output.contains("--watch nosuch: No such file"), "{output}");
}

#[test]
fn verify_says_that_a_foreground_is_not_restarted_and_kills_its_worker_without_a_loss() {
    let foreground = Foreground::start();
    let verify = |only: &[&str]| {
        let mut command = Foreground::command(&foreground.scratch, &foreground.mark);
        command.args(["verify", "--for", "1500ms"]).args(only);
        process::run(command, Duration::from_mins(1))
    };
    let done = verify(&[]).expect_success();
    let skipped = "  restart  not done: only services are restarted, and ";
    assert!(done.lines().any(|line| line.starts_with(skipped)), "{done}");
    assert!(done.contains("\n  kill  "), "{done}");
    assert!(done.contains("\nrestart was not done: "), "{done}");
    let named = verify(&["--only", "restart"]);
    assert_eq!(named.code(), 2, "{named}");
    assert!(named.stderr.contains("restart cannot be done"), "{named}");
}

#[test]
fn nothing_outlives_a_keeper_that_nobody_replaces() {
    let mut foreground = Foreground::start();
    foreground.signal(Signal::KILL);
    process::wait(&mut foreground.main, SOON).unwrap();
    foreground.expect_nothing_left();
}

/// Forks twice, so that each start leaves a process that nobody waits for.
const DAEMON: &str = "\
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
time.sleep(600)
";

#[test]
fn no_daemon_that_an_app_leaves_in_the_background_outlives_the_run() {
    let scratch = Scratch::new();
    scratch.write("daemon.py", DAEMON);
    let again = "[restart]\nburst = 100\ndelay_min = \"10ms\"\ndelay_max = \"10ms\"";
    let command = "command = [\"python3\", \"daemon.py\"]";
    scratch.write("gapless.toml", &format!("[app]\n{command}\n{again}\n"));
    let mut foreground = Foreground::begin_in(scratch, &[]);
    foreground.expect_log("g10 begins");
    foreground.signal(Signal::TERM);
    assert!(process::wait(&mut foreground.main, SOON).unwrap().success());
    assert_eq!(foreground.processes(), [], "{}", foreground.log());
}

#[test]
fn a_name_that_is_taken_is_refused_and_the_other_serves_on() {
    let foreground = Foreground::start();
    let mut command = Foreground::command(&foreground.scratch, &foreground.mark);
    let name = foreground.status().unwrap().name;
    command.args(["--app", &name, "run", "--port", "0", "--", "/bin/true"]);
    let second = process::run(command, SOON);
    assert_eq!(second.code(), 1, "{second}");
    assert!(second.output().contains("--app"), "{second}");
    assert!(foreground.status().is_some_and(|status| status.healthy));
}

#[test]
fn two_projects_run_beside_each_other_and_commands_find_that_of_their_directory() {
    let first = Foreground::start();
    let scratch = |name: &str| {
        let directory = first.scratch.0.join(name);
        std::fs::create_dir(&directory).unwrap();
        directory
    };
    let (shop, elsewhere) = (scratch("shop"), scratch("elsewhere"));
    let hello = hello();
    let command = |directory: &std::path::Path, arguments: &[&str]| {
        let mut command = Foreground::command(&first.scratch, &first.mark);
        command.current_dir(directory).args(arguments);
        command
    };
    let log = std::fs::File::create(first.scratch.0.join("second-log")).unwrap();
    let run = ["run", "--port", "0", "--", hello.to_str().unwrap()];
    let mut second = command(&shop, &run);
    second.stdin(Stdio::null());
    second.stdout(log.try_clone().unwrap()).stderr(log);
    let mut second = second.spawn().unwrap();
    let status = |directory: &std::path::Path| -> Option<Status> {
        let asked = process::run(command(directory, &["status", "--json"]), SOON);
        serde_json::from_str(&asked.stdout).ok()
    };
    eventually("the second one is healthy", SOON, || {
        status(&shop).filter(|it| it.healthy && it.name == "shop")
    });
    // Below a project, its own; the first one's directory is above both.
    let project = first.scratch.0.file_name().unwrap().to_str().unwrap();
    assert_eq!(status(&elsewhere).unwrap().name, project);
    let reloaded = process::run(command(&shop, &["reload"]), SOON).expect_success();
    assert!(reloaded.contains("g2 is live"), "{reloaded}");
    let untouched = first.status().unwrap();
    assert_eq!(untouched.generations.last().unwrap().id.0, 1);
    assert!(process::signal(second.id(), Signal::INT));
    assert!(process::wait(&mut second, SOON).unwrap().success());
}

#[test]
fn a_port_that_is_taken_is_said_with_a_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let scratch = Scratch::new();
    let mut command = Foreground::command(&scratch, &format!("TEST_MARK={}", unique()));
    command.args(["run", "--port", &port, "--", "/bin/true"]);
    let finished = process::run(command, Duration::from_secs(10));
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(
        finished.output().contains(&port) && finished.output().contains("--port"),
        "{finished}"
    );
    let admin = format!("127.0.0.1:{port}");
    let mut command = Foreground::command(&scratch, &format!("TEST_MARK={}", unique()));
    command.args(["run", "--port", "0", "--admin", &admin, "--", "/bin/true"]);
    let finished = process::run(command, Duration::from_secs(10));
    assert_eq!(finished.code(), 1, "{finished}");
    let output = finished.output();
    assert!(
        output.contains(&admin) && output.contains("--admin"),
        "{finished}"
    );
}

/// As in a chroot or container that somebody put together by hand.
#[test]
fn a_machine_that_lacks_something_is_told_what() {
    if !rustix::process::geteuid().is_root() {
        return world::skip("only root can have mounts of its own; run the tests as root");
    }
    let scratch = Scratch::new();
    let run_behind = |mount: &str| {
        let script = format!("{mount} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]);
        command.arg(gapless()).args(["run", "--port", "0", "--"]);
        command.arg(hello()).current_dir(&scratch.0);
        command.env("XDG_RUNTIME_DIR", scratch.0.join(".run"));
        process::run(command, SOON)
    };
    std::fs::create_dir(scratch.0.join(".run")).unwrap();
    for (mount, words) in [
        ("mount -t tmpfs tmpfs /proc", "mount -t proc proc /proc"),
        (
            "mount -t tmpfs -o ro tmpfs .run",
            "is read-only; set XDG_RUNTIME_DIR",
        ),
    ] {
        let refused = run_behind(mount);
        assert_ne!(refused.code(), 0, "{refused}");
        assert!(refused.stderr.contains(words), "{refused}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    }
}
