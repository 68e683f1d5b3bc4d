//! Ring 3: the packages as administrators meet them, installed by their own tools in containers,
//! upgraded with everybody connected. What can be said of the files alone is said on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use world::container::{self, Container};
use world::{Scratch, beside_others, process, repository, skip, version};

/// A release build, on a machine that builds other things too.
const BUILT_WITHIN: Duration = Duration::from_mins(30);
const PACKED_WITHIN: Duration = Duration::from_mins(5);

fn lacks(tools: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap();
    let is_here = |tool: &str| std::env::split_paths(&path).any(|at| at.join(tool).is_file());
    let absent: Vec<_> = tools
        .iter()
        .copied()
        .filter(|tool| !is_here(tool))
        .collect();
    let remedy = "apt-get install debhelper dpkg-dev lintian, as `make test` does as root";
    (!absent.is_empty()).then(|| format!("{} missing; {remedy}", absent.join(", ")))
}

fn cannot_pack() -> Option<String> {
    lacks(&["make", "dh", "dpkg-deb"])
}

/// A package of this tree with the version `number`, in a directory of its own. The binary is that
/// of `make build`, built once.
fn pack_deb(number: &str) -> (Scratch, PathBuf) {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut make = Command::new("make");
        make.arg("--directory").arg(repository("")).arg("build");
        process::run(make, BUILT_WITHIN).expect_success();
    });
    let scratch = Scratch::new();
    let mut script = Command::new(repository("packaging/deb.sh"));
    script
        .env("GAPLESS_VERSION", number)
        .env("GAPLESS_DIST", &scratch.0);
    let said = process::run(script, PACKED_WITHIN).expect_success();
    let of_the_binary = |path: &&str| path.contains("/gapless_");
    let deb = PathBuf::from(said.lines().find(of_the_binary).unwrap());
    (scratch, deb)
}

/// This version and the next, packed once for all tests.
fn debs() -> &'static [PathBuf; 2] {
    static DEBS: OnceLock<([Scratch; 2], [PathBuf; 2])> = OnceLock::new();
    let (_, debs) = DEBS.get_or_init(|| {
        let (this, this_deb) = pack_deb(env!("CARGO_PKG_VERSION"));
        let (next, next_deb) = pack_deb("99.0.0");
        ([this, next], [this_deb, next_deb])
    });
    debs
}

fn dpkg_deb(option: &str, deb: &Path) -> String {
    let mut command = Command::new("dpkg-deb");
    command.arg(option).arg(deb).env("LC_ALL", "C.UTF-8");
    process::run(command, PACKED_WITHIN).expect_success()
}

// ---- what can be said of the files alone

#[test]
fn the_deb_holds_exactly_the_files_of_the_list() {
    if let Some(missing) = cannot_pack() {
        return skip(&missing);
    }
    let listed = dpkg_deb("--contents", &debs()[0]);
    let found: BTreeSet<_> = listed.lines().filter_map(mode_owner_path).collect();
    let list = std::fs::read_to_string(repository("tests/packages/deb.files")).unwrap();
    let wanted: BTreeSet<_> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(ToOwned::to_owned)
        .collect();
    let differ: Vec<_> = found.symmetric_difference(&wanted).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

/// Of a line of `dpkg-deb --contents`; directories come with their files.
fn mode_owner_path(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (mode, owner) = (words.next()?, words.next()?);
    let path = words.nth(3)?.trim_start_matches('.');
    (!mode.starts_with('d')).then(|| format!("{mode} {owner} {path}"))
}

#[test]
fn a_second_build_of_the_deb_is_equal_byte_for_byte() {
    if let Some(missing) = cannot_pack() {
        return skip(&missing);
    }
    let (_scratch, second) = pack_deb(env!("CARGO_PKG_VERSION"));
    let bytes = |deb: &Path| std::fs::read(deb).unwrap();
    assert!(bytes(&debs()[0]) == bytes(&second), "two builds differ");
}

#[test]
fn lintian_has_nothing_to_say_of_the_deb() {
    if let Some(missing) = cannot_pack().or_else(|| lacks(&["lintian"])) {
        return skip(&missing);
    }
    let mut lintian = Command::new("lintian");
    lintian
        .args([
            "--fail-on",
            "error,warning",
            "--allow-root",
            "--suppress-tags-from-file",
        ])
        .arg(repository("packaging/debian/lintian-exceptions"))
        .arg(&debs()[0]);
    let said = process::run(lintian, PACKED_WITHIN);
    assert!(
        said.status.success() && said.output().is_empty(),
        "{said}\nAn exception needs its reason in packaging/debian/lintian-exceptions."
    );
}

/// The rest of the scripts only calls `maintain`; its functions are one screen each.
#[test]
fn no_script_touches_a_socket_outside_first_installation_and_removal() {
    let text = |path: &str| std::fs::read_to_string(repository(path)).unwrap();
    for script in ["preinst", "postinst", "prerm"] {
        let script = text(&format!("packaging/debian/gapless.{script}"));
        assert!(
            !script.contains("socket") && !script.contains("systemctl"),
            "{script}"
        );
    }
    let postrm = text("packaging/debian/gapless.postrm");
    let (before, _) = postrm.split_once("if [ \"$1\" = purge ]").unwrap();
    assert!(!before.contains("socket"), "{before}");
    for (function, body) in functions(&text("packaging/maintain")) {
        let may = ["installed", "removing"].contains(&function.as_str());
        assert!(may || !body.contains("socket"), "{function}: {body}");
    }
}

/// Name and commands of each function of a shell script; comments left out.
fn functions(script: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in script.lines().filter(|line| !line.trim().starts_with('#')) {
        if let Some(name) = line.strip_suffix("() {") {
            found.push((name.to_owned(), String::new()));
        } else if let Some((_, body)) = found.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    assert!(found.len() > 5, "{found:?}");
    found
}

// ---- Debian, in containers

/// A container with both debs in /srv, and `apt` that asks nobody.
fn with_debs(base: &str) -> Container {
    let container = Container::boot_bare(base);
    for (name, deb) in ["this", "next"].into_iter().zip(debs()) {
        container.push(
            &format!("/srv/{name}.deb"),
            &std::fs::read(deb).unwrap(),
            0o644,
        );
    }
    container
}

fn apt(container: &Container, arguments: &str) -> String {
    let command =
        format!("DEBIAN_FRONTEND=noninteractive apt-get -y --allow-downgrades {arguments} 2>&1");
    container.sh(&command)
}

fn is(container: &Container, question: &str, unit: &str) -> String {
    let asked = container.try_sh(&format!("systemctl is-{question} {unit}"));
    asked.stdout.trim().to_owned()
}

/// What would be another, had anybody touched the socket unit.
fn socket_of(container: &Container) -> (String, String) {
    let listener = container.sh("ss -Hltne sport = 8888 | grep -o 'ino:[0-9]*'");
    let unit = "show -P InvocationID -P ActiveEnterTimestampMonotonic gapless.socket";
    (listener, container.systemctl(unit))
}

fn has_upgrade(container: &Container) -> bool {
    container.try_sh("gapless upgrade --help").status.success()
}

fn nothing_listens_or_runs(container: &Container) {
    assert_eq!(container.sh("ss -Hltn sport = 8888"), "");
    assert!(
        container.processes().is_empty(),
        "{:#?}",
        container.processes()
    );
}

/// All that is called gapless, but for /srv (the debs) and what apt and the journal remember.
fn files_left(container: &Container) -> String {
    container.sh(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /srv -o -path /var/log \\) -prune \
         -o -name '*gapless*' -print; ls -d /run/gapless* 2>/dev/null || true",
    )
}

fn the_deb_is_upgraded_with_everybody_connected(base: &str) {
    let mut container = with_debs(base);
    apt(&container, "install /srv/this.deb");
    assert_eq!(is(&container, "enabled", "gapless.socket"), "enabled");
    assert_eq!(is(&container, "active", "gapless.socket"), "active");
    assert_eq!(is(&container, "enabled", "gapless.service"), "disabled");
    the_units_please_systemd(&container);
    container.serve_probe(&version("v1"), "", "");
    upgrades_lose_nothing(&container);
    container.reboot();
    assert!(container.get("/echo").starts_with("v1"));
    removal_leaves_data_and_purge_nothing(&container);
}

fn the_units_please_systemd(container: &Container) {
    let listen = b"[Socket]\nListenStream=8081\n";
    for unit in ["gapless@probe", "gapless-admin@probe"] {
        let drop_in = format!("/etc/systemd/system/{unit}.socket.d/listen.conf");
        container.push(&drop_in, listen, 0o644);
    }
    let units = "gapless.socket gapless.service gapless-admin.socket gapless@probe.socket \
                 gapless@probe.service gapless-admin@probe.socket";
    let verified = container.try_sh(&format!("systemd-analyze verify --man=no {units}"));
    assert!(
        verified.status.success() && verified.output().is_empty(),
        "{verified}"
    );
    for service in ["gapless.service", "gapless@probe.service"] {
        // In tenths: 2.0.
        let asked = format!("systemd-analyze security --no-pager --threshold=20 {service}");
        container.sh(&asked);
    }
    container.sh("rm -r /etc/systemd/system/gapless*@probe.socket.d");
}

fn upgrades_lose_nothing(container: &Container) {
    let before = (
        socket_of(container),
        container.worker_pids(),
        container.main_pid(),
    );
    let load = container.load(&[]);
    for change in [
        "/srv/next.deb",
        "--reinstall /srv/next.deb",
        "/srv/this.deb",
    ] {
        let said = apt(container, &format!("install {change}"));
        load.run_for(Duration::from_millis(500));
        let service_said = container.journal("-u gapless.service -n 40");
        if has_upgrade(container) {
            assert!(said.contains("is in place"), "{said}\n{service_said}");
            let program = container.sh("readlink /proc/$(systemctl show -P MainPID gapless)/exe");
            assert_eq!(program.trim(), "/usr/bin/gapless", "{said}");
        } else {
            let remedy = "systemctl restart gapless.service";
            assert!(said.contains(remedy), "{said}\n{service_said}");
        }
    }
    load.finish().expect_nothing_lost().expect_nothing_closed();
    let after = (
        socket_of(container),
        container.worker_pids(),
        container.main_pid(),
    );
    assert_eq!(after, before);
}

fn removal_leaves_data_and_purge_nothing(container: &Container) {
    container.sh("echo mine >/var/lib/gapless/upload");
    apt(container, "remove gapless");
    nothing_listens_or_runs(container);
    assert_eq!(container.sh("cat /var/lib/gapless/upload"), "mine\n");
    assert!(
        container
            .sh("cat /etc/gapless/gapless.toml")
            .contains("/srv/probe")
    );
    // Back again, as it was.
    apt(container, "install /srv/this.deb");
    assert!(container.get("/echo").starts_with("v1"));
    apt(container, "purge gapless");
    nothing_listens_or_runs(container);
    let left = files_left(container);
    let of_the_test =
        |line: &&str| line.contains("fds-of-the-test-host") || line.ends_with(".service.d");
    let left: Vec<_> = left.lines().filter(|line| !of_the_test(line)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// Masked, disabled and preset units stay as the administrator wants them.
fn the_deb_respects_what_the_administrator_decided(base: &str) {
    let container = with_debs(base);
    container.systemctl("mask gapless.socket");
    apt(&container, "install /srv/this.deb");
    nothing_listens_or_runs(&container);
    apt(&container, "purge gapless");
    container.systemctl("unmask gapless.socket");

    let preset = "/etc/systemd/system-preset/10-local.preset";
    container.push(preset, b"disable gapless.socket\n", 0o644);
    apt(&container, "install /srv/this.deb");
    assert_eq!(is(&container, "enabled", "gapless.socket"), "disabled");
    nothing_listens_or_runs(&container);
    apt(&container, "purge gapless");
    container.sh(&format!("rm {preset}"));

    apt(&container, "install /srv/this.deb");
    container.systemctl("disable --now gapless.socket");
    for change in [
        "install /srv/next.deb",
        "remove gapless",
        "install /srv/this.deb",
    ] {
        apt(&container, change);
        nothing_listens_or_runs(&container);
    }
    assert_eq!(is(&container, "enabled", "gapless.socket"), "disabled");
    container.systemctl("enable gapless.socket");
    apt(&container, "install /srv/next.deb");
    // It was enabled, but stopped: no upgrade starts it.
    nothing_listens_or_runs(&container);
}

fn on(base: &str, scenario: fn(&str)) {
    if let Some(missing) = container::missing().or_else(cannot_pack) {
        return skip(&missing);
    }
    debs();
    let _held = beside_others();
    scenario(base);
}

#[test]
fn on_252_the_deb_is_upgraded_with_everybody_connected() {
    on("bookworm", the_deb_is_upgraded_with_everybody_connected);
}

#[test]
fn on_257_the_deb_is_upgraded_with_everybody_connected() {
    on("trixie", the_deb_is_upgraded_with_everybody_connected);
}

#[test]
fn on_257_the_deb_respects_what_the_administrator_decided() {
    on("trixie", the_deb_respects_what_the_administrator_decided);
}
