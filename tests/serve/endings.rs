//! Which processes of a worker are told to end, by which signal, and how long they have.

use crate::QUICK;
use crate::world::eventually;
use crate::world::service::{SOON, Service};
use std::time::{Duration, Instant};

/// Starts `tests/apps/ends.py`: behind a shell that stays, and hears of nothing, or by itself.
fn serve(is_behind_shell: bool, is_grouped: bool, keys: &str) -> Service {
    let python = "python3";
    let script = format!("{}/tests/apps/ends.py", env!("CARGO_MANIFEST_DIR"));
    let command = if is_behind_shell {
        format!("[\"sh\", \"-c\", \"true && {python} {script}; true\"]")
    } else {
        format!("[\"{python}\", \"{script}\"]")
    };
    let mut service = Service::new("gapless");
    if !is_grouped {
        service.live_in_no_group();
    }
    service.listen_tcp("http");
    let directory = env!("CARGO_MANIFEST_DIR");
    service.configure(&format!(
        "[app]\ncommand = {command}\ndirectory = \"{directory}\"\nlisten = \"port\"\n{QUICK}\n{keys}\n"
    ));
    service.start();
    service.wait_ready();
    service
}

fn expect_said(service: &Service, wanted: &[(&str, usize)]) {
    let journal = service.journal();
    for (line, times) in wanted {
        assert_eq!(journal.matches(line).count(), *times, "{line}: {journal}");
    }
}

/// Everyone hears the signal once, whoever it is found by.
fn hear_each_once(signal: &str, workers: usize) -> Vec<(String, usize)> {
    let of_role = |role| {
        [
            (format!("{role} got {signal}"), workers),
            (format!("{role} got "), workers),
            (format!("{role} ended well"), workers),
        ]
    };
    ["main", "daemon"].into_iter().flat_map(of_role).collect()
}

fn wait_for_daemons(service: &Service, workers: usize) {
    eventually("the daemons hear signals", SOON, || {
        (service.journal().matches("daemon hears").count() == workers).then_some(())
    });
}

#[test]
fn all_processes_of_a_worker_are_told_to_end_and_have_their_time_also_when_the_main_one_is_gone() {
    for is_grouped in [true, false] {
        for (keys, signal, workers) in [
            ("workers = 2", "SIGTERM", 2),
            ("stop_signal = \"USR1\"", "SIGUSR1", 1),
        ] {
            let mut service = serve(true, is_grouped, keys);
            wait_for_daemons(&service, workers);
            assert!(service.stop(SOON).success());
            let wanted = hear_each_once(signal, workers);
            let wanted: Vec<_> = wanted.iter().map(|(line, n)| (line.as_str(), *n)).collect();
            expect_said(&service, &wanted);
            assert_eq!(service.processes(), [], "{keys}");
        }
    }
}

#[test]
fn a_superseded_generation_ends_in_its_own_time_too() {
    let service = serve(true, false, "");
    wait_for_daemons(&service, 1);
    service.reload().expect_success();
    eventually("the old generation is gone", SOON, || {
        (service.status().generations.len() == 1).then_some(())
    });
    expect_said(
        &service,
        &[("main ended well", 1), ("daemon ended well", 1)],
    );
}

#[test]
fn in_mixed_mode_the_main_process_alone_is_told_and_takes_the_others_with_it() {
    for is_grouped in [true, false] {
        let keys = "kill_mode = \"mixed\"\nstop_signal = \"SIGQUIT\"";
        let mut service = serve(false, is_grouped, keys);
        wait_for_daemons(&service, 1);
        assert!(service.stop(SOON).success());
        let wanted = [
            ("main got SIGQUIT", 1),
            ("main ended well", 1),
            ("daemon got", 0),
        ];
        expect_said(&service, &wanted);
        eventually("no process is left", SOON, || {
            service.processes().is_empty().then_some(())
        });
    }
}

#[test]
fn what_does_not_end_is_killed_at_the_stop_limit_and_not_before() {
    for is_grouped in [true, false] {
        let keys = "stop = \"500ms\"\nenv = { STAYS = \"daemon\" }";
        let mut service = serve(true, is_grouped, keys);
        wait_for_daemons(&service, 1);
        let began = Instant::now();
        assert!(service.stop(SOON).success());
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(500), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let wanted = [
            ("main ended well", 1),
            ("daemon got SIGTERM", 1),
            ("daemon ended well", 0),
        ];
        expect_said(&service, &wanted);
        eventually("no process is left", SOON, || {
            service.processes().is_empty().then_some(())
        });
    }
}
