//! What keeper, front and workers use, beside what the kernel says of them.

use crate::world::service::{SOON, Service};
use crate::world::{eventually, process, version};
use crate::{QUICK, front, worker};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::Signal;
use std::time::Duration;

/// Of a process, as /proc has it.
struct Used {
    memory_bytes: f64,
    cpu_seconds: f64,
    threads: f64,
    open_fds: f64,
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

pub fn is_stopped(pid: u32) -> bool {
    read(pid, "stat").contains(") T ")
}

fn used(pid: u32) -> Used {
    let count = |directory: &str| {
        let all = std::fs::read_dir(format!("/proc/{pid}/{directory}")).unwrap();
        f64::from(u32::try_from(all.count()).unwrap())
    };
    let stat = read(pid, "stat");
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<u64>().unwrap();
    let cpu = (ticks(11) + ticks(12)) * 1000 / clock_ticks_per_second();
    let pages: u32 = read(pid, "statm")
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    Used {
        memory_bytes: f64::from(pages) * f64::from(u32::try_from(page_size()).unwrap()),
        cpu_seconds: Duration::from_millis(cpu).as_secs_f64(),
        threads: count("task"),
        open_fds: count("fd"),
    }
}

#[test]
fn what_a_worker_uses_is_what_the_kernel_says() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let (pid, _) = worker(&service);
    let load = service.load(&["--clients", "2"]);
    eventually("it has worked", SOON, || {
        (used(pid).cpu_seconds > 0.02).then_some(())
    });
    load.finish().expect_nothing_lost();
    assert!(process::signal(pid, Signal::STOP));
    eventually("it uses nothing more", SOON, || {
        is_stopped(pid).then_some(())
    });
    let (used, text) = (used(pid), service.scrape());
    // The kernel itself is not exact here: it counts for each CPU.
    text.expect_within(
        "process_memory_bytes",
        &[("process", "worker"), ("generation", "1"), ("worker", "0")],
        used.memory_bytes - 1e6..=used.memory_bytes + 1e6,
    );
    text.expect(
        "process_cpu_seconds_total",
        &[("process", "worker"), ("generation", "1"), ("worker", "0")],
        used.cpu_seconds,
    );
    text.expect(
        "process_threads",
        &[("process", "worker"), ("generation", "1"), ("worker", "0")],
        used.threads,
    );
    text.expect(
        "process_open_fds",
        &[("process", "worker"), ("generation", "1"), ("worker", "0")],
        used.open_fds,
    );
}

#[test]
fn what_keeper_and_front_use_is_about_what_the_kernel_says() {
    let service = Service::probe(&version("v1"), QUICK, "");
    let pid = front(&service);
    // It tells it every two seconds; what it did to begin is over then.
    let (text, front) = eventually("the front told what it uses", SOON, || {
        let (text, front) = (service.scrape(), used(pid));
        let told = text.value("process_open_fds", &[("process", "front"), ("front", "1")]);
        (told == Some(front.open_fds)).then_some((text, front))
    });
    let keeper = used(service.main_pid());
    let about = |value: f64| value * 0.5..=value * 2.0;
    text.expect_within(
        "process_memory_bytes",
        &[("process", "front"), ("front", "1")],
        about(front.memory_bytes),
    );
    text.expect_within(
        "process_memory_bytes",
        &[("process", "keeper")],
        about(keeper.memory_bytes),
    );
    text.expect_within(
        "process_cpu_seconds_total",
        &[("process", "front"), ("front", "1")],
        0.0..=front.cpu_seconds,
    );
    text.expect_within(
        "process_cpu_seconds_total",
        &[("process", "keeper")],
        0.0..=keeper.cpu_seconds,
    );
    text.expect(
        "process_threads",
        &[("process", "front"), ("front", "1")],
        front.threads,
    );
    text.expect("process_threads", &[("process", "keeper")], keeper.threads);
    text.expect(
        "process_open_fds",
        &[("process", "front"), ("front", "1")],
        front.open_fds,
    );
    // The question itself is a connection, and so may others be.
    text.expect_within(
        "process_open_fds",
        &[("process", "keeper")],
        about(keeper.open_fds),
    );
    text.expect("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}
