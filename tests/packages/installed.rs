//! What holds once a package is installed, whichever its format.

use crate::world::container::Container;
use crate::world::{probe_config, repository, version};
use std::collections::BTreeSet;
use std::time::Duration;

pub fn is(container: &Container, question: &str, unit: &str) -> String {
    let asked = container.try_sh(&format!("systemctl is-{question} {unit}"));
    asked.stdout.trim().to_owned()
}

/// The first installation: the port is open, nothing else is decided.
pub fn expect_listening(container: &Container) {
    assert_eq!(is(container, "enabled", "gapless.socket"), "enabled");
    assert_eq!(is(container, "active", "gapless.socket"), "active");
    assert_eq!(is(container, "enabled", "gapless.service"), "disabled");
    assert_eq!(is(container, "enabled", "gapless-admin.socket"), "disabled");
}

/// It starts the service, which says what is missing; the commands of the README then bring the app.
pub fn without_an_app_it_says_what_to_do_next(container: &Container) {
    let next = "sudo gapless deploy ./myapp";
    // Which of the two the package brought; read when the service starts.
    container.sh("echo FROM_DEFAULTS=yes >>$(ls /etc/default/gapless /etc/sysconfig/gapless)");
    let page = container.get("/");
    assert!(page.contains(next), "{page}");
    let says = container.property("StatusText");
    assert!(says.contains(next), "{says}");
    let app = b"[app]\ncommand = [\"./probe-app\"]\nenv = { PROBE_VERSION = \"v1\" }\n";
    container.push("/root/myapp/gapless.toml", app, 0o644);
    container
        .sh("cp /srv/probe/probe-app /root/myapp && echo '# mine' >>/etc/gapless/gapless.toml");
    container.sh("cd /root && gapless deploy ./myapp");
    container.systemctl("enable gapless.service");
    assert!(container.get("/echo").starts_with("v1"));
    the_app_is_given_what_the_manual_says(container);
}

/// gapless(7), "Environment given", and the variables of the service.
fn the_app_is_given_what_the_manual_says(container: &Container) {
    let app = container.worker_pids()[0];
    let given = container.sh(&format!("tr '\\0' '\\n' </proc/{app}/environ"));
    assert!(given.contains("FROM_DEFAULTS=yes"), "{given}");
    let given: BTreeSet<_> = given
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    let manual = std::fs::read_to_string(repository("packaging/man/gapless.7")).unwrap();
    let (_, section) = manual.split_once(".Ss Environment given\n").unwrap();
    let (list, _) = section.split_once(".El\n").unwrap();
    let items = list.lines().filter_map(|line| line.strip_prefix(".It Ev "));
    let documented: BTreeSet<_> = items.flat_map(|names| names.split(" , ")).collect();
    // These two are only there when they are asked for.
    let sometimes = ["WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"];
    let missing = documented.iter().filter(|name| !sometimes.contains(*name));
    let missing: Vec<_> = missing.filter(|name| !given.contains(*name)).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} of the manual not in {given:?}"
    );
    let ours = ["GAPLESS_", "LISTEN_", "NOTIFY_", "WATCHDOG_"];
    let ours = |name: &&&str| ours.iter().any(|prefix| name.starts_with(prefix));
    let unsaid: Vec<_> = given.difference(&documented).filter(ours).collect();
    assert!(unsaid.is_empty(), "{unsaid:?} not in the manual");
}

/// The app `shop` beside it, as the README has it.
pub fn serve_a_second_app(container: &Container) {
    let config = probe_config("/srv/probe", "/srv/probe/probe-app", "", "");
    container.behave(&version("v1"));
    container.push("/etc/gapless/shop.toml", config.as_bytes(), 0o644);
    container.sh("gapless add shop --listen 8080 && gapless start shop");
    assert!(container.get_from("8080", "/echo").starts_with("v1"));
}

/// As it was before the package was removed, before anybody asks for it.
pub fn the_second_app_is_back(container: &Container) {
    let active = "is-active gapless@shop.socket gapless@shop.service";
    assert_eq!(container.systemctl(active), "active\nactive\n");
    assert!(container.get_from("8080", "/echo").starts_with("v1"));
}

/// What the administrator wrote for it, which a package may not take away; what gapless add wrote, a
/// purge deletes.
pub fn forget_the_second_app(container: &Container) {
    container.sh("rm /etc/gapless/shop.toml");
}

pub fn nothing_listens_or_runs(container: &Container) {
    let listens = container.sh("ss -Hltn '( sport = 8888 or sport = 8080 )'");
    assert_eq!(listens, "");
    let processes = container.processes();
    assert!(processes.is_empty(), "{processes:#?}");
}

/// What would be another, had anybody touched the socket unit.
pub fn socket_of(container: &Container) -> (String, String) {
    let listener = container.sh("ss -Hltne sport = 8888 | grep -o 'ino:[0-9]*'");
    let unit = "show -P InvocationID -P ActiveEnterTimestampMonotonic gapless.socket";
    (listener, container.systemctl(unit))
}

/// Every one of these commands puts another gapless in place, under the load.
pub fn upgrades_lose_nothing(container: &Container, commands: &[&str]) {
    let state = || {
        let app = container.worker_pids();
        (socket_of(container), app, container.main_pid())
    };
    let before = state();
    let load = container.load(&[]);
    for command in commands {
        let said = container.sh(&format!("{command} 2>&1"));
        load.run_for(Duration::from_millis(500));
        expect_in_force_or_told(container, &said);
    }
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(state(), before);
}

/// Each keeper has become what is installed; a gapless that cannot do so says what to do.
fn expect_in_force_or_told(container: &Container, said: &str) {
    let journal = || container.journal("-u gapless.service -n 60");
    let can = container.try_sh("gapless upgrade --help").status.success();
    let wanted = if can {
        "is in place"
    } else {
        "systemctl restart gapless"
    };
    let services =
        container.systemctl("list-units --no-legend --plain gapless.service 'gapless@*.service'");
    let told = said.matches(wanted).count();
    assert_eq!(told, services.lines().count(), "{said}\n{}", journal());
    let program = container.sh("readlink /proc/$(systemctl show -P MainPID gapless)/exe");
    assert_eq!(program.trim() == "/usr/bin/gapless", can, "{program}");
}

/// The catalogue that journalctl reads knows our events.
pub fn the_journal_explains_our_events(container: &Container) {
    let explained = container.sh("journalctl -x -u gapless.service --no-pager");
    assert!(
        explained.contains("Subject: A generation of the app is live"),
        "{explained}"
    );
    assert!(
        explained.contains("Next: gapless status gapless"),
        "{explained}"
    );
}

/// systemd has nothing to say of the units, and thinks well of their sandbox.
pub fn the_units_please_systemd(container: &Container) {
    let listen = b"[Socket]\nListenStream=8081\n";
    for unit in ["gapless@probe", "gapless-admin@probe"] {
        let drop_in = format!("/etc/systemd/system/{unit}.socket.d/listen.conf");
        container.push(&drop_in, listen, 0o644);
    }
    let units = "gapless.socket gapless.service gapless-admin.socket gapless-control.socket \
                 gapless@probe.socket gapless@probe.service gapless-admin@probe.socket \
                 gapless-control@probe.socket gapless-tmp.service gapless-tmp@probe.service";
    let verified = container.try_sh(&format!("systemd-analyze verify --man=no {units}"));
    assert!(
        verified.status.success() && verified.output().is_empty(),
        "{verified}"
    );
    for service in ["gapless.service", "gapless@probe.service"] {
        // In tenths: 1.6.
        container.sh(&format!(
            "systemd-analyze security --no-pager --threshold=16 {service}"
        ));
    }
    container.sh("rm -r /etc/systemd/system/gapless*@probe.socket.d; systemctl daemon-reload");
}
