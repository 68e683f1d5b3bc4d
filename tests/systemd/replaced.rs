//! Keeper, fronts and gapless itself are replaced, and nobody notices.

use crate::world::container::Container;
use crate::world::load::Load;
use crate::world::samples::in_documents;
use crate::world::{eventually, is_long, version};
use crate::{
    ALL_KINDS, KEPT_KINDS, QUICK, QUICK_KINDS, SOON, STALL_MAX, next_keeper,
    stop_and_expect_nothing_left, the_version, times, wait_settled,
};
use gapless::api::UpgradeVerdict;
use std::collections::BTreeSet;
use std::time::Duration;

/// Clients that keep their connections, idle ones, and some that connect for each request. Apart,
/// because thousands of idle ones that ask at once at the end wait for each other, which is no stall.
struct Everybody {
    kept: Load,
    new: Load,
    idle: Load,
    /// Of those that keep them and of the idle ones.
    ports: BTreeSet<u16>,
}

impl Everybody {
    fn connect(container: &Container) -> Self {
        let (clients, idle) = (64, times(500, 2000));
        let idle_text = idle.to_string();
        let idle_load = container.load(&["--clients", "0", "--idle", &idle_text]);
        let kept = container.load(&["--idle", "0", "--kinds", KEPT_KINDS]);
        let ports = container.client_ports();
        assert_eq!(ports.len(), clients + idle);
        let new = container.load(&["--clients", "8", "--idle", "0", "--kinds", "new"]);
        Self {
            kept,
            new,
            idle: idle_load,
            ports,
        }
    }

    /// Nothing was lost, and every client asks from the port from which it asked first.
    fn finish(self, container: &Container) {
        let ports = container.client_ports();
        let gone: Vec<_> = self.ports.difference(&ports).collect();
        assert!(gone.is_empty(), "no longer connected: {gone:?}");
        for load in [self.new, self.kept] {
            let counted = load.finish();
            counted.expect_nothing_lost().expect_nothing_closed();
            counted.expect_no_stall_beyond(STALL_MAX);
            let (ok, ms, kind) = (counted.ok, counted.stall.ms, &counted.stall.kind);
            eprintln!("{ok} answers, the longest stall {ms} ms, of {kind:?}");
        }
        let counted = self.idle.finish();
        counted.expect_nothing_lost().expect_nothing_closed();
    }
}

/// Point 5, crashes.
pub fn killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice(
    container: &mut Container,
) {
    container.serve_probe(&version("v1").with("DELAY_MS", "20"), QUICK, "");
    let app = container.worker_pids();
    let everybody = Everybody::connect(container);
    for _ in 0..times(12, 20) {
        let main = container.main_pid().unwrap();
        container.kill("KILL", main);
        next_keeper(container, main);
        everybody.kept.run_for(Duration::from_millis(500));
    }
    everybody.finish(container);
    assert_eq!(container.worker_pids(), app);
    let idle = container.load(&["--clients", "0", "--idle", "200"]);
    let front = wait_settled(container).fronts[0].pid;
    container.kill("KILL", front);
    eventually("the next front serves", SOON, || {
        container
            .status()
            .fronts
            .iter()
            .any(|next| next.pid != front)
            .then_some(())
    });
    idle.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(
        (the_version(container).as_str(), container.worker_pids()),
        ("v1", app)
    );
    stop_and_expect_nothing_left(container);
}

/// Point 5, the watchdog.
pub fn a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices(container: &mut Container) {
    let quick = b"[Service]\nWatchdogSec=2s\n";
    container.push(
        "/etc/systemd/system/gapless.service.d/watchdog.conf",
        quick,
        0o644,
    );
    container.systemctl("daemon-reload");
    container.serve_probe(&version("v1"), QUICK, "");
    let (app, main) = (container.worker_pids(), container.main_pid().unwrap());
    let load = container.load(&["--idle", "100"]);
    container.kill("STOP", main);
    next_keeper(container, main);
    load.run_for(Duration::from_secs(1));
    let counted = load.finish();
    counted
        .expect_nothing_lost()
        .expect_nothing_closed()
        .expect_no_stall_beyond(STALL_MAX);
    assert_eq!(container.worker_pids(), app);
    assert!(container.journal("_PID=1 -b").contains("Watchdog timeout"));
}

/// The user's proof, by the user's command, while everything happens that may.
pub fn verify_finds_nothing_lost(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    let before = container.status();
    let path = "/slow?ms=20&q={id}";
    let told = container.sh(&format!("gapless verify --for 9s --path '{path}'"));
    in_documents("sudo gapless verify").expect(&as_documented(&told, path));
    let phases: Vec<_> = told
        .lines()
        .filter_map(|it| it.split_whitespace().next())
        .collect();
    let happened = [phases[2], phases[4], phases[6], phases[8]];
    assert_eq!(happened, ["reload", "upgrade", "restart", "kill"], "{told}");
    assert!(
        told.contains("  systemctl restart gapless.service, done after "),
        "{told}"
    );
    let last = told.lines().last().unwrap();
    assert!(
        last.starts_with("0 of ") && last.contains(" 0 connections closed;"),
        "{told}"
    );
    eprintln!("{last}");
    let after = container.status();
    assert_eq!(after.requests.lost, 0, "{after:#?}");
    assert!(after.pid != before.pid && after.requests.total > before.requests.total);
}

/// The README asks for another path, and the longest stall was in another phase.
fn as_documented(told: &str, path: &str) -> String {
    let told = told.replace(path, "/");
    let phases = ["quiet", "reload", "upgrade", "restart", "kill"];
    phases.iter().fold(told, |told, phase| {
        told.replace(&format!(" ms ({phase})"), " ms (kill)")
    })
}

/// Point 5, restarts.
pub fn restarts_lose_nothing_though_the_app_boots_for_seconds(container: &mut Container) {
    let slow = |number: usize| {
        let behaviour = version(&format!("v{number}")).with("DELAY_MS", "20");
        behaviour.with("BOOT_MS", "3000")
    };
    // Less than a boot: the keeper asks for more time, for starts, reloads and stops.
    let impatient = b"[Service]\nTimeoutStartSec=2s\nTimeoutStopSec=2s\n";
    let drop_in = "/etc/systemd/system/gapless.service.d/impatient.conf";
    container.push(drop_in, impatient, 0o644);
    container.systemctl("daemon-reload");
    container.serve_probe(&slow(0), QUICK, "");
    let everybody = Everybody::connect(container);
    for number in 1..=times(12, 20) {
        container.behave(&slow(number));
        container.systemctl("restart gapless.service");
        eventually("the new version answers", SOON, || {
            (the_version(container) == format!("v{number}")).then_some(())
        });
    }
    container.systemctl("reload gapless.service");
    everybody.kept.run_for(Duration::from_millis(500));
    everybody.finish(container);
    stop_and_expect_nothing_left(container);
}

/// As many fds are kept as before: what an upgrade made old is there for a moment longer, and systemd hears of
/// its end after that.
fn wait_for_store(container: &Container, before: &str) {
    eventually("nothing more is kept than before", SOON, || {
        (container.property("NFileDescriptorStore") == before).then_some(())
    });
}

/// Gapless is replaced in place, by command and by signal, and what is under way all the time stays
/// with the first front.
pub fn upgrades_lose_nothing_and_systemd_sees_one_process(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    let (main, app) = (container.main_pid(), container.worker_pids());
    let store = container.property("NFileDescriptorStore");
    let long = container.long(200);
    let idle = times(500, 2000).to_string();
    // Each upgrade but the first two waits for slow requests on the front before the last.
    let kinds = if is_long() { ALL_KINDS } else { QUICK_KINDS };
    let load = container.load(&["--kinds", kinds, "--idle", &idle]);
    let replace = "cp /usr/bin/gapless /usr/bin/gapless.new && \
                   mv /usr/bin/gapless.new /usr/bin/gapless";
    for number in 1..=20 {
        container.sh(replace);
        if number % 5 == 0 {
            container.kill("USR2", main.unwrap());
            eventually("the upgrade is over", SOON, || {
                let last = container.status().last_upgrade?;
                let is_in_place = last.verdict == UpgradeVerdict::InPlace;
                (last.number == number && is_in_place).then_some(())
            });
        } else {
            container.sh("gapless upgrade");
        }
        long.wait_for_another();
    }
    load.run_for(Duration::from_millis(500));
    let seen = long.finish();
    assert!(seen.longest < SOON, "{seen:?}");
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    if !is_long() {
        // In the long form 2,000 idle connections ask at once at the end, which takes its time.
        counted.expect_no_stall_beyond(STALL_MAX);
    }
    wait_settled(container);
    assert_eq!((container.main_pid(), container.worker_pids()), (main, app));
    assert_eq!(container.property("NRestarts"), "0");
    wait_for_store(container, &store);
    assert_eq!(container.property("StatusText"), "Serving g1");
    let state = container.property("ActiveState") + "/" + &container.property("SubState");
    assert_eq!(state, "active/running");
    stop_and_expect_nothing_left(container);
}

/// The installed binary says yes in the dry run; then it dies, or hangs until the watchdog ends it.
pub fn a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one(container: &mut Container) {
    let watchdog = "/etc/systemd/system/gapless.service.d/watchdog.conf";
    container.push(watchdog, b"[Service]\nWatchdogSec=5s\n", 0o644);
    container.systemctl("daemon-reload");
    container.serve_probe(&version("v1"), QUICK, "");
    let app = container.worker_pids();
    let store = container.property("NFileDescriptorStore");
    container.sh("cp /usr/bin/gapless /usr/lib/next-gapless");
    let load = container.load(&["--kinds", QUICK_KINDS]);
    for (restarts, end) in [(1, "kill -KILL $$"), (2, "exec sleep 60")] {
        let script = format!(
            "#!/bin/bash\nif [ $1 = serve ] && rm /run/gapless/trial; then {end}; fi\n\
             exec -a $0 /usr/lib/next-gapless \"$@\"\n"
        );
        container.push("/usr/bin/gapless", script.as_bytes(), 0o755);
        container.sh("touch /run/gapless/trial");
        let said = container.try_sh("gapless upgrade gapless");
        assert_eq!(said.code(), 6, "{said}");
        assert!(said.output().contains("crashed, or hung"), "{said}");
        assert_eq!(container.worker_pids(), app);
        assert_eq!(container.property("NRestarts"), restarts.to_string());
        let image = format!("readlink /proc/{}/exe", container.main_pid().unwrap());
        assert_eq!(container.sh(&image).trim(), "/usr/bin/gapless (deleted)");
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    container.sh(
        "cp /usr/lib/next-gapless /usr/bin/gapless.new && mv /usr/bin/gapless.new /usr/bin/gapless",
    );
    container.sh("gapless upgrade");
    assert_eq!(container.worker_pids(), app);
    wait_for_store(container, &store);
    stop_and_expect_nothing_left(container);
}
