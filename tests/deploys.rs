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

mod world;

use std::path::PathBuf;
use std::time::Duration;
use world::process::{self, Finished};
use world::service::{SOON, Service};
use world::{alone, eventually, tool};

/// Runs a service that has nothing to run yet, and deploys to it.
struct Site {
    service: Service,
}

impl Site {
    fn bare() -> Self {
        let mut service = Service::new("gapless");
        service.listen_tcp("http");
        service.start();
        service.wait_ready();
        Self { service }
    }

    /// A directory with an app of this version; `more` are lines of its `[app]`.
    fn app(&self, version: &str, more: &str) -> PathBuf {
        let probe = tool("probe-app").display().to_string();
        let text = format!(
            "[app]\ncommand = [\"{probe}\"]\nsettle = \"100ms\"\n{more}\n\
             [app.env]\nPROBE_VERSION = \"{version}\"\n"
        );
        let file = self
            .service
            .scratch
            .write(&format!("{version}/gapless.toml"), &text);
        file.parent().unwrap().to_owned()
    }

    fn cli(&self, arguments: &[&str]) -> Finished {
        process::run(self.service.command(arguments), Duration::from_mins(1))
    }

    fn deploy(&self, version: &str) -> Finished {
        let app = self.app(version, "");
        self.cli(&["deploy", app.to_str().unwrap(), "--release", version])
    }

    fn current(&self) -> Option<String> {
        self.named("current")
    }

    fn named(&self, link: &str) -> Option<String> {
        let target = std::fs::read_link(self.store().join(link)).ok()?;
        Some(target.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn store(&self) -> PathBuf {
        self.service.scratch.0.join("store/gapless")
    }

    fn version(&self) -> String {
        let reply = self.service.get("/");
        reply.header("x-app-version").unwrap_or("none").to_owned()
    }
}

#[test]
fn without_an_app_every_request_is_told_what_to_do_next() {
    let site = Site::bare();
    let page = site.service.get("/any/path").expect_ok();
    assert!(page.contains("sudo gapless deploy ./myapp"), "{page}");
    let said = site.service.said().unwrap();
    assert!(said.contains("sudo gapless deploy ./myapp"), "{said}");
    site.deploy("v1").expect_success();
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
fn a_release_that_does_not_start_never_serves_and_is_marked() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let bad = site.app("bad", "");
    let text = std::fs::read_to_string(bad.join("gapless.toml")).unwrap();
    let text = text + "PROBE_EXIT_BEFORE_READY = \"3\"\nPROBE_SAY = \"no database\"\n";
    std::fs::write(bad.join("gapless.toml"), text).unwrap();
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
fn a_first_release_that_fails_leaves_the_greeting_and_is_not_tried_again() {
    let site = Site::bare();
    let bad = site.app("bad", "boot = \"10s\"");
    let text = std::fs::read_to_string(bad.join("gapless.toml")).unwrap();
    std::fs::write(
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
