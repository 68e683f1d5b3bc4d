//! The control socket: passed by systemd, or made by the keeper.

use crate::world::process;
use crate::world::service::{SOON, Service, get_unix};
use crate::world::{self, skip, version};
use crate::{QUICK, live_pids};
use rustix::process::Signal;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

const NOBODY: u32 = 65_534;

/// A service whose control socket systemd makes, where commands look for it.
fn commanded_through_systemd() -> (Service, PathBuf) {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let directory = service.scratch.0.join("run/gapless-control");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("gapless.sock");
    service.give("control", UnixListener::bind(&path).unwrap().into());
    let root = service.scratch.0.display().to_string();
    service.set("GAPLESS_ROOT", &root);
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    (service, path)
}

#[test]
fn commands_come_by_the_socket_of_systemd_over_crash_upgrade_and_restart() {
    let (mut service, path) = commanded_through_systemd();
    service.start();
    service.wait_ready();
    let own = service.runtime_directory().join("control.sock");
    assert_eq!(
        std::fs::read_link(&own).unwrap(),
        path,
        "for a gapless of 0.1.0"
    );
    let app = live_pids(&service.status());
    service.reload().expect_success();
    assert_ne!(live_pids(&service.status()), app);

    // Whatever the app's user puts there, no command of this version asks it.
    std::fs::remove_file(&own).unwrap();
    let forged = UnixListener::bind(&own).unwrap();
    service.cli(&["status"]).expect_success();
    let said = service.cli(&["upgrade"]).expect_success();
    assert!(said.contains("is in place"), "{said}");
    service.cli(&["status"]).expect_success();
    forged.set_nonblocking(true).unwrap();
    assert!(forged.accept().is_err(), "the forged socket was asked");

    service.kill_keeper();
    service.cli(&["status"]).expect_success();
    assert_eq!(std::fs::read_link(&own).unwrap(), path);
    // Whoever waits for the service to come back finds the socket that comes with it.
    std::fs::remove_file(&path).unwrap();
    let asked = service.cli(&["status"]);
    assert_ne!(asked.code(), 0, "{asked}");
    service.stop(SOON);
    service.give_again("control", UnixListener::bind(&path).unwrap().into());
    service.start();
    service.wait_ready();
    service.cli(&["status"]).expect_success();
}

#[test]
fn a_control_socket_on_the_network_is_closed() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let address = service.listen_tcp("control");
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    let journal = service.journal();
    let told = "a socket named \"control\" is no listening unix socket and was closed";
    assert!(journal.contains(told), "{journal}");
    assert_eq!(service.status().listeners.len(), 1, "{address}");
    service.cli(&["status"]).expect_success();
}

/// Also where the mode of the socket lets everybody in.
#[test]
fn the_user_of_the_app_may_not_command_through_the_socket_of_root() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can run a keeper as another user");
    }
    let (mut service, path) = commanded_through_systemd();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    // The repository may be where only root comes.
    let scratch = service.scratch.0.clone();
    let [gapless, app] = [world::gapless(), world::tool("probe-app")].map(|program| {
        let copy = scratch.join(program.file_name().unwrap());
        std::fs::copy(&program, &copy).unwrap();
        copy.display().to_string()
    });
    let directory = scratch.display().to_string();
    service.configure(&world::probe_config(&directory, &app, QUICK, ""));
    let as_nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    service.run_instead(&[&as_nobody[..], &[&gapless, "serve", "gapless"]].concat());
    for directory in ["state", "cache", "run/gapless@gapless", "notify"] {
        chown(scratch.join(directory), Some(NOBODY), None).unwrap();
    }
    service.start();
    service.wait_ready();
    let mut command = std::process::Command::new(&gapless);
    command
        .arg("drain")
        .env_clear()
        .uid(NOBODY)
        .env("GAPLESS_ROOT", &scratch);
    let refused = process::run(command, SOON);
    let said = refused.output();
    let is_told = said.contains("ended before POST /drain was answered");
    assert!(refused.code() == 1 && is_told, "{refused}");
    assert!(
        get_unix(&path, "/status")
            .body
            .contains("\"drained_since_unix_seconds\":null")
    );
    service.signal(Signal::TERM);
    service.wait_end(SOON);
}
