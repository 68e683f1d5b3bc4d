//! Ring 2: releases, from a directory to production and back, with the real binary.

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

#[path = "deploys/bake.rs"]
mod bake;
#[path = "deploys/bulk.rs"]
mod bulk;
#[path = "deploys/json.rs"]
mod json;
#[path = "deploys/pairs.rs"]
mod pairs;
#[path = "deploys/screen.rs"]
mod screen;
#[path = "deploys/stopped.rs"]
mod stopped;
mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use world::process;
use world::service::{SOON, get};
use world::site::Site;
use world::{alone, eventually, tool};

#[test]
fn without_an_app_every_request_is_told_what_to_do_next() {
    let site = Site::bare();
    let page = site.service.get("/any/path").expect_ok();
    assert_eq!(get(&site.admin, "/healthz").status, 200);
    let ready = get(&site.admin, "/readyz");
    assert_eq!(
        (ready.status, ready.body.trim()),
        (503, "nothing is deployed yet")
    );
    assert!(page.contains("sudo gapless deploy ./myapp"), "{page}");
    site.service
        .until("refusals_total", &[("cause", "nothing_deployed")], 1.0);
    let said = site.service.said().unwrap();
    assert!(said.contains("sudo gapless deploy ./myapp"), "{said}");
    let file = site
        .service
        .scratch
        .0
        .join("etc/gapless.toml")
        .display()
        .to_string();
    let checked = site.cli(&["check", &file]).expect_success();
    assert!(
        checked.contains("none yet; next: sudo gapless deploy"),
        "{checked}"
    );
    site.deploy("v1").expect_success();
    let checked = site.cli(&["check", &file]).expect_success();
    assert!(checked.contains("store/gapless/releases/v1"), "{checked}");
    assert_eq!(site.version(), "v1");
    assert_eq!(site.current().as_deref(), Some("v1"));
    let live = site.service.status().generations.pop().unwrap();
    assert_eq!(live.release, "v1");
    assert_eq!(
        live.directory,
        site.store().join("releases/v1").canonicalize().unwrap()
    );
}

#[test]
fn deploys_and_rollbacks_under_load_lose_nothing() {
    let _alone = alone();
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let load = site.service.load(&[]);
    let said = site.deploy("v2").expect_success();
    for step in ["staged", "started", "healthy", "swapped", "drained", "0 of"] {
        assert!(said.contains(step), "{said}");
    }
    assert_eq!(site.version(), "v2");
    site.cli(&["rollback"]).expect_success();
    assert_eq!(site.version(), "v1");
    site.cli(&["rollback", "v2"]).expect_success();
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(site.current().as_deref(), Some("v2"));
    assert_eq!(site.named("previous").as_deref(), Some("v1"));
    assert_eq!(counted.versions.len(), 2, "{counted:#?}");
}

#[test]
fn files_without_a_server_are_refused_with_a_command_that_serves_them() {
    let site = Site::bare();
    let pages = site.service.scratch.0.join("pages");
    fs::create_dir(&pages).unwrap();
    fs::write(pages.join("index.html"), "<p>hello from a file").unwrap();
    let refused = site.cli(&["deploy", pages.to_str().unwrap()]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.stderr.contains("there is index.html"), "{refused}");
    // As it stands there, a person pastes it.
    let sentence = refused.stderr.lines().next().unwrap();
    let (_, command) = sentence.split_once("deploy PATH -- ").unwrap();
    let pasted = format!("\"$0\" deploy {} -- {command}", pages.display());
    let gapless = site.service.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &pasted]).arg(gapless.get_program());
    let variables = gapless.get_envs();
    shell.env_clear();
    shell.envs(variables.filter_map(|(key, value)| Some((key, value?))));
    process::run(shell, Duration::from_mins(1)).expect_success();
    assert_eq!(site.service.get("/").body, "<p>hello from a file");
}

#[test]
fn a_release_that_does_not_start_never_serves_and_is_marked() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let bad = site.app("bad", "");
    let text = fs::read_to_string(bad.join("gapless.toml")).unwrap();
    let text = text + "PROBE_EXIT_BEFORE_READY = \"3\"\nPROBE_SAY = \"no database\"\n";
    fs::write(bad.join("gapless.toml"), text).unwrap();
    let refused = site.cli(&["deploy", bad.to_str().unwrap(), "--release", "bad"]);
    assert_eq!(refused.code(), 6, "{refused}");
    for words in ["exited with status 3", "no database", "g1 serves on"] {
        assert!(refused.stdout.contains(words), "{refused}");
    }
    assert_eq!(
        (site.version().as_str(), site.current().as_deref()),
        ("v1", Some("v1"))
    );
    let releases = site.cli(&["releases"]).expect_success();
    assert!(releases.contains("bad failed: "), "{releases}");
    // The next keeper begins with what was healthy.
    let again = site.cli(&["rollback"]);
    assert_eq!(again.code(), 1, "nothing else was ever live: {again}");
}

#[test]
fn an_app_on_another_port_is_told_of_long_before_its_time_is_over() {
    let site = Site::bare();
    let text = "[app]\ncommand = [\"python3\", \"-m\", \"http.server\", \"0\"]\nboot = \"4s\"\n";
    let file = site.service.scratch.write("elsewhere/gapless.toml", text);
    let app = file.parent().unwrap().to_str().unwrap();
    let mut deploy = site.begin(&["deploy", app, "--release", "v1"]);
    let mut lines = BufReader::new(deploy.stdout.take().unwrap()).lines();
    let waiting = lines
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.starts_with("  waiting "))
        .unwrap();
    let seen = "w0 is not ready yet: it listens on 0.0.0.0:";
    assert!(
        waiting.contains(seen) && waiting.contains(" instead of $PORT, which is "),
        "{waiting}"
    );
    let summary = site.service.status().summary;
    assert!(
        summary.contains(&format!("; starting g1: {seen}")),
        "{summary}"
    );
    assert!(site.service.journal().contains(seen));
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(deploy.wait().unwrap().code(), Some(6), "{rest:#?}");
    assert!(
        rest.iter()
            .any(|line| line.contains("was not ready within 4 s")),
        "{rest:#?}"
    );
}

#[test]
fn a_first_release_that_fails_leaves_the_greeting_and_is_not_tried_again() {
    let site = Site::bare();
    let bad = site.app("bad", "boot = \"10s\"");
    let text = fs::read_to_string(bad.join("gapless.toml")).unwrap();
    fs::write(
        bad.join("gapless.toml"),
        text + "PROBE_EXIT_BEFORE_READY = \"3\"\n",
    )
    .unwrap();
    let refused = site.cli(&["deploy", bad.to_str().unwrap()]);
    assert_eq!(refused.code(), 6, "{refused}");
    eventually("it greets again", SOON, || {
        let page = site.service.get("/").body;
        page.contains("sudo gapless deploy").then_some(())
    });
    assert_eq!(site.service.status().generations.len(), 0);
    assert_eq!(site.current(), None);
}

#[test]
fn the_next_start_serves_what_is_current() {
    let mut site = Site::bare();
    site.deploy("v1").expect_success();
    site.deploy("v2").expect_success();
    site.service.stop(SOON);
    site.service.start();
    site.service.wait_ready();
    assert_eq!(site.version(), "v2");
    site.service.reload().expect_success();
    assert_eq!(site.version(), "v2");
}

#[test]
fn what_comes_in_on_standard_input_is_a_release() {
    let site = Site::bare();
    let app = site.app("v1", "");
    let mut tar = Command::new("tar");
    tar.args(["cz", "-C", app.to_str().unwrap(), "."])
        .stdout(Stdio::piped());
    let mut tar = tar.spawn().unwrap();
    let mut deploy = site.service.command(&["deploy", "-", "--release", "v1"]);
    deploy
        .stdin(tar.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = deploy.output().unwrap();
    assert!(tar.wait().unwrap().success());
    assert!(done.status.success(), "{done:?}");
    assert_eq!(site.version(), "v1");
    let releases = site.cli(&["releases", "--json"]).expect_success();
    let releases: serde_json::Value = serde_json::from_str(&releases).unwrap();
    assert_eq!(releases["current"], "v1");
    let release = &releases["releases"][0];
    assert_eq!(
        (&release["kind"], &release["from"]),
        (&"tar.gz".into(), &"-".into())
    );
    assert!(
        release["digest"].as_str().unwrap().starts_with("sha256:"),
        "{release}"
    );
}

#[test]
fn what_an_app_is_run_by_is_found_and_said() {
    let site = Site::bare();
    let app = site.service.scratch.0.join("found");
    fs::create_dir(&app).unwrap();
    let probe = tool("probe-app").display().to_string();
    fs::write(
        app.join("Procfile"),
        format!("web: PROBE_VERSION=found {probe}\n"),
    )
    .unwrap();
    let said = site
        .cli(&["deploy", app.to_str().unwrap()])
        .expect_success();
    assert!(
        said.contains("by web: in the Procfile: /bin/sh -c exec env"),
        "{said}"
    );
    assert_eq!(site.version(), "found");

    // Packed as a directory, with more than one process.
    fs::write(
        app.join("Procfile"),
        format!("release: bin/migrate\nweb: PROBE_VERSION=packed {probe}\njobs: bin/jobs\n"),
    )
    .unwrap();
    let packed = site.service.scratch.0.join("found.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["czf", packed.to_str().unwrap(), "-C"]);
    tar.args([site.service.scratch.0.to_str().unwrap(), "found"]);
    assert!(tar.status().unwrap().success());
    let said = site
        .cli(&["deploy", packed.to_str().unwrap()])
        .expect_success();
    assert_eq!(site.version(), "packed");
    assert!(
        said.contains("not run: release, jobs of the Procfile"),
        "{said}"
    );
    fs::remove_file(app.join("Procfile")).unwrap();
    fs::write(app.join("notes.txt"), "").unwrap();
    let refused = site.cli(&["deploy", app.to_str().unwrap()]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(
        refused.stderr.contains("nothing in it says how to run it"),
        "{refused}"
    );
    let said = site
        .cli(&["deploy", app.to_str().unwrap(), "--", &probe])
        .expect_success();
    assert!(said.contains("swapped"), "{said}");
    assert_eq!(
        site.version(),
        "v1",
        "what the probe says without a version"
    );
}

#[test]
fn nothing_is_started_of_what_cannot_be_right() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let before = site.service.status().generations;
    let bad = site.app("bad", "workres = 2");
    let refused = site.cli(&["deploy", bad.to_str().unwrap()]);
    assert_eq!(refused.code(), 5, "{refused}");
    for words in ["gapless.toml:4", "did you mean \"workers\"?"] {
        assert!(refused.stderr.contains(words), "{refused}");
    }
    let refused = site.cli(&["deploy", "/dev/null"]);
    assert_eq!(refused.code(), 5, "{refused}");
    let app = site.app("v2", "");
    std::os::unix::fs::symlink("/etc/passwd", app.join("passwd")).unwrap();
    let refused = site.cli(&["deploy", app.to_str().unwrap()]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(
        refused.stderr.contains("passwd is a link that leaves"),
        "{refused}"
    );
    site.service
        .configure("[app]\ndirectory = \"/srv\"\ncommand = [\"/bin/true\"]\n");
    let refused = site.deploy("v3");
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(
        refused.stderr.contains("remove that line to deploy"),
        "{refused}"
    );
    assert_eq!(site.service.status().generations.len(), before.len());
    assert_eq!(site.releases(), ["v1", "v1.json"]);
    assert_eq!(site.left(), [""; 0]);
}

#[test]
fn the_configuration_of_the_machine_wins_over_that_of_the_release() {
    let site = Site::bare();
    site.service
        .configure("[app]\nworkers = 2\nenv = { PROBE_VERSION = \"machine\" }\n");
    site.deploy("v1").expect_success();
    assert_eq!(site.version(), "machine");
    let live = site.service.status().generations.pop().unwrap();
    assert_eq!(live.workers.len(), 2);
    let refused = site.cli(&["deploy", "/nonexistent", "--", "x"]);
    assert_eq!(refused.code(), 5, "{refused}");
}

#[test]
fn shared_directories_outlive_releases() {
    let site = Site::bare();
    let shared = "shared = [\"uploads\", \"var/cache\"]";
    site.deploy_to_the_letter("v1", shared, "uploads/.keep", "")
        .expect_success();
    let kept = site.service.scratch.0.join("state/shared/uploads");
    fs::write(site.store().join("current/uploads/photo"), "x").unwrap();
    assert!(kept.join("photo").is_file());
    site.deploy_to_the_letter("v2", shared, "x", "")
        .expect_success();
    assert!(site.store().join("current/uploads/photo").is_file());
    assert!(site.store().join("current/var/cache").is_dir());
    let refused = site.deploy_to_the_letter("v3", shared, "uploads/mine", "x");
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(
        refused
            .stderr
            .contains("uploads is shared between releases"),
        "{refused}"
    );
}

#[test]
fn the_release_command_runs_once_before_the_start_and_its_failure_stops_the_deploy() {
    let site = Site::bare();
    let command = "release_command = [\"bin/migrate\"]";
    let log = site.service.scratch.0.join("migrations");
    let script = |end: &str| {
        let log = log.display();
        format!("#!/bin/sh\necho $GAPLESS_RELEASE $PROBE_VERSION $PWD >>{log}\n{end}\n")
    };
    let said = site.deploy_to_the_letter("v1", command, "bin/migrate", &script(""));
    let said = said.expect_success();
    assert!(said.contains("prepared  bin/migrate"), "{said}");
    let directory = site.store().join("releases/v1").canonicalize().unwrap();
    let expected = format!("v1 v1 {}\n", directory.display());
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
    let bad = script("echo no such table >&2\nexit 4");
    let refused = site.deploy_to_the_letter("v2", command, "bin/migrate", &bad);
    assert_eq!(refused.code(), 6, "{refused}");
    for words in [
        "bin/migrate exited with status 4",
        "no such table",
        "g1 serves on",
    ] {
        assert!(refused.stdout.contains(words), "{refused}");
    }
    assert_eq!(site.version(), "v1");
    // What was live once was prepared then.
    site.deploy_to_the_letter("v3", "", "x", "")
        .expect_success();
    site.cli(&["rollback", "v1"]).expect_success();
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2);
}

#[test]
fn a_release_command_that_nobody_waits_for_any_more_is_ended() {
    let site = Site::bare();
    let command = "release_command = [\"bin/migrate\"]";
    let app = site.app("v1", command);
    fs::create_dir(app.join("bin")).unwrap();
    let began = site.service.scratch.0.join("began");
    let script = format!("#!/bin/sh\necho $$ >{}\nsleep 1000\n", began.display());
    fs::write(app.join("bin/migrate"), script).unwrap();
    fs::set_permissions(app.join("bin/migrate"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut deploy = site.begin(&["deploy", app.to_str().unwrap()]);
    eventually("it runs", SOON, || began.is_file().then_some(()));
    let second = site.deploy("v2");
    assert_eq!(second.code(), 8, "{second}");
    let pid = format!("pid {}, ", deploy.id());
    assert!(
        second.stderr.contains(&pid) && second.stderr.contains("gapless deploy"),
        "{second}"
    );
    deploy.kill().unwrap();
    deploy.wait().unwrap();
    let is_sleeping = || {
        site.service
            .processes()
            .iter()
            .any(|it| it.command.contains("sleep"))
    };
    eventually("it is ended", SOON, || (!is_sleeping()).then_some(()));
    site.deploy("v2").expect_success();
    assert_eq!(site.version(), "v2");
}

#[test]
fn a_deploy_that_is_killed_while_it_reads_leaves_nothing_that_counts() {
    let site = Site::bare();
    site.deploy("v0").expect_success();
    let mut deploy = site.begin(&["deploy", "-", "--release", "half"]);
    let mut stdin = deploy.stdin.take().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(1 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    stdin.write_all(header.as_bytes()).unwrap();
    stdin.write_all(&vec![7; 1 << 20]).unwrap();
    let file = site.store().join("incoming/half/large");
    eventually("half of it is there", SOON, || {
        file.metadata().ok()?.len().gt(&0).then_some(())
    });
    deploy.kill().unwrap();
    deploy.wait().unwrap();
    assert_eq!(site.left(), ["half"]);
    site.deploy("v1").expect_success();
    assert_eq!(site.left(), [""; 0]);
    assert_eq!(
        (site.version().as_str(), site.current().as_deref()),
        ("v1", Some("v1"))
    );
}

#[test]
fn only_so_many_releases_stay_and_nothing_of_the_others() {
    let site = Site::bare();
    for number in 0..6 {
        let version = format!("v{number}");
        site.app(&version, "keep = 3");
        let app = site.service.scratch.0.join(&version);
        site.cli(&["deploy", app.to_str().unwrap(), "--release", &version])
            .expect_success();
    }
    let named = |path: &Path| path.display().to_string();
    assert!(
        site.releases().len() <= 8,
        "{} {:?}",
        named(&site.store()),
        site.releases()
    );
    eventually("the old generations are gone", SOON, || {
        (site.service.status().generations.len() == 1).then_some(())
    });
    let app = site.app("v6", "keep = 3");
    site.cli(&["deploy", app.to_str().unwrap(), "--release", "v6"])
        .expect_success();
    let kept = ["v4", "v4.json", "v5", "v5.json", "v6", "v6.json"];
    assert_eq!(site.releases(), kept);
}

#[test]
fn a_deploy_goes_on_over_the_death_of_the_keeper() {
    let mut site = Site::bare();
    site.deploy("v1").expect_success();
    let app = site.app("v2", "");
    let text = fs::read_to_string(app.join("gapless.toml")).unwrap();
    fs::write(
        app.join("gapless.toml"),
        text + "PROBE_BOOT_MS = \"1500\"\n",
    )
    .unwrap();
    let mut deploy = site.begin(&["deploy", app.to_str().unwrap(), "--release", "v2"]);
    let mut lines = BufReader::new(deploy.stdout.take().unwrap()).lines();
    let started = lines.any(|line| line.unwrap().contains("started"));
    assert!(started);
    site.service.kill_keeper();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert!(deploy.wait().unwrap().success(), "{rest:#?}");
    assert!(
        rest.iter()
            .any(|line| line.contains("asking the next keeper")),
        "{rest:#?}"
    );
    assert_eq!(
        (site.version().as_str(), site.current().as_deref()),
        ("v2", Some("v2"))
    );
}

#[test]
fn the_service_can_read_what_a_careful_root_deploys() {
    let site = Site::bare();
    let app = site.app("v1", "");
    fs::create_dir(app.join("public")).unwrap();
    let mut deploy = Command::new("/bin/sh");
    let gapless = site
        .service
        .command(&["deploy", app.to_str().unwrap(), "--release", "v1"]);
    deploy
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(gapless.get_program());
    deploy.args(gapless.get_args()).env_clear();
    deploy.envs(
        gapless
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    process::run(deploy, Duration::from_mins(1)).expect_success();
    for (path, mode) in [
        ("", 0o755),
        ("incoming", 0o700),
        ("lock", 0o600),
        ("releases", 0o755),
        ("releases/v1", 0o755),
        ("releases/v1.json", 0o644),
        ("releases/v1/public", 0o755),
        ("releases/v1/gapless.toml", 0o644),
    ] {
        let found = fs::metadata(site.store().join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o7777, mode, "{path}: {found:o}");
    }
}

#[test]
fn an_upgrade_goes_on_with_what_is_deployed_and_without() {
    let site = Site::bare();
    let upgrade = || site.service.cli(&["upgrade"]).expect_success();
    upgrade();
    let page = site.service.get("/").expect_ok();
    assert!(page.contains("sudo gapless deploy ./myapp"), "{page}");
    site.deploy("v1").expect_success();
    upgrade();
    assert_eq!(site.version(), "v1");
    site.deploy("v2").expect_success();
    upgrade();
    site.cli(&["rollback"]).expect_success();
    assert_eq!(site.version(), "v1");
}
