//! Ring 2: the commands for who operates a service, with the real binary.

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
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;
use world::process::{self, Finished};
use world::service::{SOON, Service, get};
use world::{Scratch, alone, eventually, gapless, version};

/// Runs gapless where this script is the only program there is.
fn with_program(name: &str, script: &str, arguments: &[&str]) -> Finished {
    let service = Service::new("gapless");
    let program = service
        .scratch
        .write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let units = "root/usr/lib/systemd/system";
    for unit in ["gapless.socket", "gapless@shop.socket"] {
        service
            .scratch
            .write(&format!("{units}/{unit}"), "[Socket]\nListenStream=1\n");
    }
    let mut command = service.command(arguments);
    command.env("PATH", program.parent().unwrap());
    command.env("GAPLESS_ROOT", service.scratch.0.join("root"));
    process::run(command, SOON)
}

/// Says which sockets there are.
const SYSTEMCTL: &str = r#"case "$1" in
    show) echo "gapless.socket gapless-admin.socket" ;;
esac"#;

#[test]
fn start_stop_and_restart_run_systemctl_and_say_so() {
    let all = "gapless.socket gapless.service";
    for (arguments, command, requests) in [
        (
            ["start"],
            format!("start {all}"),
            "wait until the app is ready",
        ),
        (
            ["restart"],
            "restart gapless.service".into(),
            "none is lost",
        ),
        (
            ["stop"],
            format!("stop {all} gapless-admin.socket"),
            "new ones are refused",
        ),
    ] {
        // What it says is what it runs: the played systemctl fails otherwise.
        let script = format!("{SYSTEMCTL}\n[ \"$1\" = show ] || [ \"$*\" = \"{command}\" ]");
        let done = with_program("systemctl", &script, &arguments);
        let said = done.expect_success();
        let line = said.lines().next().unwrap();
        assert!(
            line.starts_with(&format!("systemctl {command}: ")),
            "{said}"
        );
        assert!(line.contains(requests), "{said}");
        assert!(
            said.lines().nth(1).unwrap().starts_with("done in "),
            "{said}"
        );
    }
    let json = with_program("systemctl", SYSTEMCTL, &["restart", "shop", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.expect_success()).unwrap();
    assert_eq!(json["command"][2], "gapless@shop.service", "{json}");
}

#[test]
fn start_says_what_systemctl_says_and_exits_with_what_it_means() {
    let fails = |script: &str| with_program("systemctl", script, &["start"]);
    let failed = fails("echo 'Job for gapless.service failed.' >&2; exit 1");
    assert_eq!(failed.code(), 1, "{failed}");
    assert!(failed.stderr.contains("Job for gapless.service failed."));
    assert!(failed.stderr.contains("gapless logs gapless"), "{failed}");
    let denied = "echo 'Failed to start: Interactive authentication required.' >&2; exit 1";
    let denied = fails(denied);
    assert_eq!(denied.code(), 4, "{denied}");
    assert!(denied.stderr.contains("sudo"), "{denied}");
    assert_eq!(fails("exit 4").code(), 4);
    let missing = with_program("other", "", &["stop"]);
    assert_eq!(missing.code(), 1, "{missing}");
    assert!(missing.stderr.contains("gapless run"), "{missing}");
}

/// A service with a socket for load balancers; its address.
fn with_admin() -> (Service, String) {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap().to_string();
    service.give("admin", admin.into());
    service.behave(&version("v1"));
    service.configure_probe("settle = \"100ms\"", "");
    service.start();
    service.wait_ready();
    (service, address)
}

#[test]
fn drain_takes_it_out_of_rotation_over_a_crash_until_undrain_and_serving_goes_on() {
    let (mut service, admin) = with_admin();
    assert_eq!(get(&admin, "/readyz").expect_ok(), "ok\n");
    let drained = service.cli(&["drain"]).expect_success();
    assert!(
        drained.starts_with(&format!("drained: {admin}/readyz ")),
        "{drained}"
    );
    let is_out = |service: &Service| {
        let ready = get(&admin, "/readyz");
        assert_eq!((ready.status, ready.body.contains("undrain")), (503, true));
        assert_eq!(get(&admin, "/healthz").status, 200);
        assert_eq!(service.get("/").header("x-app-version"), Some("v1"));
        let status = service.cli(&["status"]).expect_success();
        assert!(status.contains("\n  drained    since "), "{status}");
    };
    is_out(&service);
    service.kill_keeper();
    is_out(&service);
    let again = service.cli(&["drain"]).expect_success();
    assert!(again.starts_with("drained already, since "), "{again}");
    assert_eq!(service.reload().code(), 0);
    is_out(&service);
    let back = service.cli(&["undrain", "--json"]).expect_success();
    let back: serde_json::Value = serde_json::from_str(&back).unwrap();
    assert_eq!(back["drained_since_unix_seconds"], serde_json::Value::Null);
    assert_eq!(back["has_changed"], true);
    assert_eq!(get(&admin, "/readyz").expect_ok(), "ok\n");
    let none = service.cli(&["undrain"]).expect_success();
    assert!(none.starts_with("not drained"), "{none}");
}

#[test]
fn hold_and_resume_lose_nothing_and_close_nothing_through_reload_crash_and_respawn() {
    let _alone = alone();
    let mut service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let load = service.load(&["--idle", "50"]);
    let none = service.cli(&["resume"]).expect_success();
    assert!(none.starts_with("nothing was held"), "{none}");
    // Each time, when it returns, no request is with the app, whatever happens meanwhile.
    let meanwhile: [fn(&mut Service); 4] = [
        |_| {},
        |service| {
            service.behave(&version("v2"));
            service.reload().expect_success();
        },
        Service::kill_keeper,
        |service| {
            let worker = service.status().generations[0].workers[0].pid.unwrap();
            assert!(process::end(worker, Signal::KILL));
        },
    ];
    for happen in meanwhile {
        let held = service.cli(&["hold"]).expect_success();
        assert!(
            held.starts_with("held: nothing is in flight after "),
            "{held}"
        );
        happen(&mut service);
        let asked = {
            let address = service.address();
            std::thread::spawn(move || get(&address, "/"))
        };
        let held = eventually("requests wait", SOON, || {
            let status = service.try_status()?;
            let front = status.fronts.last()?;
            (front.held > 0 && front.in_flight == front.held).then_some(status)
        });
        assert!(held.hold.unwrap().is_quiet && held.healthy, "{held:#?}");
        let said = service.cli(&["status"]).expect_success();
        assert!(
            said.contains("\n  on hold    new requests wait since "),
            "{said}"
        );
        let resumed = service.cli(&["resume"]).expect_success();
        assert!(
            resumed.starts_with("resumed: requests go on after "),
            "{resumed}"
        );
        assert_eq!(asked.join().unwrap().status, 200);
        load.run_for(Duration::from_millis(500));
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert!(counted.versions.contains_key("v2"), "{counted:#?}");
}

#[test]
fn a_hold_ends_by_itself_and_who_waits_longer_than_its_patience_gets_503() {
    let more = "[http]\nhold = \"1s\"\nretry_after = \"7s\"";
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", more);
    let held = service.cli(&["hold", "--for", "3s"]).expect_success();
    assert!(
        held.contains("longer than 1s ([http] hold) gets 503"),
        "{held}"
    );
    let refused = service.get("/");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("7"))
    );
    eventually("it ends by itself", SOON, || {
        service.status().hold.is_none().then_some(())
    });
    assert_eq!(service.get("/").status, 200);
    let wrong = service.cli(&["hold", "--for", "11min"]);
    assert_eq!(
        (wrong.code(), wrong.stderr.contains("10min")),
        (2, true),
        "{wrong}"
    );
}

#[test]
fn a_hold_that_does_not_become_quiet_in_time_or_is_given_up_lets_requests_go_on() {
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let address = service.address();
    let slow = std::thread::spawn(move || get(&address, "/slow?ms=4000"));
    eventually("it is in flight", SOON, || {
        (service.status().fronts[0].in_flight == 1).then_some(())
    });
    let late = service.cli(&["hold", "--for", "500ms"]);
    assert_eq!(late.code(), 7, "{late}");
    assert!(
        late.stdout.contains("1 request was still in flight"),
        "{late}"
    );
    assert_eq!(service.get("/").status, 200);
    let mut given_up = service.command(&["hold", "--for", "1min", "gapless"]);
    let mut given_up = given_up.spawn().unwrap();
    eventually("it is on hold", SOON, || service.status().hold);
    given_up.kill().unwrap();
    given_up.wait().unwrap();
    eventually("requests go on", SOON, || {
        service.status().hold.is_none().then_some(())
    });
    assert_eq!(service.get("/").status, 200);
    assert_eq!(slow.join().unwrap().status, 200);
}

#[test]
fn a_hold_goes_on_over_the_end_of_the_keeper_that_was_asked() {
    let mut service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let address = service.address();
    let slow = std::thread::spawn(move || get(&address, "/slow?ms=3000"));
    eventually("it is in flight", SOON, || {
        (service.status().fronts[0].in_flight == 1).then_some(())
    });
    let held = service.begin_cli(&["hold", "--for", "1min"]);
    eventually("it is on hold", SOON, || service.status().hold);
    service.kill_keeper();
    let held = held.join().unwrap().expect_success();
    assert!(held.starts_with("held: nothing is in flight"), "{held}");
    assert_eq!(slow.join().unwrap().status, 200);
    assert!(service.status().hold.unwrap().is_quiet);
    assert!(service.stop(SOON).success(), "a stop ends it");
}

/// Ended by Ctrl-C once it has said all of this; its exit code.
fn watched(service: &Service, arguments: &[&str], happens: &dyn Fn(), says: &[&str]) -> i32 {
    let file = service.scratch.0.join("watched");
    let mut command = service.command(arguments);
    command.stdout(std::fs::File::create(&file).unwrap());
    let mut watch = command.spawn().unwrap();
    let said = || std::fs::read_to_string(&file).unwrap();
    eventually("it has looked once", SOON, || {
        said().contains("gapless").then_some(())
    });
    happens();
    eventually("it says all", SOON, || {
        let said = said();
        says.iter().all(|part| said.contains(part)).then_some(())
    });
    assert!(process::signal(watch.id(), Signal::INT));
    let ended = process::wait(&mut watch, SOON).unwrap();
    assert!(!said().contains('\u{1b}'), "{}", said());
    ended.code().unwrap()
}

#[test]
fn status_watched_in_a_pipe_says_what_changes_and_ends_on_ctrl_c() {
    let service = Service::probe(&version("v1"), "settle = \"100ms\"", "");
    let reload = || drop(service.reload().expect_success());
    let says = [
        "healthy — g1 live",
        "UTC  g2: live, release ",
        "UTC  g1: no longer\n",
    ];
    assert_eq!(
        watched(&service, &["status", "-w", "gapless"], &reload, &says),
        0
    );
    let fail = || {
        service.behave(&version("bad").with("STATUS", "500"));
        service.reload().expect_success();
        for _ in 0..5 {
            assert_eq!(service.get("/").status, 500);
        }
    };
    let json = ["status", "-w", "--json", "gapless"];
    let code = watched(
        &service,
        &json,
        &fail,
        &["\n{\"name\":\"gapless\"", "\"healthy\":false"],
    );
    assert_eq!(code, 1, "as it was last seen");
}

/// In a directory of its own, with or without a place for the answer.
fn in_directory(scratch: &Scratch, arguments: &[&str], stdout: &str) -> Finished {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("exec \"$0\" \"$@\" {stdout}")])
        .arg(gapless())
        .args(arguments)
        .current_dir(&scratch.0);
    process::run(command, SOON)
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success_and_a_reader_that_leaves_is_no_failure() {
    let scratch = Scratch::new();
    for question in [&["explain", "exited"][..], &["list"], &["--help"]] {
        let full = in_directory(&scratch, question, ">/dev/full");
        assert_eq!(full.code(), 1, "{full}");
        assert!(full.stderr.contains("cannot write to standard output: "));
        assert_eq!(full.stderr.matches("standard output").count(), 1, "{full}");
        in_directory(&scratch, question, "| true").expect_success();
    }
}

#[test]
fn check_tells_a_file_that_is_not_there_and_a_program_that_is_not_found() {
    let scratch = Scratch::new();
    scratch.write(
        "gapless.toml",
        "[app]\ncommand = [\"pythn3\", \"app.py\"]\n",
    );
    let said = in_directory(&scratch, &["check", "gapless.toml"], "").expect_success();
    assert!(
        said.contains("\n[app] command pythn3 is in none of /usr/local/sbin:"),
        "{said}"
    );
    let json = in_directory(&scratch, &["check", "--json", "gapless.toml"], "").expect_success();
    assert!(
        json.contains("\"program_doubt\":\"pythn3 is in none of"),
        "{json}"
    );
    // That of a service without a configuration.
    let said = in_directory(&scratch, &["--app", "nosuch", "check"], "").expect_success();
    assert!(
        said.contains("no file at /etc/gapless/nosuch.toml, so all is as by default"),
        "{said}"
    );
    assert!(said.contains("gapless check gapless.toml"), "{said}");
}

#[test]
fn init_writes_what_run_and_check_understand_and_never_overwrites() {
    let scratch = Scratch::new();
    let gapless = |arguments: &[&str]| {
        let mut command = Command::new(gapless());
        command.args(arguments).current_dir(&scratch.0);
        process::run(command, SOON)
    };
    let nothing = gapless(&["init"]);
    assert_eq!(nothing.code(), 5, "{nothing}");
    assert!(nothing.stderr.contains("Procfile"), "{nothing}");
    scratch.write("Procfile", "web: python3 -m http.server \"$PORT\"\n");
    let written = gapless(&["init"]).expect_success();
    assert!(
        written.contains("by web: in the Procfile: /bin/sh -c exec python3"),
        "{written}"
    );
    let file = scratch.0.join("gapless.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(r#"command = ["/bin/sh", "-c", "exec python3 -m http.server \"$PORT\""]"#)
    );
    gapless(&["check", "gapless.toml"]).expect_success();
    let again = gapless(&["init", "."]);
    assert_eq!(
        (again.code(), again.stderr.contains("stays as it is")),
        (1, true)
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    std::fs::remove_file(&file).unwrap();
    let json = gapless(&["init", "--json"]).expect_success();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["command"][0], "/bin/sh");
    assert_eq!(gapless(&["init", "nowhere"]).code(), 2);
}

/// Has entries, and says what it was asked for.
const JOURNALCTL: &str = r#"case "$*" in *--quiet*) echo entry;; *) echo "$*";; esac"#;

#[test]
fn logs_asks_journalctl_for_all_of_the_instance() {
    let ask = |arguments: &[&str]| with_program("journalctl", JOURNALCTL, arguments);
    let all = ask(&["logs"]).expect_success();
    assert_eq!(
        all.trim(),
        "--no-pager --lines=100 --unit=gapless.service --unit=gapless-survivors:gapless:*.scope"
    );
    let some = ask(&["logs", "shop", "-g", "42", "-n", "7", "--json"]).expect_success();
    assert_eq!(
        some.trim(),
        "--no-pager --lines=7 --output=json --unit=gapless@shop.service \
         --unit=gapless-survivors:shop:*.scope GAPLESS_GENERATION=g42"
    );
}

#[test]
fn logs_follows_also_what_has_no_entry_yet() {
    let script = r#"case "$*" in *--quiet*) ;; *) echo "$*";; esac"#;
    let followed = with_program("journalctl", script, &["logs", "-f"]).expect_success();
    assert!(followed.contains(" --follow "), "{followed}");
}

#[test]
fn logs_says_what_is_missing() {
    let empty = "echo 'No journal files were opened' >&2";
    let empty = with_program("journalctl", empty, &["logs", "-g", "g3"]);
    assert_eq!(empty.code(), 1, "{empty}");
    for part in [
        "g3 of gapless.service",
        "systemd-journal",
        "No journal files",
    ] {
        assert!(empty.stderr.contains(part), "{empty}");
    }
    let missing = with_program("other", "", &["logs"]);
    assert_eq!(missing.code(), 1, "{missing}");
    assert!(
        missing.stderr.contains("cannot run journalctl"),
        "{missing}"
    );
    let wrong = with_program("other", "", &["logs", "-g", "w1"]);
    assert_eq!(wrong.code(), 2, "{wrong}");
}

#[test]
fn a_console_runs_in_the_live_release_with_what_its_worker_has() {
    let console =
        r#"console = ["sh", "-c", "echo $PWD $GAPLESS_GENERATION ${NOTIFY_SOCKET:-none}; exit 3"]"#;
    let service = Service::probe(&version("v1"), console, "");
    let done = service.cli(&["console"]);
    let directory = service.status().generations[0].directory.clone();
    let expected = format!("{} 1 none\n", directory.display());
    assert_eq!((done.code(), done.output()), (3, expected));
    service.configure_probe("", "");
    service.reload().expect_success();
    let none = service.cli(&["console"]);
    assert_eq!(none.code(), 1, "{none}");
    assert!(
        none.output().contains("the running release has no console"),
        "{none}"
    );
    service.configure_probe(r#"console = ["nowhere/repl"]"#, "");
    service.reload().expect_success();
    let wrong = service.cli(&["console"]);
    assert_eq!(wrong.code(), 127, "{wrong}");
    assert!(
        wrong.output().contains("cannot start \"nowhere/repl\""),
        "{wrong}"
    );
}
