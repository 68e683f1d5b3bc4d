//! Another `User=` of the unit while it runs.

use crate::world::container::Container;
use crate::world::{eventually, version};
use crate::{
    QUICK, SOON, next_keeper, scopes, stop_and_expect_nothing_left, the_version, wait_settled,
};
use std::time::{Duration, Instant};

const DROP_IN: &str = "/etc/systemd/system/gapless.service.d/user.conf";

/// The unit names this user from now on; what runs keeps its own.
fn change_user(container: &Container, user: &str) {
    let text = format!("[Service]\nUser={user}\nGroup={user}\n");
    container.push(DROP_IN, text.as_bytes(), 0o644);
    container.systemctl("daemon-reload");
}

fn expect_all_belong_to(container: &Container, user: &str, other: &str) {
    let count = |user: &str| container.try_sh(&format!("pgrep -c -u {user}")).stdout;
    eventually("nothing of the old user is left", SOON, || {
        (count(other).trim() == "0").then_some(())
    });
    for pid in container.worker_pids() {
        assert_eq!(
            container.sh(&format!("stat -c %U /proc/{pid}")).trim(),
            user
        );
    }
    assert_eq!(scopes(container).trim(), "");
}

/// With its groups, and the part of the path that refuses.
fn check_asks_for_the_user_of_the_unit(container: &Container, user: &str) {
    container.sh("chown root:gapless /srv/probe && chmod 750 /srv/probe");
    let refused = container.try_sh("gapless check --json");
    assert_eq!(refused.code(), 5, "{refused}");
    let part = format!(
        "the user {user} cannot enter the directory /srv/probe: /srv/probe refuses it (mode 750,"
    );
    assert!(refused.stdout.contains(&part), "{refused}");
    container.sh(&format!("gpasswd --add {user} gapless && gapless check"));
    container.sh(&format!("gpasswd --delete {user} gapless"));
    container.sh("chown root:root /srv/probe && chmod 755 /srv/probe");
}

/// A keeper may not end processes of another user: root does, at a restart, after a crash, at a stop.
pub fn a_new_user_of_the_unit_leaves_nothing_of_the_old_one(container: &mut Container) {
    container.push("/etc/sysusers.d/web.conf", b"u web - -\n", 0o644);
    container.sh("systemd-sysusers");
    container.serve_probe(&version("v1").with("GRANDCHILD", "1"), QUICK, "");
    wait_settled(container);

    change_user(container, "web");
    check_asks_for_the_user_of_the_unit(container, "web");
    let began = Instant::now();
    container.systemctl("restart gapless.service");
    assert_eq!(the_version(container), "v1");
    expect_all_belong_to(container, "web", "gapless");
    // Of a command that ends at once, journald may not find out to which unit it belongs.
    eventually("it is said what becomes of them", SOON, || {
        container
            .journal("-b")
            .contains("User= is web ")
            .then_some(())
    });

    change_user(container, "gapless");
    let main = container.main_pid().unwrap();
    container.kill("KILL", main);
    next_keeper(container, main);
    assert_eq!(the_version(container), "v1");
    expect_all_belong_to(container, "gapless", "web");

    change_user(container, "web");
    stop_and_expect_nothing_left(container);
    let took = began.elapsed();
    assert!(took < Duration::from_mins(1), "{took:?}");
    container.sh("! pgrep -u gapless");
}
