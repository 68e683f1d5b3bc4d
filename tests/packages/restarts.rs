//! Programs that look for services which run something old after an upgrade, and restart them.

use crate::build::run;
use crate::installed::socket_of;
use crate::world::container::Container;
use crate::world::repository;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Copies Debian packages into /srv/debs and installs them, without network.
pub fn bring(container: &Container, base: &str, packages: &[&str]) {
    let script = repository("tests/world/debs.sh");
    let debs = run(Command::new(script).arg(base).args(packages));
    for deb in std::fs::read_dir(Path::new(debs.trim())).unwrap() {
        let deb = deb.unwrap().path();
        if deb.extension().is_some_and(|it| it == "deb") {
            let name = deb.file_name().unwrap().display();
            let bytes = std::fs::read(&deb).unwrap();
            container.write(&format!("/srv/debs/{name}"), &bytes, 0o644);
        }
    }
    container.sh("dpkg --force-unsafe-io --install /srv/debs/*.deb 2>&1 && rm -r /srv/debs");
}

/// Needrestart, which restarts whatever it finds after each call of apt.
pub fn bring_needrestart(container: &Container, base: &str) {
    bring(container, base, &["needrestart"]);
    let automatic = b"$nrconf{restart} = 'a'; 1;\n";
    container.push(
        "/etc/needrestart/conf.d/zz-automatic.conf",
        automatic,
        0o644,
    );
}

/// The lines about gapless among those that needrestart has left to the administrator.
fn deferred(said: &str) -> Vec<&str> {
    let (_, after) = said
        .split_once("Service restarts being deferred:")
        .unwrap_or_default();
    let lines = after.lines().map(str::trim).skip(1);
    let services = lines.take_while(|line| !line.is_empty());
    services.filter(|line| line.contains("gapless")).collect()
}

/// Though the front of the previous gapless still has tunnels to end.
pub fn needrestart_restarts_nothing_after_an_upgrade(container: &Container, upgrade: &str) {
    let state = || {
        let app = container.worker_pids();
        (socket_of(container), app, container.main_pid())
    };
    let before = state();
    let long = container.long(2);
    let said = container.sh(&format!("{upgrade} 2>&1"));
    assert!(deferred(&said).is_empty(), "{said}");
    assert_eq!(container.status().fronts.len(), 2);
    long.wait_for_another();
    assert_eq!(state(), before);
    long.finish();
}

/// It restarts all others, names ours with the command, and who gives that loses nothing.
pub fn needrestart_after_a_new_libc_loses_nothing(container: &Container) {
    let socket = socket_of(container);
    let main = container.main_pid();
    let load = container.load(&[]);
    container
        .sh("libc=$(ls /lib/*-linux-gnu/libc.so.6) && cp -p $libc $libc.new && mv $libc.new $libc");
    let said = container.sh("needrestart -l -r a -u NeedRestart::UI::stdio 2>&1 </dev/null");
    assert_eq!(container.main_pid(), main, "{said}");
    let commands = deferred(&said);
    assert_eq!(commands.len(), 2, "gapless and shop: {said}");
    for command in commands {
        container.sh(command);
    }
    load.run_for(Duration::from_millis(500));
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_ne!(container.main_pid(), main);
    assert_eq!(socket_of(container), socket);
}
