//! The deb in Debian 12 and 13, by apt.

use crate::build::{DEB, debs};
use crate::installed::{
    expect_listening, forget_the_second_app, is, nothing_listens_or_runs, serve_a_second_app,
    the_journal_explains_our_events, the_second_app_is_back, the_units_please_systemd,
    upgrades_lose_nothing, without_an_app_it_says_what_to_do_next,
};
use crate::restarts::{
    bring_needrestart, needrestart_after_a_new_libc_loses_nothing,
    needrestart_restarts_nothing_after_an_upgrade,
};
use crate::traces::{Files, difference, every_file};
use crate::world::container::{self, Container};
use crate::world::{beside_others, skip};

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
    assert!(config.ends_with("# mine\n"), "{config}");
    // Back again, as it was.
    apt(container, "install /srv/this.deb");
    assert!(container.get("/echo").starts_with("v1"));
    the_second_app_is_back(container);
    forget_the_second_app(container);
    apt(container, "purge gapless");
    nothing_listens_or_runs(container);
    let left = difference(before, &every_file(container));
    assert!(left.is_empty(), "{left:#?}");
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
