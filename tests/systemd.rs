//! Ring 3: gapless as installed, under a real systemd 252 and 257, in containers
//! (`world::container`), with the strict client outside asking all the while.
//!
//! Every scenario is a function of the base; the `#[test]` functions at the end run each on both.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::print_stderr,
    reason = "what was measured goes to stderr: cargo test --test systemd -- --nocapture"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

#[path = "systemd/deposits.rs"]
mod deposits;
#[path = "systemd/diagnosis.rs"]
mod diagnosis;
mod world;

use deposits::what_it_keeps_outlives_everything_but_a_stop;
use diagnosis::bad_apps_are_named_and_nobody_notices;
use gapless::api::{Status, UpgradeVerdict};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use world::container::{self, Container};
use world::load::{Load, idle_that_fit};
use world::samples::in_readme;
use world::{Behaviour, alone, beside_others, eventually, is_long, skip, version};

const SOON: Duration = Duration::from_secs(30);
/// "A few hundred milliseconds": what a restart or a crash of the keeper may cost at most.
const STALL_MAX: Duration = Duration::from_millis(500);
/// New generations settle quickly where the test is about something else.
const QUICK: &str = "settle = \"100ms\"";

/// Of the load: all that there are, and those that end at once.
const ALL_KINDS: &str = "get,post16k,slow,dribble-up,dribble-down,pipelined,new";
const QUICK_KINDS: &str = "get,post16k,pipelined,new";
const KEPT_KINDS: &str = "get,post16k,slow,dribble-up,dribble-down,pipelined";

fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// Runs a scenario in a fresh container, in the company that `held` allows.
fn on<Guard>(base: &str, held: fn() -> Guard, scenario: fn(&mut Container)) {
    if let Some(missing) = container::missing() {
        return skip(&missing);
    }
    let _held = held();
    scenario(&mut Container::boot(base));
}

fn the_version(container: &Container) -> String {
    container.get("/echo").split(' ').next().unwrap().to_owned()
}

/// Waits until only the live generation and one front are left.
fn wait_settled(container: &Container) -> Status {
    eventually("only the live generation is left", SOON, || {
        let status = container.status();
        (status.generations.len() == 1 && status.fronts.len() == 1).then_some(status)
    })
}

fn next_keeper(container: &Container, old: u32) -> u32 {
    eventually("the next keeper runs", SOON, || {
        let pid = container.main_pid().filter(|pid| *pid != old)?;
        (container.property("ActiveState") == "active").then_some(pid)
    })
}

fn scopes(container: &Container) -> String {
    container.systemctl("list-units --all --no-legend --plain --type=scope 'gapless*'")
}

/// Stops socket and service; afterwards nothing of ours may be left.
fn stop_and_expect_nothing_left(container: &Container) {
    container.systemctl("stop gapless.socket gapless.service");
    eventually("no process and no scope is left", SOON, || {
        (container.processes().is_empty() && scopes(container).trim().is_empty()).then_some(())
    });
    assert_eq!(container.property("NFileDescriptorStore"), "0");
    assert_eq!(container.property("ActiveState"), "inactive");
    assert!(
        container
            .try_sh("ss -Hltn sport = 8888")
            .stdout
            .trim()
            .is_empty()
    );
}

// ---- the scenarios

/// Point 2.
fn reloads_lose_nothing_and_close_nothing(container: &mut Container) {
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
fn bad_versions_are_refused_and_nobody_notices(container: &mut Container) {
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
fn killed_workers_cost_only_what_they_were_answering(container: &mut Container) {
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
fn killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice(container: &mut Container) {
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
fn a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices(container: &mut Container) {
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
fn verify_finds_nothing_lost(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    let before = container.status();
    let path = "/slow?ms=20&q={id}";
    let told = container.sh(&format!("gapless verify --for 9s --path '{path}'"));
    in_readme("sudo gapless verify").expect(&as_in_the_readme(&told, path));
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
fn as_in_the_readme(told: &str, path: &str) -> String {
    let told = told.replace(path, "/");
    let phases = ["quiet", "reload", "upgrade", "restart", "kill"];
    phases.iter().fold(told, |told, phase| {
        told.replace(&format!(" ms ({phase})"), " ms (kill)")
    })
}

/// Point 5, restarts.
fn restarts_lose_nothing_though_the_app_boots_for_seconds(container: &mut Container) {
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

/// Gapless is replaced in place, by command and by signal, and what is under way all the time stays
/// with the first front.
fn upgrades_lose_nothing_and_systemd_sees_one_process(container: &mut Container) {
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
    assert_eq!(container.property("NFileDescriptorStore"), store);
    assert_eq!(container.property("StatusText"), "Serving g1");
    let state = container.property("ActiveState") + "/" + &container.property("SubState");
    assert_eq!(state, "active/running");
    stop_and_expect_nothing_left(container);
}

/// The installed binary says yes in the dry run; then it dies, or hangs until the watchdog ends it.
fn a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one(container: &mut Container) {
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
    assert_eq!(container.property("NFileDescriptorStore"), store);
    stop_and_expect_nothing_left(container);
}

/// Point 7, restarts of the socket.
fn restarts_of_the_socket_refuse_nobody(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    let load = container.load(&["--idle", "100"]);
    for _ in 0..times(3, 6) {
        for units in [
            "gapless.socket",
            "gapless.socket gapless.service",
            "gapless.service",
        ] {
            container.systemctl(&format!("restart {units}"));
            load.run_for(Duration::from_millis(300));
        }
    }
    let counted = load.finish();
    counted.expect_nothing_lost();
    assert_eq!(counted.refused, 0, "{counted:#?}");
    stop_and_expect_nothing_left(container);
}

/// Point 6 and 7, the stop.
fn a_stop_drains_and_leaves_nothing(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    let load = container.load(&["--idle", "0", "--kinds", "slow", "--think-ms", "60000"]);
    let began = Instant::now();
    stop_and_expect_nothing_left(container);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let counted = load.finish();
    // Who came after the stop found nobody; what was being answered was answered.
    for loss in &counted.losses {
        let is_late = loss["answers"] == 0 && loss["bytes_seen"] == 0;
        assert!(is_late, "{loss} was with the app: {counted:#?}");
    }
}

/// Point 7, the reboot; and load balancers are answered by one socket through it all.
fn it_answers_again_after_a_reboot_without_a_hand(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    assert_eq!(the_version(container), "v1");
    container.systemctl("enable gapless-admin.socket");
    container.systemctl("restart gapless.service");
    let socket = admin_socket(container);
    assert!(socket.is_some(), "it came with the restart");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    let main = container.main_pid().unwrap();
    container.kill("KILL", main);
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    next_keeper(container, main);
    let held = container.sh("gapless hold --for 2min && gapless drain");
    assert!(held.starts_with("held: nothing is in flight"), "{held}");
    container.sh("gapless restart");
    let after = container.status();
    assert!(after.hold.is_some() && after.drained_since_unix_seconds.is_some());
    container.sh("gapless resume && gapless undrain");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    assert_eq!(admin_socket(container), socket);
    // By itself it cannot come back beside a service that runs; its old socket answers on.
    let alone = container.try_sh("systemctl restart gapless-admin.socket");
    assert!(!alone.status.success(), "{alone}");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    container.systemctl("restart gapless.service");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    assert_ne!(admin_socket(container), socket);
    // It goes with the port of the app, and comes back with it.
    container.systemctl("restart gapless.socket");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    // All sockets stop with the service: none of them starts it again.
    container.sh("gapless stop");
    for port in ["8888", "8889"] {
        let refused = container.try_sh(&format!(
            "python3 -c 'import socket, sys; \
             sys.exit(socket.socket().connect_ex((\"127.0.0.1\", {port})))'"
        ));
        assert_eq!(
            refused.code(),
            rustix::io::Errno::CONNREFUSED.raw_os_error(),
            "{refused}"
        );
    }
    assert_eq!(container.property("ActiveState"), "inactive");
    container.sh("gapless start");
    assert_eq!(the_version(container), "v1");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    let before = container.status();
    container.reboot();
    assert_eq!(the_version(container), "v1");
    // A front tells of a request when its answer is out.
    let after = eventually("the counters go on", SOON, || {
        let after = container.status();
        (after.requests.total > before.requests.total).then_some(after)
    });
    assert!(after.healthy);
    let newest = |status: &Status| status.generations.last().map(|it| it.id);
    assert!(newest(&after) > newest(&before), "numbers go on: {after:?}");
    assert_eq!(container.get_from("8889", "/readyz"), "ok\n");
    container.sh("rm /etc/gapless/gapless.toml && systemctl restart gapless.service");
    releases_survive_a_reboot(container);
    stop_and_expect_nothing_left(container);
    assert_eq!(admin_socket(container), None);
}

/// The inode of the socket on which load balancers are answered.
fn admin_socket(container: &Container) -> Option<String> {
    let sockets = container.sh("ss -Hltne sport = 8889");
    let inode = sockets.split_whitespace().find(|it| it.starts_with("ino:"));
    inode.map(str::to_owned)
}

/// From nothing: greeting, deploys, rollback, a stopped service, a full disk, a reboot.
fn releases_survive_a_reboot(container: &mut Container) {
    container.systemctl("stop gapless.service");
    container.systemctl("start gapless.service");
    let greeting = container.get("/");
    assert!(
        greeting.contains("sudo gapless deploy ./myapp"),
        "{greeting}"
    );
    for version in ["d1", "d2", "d3"] {
        write_app(container, version);
    }
    container.sh("gapless deploy /root/d1 --release d1");
    let load = container.load(&[]);
    container.sh("tar c -C /root/d2 . | gapless deploy - --release d2");
    assert_eq!(the_version(container), "d2");
    container.sh("gapless rollback");
    assert_eq!(the_version(container), "d1");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    let secret = "/srv/gapless/gapless/current/.env";
    assert_eq!(
        container.sh(&format!("runuser -u gapless -- cat {secret}")),
        "d1"
    );
    let stranger = container.try_sh(&format!("runuser -u nobody -- cat {secret}"));
    assert!(!stranger.status.success(), "{stranger}");
    container.sh("test -d /var/lib/gapless/shared/uploads");
    container.sh("runuser -u gapless -- touch /srv/gapless/gapless/current/uploads/x");

    container.sh("mount -t tmpfs -o size=1m full /srv/gapless/gapless/incoming");
    let refused = container.try_sh("gapless deploy /root/d3 --release d3");
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(
        refused
            .stderr
            .contains("no room at /srv/gapless/gapless/incoming/d3"),
        "{refused}"
    );
    container.sh("umount /srv/gapless/gapless/incoming");

    container.systemctl("stop gapless.service");
    let said = container.sh("gapless deploy /root/d3 --release d3");
    assert!(
        said.contains("gapless.service, by systemctl start"),
        "{said}"
    );
    assert_eq!(the_version(container), "d3");
    container.reboot();
    assert_eq!(the_version(container), "d3");
    assert!(
        container
            .sh("gapless releases")
            .contains("d3       current   healthy")
    );
    assert_eq!(container.sh("ls /srv/gapless/gapless/incoming"), "");
    killed_deploys_survive_a_reboot(container);
}

/// Where one ended, and what the machine begins with then; every step is in `tests/deploy_steps.rs`.
fn killed_deploys_survive_a_reboot(container: &mut Container) {
    container.sh("mkdir /root/steps");
    for (step, version, expected) in [
        ("store.manifest.placed", "k1", "d3"),
        ("store.swap.heard", "k2", "d3"),
        ("store.current.moved", "k3", "k3"),
    ] {
        write_app(container, version);
        let deploy = format!("gapless deploy /root/{version} --release {version}");
        container.sh(&format!("touch /root/steps/{step}"));
        let killed = container.try_sh(&format!("GAPLESS_STEPS=/root/steps {deploy}"));
        assert_eq!(killed.code(), 137, "{killed}");
        container.reboot();
        assert_eq!(the_version(container), expected, "{step}");
    }
    container.sh("gapless deploy /root/d1 --release last");
    assert_eq!(the_version(container), "d1");
    assert_eq!(container.sh("ls /srv/gapless/gapless/incoming"), "");
}

fn write_app(container: &Container, version: &str) {
    let config = format!(
        "[app]\ncommand = [\"/srv/probe/probe-app\"]\nsettle = \"100ms\"\nshared = [\"uploads\"]\n\
         env = {{ PROBE_VERSION = \"{version}\" }}\n"
    );
    container.sh(&format!("mkdir /root/{version}"));
    container.push(
        &format!("/root/{version}/gapless.toml"),
        config.as_bytes(),
        0o644,
    );
    container.push(&format!("/root/{version}/.env"), version.as_bytes(), 0o600);
}

/// Point 9.
fn apps_not_written_for_gapless_run_unchanged(container: &mut Container) {
    for script in [
        "answer.py",
        "python_port.py",
        "python_given.py",
        "node_port.js",
    ] {
        container.install(
            &format!("tests/apps/{script}"),
            &format!("/srv/apps/{script}"),
        );
    }
    for (program, script) in [
        ("python3", "python_port.py"),
        ("python3", "python_given.py"),
        ("node", "node_port.js"),
    ] {
        let config = |version: &str| {
            format!(
                "[app]\ncommand = [\"/usr/bin/{program}\", \"/srv/apps/{script}\"]\n\
                 directory = \"/srv/apps\"\nenv = {{ APP_VERSION = \"{version}\" }}\n"
            )
        };
        container.serve(&config("first"));
        container.systemctl("restart gapless.service");
        eventually(script, SOON, || {
            (the_version(container) == "first").then_some(())
        });
        let kinds = "get,post16k,pipelined,new";
        let load = container.load(&["--clients", "16", "--idle", "20", "--kinds", kinds]);
        container.push(
            "/etc/gapless/gapless.toml",
            config("second").as_bytes(),
            0o644,
        );
        container.systemctl("reload gapless.service");
        load.run_for(Duration::from_millis(500));
        let counted = load.finish();
        counted.expect_nothing_lost().expect_nothing_closed();
        assert!(
            counted.versions.contains_key("second"),
            "{script}: {counted:#?}"
        );
        container.systemctl("stop gapless.socket gapless.service");
    }
    what_it_keeps_outlives_everything_but_a_stop(container);
}

/// The app cannot touch what is not its own, and its lines are found in the journal.
fn the_sandbox_and_the_journal_are_as_promised(container: &mut Container) {
    let behaviour = version("v1").with("SAY", "<4>the app says hello");
    let console = r#"console = ["sh", "-c", "echo $(id -un) $(id -Gn) $GAPLESS_GENERATION"]"#;
    container.serve_probe(&behaviour, &format!("{QUICK}\n{console}"), "");
    let fields = "-o json --output-fields=PRIORITY,MESSAGE,GAPLESS_GENERATION,_UID --no-pager";
    let lines = container.sh(&format!(
        "journalctl -u gapless.service {fields} | grep hello"
    ));
    assert!(lines.contains("\"PRIORITY\":\"4\""), "{lines}");
    let environment = container.get("/env");
    assert!(environment.contains("GAPLESS_GENERATION="), "{environment}");
    let user = container.sh(&format!("ps -o user= -p {}", container.worker_pids()[0]));
    assert_eq!(user.trim(), "gapless");
    assert_eq!(container.sh("gapless console").trim(), "gapless gapless 1");
    let another =
        container.try_sh("setpriv --reuid 65534 --regid 65534 --clear-groups gapless console");
    assert_eq!(another.code(), 4, "{another}");
    let own = container.sh("gapless logs -g 1 -n all");
    assert!(own.contains("the app says hello"), "{own}");
    assert!(own.contains("g1 is live"), "{own}");
    let none = container.try_sh("gapless logs -g 99");
    assert_eq!(none.code(), 1, "{none}");
    assert_eq!(
        container.sh("stat -c %U:%G /run/gapless").trim(),
        "gapless:gapless"
    );
}

/// Two instances of the template beside each other.
fn instances_of_the_template_have_their_own_user_and_socket(container: &mut Container) {
    for (name, port) in [("blue", "8081"), ("green", "8082")] {
        let user = format!("u gapless-{name} - \"gapless app {name}\" /var/lib/gapless@{name}\n");
        container.push(
            &format!("/etc/sysusers.d/gapless-{name}.conf"),
            user.as_bytes(),
            0o644,
        );
        let listen = format!("[Socket]\nListenStream=127.0.0.1:{port}\n");
        let drop_in = format!("/etc/systemd/system/gapless@{name}.socket.d/listen.conf");
        container.push(&drop_in, listen.as_bytes(), 0o644);
        let config = format!(
            "[app]\ncommand = [\"/srv/probe/probe-app\"]\ndirectory = \"/srv/probe\"\n\
             env = {{ PROBE_VERSION = \"{name}\" }}\n"
        );
        container.push(
            &format!("/etc/gapless/{name}.toml"),
            config.as_bytes(),
            0o644,
        );
        let listen = format!("[Socket]\nListenStream=127.0.0.1:1{port}\n");
        let drop_in = format!("/etc/systemd/system/gapless-admin@{name}.socket.d/listen.conf");
        container.push(&drop_in, listen.as_bytes(), 0o644);
    }
    container.sh("systemd-sysusers && systemctl daemon-reload");
    container.systemctl("enable gapless-admin@blue.socket gapless-admin@green.socket");
    container.systemctl("enable --now gapless@blue.socket gapless@green.socket");
    container.systemctl("enable --now gapless@blue.service gapless@green.service");
    for (name, port) in [("blue", "8081"), ("green", "8082")] {
        assert!(container.get_from(port, "/").starts_with(name));
        container.sh(&format!("gapless status {name}"));
        assert_eq!(container.get_from(&format!("1{port}"), "/readyz"), "ok\n");
        container.systemctl(&format!("reload gapless@{name}.service"));
    }
}

/// What is on the disk, and who is a user; not what systemd, the journal and a boot write by themselves.
fn footprints(container: &Container) -> BTreeSet<String> {
    let found = container.sh(
        "find /etc /srv /var/lib /var/cache -xdev -printf '%p %y %m %U:%G %l\\n'; \
         cat /etc/passwd /etc/group",
    );
    let changes = [
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sub",
        "/etc/.pwd.lock",
        "/etc/.updated",
        "/var/lib/systemd",
        "/var/lib/gapless/",
        "/var/lib/dbus",
    ];
    let lines = found.lines().map(str::to_owned);
    lines
        .filter(|line| !changes.iter().any(|it| line.starts_with(it)))
        .collect()
}

/// A second app from the first command to the last, beside one that does not notice.
fn an_app_is_added_and_removed_beside_one_that_loses_nothing(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    write_app(container, "d1");
    let before = footprints(container);
    let load = container.load(&["--idle", "100"]);
    let said = container.sh("gapless add blog --listen 8081");
    let next = "Next: sudo gapless --app blog deploy ./myapp\n";
    assert!(said.ends_with(next), "{said}");
    in_readme("sudo gapless add blog").expect(&said);
    let added = footprints(container);
    let page = container.get_from("8081", "/");
    assert!(
        page.contains("sudo gapless --app blog deploy ./myapp"),
        "{page}"
    );
    let said = container.sh("gapless --app blog deploy /root/d1 --release d1");
    let as_dated = |said: &str| said.replace("probe", "d1").replace("d1", "20261121-1");
    in_readme("sudo gapless --app blog deploy").expect(&as_dated(&said));
    assert!(container.get_from("8081", "/echo").starts_with("d1 "));
    assert_eq!(the_version(container), "v1");
    let user = container.sh("stat -c %U:%G /var/lib/gapless@blog");
    assert_eq!(user, "gapless-blog:gapless-blog\n");
    let listed = container.sh("gapless list");
    in_readme("gapless list").expect(&as_dated(&listed));
    for app in ["\n● gapless  healthy  probe ", "\n● blog     healthy  d1 "] {
        assert!(listed.contains(app), "{listed}");
    }
    let held = container.sh("gapless --app blog hold && gapless --app blog status");
    let ends = held.matches("gapless --app blog resume").count();
    assert_eq!(ends, 2, "{held}");
    container.sh("gapless --app blog resume");
    let logs = container.sh("gapless --app blog logs -n all");
    assert!(logs.contains("release d1"), "{logs}");
    what_cannot_be_added_leaves_nothing(container);
    load.finish().expect_nothing_lost().expect_nothing_closed();
    container.reboot();
    assert!(container.get_from("8081", "/echo").starts_with("d1 "));
    assert_eq!(the_version(container), "v1");
    let load = container.load(&["--idle", "100"]);
    it_is_removed_and_comes_back(container);
    container.sh("gapless remove blog --purge");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    let after = footprints(container);
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(added.len() > before.len() + 5, "{added:#?}");
    let known = container.systemctl("list-units --all --plain --no-legend 'gapless*@blog*'");
    assert_eq!(known, "");
}

fn what_cannot_be_added_leaves_nothing(container: &Container) {
    let before = footprints(container);
    for (address, why) in [
        ("8081", "is where gapless@blog.socket listens"),
        ("127.0.0.1:8888", "is where gapless.socket listens"),
        // systemd itself cannot listen there.
        ("/proc/shop.sock", "what was done for it is undone"),
    ] {
        let refused = container.try_sh(&format!("gapless add shop --listen {address}"));
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(refused.stderr.contains(why), "{refused}");
        assert_eq!(footprints(container), before, "{refused}");
    }
    let known = container.systemctl("list-units --all --plain --no-legend 'gapless*@shop*'");
    assert_eq!(known, "");
}

fn it_is_removed_and_comes_back(container: &Container) {
    container.sh("echo mine >/var/lib/gapless@blog/upload");
    let removed = container.sh("gapless remove blog");
    in_readme("sudo gapless remove blog").expect(&removed);
    let port = container.sh("ss -Hltn sport = 8081");
    assert_eq!(port, "", "its port is closed");
    assert!(!container.processes().values().any(|it| it.contains("blog")));
    for left in [
        "/etc/gapless/blog.toml",
        "/srv/gapless/blog",
        "/var/lib/gapless@blog",
        "the user gapless-blog",
        "sudo gapless remove blog --purge",
    ] {
        assert!(removed.contains(left), "{left}: {removed}");
    }
    let listed = container.sh("gapless list");
    assert!(listed.contains("○ blog     removed  d1 "), "{listed}");
    container.sh("gapless add blog --listen 8081");
    assert!(container.get_from("8081", "/echo").starts_with("d1 "));
    assert_eq!(container.sh("cat /var/lib/gapless@blog/upload"), "mine\n");
}

/// Times `systemctl is-active` again and again, until told to stop: milliseconds, one in a line.
const ASK_SYSTEMD: &str = "while [ ! -e /run/asked-enough ]; do \
    began=$(date +%s%N); systemctl is-active gapless.service >/dev/null; \
    echo $((($(date +%s%N) - began) / 1000000)); done";
/// More than at rest, on a machine that does all the rest, too.
const SYSTEMD_STALL_MS: u64 = 200;

/// The longest that systemd took to answer while `happen` ran, in milliseconds.
fn longest_answer_of_systemd(container: &Container, happen: impl FnOnce()) -> u64 {
    container.sh("rm -f /run/asked-enough");
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| container.sh(ASK_SYSTEMD));
        happen();
        container.sh("touch /run/asked-enough");
        let said = asking.join().unwrap();
        said.lines().map(|ms| ms.parse().unwrap()).max().unwrap()
    })
}

/// All of them are with another front than `old`, which is gone.
fn wait_moved(container: &Container, old: u32, many: u64) -> u32 {
    eventually("all are with the next front", SOON, || {
        let fronts = container.status().fronts;
        let is_next = fronts.len() == 1 && fronts[0].pid != old && fronts[0].connections >= many;
        is_next.then(|| fronts[0].pid)
    })
}

/// Point 5 of the handover: the keeper keeps its fds in systemd, the fronts their connections out of it.
fn thousands_of_idle_connections_move_and_systemd_answers_meanwhile(container: &mut Container) {
    let wanted = if is_long() { 20_000 } else { 3000 };
    let (many, allowed) = idle_that_fit(wanted);
    let http = format!("[http]\nlanes = 2\nconnections_max = {allowed}");
    container.serve_probe(&version("v1"), QUICK, &http);
    let idle = container.load(&["--clients", "0", "--idle", &many.to_string()]);
    let mut front = container.status().fronts[0].pid;
    let rest = Duration::from_secs(1);
    let at_rest = longest_answer_of_systemd(container, || idle.run_for(rest));
    for what in ["systemctl restart gapless.service", "gapless upgrade"] {
        let began = Instant::now();
        let longest = longest_answer_of_systemd(container, || {
            container.sh(what);
            front = wait_moved(container, front, many);
        });
        eprintln!(
            "{what}: {many} idle connections moved within {:?}; systemd answered within \
             {longest} ms, at rest within {at_rest} ms",
            began.elapsed()
        );
        assert!(longest <= at_rest + SYSTEMD_STALL_MS, "{longest} ms");
    }
    let counted = idle.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
}

// ---- on both systemds

macro_rules! on_both {
    ($held:ident: $($scenario:ident: $on_252:ident, $on_257:ident;)*) => {$(
        #[test]
        fn $on_252() {
            on(container::BASES[0], $held, $scenario);
        }

        #[test]
        fn $on_257() {
            on(container::BASES[1], $held, $scenario);
        }
    )*};
}

on_both! { beside_others:
    a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one:
        on_252_a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one,
        on_257_a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one;
    reloads_lose_nothing_and_close_nothing:
        on_252_a_hundred_reloads_lose_nothing_and_close_nothing,
        on_257_a_hundred_reloads_lose_nothing_and_close_nothing;
    bad_versions_are_refused_and_nobody_notices:
        on_252_bad_versions_are_refused_and_nobody_notices,
        on_257_bad_versions_are_refused_and_nobody_notices;
    bad_apps_are_named_and_nobody_notices:
        on_252_bad_apps_are_named_and_nobody_notices,
        on_257_bad_apps_are_named_and_nobody_notices;
    killed_workers_cost_only_what_they_were_answering:
        on_252_killed_workers_cost_only_what_they_were_answering,
        on_257_killed_workers_cost_only_what_they_were_answering;
    verify_finds_nothing_lost:
        on_252_verify_finds_nothing_lost_through_reload_upgrade_restart_and_kill,
        on_257_verify_finds_nothing_lost_through_reload_upgrade_restart_and_kill;
    restarts_of_the_socket_refuse_nobody:
        on_252_restarts_of_the_socket_refuse_nobody,
        on_257_restarts_of_the_socket_refuse_nobody;
    a_stop_drains_and_leaves_nothing:
        on_252_a_stop_drains_and_leaves_nothing,
        on_257_a_stop_drains_and_leaves_nothing;
    it_answers_again_after_a_reboot_without_a_hand:
        on_252_it_answers_again_after_a_reboot_without_a_hand,
        on_257_it_answers_again_after_a_reboot_without_a_hand;
    apps_not_written_for_gapless_run_unchanged:
        on_252_apps_not_written_for_gapless_run_unchanged,
        on_257_apps_not_written_for_gapless_run_unchanged;
    the_sandbox_and_the_journal_are_as_promised:
        on_252_the_sandbox_and_the_journal_are_as_promised,
        on_257_the_sandbox_and_the_journal_are_as_promised;
    an_app_is_added_and_removed_beside_one_that_loses_nothing:
        on_252_an_app_is_added_and_removed_beside_one_that_loses_nothing,
        on_257_an_app_is_added_and_removed_beside_one_that_loses_nothing;
    instances_of_the_template_have_their_own_user_and_socket:
        on_252_instances_of_the_template_have_their_own_user_and_socket,
        on_257_instances_of_the_template_have_their_own_user_and_socket;
}

on_both! { alone:
    upgrades_lose_nothing_and_systemd_sees_one_process:
        on_252_twenty_upgrades_lose_nothing_and_systemd_sees_one_process,
        on_257_twenty_upgrades_lose_nothing_and_systemd_sees_one_process;
    killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice:
        on_252_killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice,
        on_257_killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice;
    a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices:
        on_252_a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices,
        on_257_a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices;
    restarts_lose_nothing_though_the_app_boots_for_seconds:
        on_252_restarts_lose_nothing_though_the_app_boots_for_seconds,
        on_257_restarts_lose_nothing_though_the_app_boots_for_seconds;
}

#[test]
fn on_257_thousands_of_idle_connections_move_and_systemd_answers_meanwhile_and_on_252_in_the_long_form()
 {
    let bases = if is_long() {
        &container::BASES[..]
    } else {
        &container::BASES[1..2]
    };
    for base in bases {
        on(
            base,
            alone,
            thousands_of_idle_connections_move_and_systemd_answers_meanwhile,
        );
    }
}
