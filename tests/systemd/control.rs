//! The control socket is root's: the app's user can neither reach it nor stand in for it.

use crate::world::container::Container;
use crate::world::eventually;
use crate::{QUICK, SOON, next_keeper};
use std::time::Duration;

const SOCKET: &str = "/run/gapless-control/gapless.sock";

/// gapless.service runs an app that was taken over.
pub fn serve_hostile(container: &Container) {
    container.install("tests/apps/hostile.py", "/srv/apps/hostile.py");
    container.serve(&format!(
        "[app]\ncommand = [\"/usr/bin/python3\", \"/srv/apps/hostile.py\"]\ndirectory = \"/srv/apps\"\n{QUICK}\n"
    ));
}

fn owner_and_mode(container: &Container, path: &str) -> String {
    let said = container.sh(&format!("stat -c '%U:%G %a' {path}"));
    said.trim().to_owned()
}

/// Attacks of the app, from inside the sandbox, on who commands.
pub fn an_app_that_was_taken_over_commands_nobody(container: &mut Container) {
    serve_hostile(container);
    assert_eq!(owner_and_mode(container, SOCKET), "root:root 600");
    let directory = owner_and_mode(container, "/run/gapless-control");
    assert_eq!(directory, "root:root 755");
    for attack in ["/reach", "/replace", "/replace_directory"] {
        let said = container.get(attack);
        assert!(said.starts_with("refused: "), "{attack}: {said}");
    }
    let as_app = "setpriv --reuid gapless --regid gapless --clear-groups gapless status";
    let refused = container.try_sh(as_app);
    assert_eq!(refused.code(), 4, "{refused}");
    assert!(
        refused
            .output()
            .contains("SocketGroup= of gapless-control.socket"),
        "{refused}"
    );

    assert_eq!(container.get("/occupy"), "done: occupied");
    let load = container.load(&[
        "--plain",
        "--clients",
        "8",
        "--idle",
        "20",
        "--kinds",
        "get,new",
    ]);
    container.sh("gapless status && gapless drain && gapless undrain");
    assert_eq!(container.get("/occupied"), "done: 0 asked");
    container.systemctl("reload gapless.service");
    let main = container.main_pid().unwrap();
    container.systemctl("restart gapless.service");
    assert_ne!(container.main_pid(), Some(main));
    container.sh("gapless status");
    load.run_for(Duration::from_millis(300));
    load.finish().expect_nothing_lost().expect_nothing_closed();
}

/// Wherever it put them below the unit.
pub fn no_process_of_an_app_outlives_a_stop(container: &mut Container) {
    serve_hostile(container);
    assert_eq!(container.get("/hide"), "done: hidden");
    let hidden = "pgrep -c -x sleep";
    assert_eq!(container.sh(hidden).trim(), "3");
    container.systemctl("stop gapless.socket gapless.service");
    assert_eq!(container.try_sh(hidden).stdout.trim(), "0");
    let group = "/sys/fs/cgroup/system.slice/gapless.service";
    eventually("the control group is gone", SOON, || {
        let is_there = container.try_sh(&format!("test -e {group}"));
        (!is_there.status.success()).then_some(())
    });
}

/// The socket goes a moment later, as nobody needs it any more.
fn stop_service(container: &Container) {
    container.systemctl("stop gapless.service");
    eventually("the control socket is gone", SOON, || {
        let is_there = container.try_sh(&format!("test -e {SOCKET}"));
        (!is_there.status.success()).then_some(())
    });
}

/// It is there as long as the service: to ask a stopped app how it is does not start it.
pub fn the_control_socket_comes_and_goes_with_the_service(container: &mut Container) {
    serve_hostile(container);
    let main = container.main_pid().unwrap();
    let inode = || container.sh(&format!("stat -c %i {SOCKET}"));
    let first = inode();
    container.kill("KILL", main);
    next_keeper(container, main);
    container.systemctl("restart gapless.service");
    assert_eq!(inode(), first, "whoever asks meanwhile waits");
    container.sh("gapless reload");

    stop_service(container);
    let asked = container.try_sh("gapless status");
    assert_eq!(asked.code(), 3, "{asked}");
    let words = "gapless.socket is active, and the next request starts gapless.service";
    assert!(asked.output().contains(words), "{asked}");
    assert_eq!(container.property("ActiveState"), "inactive");
    for command in ["deploy /srv/apps", "status", "start"] {
        let unknown = container.try_sh(&format!("gapless --app nosuch {command}"));
        let output = unknown.output();
        assert!(
            output.contains("there is no app nosuch; apps here: gapless;"),
            "{unknown}"
        );
    }
    assert!(!container.sh("gapless list").contains("nosuch"));
    // A deploy starts it, and finds the socket that comes with it.
    container.sh("mkdir /root/app && cp /srv/apps/hostile.py /root/app && sed -i /^directory/d /etc/gapless/gapless.toml");
    container.sh(
        "sed -i 's,/srv/apps/,,' /etc/gapless/gapless.toml && cd /root && gapless deploy ./app",
    );
    container.sh("gapless status");
    container.systemctl("stop gapless.service");
    // The first request starts it again, and with it the socket.
    assert_eq!(container.get("/"), "harmless v1");
    container.sh("gapless status");

    let drop_in = b"[Socket]\nSocketMode=0660\nSocketGroup=adm\n";
    container.push(
        "/etc/systemd/system/gapless-control.socket.d/group.conf",
        drop_in,
        0o644,
    );
    container.systemctl("daemon-reload");
    container.systemctl("restart gapless-control.socket");
    assert_eq!(owner_and_mode(container, SOCKET), "root:adm 660");
    let administrator = "setpriv --reuid nobody --regid nogroup --groups adm gapless";
    container.sh(&format!("{administrator} status"));
    container.sh(&format!("{administrator} reload"));
}

/// Each state with its words, where it matters that it is systemd's.
pub fn what_keeps_an_app_from_answering_is_said(container: &mut Container) {
    serve_hostile(container);
    let says = |line: &str, expected: &str| {
        let done = container.try_sh(line);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains(expected), "{line}: {done}");
    };
    let drop_in = "/etc/systemd/system/gapless.service.d/secret.conf";
    let missing = b"[Service]\nLoadCredential=key:/etc/nosuch\n";
    container.push(drop_in, missing, 0o644);
    container.systemctl("daemon-reload");
    assert_ne!(
        container.try_sh("systemctl restart gapless.service").code(),
        0
    );
    // Between two tries and within one it is the same; what is said of a try that has just begun is not.
    eventually("status says what is missing", SOON, || {
        let status = container.try_sh("gapless status");
        let said = "goes on trying: its credentials cannot be loaded; see LoadCredential=";
        (status.code() == 3 && status.stderr.contains(said)).then_some(())
    });
    container.sh(&format!("rm {drop_in} && systemctl daemon-reload"));
    eventually("it runs again", SOON, || {
        (container.try_sh("gapless status").code() == 0).then_some(())
    });
    stop_service(container);
    says(
        "gapless status",
        "gapless.socket is active, and the next request starts gapless.service",
    );
    container.systemctl("stop gapless.socket");
    says(
        "gapless status",
        "gapless is not running; start it: sudo gapless start, or",
    );
    container.systemctl("mask gapless.socket");
    says(
        "gapless status",
        "gapless.socket is masked; to start it: sudo systemctl unmask gapless.socket",
    );
    container.systemctl("unmask gapless.socket");
    let elsewhere = b"[Socket]\nListenStream=\nListenStream=198.51.100.1:80\n";
    container.push(
        "/etc/systemd/system/gapless.socket.d/elsewhere.conf",
        elsewhere,
        0o644,
    );
    container.systemctl("daemon-reload");
    assert_ne!(container.try_sh("gapless start").code(), 0);
    says(
        "gapless status",
        "gapless.socket failed: systemd says Result=resources; see journalctl",
    );
}
