//! A release that is watched for a while.

use super::*;

#[test]
fn a_release_that_fails_while_it_is_watched_is_taken_back() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let address = site.service.address();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let asking = std::thread::spawn(move || {
        let pause = Duration::from_millis(20);
        while stopped.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            get(&address, "/");
        }
    });
    let bake = |version: &str, time: &str, more: &str| {
        let app = site.app(version, "");
        let mut file = fs::OpenOptions::new();
        let file = file.append(true).open(app.join("gapless.toml"));
        file.unwrap().write_all(more.as_bytes()).unwrap();
        let app = app.to_str().unwrap();
        site.cli(&["deploy", app, "--release", version, "--bake", time])
    };
    let good = bake("v2", "2s", "").expect_success();
    let [.., baked, compared] = &*good.lines().collect::<Vec<_>>() else {
        panic!("{good}");
    };
    assert!(baked.starts_with("  baked     0 of "), "{good}");
    assert!(compared.starts_with("            before: 0 of "), "{good}");
    let bad = bake("v3", "50s", "PROBE_STATUS = \"500\"\n");
    assert_eq!(bad.code(), 6, "{bad}");
    for part in [
        "  failing   ",
        "(100.0 %), 0 crashes",
        "before: 0 of ",
        "going back to v2",
    ] {
        assert!(bad.stdout.contains(part), "{part}: {bad}");
    }
    let [.., last, more] = &*bad.stdout.lines().collect::<Vec<_>>() else {
        panic!("{bad}");
    };
    assert!(last.starts_with("v3 was taken back: "), "{bad}");
    assert_eq!(*more, "  more: gapless explain baked-worse");
    assert_eq!(
        (site.version(), site.current()),
        ("v2".into(), Some("v2".into()))
    );
    assert_eq!(site.named("previous").as_deref(), Some("v1"));
    let releases = site.cli(&["releases"]).expect_success();
    for words in [" v3                 taken back ", "  v3 was taken back: "] {
        assert!(releases.contains(words), "{words}: {releases}");
    }
    let dying = bake("v4", "50s", "PROBE_SEGV_AFTER_MS = \"1500\"\n");
    assert_eq!(dying.code(), 6, "{dying}");
    assert!(dying.stdout.contains("1 crash"), "{dying}");
    assert_eq!(site.version(), "v2");
    drop(stop);
    asking.join().unwrap();
    // Neither of the two that were taken back is gone back to, unless by its name.
    site.cli(&["rollback"]).expect_success();
    assert_eq!(site.version(), "v1");
    site.cli(&["rollback"]).expect_success();
    assert_eq!(site.version(), "v2");
    site.cli(&["rollback", "v3"]).expect_success();
    let releases = site.cli(&["releases"]).expect_success();
    assert!(!releases.contains("v3 was taken back"), "{releases}");
    assert_eq!(site.named("previous").as_deref(), Some("v2"));
}

#[test]
fn a_release_that_fails_every_request_is_never_kept_whatever_failed_before() {
    let site = Site::bare();
    let app = |version: &str, more: &str| {
        let app = site.app(version, "");
        let mut file = fs::OpenOptions::new();
        let file = file.append(true).open(app.join("gapless.toml"));
        file.unwrap().write_all(more.as_bytes()).unwrap();
        app.to_str().unwrap().to_owned()
    };
    let fails = "PROBE_STATUS = \"500\"\n";
    let ask = |status: u16| {
        for _ in 0..10 {
            assert_eq!(site.service.get("/").status, status);
        }
    };
    let deploy = |path: &str, version: &str| {
        let deployed = site.cli(&["deploy", path, "--release", version]);
        deployed.expect_success();
    };
    // What the first one failed is not told yet when the second is live, and is not charged to it.
    deploy(&app("v1", fails), "v1");
    ask(500);
    deploy(&app("v2", ""), "v2");
    ask(200);
    let bake = |path: &str, version: &str, time: &str| {
        let arguments = ["deploy", path, "--release", version, "--bake", time];
        let mut deploy = site.begin(&arguments);
        let mut lines = BufReader::new(deploy.stdout.take().unwrap()).lines();
        let is_live = |line: &std::io::Result<String>| line.as_ref().unwrap().contains(" is live ");
        assert!(lines.by_ref().any(|line| is_live(&line)));
        ask(500);
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        (deploy.wait().unwrap().code(), rest.join("\n"))
    };
    let (code, said) = bake(&app("v3", fails), "v3", "50s");
    assert_eq!(code, Some(6), "{said}");
    let seen = "10 of 10 requests failed (100.0 %), 0 crashes";
    let before = "before: 0 of 10 requests failed (0.0 %), 0 crashes";
    assert!(said.contains(seen) && said.contains(before), "{said}");
    assert_eq!(site.version(), "v2");
    // Nor is it when the one before failed everything, too.
    deploy(&app("v4", fails), "v4");
    ask(500);
    let (code, said) = bake(&app("v5", fails), "v5", "50s");
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("v5 was taken back: "), "{said}");
}

#[test]
fn whoever_ends_a_bake_leaves_the_new_release_live_and_the_way_back_open() {
    let site = Site::bare();
    for version in ["v1", "v2"] {
        site.deploy(version).expect_success();
    }
    for (version, before, signal) in [
        ("v3", "v2", rustix::process::Signal::TERM),
        ("v4", "v3", rustix::process::Signal::KILL),
    ] {
        let app = site.app(version, "keep = 2");
        let arguments = ["--release", version, "--bake", "5min"];
        let arguments = [&["deploy", app.to_str().unwrap()], &arguments[..]].concat();
        let mut deploy = site.begin(&arguments);
        let mut lines = BufReader::new(deploy.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(" is live after ")));
        // It may be needed again: room is made when the watch is over.
        assert_eq!(site.cli(&["rollback"]).code(), 8, "the lock is held");
        process::signal(deploy.id(), signal);
        assert!(!deploy.wait().unwrap().success());
        assert_eq!(site.version(), version);
        assert_eq!(site.current().as_deref(), Some(version));
        assert_eq!(site.named("previous").as_deref(), Some(before));
    }
    site.cli(&["rollback"]).expect_success();
    assert_eq!(site.version(), "v3");
}
