//! The deb in Debian 12 and 13, by apt.

use crate::build::{DEB, debs};
use crate::installed::{
    expect_listening, forget_the_second_app, is, nothing_listens_or_runs, serve_a_second_app,
    the_journal_explains_our_events, the_units_please_systemd, upgrades_lose_nothing,
    without_an_app_it_says_what_to_do_next,
};
use crate::restarts::{
    bring_needrestart, needrestart_after_a_new_libc_loses_nothing,
    needrestart_restarts_nothing_after_an_upgrade,
};
use crate::world::container::{self, Container};
use crate::world::{beside_others, skip};
use std::collections::BTreeMap;

const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get -y --allow-downgrades";

/// A container with both debs in /srv.
pub fn with_debs(base: &str) -> Container {
    let container = Container::boot_bare(base);
    for (name, deb) in ["this", "next"].into_iter().zip(debs()) {
        let path = format!("/srv/{name}.deb");
        container.push(&path, &std::fs::read(&deb.path).unwrap(), 0o644);
    }
    container
}

pub fn apt(container: &Container, arguments: &str) -> String {
    container.sh(&format!("{APT} {arguments} 2>&1"))
}

fn is_upgraded_with_everybody_connected(base: &str) {
    let mut container = with_debs(base);
    bring_needrestart(&container, base);
    let before = every_file(&container);
    apt(&container, "install /srv/this.deb");
    expect_listening(&container);
    container.reboot();
    expect_listening(&container);
    the_units_please_systemd(&container);
    without_an_app_it_says_what_to_do_next(&container);
    serve_a_second_app(&container);
    upgrades_lose_nothing(
        &container,
        &[
            &format!("{APT} install /srv/next.deb"),
            &format!("{APT} --reinstall install /srv/next.deb"),
            &format!("{APT} install /srv/this.deb"),
        ],
    );
    let upgrade = format!("{APT} install /srv/next.deb");
    needrestart_restarts_nothing_after_an_upgrade(&container, &upgrade);
    needrestart_after_a_new_libc_loses_nothing(&container);
    the_journal_explains_our_events(&container);
    container.reboot();
    assert!(container.get("/echo").starts_with("v1"));
    assert!(container.get_from("8080", "/echo").starts_with("v1"));
    a_removal_leaves_the_data_and_a_purge_nothing(&container, &before);
}

fn a_removal_leaves_the_data_and_a_purge_nothing(container: &Container, before: &Files) {
    container.sh("echo mine >/var/lib/gapless/upload");
    let said = apt(container, "remove gapless");
    assert!(said.contains("apt purge gapless deletes them"), "{said}");
    nothing_listens_or_runs(container);
    assert_eq!(container.sh("cat /var/lib/gapless/upload"), "mine\n");
    let config = container.sh("cat /etc/gapless/gapless.toml");
    assert!(config.contains("/srv/probe"), "{config}");
    // Back again, as it was.
    apt(container, "install /srv/this.deb");
    assert!(container.get("/echo").starts_with("v1"));
    forget_the_second_app(container);
    apt(container, "purge gapless");
    nothing_listens_or_runs(container);
    let left = difference(before, &every_file(container));
    assert!(left.is_empty(), "{left:#?}");
}

/// Kind, mode, owner, size and target of each; of those in /etc the digest, too.
type Files = BTreeMap<String, String>;

/// Each with its reason; "/x" stands for all below it.
const NOT_COMPARED: [&str; 16] = [
    // Of the kernel, or gone with the next boot.
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    // The apps and the packages of the tests.
    "/srv",
    // What happened stays known.
    "/var/log",
    // dpkg and apt remember what they did.
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/cache/apt",
    "/var/cache/debconf/tmp.ci",
    // systemd writes there at a boot: random seed, what is updated, caches, the private /tmp of others.
    "/var/lib/systemd",
    "/var/.updated",
    "/etc/.updated",
    "/etc/ld.so.cache",
    "/var/tmp",
];
/// The users stay, as Debian has it: what belongs to them elsewhere must not become somebody else's.
const USERS: [&str; 5] = ["passwd", "group", "shadow", "gshadow", ".pwd.lock"];

fn every_file(container: &Container) -> Files {
    let pruned = NOT_COMPARED
        .map(|path| format!("-path {path}"))
        .join(" -o ");
    let found = container.sh(&format!(
        "find / -xdev \\( {pruned} \\) -prune -o -type d -printf '%p\\t%y %m %u:%g\\n' \
         -o -printf '%p\\t%y %m %u:%g %s %l\\n'; \
         find /etc -type f -exec md5sum {{}} + | sed 's/^\\([^ ]*\\)  \\(.*\\)/\\2 content\\t\\1/'"
    ));
    let is_of_users = |path: &str| {
        let name = path.strip_prefix("/etc/").unwrap_or_default();
        USERS.iter().any(|user| name.starts_with(user))
    };
    let entries = found.lines().filter_map(|line| line.split_once('\t'));
    let entries = entries.filter(|(path, _)| !is_of_users(path) && !is_excepted(path));
    entries.map(|(path, is)| (path.into(), is.into())).collect()
}

/// Python, with which the tests ask, keeps what it has compiled.
fn is_excepted(path: &str) -> bool {
    path.contains("/__pycache__")
        || NOT_COMPARED
            .iter()
            .any(|excepted| path.starts_with(excepted))
}

fn difference(before: &Files, after: &Files) -> Vec<String> {
    let gone = before.iter().filter(|(path, _)| !after.contains_key(*path));
    let gone = gone.map(|(path, is)| format!("gone: {path}: {is}"));
    let came = after
        .iter()
        .filter(|(path, is)| before.get(*path) != Some(is));
    let came = came.map(|(path, is)| format!("{path}: {:?} became {is}", before.get(path)));
    gone.chain(came).collect()
}

/// Masked, disabled, preset and stopped units stay as they are wanted.
fn respects_what_the_administrator_decided(base: &str) {
    let mut container = with_debs(base);
    container.systemctl("mask gapless.socket");
    let before = every_file(&container);
    apt(&container, "install /srv/this.deb");
    nothing_listens_or_runs(&container);
    apt(&container, "purge gapless");
    let left = difference(&before, &every_file(&container));
    assert!(left.is_empty(), "{left:#?}");
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
    // It is enabled, but was stopped: no upgrade starts it.
    container.systemctl("enable gapless.socket");
    changed_settings_are_told(&container);
    nothing_listens_or_runs(&container);
    apt(&container, "purge gapless");
    without_a_running_systemd_it_is_only_enabled(&mut container);
}

fn changed_settings_are_told(container: &Container) {
    let told = "gapless.service have changed; they are in force after the next restart";
    assert!(!apt(container, "install /srv/next.deb").contains(told));
    container.sh("sed -i s/^UMask=.*/UMask=0/ /usr/lib/systemd/system/gapless.service");
    let said = apt(container, "install /srv/this.deb");
    assert!(said.contains(told), "{said}");
}

/// In a chroot, and where an image is built; what boots from it listens.
fn without_a_running_systemd_it_is_only_enabled(container: &mut Container) {
    let in_a_chroot =
        format!("mount -t tmpfs tmpfs /run && {APT} install --reinstall /srv/this.deb");
    for _again in 0..2 {
        container.sh(&format!("unshare --mount sh -c '{in_a_chroot}' 2>&1"));
        nothing_listens_or_runs(container);
    }
    container.reboot();
    expect_listening(container);
}

fn on(base: &str, scenario: fn(&str)) {
    if let Some(missing) = container::missing().or_else(|| DEB.missing()) {
        return skip(&missing);
    }
    debs();
    let _held = beside_others();
    scenario(base);
}

#[test]
fn on_252_the_deb_is_upgraded_with_everybody_connected() {
    on("bookworm", is_upgraded_with_everybody_connected);
}

#[test]
fn on_257_the_deb_is_upgraded_with_everybody_connected() {
    on("trixie", is_upgraded_with_everybody_connected);
}

#[test]
fn on_257_the_deb_respects_what_the_administrator_decided() {
    on("trixie", respects_what_the_administrator_decided);
}
