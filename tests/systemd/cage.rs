//! The app is apart from gapless, whose user it has: attacks from inside the sandbox.

use crate::control::serve_hostile;
use crate::wait_settled;
use crate::world::container::Container;
use gapless::exec::cage::Cage;

/// Pids of keeper, fronts, and of a worker of another generation: as the container sees them, and so the app.
fn others(container: &Container) -> Vec<u32> {
    let status = container.status();
    let keeper = container.main_pid().unwrap();
    let fronts = status.fronts.iter().map(|front| front.pid);
    std::iter::once(keeper).chain(fronts).collect()
}

fn ask(container: &Container, attack: &str, pids: &[u32]) -> String {
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    container.get(&format!("/{attack}?{}", pids.join(",")))
}

/// Everything that one process can do to another of its user.
pub fn an_app_that_was_taken_over_touches_no_process_of_gapless(container: &mut Container) {
    serve_hostile(container);
    let status = wait_settled(container);
    let landlock = status.landlock.unwrap();
    assert_eq!(
        landlock,
        Cage::Whole,
        "this kernel is too old to show it: Linux 6.12 is needed"
    );
    let said = container.sh("gapless status");
    assert!(!said.contains("landlock"), "{said}");
    let pids = others(container);
    assert_eq!(pids.len(), 2);
    for attack in ["look", "links", "trace", "signal_none", "stop", "end"] {
        let said = ask(container, attack, &pids);
        let refused = said.matches(" refused ").count();
        assert!(
            refused >= pids.len() && !said.contains(" done "),
            "{attack}: {said}"
        );
    }
    assert_eq!(
        ask(container, "seen", &pids),
        "done: 0",
        "of gapless nothing is in its /proc"
    );
    assert_eq!(others(container), pids, "all of them live");
    // What every app may do, it may still do.
    assert_eq!(ask(container, "rename", &pids), "done: renamed");
    assert_eq!(ask(container, "child", &pids), "done: -15");
    the_sandbox_of_each_process_is_as_promised(container, &pids);

    let off = "landlock = false\n";
    container.sh(&format!(
        "sed -i '/^command/i {}' /etc/gapless/gapless.toml",
        off.trim()
    ));
    container.systemctl("reload gapless.service");
    let status = wait_settled(container);
    assert_eq!(status.landlock, Some(Cage::Off));
    let said = container.sh("gapless status");
    assert!(said.contains("off, as [app] landlock says"), "{said}");
    // Without the cage it may signal them; that they are not dumpable still closes their memory.
    let pids = others(container);
    let said = ask(container, "look", &pids);
    assert!(!said.contains(" done "), "{said}");
    let said = ask(container, "signal_none", &pids);
    assert!(!said.contains(" refused "), "{said}");
}

/// NoNewPrivs and Seccomp of keeper, front and worker, proc_pid_status(5).
fn the_sandbox_of_each_process_is_as_promised(container: &Container, pids: &[u32]) {
    for pid in pids.iter().copied().chain(container.worker_pids()) {
        let said = container.sh(&format!(
            "grep -E '^(NoNewPrivs|Seccomp):' /proc/{pid}/status"
        ));
        let values: Vec<_> = said.split_whitespace().collect();
        assert_eq!(values, ["NoNewPrivs:", "1", "Seccomp:", "2"], "{pid}");
    }
}
