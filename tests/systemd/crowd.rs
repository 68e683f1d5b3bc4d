//! Thousands of idle connections, and what systemd feels of them.

use crate::world::container::Container;
use crate::world::load::idle_that_fit;
use crate::world::{eventually, is_long, version};
use crate::{QUICK, SOON};
use std::time::{Duration, Instant};

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
pub fn thousands_of_idle_connections_move_and_systemd_answers_meanwhile(container: &mut Container) {
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
