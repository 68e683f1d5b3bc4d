//! Ring 2: crowds of hostile clients, and good ones among them.

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

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use world::service::{SOON, Service};
use world::{alone, eventually, gapless, skip, tool, version};

const QUICK: &str = "settle = \"100ms\"";

/// Connections of each kind.
const EACH: u64 = 2000;

/// Fewer than the crowd has, so that the lanes are full, too.
const CONNECTIONS_MAX: u64 = 9000;

/// Clients, and the app for each of them, and some.
const DESCRIPTORS: u64 = 2 * CONNECTIONS_MAX + 1000;

/// What a connection has for each direction, at most: see `front/connection.rs`.
const BUFFER_BYTES_MAX: u64 = 64 * 1024;

/// Nobody waits for a timeout of the crowd, which would take longer than [`STALL_MAX`].
const PATIENT: &str = "head_timeout = \"1min\"\nbody_timeout = \"1min\"\nwrite_timeout = \"1min\"";

/// Two cores that serve and play a crowd of thousands are busy: 4 s to 6 s were seen on a quiet
/// machine.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Connections that say nothing after an answer.
const IDLE: u64 = 4000;

/// What a connection may cost that rests, in an unoptimized build. hyper alone takes some 20 kB of one
/// that does not.
const RESTING_BYTES_MAX: u64 = 6 * 1024;

/// Killed when dropped, and with it all its connections.
struct Crowd(Child);

impl Crowd {
    fn gather(service: &Service, arguments: &[&str]) -> Self {
        let mut command = Command::new(tool("hostile-crowd"));
        command.arg(service.address()).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self(child)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn front_pid(service: &Service) -> u32 {
    service.status().fronts[0].pid
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

/// Of user and system, so far.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// As many descriptors as the hard limit has; false if that is not enough.
fn has_descriptors() -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < DESCRIPTORS) {
        skip(&format!(
            "{DESCRIPTORS} file descriptors, ulimit -Hn says {maximum:?}"
        ));
        return false;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    true
}

fn connections(service: &Service) -> u64 {
    service
        .status()
        .fronts
        .iter()
        .map(|front| front.connections)
        .sum()
}

/// The lanes are full of the crowd: good clients that were there before are served on, and others
/// come in.
fn withstand(service: &Service, each: u64) -> u64 {
    let front = front_pid(service);
    let before = [
        "--idle",
        "0",
        "--clients",
        "8",
        "--kinds",
        "get,post16k,pipelined",
    ];
    let before = service.load(&before);
    let crowd = Crowd::gather(service, &["--each", &each.to_string()]);
    let after = [
        "--idle",
        "0",
        "--clients",
        "8",
        "--kinds",
        "get,new,post16k",
    ];
    let after = service.load(&after);
    after.run_for(Duration::from_secs(2));
    let used = memory(front);
    assert!(connections(service) > 3 * each, "{:#?}", service.status());
    for load in [before.finish(), after.finish()] {
        load.expect_nothing_lost().expect_nothing_closed();
        load.expect_no_stall_beyond(STALL_MAX);
    }
    drop(crowd);
    eventually("the crowd is gone", SOON, || {
        let status = service.status();
        let mut fronts = status.fronts.iter();
        fronts
            .all(|front| front.connections == 0 && front.in_flight == 0)
            .then_some(())
    });
    used
}

#[test]
fn two_thousand_hostile_clients_of_each_kind_keep_no_good_one_out_and_leave_nothing_behind() {
    let _alone = alone();
    if !has_descriptors() {
        return;
    }
    let http = format!("[http]\nconnections_max = {CONNECTIONS_MAX}\n{PATIENT}");
    let service = Service::probe(&version("v1"), QUICK, &http);
    let began = memory(front_pid(&service));
    // The first fills the lanes, the others show that what they leave is used again.
    let waves: &[u64] = if world::is_long() {
        &[EACH; 5]
    } else {
        &[EACH, EACH / 4]
    };
    let used: Vec<u64> = waves
        .iter()
        .map(|each| withstand(&service, *each) - began)
        .collect();
    let most = *used.iter().max().unwrap();
    assert!(most < CONNECTIONS_MAX * 2 * BUFFER_BYTES_MAX, "{used:?}");
    // What the allocator keeps is used again; lanes do not get the same share each time.
    assert!(most < used[0] * 3 / 2 + (64 << 20), "{used:?}");
    // From the third on each lane has seen its share: what still grew would be a leak.
    if let [.., third, fourth, fifth] = used[..] {
        assert!(fourth < third * 11 / 10, "{used:?}");
        assert!(fifth < fourth * 21 / 20, "{used:?}");
    }
    let refused = "gapless_connections_refused_total{cause=\"idle_when_full\"}";
    assert!(service.metrics().contains(refused), "{}", service.metrics());
    assert!(
        !service.journal().contains("cannot accept"),
        "{}",
        service.journal()
    );
}

#[test]
fn connections_that_rest_cost_a_few_kilobytes_each_and_are_served_when_they_speak() {
    let _alone = alone();
    if !has_descriptors() {
        return;
    }
    let service = Service::probe(&version("v1"), QUICK, "");
    let front = front_pid(&service);
    let idle = IDLE.to_string();
    let idle = || service.load(&["--idle", &idle, "--clients", "1", "--kinds", "get"]);
    let first = idle();
    // What hyper had for these is free again when they rest, and enough for those who come.
    let before = memory(front);
    let second = idle();
    eventually("they rest", SOON, || {
        let used = memory(front).saturating_sub(before);
        (connections(&service) > 2 * IDLE && used < IDLE * RESTING_BYTES_MAX).then_some(())
    });
    for load in [first, second] {
        load.finish().expect_nothing_lost().expect_nothing_closed();
    }
}

/// As `ulimit -n` before `gapless serve`.
fn serve_with_descriptors(limit: u64) -> Service {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "[http]\nlanes = 2");
    let script = format!("ulimit -n {limit} && exec \"$@\"");
    let gapless = gapless().display().to_string();
    service.run_instead(&["/bin/sh", "-c", &script, "sh", &gapless, "serve", "gapless"]);
    service.start();
    service.wait_ready();
    service
}

#[test]
fn a_low_limit_of_descriptors_is_told_and_holds_even_under_a_flood() {
    let _alone = alone();
    let service = serve_with_descriptors(500);
    let told = "connections_max = 10000 needs 20256 file descriptors, and the limit is 500: \
                allowing 122 connections; raise LimitNOFILE=";
    assert!(service.journal().contains(told), "{}", service.journal());
    let _crowd = Crowd::gather(&service, &["--each", "300", "--kinds", "connect-only,idle"]);
    let load = service.load(&["--idle", "0", "--clients", "8", "--kinds", "get,new"]);
    load.run_for(Duration::from_secs(1));
    load.finish().expect_nothing_lost().expect_nothing_closed();
    // It never came to that.
    assert!(
        !service.journal().contains("cannot accept"),
        "{}",
        service.journal()
    );
}

#[test]
fn without_a_descriptor_left_a_front_neither_spins_nor_gives_up() {
    let _alone = alone();
    let service = Service::probe(&version("v1"), QUICK, "");
    let load = service.load(&["--idle", "0", "--clients", "4", "--kinds", "get"]);
    let front = front_pid(&service);
    let few = std::fs::read_dir(format!("/proc/{front}/fd"))
        .unwrap()
        .count()
        + 20;
    let few = Some(u64::try_from(few).unwrap());
    let pid = Pid::from_raw(i32::try_from(front).unwrap());
    // The hard one stays, since only root may raise it again.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let few = Rlimit {
        current: few,
        maximum,
    };
    let limits = prlimit(pid, Resource::Nofile, few).unwrap();
    let crowd = Crowd::gather(&service, &["--each", "200", "--kinds", "connect-only"]);
    let said = |service: &Service| service.journal().matches("cannot accept").count();
    eventually("the front says so", SOON, || {
        (said(&service) > 0).then_some(())
    });
    let before = cpu(front);
    load.run_for(Duration::from_secs(2));
    let spent = cpu(front).saturating_sub(before);
    assert!(spent < Duration::from_secs(1), "{spent:?} of two seconds");
    // Once by each lane for its clients and for the keeper's probe, not at each try.
    let lanes = std::thread::available_parallelism().unwrap().get();
    assert!(said(&service) <= 2 * lanes, "{}", service.journal());
    // Who was here was served all the time; who comes is when there is room again.
    load.finish().expect_nothing_lost().expect_nothing_closed();
    drop(crowd);
    assert_eq!(service.get("/").status, 200);
    prlimit(pid, Resource::Nofile, limits).unwrap();
}
