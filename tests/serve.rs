//! Ring 2: the real binary under a played systemd (`world::service`). What needs jobs, cgroups or
//! the sandbox of a real one is in `tests/systemd.rs`.

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

use gapless::api::{Status, Verdict};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use world::process::Finished;
use world::service::{Reply, SOON, Service, get, get_unix};
use world::{Behaviour, alone, eventually, is_long, process, repository, skip, version};

/// New generations settle quickly where the test is about something else.
const QUICK: &str = "settle = \"100ms\"";

/// A short form for `make test`, a long one for `make test-long`.
fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

fn live_pids(status: &Status) -> Vec<u32> {
    let live = status
        .generations
        .iter()
        .filter(|generation| generation.state == "live");
    live.flat_map(|generation| &generation.workers)
        .filter_map(|worker| worker.pid)
        .collect()
}

fn front_pid(service: &Service) -> u32 {
    eventually("a front serves", SOON, || {
        let fronts = service.status().fronts;
        fronts
            .iter()
            .find(|front| front.state == "serving")
            .map(|front| front.pid)
    })
}

fn the_version(service: &Service) -> String {
    service
        .get("/")
        .header("x-app-version")
        .unwrap_or("none")
        .to_owned()
}

/// Waits until only the live generation is left.
fn wait_settled(service: &Service) -> Status {
    eventually(
        "only the live generation is left",
        Duration::from_secs(30),
        || {
            let status = service.status();
            (status.generations.len() == 1 && status.fronts.len() == 1).then_some(status)
        },
    )
}

// ---- start

#[test]
fn ready_goes_up_when_the_first_generation_is_live() {
    let service = Service::probe(&version("v1").with("BOOT_MS", "300"), QUICK, "");
    assert_eq!(the_version(&service), "v1");
    let status = service.status();
    assert!(status.healthy, "{status:#?}");
    assert_eq!(service.said(), Some(status.summary));
}

#[test]
fn a_first_start_that_fails_is_said_and_tried_again_and_does_not_fail_the_unit() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(
        &version("v1")
            .with("EXIT_BEFORE_READY", "1")
            .with("SAY", "no database"),
    );
    service.configure_probe(QUICK, "[http]\nhold = \"500ms\"");
    service.start();
    service.wait_ready();
    let said = service.said().unwrap();
    assert!(said.contains("exited with status 1"), "{said}");
    let refusal = service.get("/");
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    service.behave(&version("v2"));
    eventually("it heals by itself", SOON, || {
        (the_version(&service) == "v2").then_some(())
    });
}

#[test]
fn without_a_socket_it_refuses_to_start_and_names_the_unit_to_look_at() {
    let mut service = Service::new("gapless");
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    assert!(!service.wait_end(SOON).success());
    assert!(
        service.journal().contains("gapless.socket"),
        "{}",
        service.journal()
    );
}

#[test]
fn it_answers_on_every_socket_it_is_given_and_closes_one_it_does_not_know() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let unix = service.listen_unix("http");
    let second = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = second.local_addr().unwrap().to_string();
    service.give("http", second.into());
    let strange = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    service.give("mystery", strange.into());
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    assert_eq!(the_version(&service), "v1");
    get_unix(&unix, "/").expect_ok();
    get(&address, "/").expect_ok();
    assert_eq!(service.status().listeners.len(), 3);
    assert!(
        service.journal().contains("mystery"),
        "{}",
        service.journal()
    );
}

#[test]
fn an_app_is_reached_by_whatever_it_takes() {
    for (listen, takes) in [
        ("auto", "auto"),
        ("auto", "port"),
        ("auto", "unix"),
        ("port", "port"),
        ("fd", "fd"),
        ("unix", "unix"),
    ] {
        let keys = format!("listen = \"{listen}\"\n{QUICK}");
        let service = Service::probe(&version("v1").with("LISTEN", takes), &keys, "");
        assert_eq!(the_version(&service), "v1", "{listen}, taking {takes}");
    }
}

#[test]
fn an_app_that_never_notifies_is_ready_when_it_answers() {
    let behaviour = version("v1").with("MUTE", "1").with("BOOT_MS", "300");
    let service = Service::probe(&behaviour, &format!("listen = \"port\"\n{QUICK}"), "");
    assert_eq!(the_version(&service), "v1");
}

// ---- reload

#[test]
fn reloads_under_load_lose_nothing_and_close_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v0"), QUICK, "");
    let load = service.load(&[]);
    let reloads = times(10, 100);
    for number in 1..=reloads {
        service.behave(&version(&format!("v{number}")));
        service.reload().expect_success();
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(counted.versions.len(), reloads + 1, "{counted:#?}");
}

#[test]
fn a_reload_with_the_defaults_loses_nothing_and_closes_nothing() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), "", "");
    let load = service.load(&["--idle", "50"]);
    service.behave(&version("v2").with("BOOT_MS", "500"));
    let took = service.reload();
    assert!(
        took.took >= Duration::from_millis(1500),
        "booted and settled in {took}"
    );
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(the_version(&service), "v2");
}

#[test]
fn a_reload_by_sighup_says_reloading_and_then_ready() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let before = service.heard_so_far();
    service.behave(&version("v2"));
    service.signal(Signal::HUP);
    service.wait_for("RELOADING=1 and then READY=1", SOON, |heard| {
        let new = &heard.messages[before..];
        let began = new
            .iter()
            .position(|message| message.get("RELOADING") == Some("1"))?;
        new[began].get("MONOTONIC_USEC")?.parse::<u64>().ok()?;
        new[began..]
            .iter()
            .any(|message| message.get("READY") == Some("1"))
            .then_some(())
    });
    assert_eq!(the_version(&service), "v2");
}

#[test]
fn the_newest_reload_wins() {
    let service = Service::probe(&version("v1"), QUICK, "");
    service.behave(&version("v2").with("HANG", "1"));
    service.signal(Signal::HUP);
    eventually("the hanging generation starts", SOON, || {
        (service.status().generations.len() == 2).then_some(())
    });
    service.behave(&version("v3"));
    service.reload().expect_success();
    assert_eq!(the_version(&service), "v3");
}

#[test]
fn an_app_that_insists_on_its_port_is_reloaded_while_requests_wait() {
    let _alone = alone();
    // The only way to know a free port is to have had it.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let keys = format!("listen = \"port:{port}\"\n{QUICK}");
    let service = Service::probe(&version("v1").with("LISTEN", "port"), &keys, "");
    let load = service.load(&["--idle", "20", "--clients", "16"]);
    service.behave(&version("v2").with("LISTEN", "port").with("BOOT_MS", "300"));
    service.reload().expect_success();
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(the_version(&service), "v2");
}

// ---- bad versions: each reload fails with the true cause, and the old version never notices

struct Bad {
    behaviour: Behaviour,
    keys: &'static str,
    more: &'static str,
    verdict: Verdict,
    /// Exit code of `gapless reload`.
    code: i32,
    /// Part of the cause.
    cause: &'static str,
}

impl Bad {
    fn new(behaviour: Behaviour, cause: &'static str) -> Self {
        let (keys, more) = ("boot = \"1500ms\"\nstop = \"1s\"", "");
        Self {
            behaviour,
            keys,
            more,
            verdict: Verdict::Unhealthy,
            code: 6,
            cause,
        }
    }

    fn too_slow(behaviour: Behaviour) -> Self {
        Self {
            verdict: Verdict::TimedOut,
            code: 7,
            ..Self::new(behaviour, "1.5")
        }
    }

    fn expect_refused(self) {
        let _alone = alone();
        let service = Service::probe(&version("good"), self.keys, self.more);
        let before = service.processes();
        let load = service.load(&["--idle", "20"]);
        service.behave(&self.behaviour);
        let reload = service.reload();
        self.expect_refusal(&service, &reload);
        load.finish().expect_nothing_lost().expect_nothing_closed();
        assert_eq!(the_version(&service), "good");
        wait_settled(&service);
        assert_eq!(
            service.processes(),
            before,
            "nothing is left behind, nothing was replaced"
        );
    }

    fn expect_refusal(&self, service: &Service, reload: &Finished) {
        assert_eq!(reload.code(), self.code, "{reload}");
        assert!(
            reload.output().contains(self.cause),
            "no {:?} in {reload}",
            self.cause
        );
        let outcome = service.status().last_outcome.unwrap();
        assert_eq!(outcome.verdict, self.verdict, "{outcome:#?}");
        assert!(outcome.cause.contains(self.cause), "{outcome:#?}");
    }
}

#[test]
fn a_version_that_exits_at_once_is_refused_with_its_last_lines() {
    let behaviour = version("bad")
        .with("EXIT_BEFORE_READY", "1")
        .with("SAY", "no such table");
    Bad::new(behaviour, "exited with status 1").expect_refused();
}

#[test]
fn a_version_that_exits_after_ready_is_refused() {
    let behaviour = version("bad")
        .with("EXIT_AFTER_READY", "3")
        .with("EXIT_AFTER_MS", "200");
    Bad::new(behaviour, "exited with status 3").expect_refused();
}

#[test]
fn a_version_that_hangs_is_refused() {
    Bad::too_slow(version("bad").with("HANG", "1")).expect_refused();
}

#[test]
fn a_version_that_answers_500_is_refused() {
    let more = "[health]\npath = \"/health\"";
    let bad = Bad::too_slow(version("bad").with("STATUS", "500"));
    Bad {
        more,
        cause: "500",
        ..bad
    }
    .expect_refused();
}

#[test]
fn a_version_that_never_listens_is_refused() {
    Bad::too_slow(version("bad").with("NEVER_LISTEN", "1")).expect_refused();
}

#[test]
fn a_version_that_crashes_within_a_second_of_ready_is_refused() {
    Bad::new(version("bad").with("SEGV_AFTER_MS", "700"), "SIGSEGV").expect_refused();
}

#[test]
fn a_command_that_does_not_exist_is_refused() {
    let service = Service::probe(&version("good"), "", "");
    service.configure("[app]\ncommand = [\"/nonexistent/app\"]\ndirectory = \"/\"\n");
    let reload = service.reload();
    assert_eq!(reload.code(), 5, "{reload}");
    assert!(reload.output().contains("/nonexistent/app"), "{reload}");
    assert_eq!(the_version(&service), "good");
}

#[test]
fn a_configuration_that_is_wrong_is_refused_before_anything_starts() {
    let service = Service::probe(&version("good"), QUICK, "");
    let before = service.processes();
    service.configure("[app]\ncomand = [\"/bin/true\"]\n");
    let reload = service.reload();
    assert_eq!(reload.code(), 5, "{reload}");
    assert!(reload.output().contains("comand"), "{reload}");
    assert_eq!(
        (the_version(&service).as_str(), service.processes()),
        ("good", before)
    );
}

// ---- crashes

#[test]
fn a_killed_worker_costs_only_what_it_was_answering() {
    let _alone = alone();
    let keys = format!("listen = \"fd\"\n{QUICK}");
    let service = Service::probe(&version("v1").with("LISTEN", "fd"), &keys, "");
    let load = service.load(&["--slow-ms", "300"]);
    for _ in 0..times(3, 15) {
        let pid = live_pids(&service.status())[0];
        process::end(pid, Signal::KILL);
        eventually("the worker is respawned", SOON, || {
            live_pids(&service.status())
                .iter()
                .any(|new| *new != pid)
                .then_some(())
        });
        load.run_for(Duration::from_secs(2));
    }
    let counted = load.finish();
    assert_eq!(counted.refused, 0, "{counted:#?}");
    counted.expect_nothing_closed();
    // Sent already: at most one of each client (two of a pair) for each death.
    assert!(
        counted.lost <= 64 * u64::try_from(times(3, 15)).unwrap(),
        "{counted:#?}"
    );
}

#[test]
fn a_killed_front_is_replaced_and_the_app_does_not_notice() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let (app, front) = (live_pids(&service.status()), front_pid(&service));
    process::end(front, Signal::KILL);
    let next = eventually("the next front serves", SOON, || {
        let status = service.status();
        status
            .fronts
            .iter()
            .find(|next| next.state == "serving" && next.pid != front)
            .cloned()
    });
    assert!(next.pid != front);
    assert_eq!(the_version(&service), "v1");
    assert_eq!(live_pids(&service.status()), app);
}

#[test]
fn a_killed_keeper_is_followed_by_one_that_adopts_and_nobody_notices() {
    let _alone = alone();
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let (app, front) = (live_pids(&service.status()), front_pid(&service));
    let load = service.load(&[]);
    for _ in 0..times(4, 12) {
        service.kill_keeper();
        load.run_for(Duration::from_millis(700));
    }
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    counted.expect_no_stall_beyond(Duration::from_millis(500));
    assert_eq!(
        (live_pids(&service.status()), front_pid(&service)),
        (app, front)
    );
    service.behave(&version("v2"));
    service.reload().expect_success();
    assert_eq!(the_version(&service), "v2");
}

#[test]
fn the_app_can_write_when_its_keeper_is_gone() {
    let _alone = alone();
    let mut service = Service::probe(&version("v1").with("FLOOD", "200000"), QUICK, "");
    let app = live_pids(&service.status());
    service.kill_keeper();
    assert_eq!(live_pids(&service.status()), app);
    service.get("/").expect_ok();
}

#[test]
fn a_keeper_that_dies_while_a_generation_starts_leaves_no_process_behind() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    service.behave(&version("v2").with("HANG", "1"));
    service.signal(Signal::HUP);
    eventually("the new generation starts", SOON, || {
        (service.status().generations.len() == 2).then_some(())
    });
    service.behave(&version("v3"));
    service.kill_keeper();
    assert!(["v1", "v3"].contains(&the_version(&service).as_str()));
    service.reload().expect_success();
    wait_settled(&service);
    let probes = service
        .processes()
        .iter()
        .filter(|seen| seen.command.contains("probe-app"))
        .count();
    assert_eq!(probes, 1, "{:#?}", service.processes());
}

#[test]
fn a_watched_keeper_feeds_the_watchdog_in_time() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.watch(Duration::from_secs(1));
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    let fed = service.wait_for("WATCHDOG=1, five times", SOON, |heard| {
        let fed = heard
            .messages
            .iter()
            .filter(|message| message.get("WATCHDOG") == Some("1"));
        let at: Vec<_> = fed.map(|message| message.at).collect();
        (at.len() >= 5).then_some(at)
    });
    let longest = fed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < Duration::from_secs(1), "a pause of {longest:?}");
}

// ---- drain and stop

/// Asks for every path at once, in threads; answers and when they ended.
fn ask_all(service: &Service, paths: &[&str]) -> Vec<std::thread::JoinHandle<(Reply, Duration)>> {
    let began = Instant::now();
    let ask = |path: &&str| {
        let (address, path) = (service.address(), (*path).to_owned());
        std::thread::spawn(move || (get(&address, &path), began.elapsed()))
    };
    let all = paths.iter().map(ask).collect();
    let wanted = u64::try_from(paths.len()).unwrap();
    eventually("every request is with the app", SOON, || {
        let leases: u64 = service
            .status()
            .generations
            .iter()
            .map(|generation| generation.leases)
            .sum();
        (leases >= wanted).then_some(())
    });
    all
}

#[test]
fn a_drain_lets_requests_finish_for_15_seconds_and_then_cuts_them_with_a_reason() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let paths = [
        "/slow?ms=1000",
        "/slow?ms=10000",
        "/slow?ms=14000",
        "/slow?ms=60000",
        "/stream",
    ];
    let began = Instant::now();
    let asked = ask_all(&service, &paths);
    service.behave(&version("v2"));
    let reload = service.reload();
    let swapped_by = began.elapsed();
    assert!(
        reload.took < Duration::from_secs(5),
        "a reload returns at the swap: {reload}"
    );
    reload.expect_success();
    let answers: Vec<_> = asked
        .into_iter()
        .map(|asked| asked.join().unwrap())
        .collect();
    for (answer, path) in answers.iter().zip(paths).take(3) {
        assert!(
            answer.0.status == 200 && answer.0.is_whole,
            "{path}: {answer:?}"
        );
        assert_eq!(answer.0.header("x-app-version"), Some("v1"), "{path}");
    }
    for (answer, path) in answers.iter().zip(paths).skip(3) {
        assert!(
            !(answer.0.status == 200 && answer.0.is_whole),
            "{path}: {answer:?}"
        );
        let (cut, least) = (answer.1, Duration::from_millis(14_900));
        let most = swapped_by + Duration::from_secs(17);
        assert!(
            cut >= least && cut < most,
            "{path} was cut after {cut:?}, the swap after {swapped_by:?}"
        );
    }
    let journal = service.journal();
    assert!(journal.contains("drain"), "no reason in the log: {journal}");
    wait_settled(&service);
}

#[test]
fn a_stop_drains_says_stopping_and_leaves_nothing_behind() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let asked = ask_all(&service, &["/slow?ms=1500", "/dribble?ms=1500&chunks=30"]);
    assert!(service.stop(SOON).success());
    for asked in asked {
        asked.join().unwrap().0.expect_ok();
    }
    let stopping = |heard: &world::service::Heard| {
        heard
            .messages
            .iter()
            .any(|message| message.get("STOPPING") == Some("1"))
    };
    assert!(service.heard(stopping));
    assert_eq!(service.processes(), []);
}

#[test]
fn an_idle_stop_takes_no_time_worth_naming() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let began = Instant::now();
    assert!(service.stop(SOON).success());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let mut service = Service::probe(&version("v1"), QUICK, "");
    let asked = ask_all(&service, &["/hang"]);
    service.signal(Signal::TERM);
    service.wait_for("STOPPING=1", SOON, |heard| {
        heard
            .messages
            .iter()
            .any(|message| message.get("STOPPING") == Some("1"))
            .then_some(())
    });
    service.signal(Signal::TERM);
    service.wait_end(Duration::from_secs(3));
    for asked in asked {
        assert!(!asked.join().unwrap().0.is_whole);
    }
    eventually("no process is left", Duration::from_secs(3), || {
        service.processes().is_empty().then_some(())
    });
}

#[test]
fn what_ignores_sigterm_and_what_it_left_running_is_ended_all_the_same() {
    let keys = format!("stop = \"500ms\"\ndrain = \"500ms\"\n{QUICK}");
    let stubborn = version("v1")
        .with("IGNORE_TERM", "1")
        .with("GRANDCHILD", "1");
    let service = Service::probe(&stubborn, &keys, "");
    let sleeping = |service: &Service| {
        service
            .processes()
            .iter()
            .filter(|seen| seen.command.starts_with("sleep"))
            .count()
    };
    assert_eq!(sleeping(&service), 1, "{:#?}", service.processes());
    service.behave(&version("v2"));
    service.reload().expect_success();
    eventually("the old generation is gone, whole", SOON, || {
        (sleeping(&service) == 0 && service.status().generations.len() == 1).then_some(())
    });
}

#[test]
fn a_flood_of_lines_does_not_delay_the_keeper() {
    let _alone = alone();
    let service = Service::probe(&version("v1").with("FLOOD", "500000"), QUICK, "");
    for _ in 0..20 {
        let began = Instant::now();
        service.status();
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
}

// ---- nothing leaks

/// What a process holds: its fds by kind, its threads, its mappings.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    fds: BTreeMap<String, usize>,
    threads: usize,
    mappings: usize,
}

fn holdings(pid: u32) -> Holdings {
    let process = Path::new("/proc").join(pid.to_string());
    let mut fds = BTreeMap::new();
    for fd in std::fs::read_dir(process.join("fd")).unwrap().flatten() {
        let Ok(target) = std::fs::read_link(fd.path()) else {
            continue;
        };
        // `socket:[4711]` is a socket; which one changes.
        let kind = target
            .display()
            .to_string()
            .split('[')
            .next()
            .unwrap_or_default()
            .to_owned();
        *fds.entry(kind).or_default() += 1;
    }
    let threads = std::fs::read_dir(process.join("task")).unwrap().count();
    let maps = std::fs::read_to_string(process.join("maps")).unwrap();
    Holdings {
        fds,
        threads,
        mappings: maps.lines().count(),
    }
}

/// What it holds when that stays for half a second: questions of ours and of the keeper, to each lane
/// now and then, come and go.
fn steady_holdings(pid: u32) -> Holdings {
    let (mut last, mut since) = (holdings(pid), Instant::now());
    eventually("it holds the same for a while", SOON, || {
        let now = holdings(pid);
        if (&now.fds, now.threads) != (&last.fds, last.threads) {
            (last, since) = (now, Instant::now());
            return None;
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(now)
    })
}

/// What it holds when it holds what it held then, or after a while: a question of ours may still
/// be closing.
fn settled_holdings(pid: u32, then: &Holdings) -> Holdings {
    let end = Instant::now() + Duration::from_secs(3);
    eventually("three seconds are over", SOON, || {
        let now = holdings(pid);
        let is_same = (&now.fds, now.threads) == (&then.fds, then.threads);
        (is_same || Instant::now() > end).then_some(now)
    })
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_reloads_leave_keeper_and_front_as_they_were() {
    if !rustix::process::geteuid().is_root() {
        return skip("keeper and front hide their fds from others: needs root");
    }
    let _alone = alone();
    let service = Service::probe(&version("v0"), "settle = \"0s\"", "");
    let reload = |number: usize| {
        service.behave(&version(&format!("v{number}")));
        service.reload().expect_success();
    };
    // The first ones fill pools and caches.
    (0..10).for_each(reload);
    wait_settled(&service);
    let pids = [service.main_pid(), front_pid(&service)];
    let before = pids.map(|pid| (steady_holdings(pid), resident_kib(pid)));
    let stored = service.heard(world::service::Heard::stored);
    (10..210).for_each(reload);
    wait_settled(&service);
    assert_eq!([service.main_pid(), front_pid(&service)], pids);
    for (pid, (then, memory)) in pids.into_iter().zip(before) {
        let now = settled_holdings(pid, &then);
        assert_eq!(
            (&now.fds, now.threads),
            (&then.fds, then.threads),
            "process {pid}"
        );
        assert!(
            now.mappings <= then.mappings + 8,
            "mappings of {pid}: {then:?}, then {now:?}"
        );
        assert!(
            resident_kib(pid) < memory + 4096,
            "memory of {pid}: {memory} KiB, then {}",
            resident_kib(pid)
        );
    }
    let now = service.heard(world::service::Heard::stored);
    assert_eq!(
        now.len(),
        stored.len(),
        "the store: {stored:?}, then {now:?}"
    );
}

#[test]
fn the_app_inherits_nothing_but_what_it_is_given() {
    let keys = format!("listen = \"fd\"\n{QUICK}");
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.set("CREDENTIALS_DIRECTORY", "/run/credentials/gapless.service");
    service.behave(&version("v1").with("LISTEN", "fd"));
    service.configure_probe(&keys, "");
    service.start();
    service.wait_ready();
    let fds = service.get("/fds").expect_ok();
    let numbers: Vec<u32> = fds
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(numbers[..4], [0, 1, 2, 3], "{fds}");
    assert!(fds.starts_with("0 /dev/null"), "{fds}");
    // Beyond its given socket it has its own: epoll, eventfd, signal pipe, the connection.
    let foreign = fds
        .lines()
        .skip(4)
        .filter(|line| line.contains("memfd") || line.contains("pidfd"));
    assert_eq!(foreign.count(), 0, "{fds}");
    let environment = service.get("/env").expect_ok();
    // Its own, not that of the service.
    let directory = service.runtime_directory().join("app");
    let directory = format!("RUNTIME_DIRECTORY={}\n", directory.display());
    assert!(environment.contains(&directory), "{environment}");
    for ours in ["STATE_DIRECTORY=", "INVOCATION_ID=", "WATCHDOG_"] {
        assert!(!environment.contains(ours), "{ours} in {environment}");
    }
    assert!(
        environment.contains("CREDENTIALS_DIRECTORY=/run/credentials"),
        "{environment}"
    );
    assert!(!environment.contains(&service.scratch.0.join("notify").display().to_string()));
}

// ---- apps not written for gapless

fn runs_unchanged(program: &str, script: &str, listen: &str) {
    let installed = Command::new(program).arg("--version").output().is_ok();
    if !installed {
        return skip(&format!(
            "{program} is missing; apt-get install {program}, as `make test` does"
        ));
    }
    let _alone = alone();
    let path = repository(&format!("tests/apps/{script}"))
        .display()
        .to_string();
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.set("PATH", &std::env::var("PATH").unwrap());
    let config = |version: &str| {
        format!(
            "[app]\ncommand = [\"{program}\", \"{path}\"]\ndirectory = \"/\"\n\
             listen = \"{listen}\"\nenv = {{ APP_VERSION = \"{version}\" }}\n"
        )
    };
    service.configure(&config("first"));
    service.start();
    service.wait_ready();
    let load = service.load(&[
        "--clients",
        "16",
        "--idle",
        "20",
        "--kinds",
        "get,post16k,pipelined,new",
    ]);
    service.configure(&config("second"));
    service.reload().expect_success();
    load.run_for(Duration::from_secs(1));
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(
        counted.versions.keys().collect::<Vec<_>>(),
        ["first", "second"]
    );
}

#[test]
fn a_python_app_on_port_runs_unchanged() {
    runs_unchanged("python3", "python_port.py", "auto");
}

#[test]
fn a_python_app_on_a_given_socket_runs_unchanged() {
    runs_unchanged("python3", "python_given.py", "auto");
}

#[test]
fn a_node_app_on_port_runs_unchanged() {
    runs_unchanged("node", "node_port.js", "auto");
}

#[test]
fn limits_that_are_not_in_force_are_told_by_check_and_status_until_they_are_gone() {
    let mut service = Service::probe(&version("v1"), QUICK, "[limits]\ntasks = 1000");
    let told = |service: &Service| {
        let why = service.status().limits_not_in_force.unwrap();
        let shown = service.cli(&["status"]).expect_success();
        assert!(
            shown.contains(&format!("limits     not in force: {why}")),
            "{shown}"
        );
        assert!(
            why.contains("[Service]") || why.contains("Delegate=yes"),
            "{why}"
        );
    };
    told(&service);
    let checked = service.check().expect_success();
    assert!(checked.contains("[limits] tasks  1000"), "{checked}");
    assert!(
        checked.contains("[limits] will not be in force: "),
        "{checked}"
    );
    // Also by a keeper that did not begin the generation.
    service.kill_keeper();
    eventually("the next keeper answers", SOON, || service.try_status());
    told(&service);
    service.configure_probe(QUICK, "");
    let checked = service.check().expect_success();
    assert!(!checked.contains("in force"), "{checked}");
    service.reload().expect_success();
    assert_eq!(service.status().limits_not_in_force, None);
    let shown = service.cli(&["status"]).expect_success();
    assert!(!shown.contains("in force"), "{shown}");
}
