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
use world::process::{self, Finished, Seen};
use world::service::{SOON, get};
use world::{Scratch, eventually, gapless, tool, unique};

/// A gapless in the foreground, with the example app. Dropped, all of it is killed.
struct Foreground {
    scratch: Scratch,
    mark: String,
    main: Child,
}

impl Foreground {
    fn start() -> Self {
        let scratch = Scratch::new();
        let mark = format!("TEST_MARK={}", unique());
        let mut command = Self::command(&scratch, &mark);
        command
            .args(["run", "--port", "0", "--admin", "127.0.0.1:0", "--"])
            .arg(tool("hello"));
        let log = std::fs::File::create(scratch.0.join("log")).unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let main = command.spawn().unwrap();
        let foreground = Self {
            scratch,
            mark,
            main,
        };
        eventually("it is healthy", SOON, || {
            foreground.status().filter(|status| status.healthy)
        });
        foreground
    }

    fn command(scratch: &Scratch, mark: &str) -> Command {
        let (key, value) = mark.split_once('=').unwrap();
        let mut command = Command::new(gapless());
        command.env("XDG_RUNTIME_DIR", &scratch.0).env(key, value);
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

#[test]
fn nothing_outlives_a_keeper_that_nobody_replaces() {
    let mut foreground = Foreground::start();
    foreground.signal(Signal::KILL);
    process::wait(&mut foreground.main, SOON).unwrap();
    foreground.expect_nothing_left();
}

#[test]
fn a_name_that_is_taken_is_refused_and_the_other_serves_on() {
    let foreground = Foreground::start();
    let mut command = Foreground::command(&foreground.scratch, &foreground.mark);
    command.args(["run", "--port", "0", "--", "/bin/true"]);
    let second = process::run(command, SOON);
    assert_eq!(second.code(), 1, "{second}");
    assert!(second.output().contains("--app"), "{second}");
    assert!(foreground.status().is_some_and(|status| status.healthy));
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
