//! From the version that users run to this one, and back: under load, and in any order of what may follow.

use crate::deb::{apt, with_debs};
use crate::installed::{serve_a_second_app, socket_of};
use crate::world::container::{self, Container};
use crate::world::{beside_others, eventually, repository, skip};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// The newest package that was released before this version, where somebody put it.
fn released() -> Option<Vec<u8>> {
    let directory = std::env::var_os("GAPLESS_RELEASES")
        .map_or_else(|| repository("../shared/releases"), PathBuf::from);
    let mut debs: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    debs.sort();
    Some(std::fs::read(debs.pop()?).unwrap())
}

fn control_unit(container: &Container, unit: &str) -> String {
    let asked = container.try_sh(&format!("systemctl is-active {unit}"));
    asked.stdout.trim().to_owned()
}

/// Its commands are answered, and it serves.
fn is_commanded(container: &Container) {
    for name in ["gapless", "shop"] {
        container.sh(&format!("gapless --app {name} status"));
        container.sh(&format!("gapless --app {name} reload"));
    }
    container.systemctl("reload gapless.service gapless@shop.service");
}

#[expect(clippy::print_stderr, reason = "what is not tried is said")]
fn upgrades_from_the_released_version_and_back_lose_nothing(base: &str) {
    let Some(released) = released() else {
        eprintln!(
            "*** no package of the version before: upgrades from it are NOT tried; put it into a \
             directory and name that in GAPLESS_RELEASES"
        );
        return;
    };
    let container = with_debs(base);
    container.push("/srv/released.deb", &released, 0o644);
    apt(&container, "install /srv/released.deb");
    let app = b"[app]\ncommand = [\"./probe-app\"]\nenv = { PROBE_VERSION = \"v1\" }\n";
    container.push("/root/myapp/gapless.toml", app, 0o644);
    container.sh("cp /srv/probe/probe-app /root/myapp && cd /root && gapless deploy ./myapp");
    container.systemctl("enable gapless.service");
    serve_a_second_app(&container);
    let before = (socket_of(&container), container.main_pid());
    let load = container.load(&["--idle", "50"]);

    let said = apt(&container, "install /srv/next.deb");
    assert_eq!(said.matches("is in place").count(), 2, "{said}");
    assert_eq!((socket_of(&container), container.main_pid()), before);
    // The control socket is where it was, and only the main process of the unit is believed there.
    is_commanded(&container);
    container.sh("mv /run/gapless/control.sock /run/gapless/moved.sock");
    let forge = "import os, socket, time\n\
                 s = socket.socket(socket.AF_UNIX)\n\
                 s.bind('/run/gapless/control.sock')\n\
                 s.listen()\n\
                 time.sleep(60)\n";
    let as_app = "setpriv --reuid gapless --regid gapless --clear-groups";
    let forger = container.sh(&format!(
        "{as_app} python3 -c \"{forge}\" >/dev/null 2>&1 & echo $!"
    ));
    eventually("the socket is forged", SOON, || {
        let is_there = container.try_sh("test -S /run/gapless/control.sock");
        is_there.status.success().then_some(())
    });
    let asked = container.try_sh("gapless status");
    assert!(
        asked.code() == 1
            && asked
                .output()
                .contains("the main process of gapless.service is"),
        "{asked}"
    );
    let back = "mv /run/gapless/moved.sock /run/gapless/control.sock";
    container.sh(&format!("kill {}; {back}", forger.trim()));

    // From its next process on systemd makes it: after a crash of one, a restart of the other.
    let main = container.main_pid().unwrap();
    container.kill("KILL", main);
    eventually("the next keeper runs", SOON, || {
        let next = container.main_pid().filter(|pid| *pid != main)?;
        (container.property("ActiveState") == "active").then_some(next)
    });
    container.systemctl("restart gapless@shop.service");
    for unit in ["gapless-control.socket", "gapless-control@shop.socket"] {
        assert_eq!(control_unit(&container, unit), "active", "{unit}");
    }
    is_commanded(&container);

    let said = apt(&container, "install /srv/released.deb");
    assert_eq!(said.matches("is in place").count(), 2, "{said}");
    container.sh("gapless status && gapless --app shop status");
    load.run_for(Duration::from_millis(500));
    container.systemctl("restart gapless.service gapless@shop.service");
    is_commanded(&container);
    load.run_for(Duration::from_millis(500));
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert!(container.get_from("8080", "/echo").starts_with("v1"));
}

#[test]
fn on_252_upgrades_from_the_released_version_and_back_lose_nothing() {
    on("bookworm");
}

#[test]
fn on_257_upgrades_from_the_released_version_and_back_lose_nothing() {
    on("trixie");
}

fn on(base: &str) {
    if let Some(missing) = container::missing().or_else(|| crate::build::DEB.missing()) {
        return skip(&missing);
    }
    let _beside = beside_others();
    upgrades_from_the_released_version_and_back_lose_nothing(base);
}
