//! A new version is served, a bad one is refused, a killed worker is replaced.

use crate::world::container::Container;
use crate::world::{Behaviour, version};
use crate::{QUICK, the_version, wait_settled};
use std::time::{Duration, Instant};

/// Point 2.
pub fn reloads_lose_nothing_and_close_nothing(container: &mut Container) {
    container.serve_probe(&version("v0"), QUICK, "");
    let main = container.main_pid();
    let load = container.load(&[]);
    for number in 1..=100 {
        container.behave(&version(&format!("v{number}")));
        container.systemctl("reload gapless.service");
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(counted.versions.len(), 101, "{counted:#?}");
    assert_eq!(container.main_pid(), main);
}

/// Point 3.
pub fn bad_versions_are_refused_and_nobody_notices(container: &mut Container) {
    let keys = "boot = \"1500ms\"\nstop = \"1s\"";
    let health = "[health]\npath = \"/health\"";
    container.serve_probe(&version("good"), keys, health);
    let (main, before) = (container.main_pid(), container.processes());
    let load = container.load(&["--idle", "100"]);
    let bad = version("bad");
    refuses(
        container,
        &bad.clone().with("EXIT_BEFORE_READY", "1"),
        "exited with status 1",
    );
    refuses(
        container,
        &bad.clone().with("EXIT_AFTER_READY", "1"),
        "exited with status 1",
    );
    refuses(container, &bad.clone().with("HANG", "1"), "1.5");
    refuses(container, &bad.clone().with("STATUS", "500"), "500");
    refuses(container, &bad.clone().with("NEVER_LISTEN", "1"), "1.5");
    refuses(container, &bad.with("SEGV_AFTER_MS", "700"), "SIGSEGV");
    container.push("/etc/gapless/gapless.toml", NO_SUCH_COMMAND, 0o644);
    refuses(container, &version("good"), "/nonexistent/app");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(the_version(container), "good");
    wait_settled(container);
    assert_eq!(
        (container.main_pid(), container.processes()),
        (main, before)
    );
}

const NO_SUCH_COMMAND: &[u8] = b"[app]\ncommand = [\"/nonexistent/app\"]\ndirectory = \"/\"\n";

fn refuses(container: &Container, behaviour: &Behaviour, cause: &str) {
    container.behave(behaviour);
    let reload = container.try_sh("systemctl reload gapless.service");
    assert!(
        !reload.status.success(),
        "{reload}\n{}",
        container.journal("-u gapless -n 50")
    );
    let outcome = container.status().last_outcome.unwrap();
    assert!(
        outcome.cause.contains(cause),
        "no {cause:?} in {outcome:#?}"
    );
    let told = container.try_sh("gapless reload gapless");
    assert!(
        [5, 6, 7].contains(&told.code()) && told.output().contains(cause),
        "{told}"
    );
    assert_eq!(container.property("ActiveState"), "active");
}

/// Point 4.
pub fn killed_workers_cost_only_what_they_were_answering(container: &mut Container) {
    let keys = format!("listen = \"fd\"\n{QUICK}");
    container.serve_probe(&version("v1").with("LISTEN", "fd"), &keys, "");
    let load = container.load(&["--slow-ms", "300"]);
    let kills = 15;
    for _ in 0..kills {
        let began = Instant::now();
        container.kill("KILL", container.worker_pids()[0]);
        load.run_for(Duration::from_secs(2).saturating_sub(began.elapsed()));
    }
    let counted = load.finish();
    counted.expect_nothing_closed();
    assert_eq!(counted.refused, 0, "{counted:#?}");
    assert!(
        counted.lost <= 64 * u64::try_from(kills).unwrap(),
        "{counted:#?}"
    );
    for loss in &counted.losses {
        let reason = loss["reason"].as_str().unwrap();
        let is_cut = reason.contains("status 502") || reason.contains("connection");
        assert!(is_cut, "{loss} is no request that a dead process had");
    }
}
