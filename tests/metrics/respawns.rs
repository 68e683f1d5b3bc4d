//! Why workers are started again.

use crate::world::service::{SOON, Service};
use crate::world::{eventually, process, version};
use crate::{QUICK, worker};
use rustix::process::Signal;

const KEYS: &str = "watchdog = \"2s\"\nboot = \"3s\"";
const MORE: &str = "[restart]\nburst = 100\ndelay_min = \"10ms\"\ndelay_max = \"20ms\"\n\
                    [health]\npath = \"/health\"\nevery = \"1s\"\nfails = 2";

/// The pid of the worker that has taken the place of `old`.
fn replaced(service: &Service, old: u32) -> u32 {
    eventually("another worker is ready", SOON, || {
        let status = service.status();
        let live = status.generations.iter().find(|it| it.state == "live")?;
        let mut workers = live.workers.iter().filter(|it| it.state == "ready");
        workers.find_map(|it| it.pid.filter(|pid| *pid != old))
    })
}

#[test]
fn a_respawn_is_counted_by_the_end_of_the_worker_before() {
    let good = version("v1").with("WATCHDOG_MS", "3600000");
    let mut service = Service::probe(&good, &format!("{KEYS}\n{QUICK}"), MORE);
    let pid = worker(&service).0;
    // It ends as it should, but nobody asked for it.
    process::end(pid, Signal::TERM);
    service.until("worker_respawns_total", &[("reason", "exit")], 1.0);
    let pid = replaced(&service, pid);
    process::end(pid, Signal::KILL);
    service.until("worker_respawns_total", &[("reason", "signal")], 1.0);
    let pid = replaced(&service, pid);
    assert!(process::signal(pid, Signal::STOP));
    service.until("worker_respawns_total", &[("reason", "watchdog")], 1.0);
    let pid = replaced(&service, pid);
    service.get("/sicken").expect_ok();
    service.until("worker_respawns_total", &[("reason", "health")], 1.0);
    let pid = replaced(&service, pid);
    // The keeper is not there to see it.
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    process::end(pid, Signal::KILL);
    service.start();
    service.wait_ready();
    service.until("worker_respawns_total", &[("reason", "unknown")], 1.0);
    let pid = replaced(&service, pid);
    service.behave(&version("v1").with("HANG", "1"));
    process::end(pid, Signal::KILL);
    let text = service.until("worker_respawns_total", &[("reason", "boot")], 1.0);
    text.expect("worker_respawns_total", &[("reason", "exit")], 1.0);
    text.expect("worker_respawns_total", &[("reason", "signal")], 2.0);
    text.expect("worker_respawns_total", &[("reason", "oom")], 0.0);
    text.expect("worker_respawns_total", &[("reason", "watchdog")], 1.0);
    text.expect("worker_respawns_total", &[("reason", "health")], 1.0);
    text.expect("worker_respawns_total", &[("reason", "unknown")], 1.0);
}
