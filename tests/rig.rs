//! The test rig tests itself: only a rig that sees losses may say that there were none.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]

mod world;

use rustix::process::Signal;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use world::container::{self, BASES, Container};
use world::load::Load;
use world::service::Service;
use world::{alone, eventually, process, skip, tool};

/// The probe app without gapless, on the fd of a socket that stays ours.
struct Direct {
    app: Child,
    address: String,
    socket: TcpListener,
}

impl Direct {
    fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let app = Self::app(&socket);
        Self {
            app,
            address,
            socket,
        }
    }

    fn app(socket: &TcpListener) -> Child {
        use command_fds::{CommandFdExt, FdMapping};
        let parent_fd = socket.try_clone().unwrap().into();
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\""])
            .arg(tool("probe-app"));
        command
            .env("LISTEN_FDS", "1")
            .env("PROBE_VERSION", "v3")
            .stdin(Stdio::null());
        command
            .fd_mappings(vec![FdMapping {
                parent_fd,
                child_fd: 3,
            }])
            .unwrap();
        command.spawn().unwrap()
    }

    fn end(&mut self, signal: Signal) {
        process::end(self.app.id(), signal);
        self.app.wait().unwrap();
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.app.kill().unwrap();
        self.app.wait().unwrap();
    }
}

#[test]
fn the_strict_client_finds_nothing_lost_where_nothing_happens() {
    let _alone = alone();
    let direct = Direct::start();
    let load = Load::start(&direct.address, &[]);
    load.run_for(Duration::from_secs(3));
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(counted.idle.answered, 500);
    assert_eq!(counted.versions.keys().collect::<Vec<_>>(), ["v3"]);
}

#[test]
fn the_strict_client_sees_every_request_that_a_killed_app_loses() {
    let _alone = alone();
    let mut direct = Direct::start();
    let load = Load::start(&direct.address, &["--idle", "50"]);
    direct.end(Signal::KILL);
    direct.app = Direct::app(&direct.socket);
    let counted = load.finish();
    // Slow and dribbling ones were under way; the socket stayed open, so that nobody was refused.
    assert!(counted.lost > 0 && counted.lost <= 64, "{counted:#?}");
    assert!(counted.lost_by_kind.contains_key("slow"), "{counted:#?}");
    assert!(
        counted.losses[0]["reason"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("connection"),
        "{counted:#?}"
    );
    assert_eq!(
        (counted.refused, counted.idle.closed),
        (0, 50),
        "{counted:#?}"
    );
}

#[test]
fn the_strict_client_calls_a_polite_close_closed_and_not_lost() {
    let _alone = alone();
    let mut direct = Direct::start();
    let load = Load::start(&direct.address, &["--idle", "50", "--slow-ms", "300"]);
    direct.end(Signal::TERM);
    direct.app = Direct::app(&direct.socket);
    let counted = load.finish();
    assert!(counted.closed >= 50, "{counted:#?}");
    assert_eq!(counted.refused, 0, "{counted:#?}");
}

#[test]
fn the_played_systemd_finds_the_processes_of_a_service_and_ends_them() {
    let service = Service::new("gapless");
    assert_eq!(service.processes(), []);
    assert!(service.story().contains("--- stored\n[]"));
}

/// A main process that keeps a memfd and a pipe whose other end it closes, checks on its next start
/// what it is given, and says what it found by STATUS=.
const KEEPS: &str = r#"
import array, os, socket
def notify(text, fds=()):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect(os.environ["NOTIFY_SOCKET"])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    s.sendmsg([text.encode()], rights)
assert os.environ["LISTEN_PID"] == str(os.getpid())
names = os.environ["LISTEN_FDNAMES"].split(":")
assert int(os.environ["LISTEN_FDS"]) == len(names)
blocking = [os.get_blocking(3 + n) for n in range(len(names))]
read, write = os.pipe()
if "kept" in names:
    said = os.pread(3 + names.index("kept"), 99, 0).decode()
    notify("FDSTOREREMOVE=1\nFDNAME=extra")
else:
    said = "nothing"
    memfd = os.memfd_create("kept")
    os.write(memfd, b"the state")
    notify("FDSTORE=1\nFDNAME=kept", [memfd])
    notify("FDSTORE=1\nFDNAME=kept", [memfd])
    notify("FDSTORE=1\nFDNAME=extra", [os.memfd_create("extra")])
    notify("FDSTORE=1\nFDNAME=hung-up", [read])
    os.close(write)
notify("BARRIER=1", [write if said != "nothing" else os.open("/dev/null", os.O_RDONLY)])
notify(f"STATUS={' '.join(names)}, {any(blocking)}, {said}\nREADY=1")
while True:
    os.read(0, 1) or __import__("signal").pause()
"#;

#[test]
fn the_played_systemd_keeps_fds_and_gives_them_back() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("python3 is missing");
    }
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.set("PATH", &std::env::var("PATH").unwrap());
    service.run_instead(&["/usr/bin/env", "python3", "-c", KEEPS]);
    service.start();
    service.wait_ready();
    assert_eq!(service.said().unwrap(), "http, False, nothing");
    service.wait_for(
        "the store, without what hung up",
        Duration::from_secs(5),
        |heard| (heard.stored() == ["kept", "extra"]).then_some(()),
    );
    service.kill_keeper();
    assert_eq!(service.said().unwrap(), "http extra kept, False, the state");
    assert_eq!(service.heard(world::service::Heard::stored), ["kept"]);
    assert_eq!(service.processes().len(), 1);
}

/// On both systemds: the container boots and reboots, the units please systemd, the user exists.
fn a_container_boots_with_gapless_installed(base: &str) {
    if let Some(missing) = container::missing() {
        return skip(&missing);
    }
    let _alone = alone();
    let mut container = Container::boot(base);
    let version = container.sh("systemctl --version | head -n 1");
    let wanted = if base == "bookworm" {
        "systemd 252"
    } else {
        "systemd 257"
    };
    assert!(version.starts_with(wanted), "{version}");
    the_units_please_systemd(&container);
    assert!(container.sh("id gapless").contains("gapless"));
    the_sandbox_of_the_unit_suits_ordinary_apps(&container);
    a_load_outside_survives_a_reboot(&mut container);
}

fn the_units_please_systemd(container: &Container) {
    let listen = b"[Socket]\nListenStream=8081\n";
    container.push(
        "/etc/systemd/system/gapless@probe.socket.d/listen.conf",
        listen,
        0o644,
    );
    let units = "gapless.socket gapless.service gapless@probe.socket gapless@probe.service";
    let verified = container.try_sh(&format!("systemd-analyze verify --man=no {units}"));
    assert!(
        verified.status.success() && verified.output().is_empty(),
        "{verified}"
    );
    let security = container.sh("systemd-analyze security --threshold=16 gapless.service");
    assert!(security.contains("OK"), "{security}");
}

/// The unit with an app in the place of gapless: given sockets, sandbox and users work as written.
fn the_sandbox_of_the_unit_suits_ordinary_apps(container: &Container) {
    for script in ["answer.py", "python_given.py", "node_port.js"] {
        container.install(
            &format!("tests/apps/{script}"),
            &format!("/srv/apps/{script}"),
        );
    }
    // No app in the place of gapless knows what the control socket is for.
    let unit = "/etc/systemd/system/gapless.service";
    container.sh(&format!(
        "sed '/gapless-control/d' /usr/lib/systemd/system/gapless.service >{unit}"
    ));
    for (kind, command) in [
        ("notify", "/srv/probe/probe-app"),
        ("exec", "/usr/bin/python3 /srv/apps/python_given.py"),
        ("exec", "/usr/bin/node /srv/apps/node_port.js"),
    ] {
        // Node takes no socket: it has a port of its own beside the unit's.
        let port = if command.contains("node") {
            "8000"
        } else {
            "8888"
        };
        let instead = format!(
            "[Service]\nType={kind}\nExecStart=\nExecStart={command}\nExecStop=\n\
             ExecStopPost=\nKillMode=control-group\nWatchdogSec=0\nEnvironment=PORT={port}\n"
        );
        let path = "/etc/systemd/system/gapless.service.d/instead.conf";
        container.push(path, instead.as_bytes(), 0o644);
        container.systemctl("daemon-reload");
        container.systemctl("start gapless.socket gapless.service");
        eventually(command, Duration::from_secs(10), || {
            let asked = format!(
                "python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:{port}/\")'"
            );
            container.try_sh(&asked).status.success().then_some(())
        });
        let user =
            container.sh("ps -o user= -p $(systemctl show --value -p MainPID gapless.service)");
        assert_eq!(user.trim(), "gapless");
        container.systemctl("stop gapless.socket gapless.service");
    }
    container.sh(&format!(
        "rm {unit} {unit}.d/instead.conf; systemctl daemon-reload"
    ));
}

fn a_load_outside_survives_a_reboot(container: &mut Container) {
    let app = "[Service]\nExecStart=/srv/probe/probe-app\nEnvironment=PORT=8888\n\
               [Install]\nWantedBy=multi-user.target\n";
    container.push("/etc/systemd/system/direct.service", app.as_bytes(), 0o644);
    container.systemctl("enable --now direct.service");
    eventually("the app answers", Duration::from_secs(10), || {
        container
            .try_sh("ss -Hltn sport = 8888")
            .stdout
            .contains("8888")
            .then_some(())
    });
    let load = container.load(&["--idle", "0", "--clients", "7"]);
    container.reboot();
    eventually("the app answers again", Duration::from_secs(10), || {
        container
            .try_sh("ss -Hltn sport = 8888")
            .stdout
            .contains("8888")
            .then_some(())
    });
    assert!(container.get("/pid").parse::<u32>().is_ok());
    let counted = load.finish();
    assert!(counted.lost > 0 && counted.pids.len() <= 2, "{counted:#?}");
}

#[test]
fn a_container_with_systemd_252_boots_with_gapless_installed() {
    a_container_boots_with_gapless_installed(BASES[0]);
}

#[test]
fn a_container_with_systemd_257_boots_with_gapless_installed() {
    a_container_boots_with_gapless_installed(BASES[1]);
}
