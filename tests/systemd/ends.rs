//! Restarts of the socket, the stop, the reboot.

use crate::releases::releases_survive_a_reboot;
use crate::world::container::Container;
use crate::world::{eventually, version};
use crate::{QUICK, SOON, next_keeper, stop_and_expect_nothing_left, the_version, times};
use gapless::api::Status;
use std::time::{Duration, Instant};

/// Point 7, restarts of the socket.
pub fn restarts_of_the_socket_refuse_nobody(container: &mut Container) {
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
    an_address_closes_that_the_unit_does_not_name_any_more(container);
    stop_and_expect_nothing_left(container);
}

fn an_address_closes_that_the_unit_does_not_name_any_more(container: &Container) {
    let drop_in = "/etc/systemd/system/gapless.socket.d/address.conf";
    let moved = b"[Socket]\nListenStream=\nListenStream=127.0.0.1:8890\n";
    container.push(drop_in, moved, 0o644);
    container.systemctl("daemon-reload");
    container.systemctl("restart gapless.socket");
    assert!(!container.get_from("8890", "/").is_empty());
    eventually("the old address is closed", SOON, || {
        let listening = container.sh("ss -Hltn");
        (!listening.contains(":8888 ")).then_some(())
    });
    let status = container.sh("gapless status");
    let line = "127.0.0.1:8890 (http, gapless.socket)\n";
    assert!(
        status.contains(line) && !status.contains("8888"),
        "{status}"
    );

    container.sh(&format!("rm {drop_in} && systemctl daemon-reload"));
    container.systemctl("restart gapless.socket");
    assert_eq!(the_version(container), "v1");
}

/// Point 6 and 7, the stop.
pub fn a_stop_drains_and_leaves_nothing(container: &mut Container) {
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
pub fn it_answers_again_after_a_reboot_without_a_hand(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    assert_eq!(the_version(container), "v1");
    // systemd starts no socket of a service that runs: that it is enabled is what comes of it.
    let now = container.try_sh("systemctl enable --now gapless-admin.socket");
    assert!(now.stderr.contains("Job failed"), "{now}");
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
