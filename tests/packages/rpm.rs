//! The rpm by rpm and dnf, which Debian has too: its scripts run as they do elsewhere, only the
//! packages that it requires are not there.

use crate::build::{RPM, ask, rpms, run};
use crate::installed::{
    expect_listening, is, nothing_listens_or_runs, serve_a_second_app,
    the_journal_explains_our_events, the_second_app_is_back, upgrades_lose_nothing,
    without_an_app_it_says_what_to_do_next,
};
use crate::restarts::bring;
use crate::traces::{Files, difference, every_file};
use crate::world::container::{self, Container};
use crate::world::{Scratch, beside_others, skip};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

const BASE: &str = "trixie";
/// Without network and without repositories.
const DNF: &str = "dnf -y --disablerepo='*' --setopt=keepcache=0";

/// An empty package that provides what gapless requires, in the place of a distribution's.
fn a_system_for(needs: &str, directory: &Scratch) -> PathBuf {
    let mut spec = String::from(
        "Name: system\nVersion: 1\nRelease: 1\nSummary: s\nLicense: none\nBuildArch: noarch\n\
         Provides: systemd = 257\nProvides: coreutils = 9\n",
    );
    let names = needs
        .lines()
        .filter(|need| need.starts_with('/') || need.contains(['(', ')']))
        .filter(|need| !need.starts_with("rpmlib(") && !need.starts_with("config("));
    for need in names {
        writeln!(spec, "Provides: {need}").unwrap();
    }
    spec.push_str("%description\ns\n%files\n");
    let spec = directory.write("system.spec", &spec);
    let top = format!("_topdir {}", directory.0.display());
    run(Command::new("rpmbuild")
        .args(["-bb", "--define", &top])
        .arg(spec));
    directory.0.join("RPMS/noarch/system-1-1.noarch.rpm")
}

/// A container with rpm and dnf, both rpms in /srv, and what they require installed.
fn with_rpms() -> Container {
    let container = Container::boot_bare(BASE);
    bring(&container, BASE, &["rpm", "dnf", "dnf-plugins-core"]);
    let needs = ask(
        "rpm",
        &["--query", "--package", "--requires"],
        &rpms()[0].path,
    );
    let directory = Scratch::new();
    let system = a_system_for(&needs, &directory);
    let packages = [&rpms()[0].path, &rpms()[1].path, &system];
    for (name, rpm) in ["this", "next", "system"].into_iter().zip(packages) {
        let path = format!("/srv/{name}.rpm");
        container.push(&path, &std::fs::read(rpm).unwrap(), 0o644);
    }
    container.sh("rpm --install /srv/system.rpm 2>&1");
    // Of "filesystem" and "systemd" where packages are rpms.
    container.sh(
        "cd /usr/share && mkdir -p man/man1 man/man5 man/man7 man/man8 licenses \
         /etc/sysconfig /etc/sysusers.d",
    );
    container
}

/// It goes by the start of processes, so it names the keepers, which have become the new ones in place;
/// it restarts nothing, and whoever does loses nothing.
fn needs_restarting_only_says_so(container: &Container) {
    let state = || (container.main_pid(), container.worker_pids());
    let before = state();
    let said = container.sh("dnf --disablerepo='*' needs-restarting --services 2>&1");
    let ours = said.lines().filter(|line| line.contains("gapless"));
    assert!(
        ours.eq(["gapless.service", "gapless@shop.service"]),
        "{said}"
    );
    assert_eq!(state(), before);
}

#[test]
fn on_257_the_rpm_is_upgraded_with_everybody_connected() {
    if let Some(missing) = container::missing().or_else(|| RPM.missing()) {
        return skip(&missing);
    }
    rpms();
    let _held = beside_others();
    let mut container = with_rpms();
    let before = every_file(&container);
    container.sh("rpm --install /srv/this.rpm 2>&1");
    expect_listening(&container);
    container.reboot();
    expect_listening(&container);
    without_an_app_it_says_what_to_do_next(&container);
    serve_a_second_app(&container);
    upgrades_lose_nothing(
        &container,
        &[
            "rpm --upgrade /srv/next.rpm",
            &format!("{DNF} downgrade /srv/this.rpm"),
            &format!("{DNF} upgrade /srv/next.rpm"),
            &format!("{DNF} reinstall /srv/next.rpm"),
        ],
    );
    the_journal_explains_our_events(&container);
    needs_restarting_only_says_so(&container);
    container.reboot();
    assert!(container.get("/echo").starts_with("v1"));
    assert!(container.get_from("8080", "/echo").starts_with("v1"));
    a_removal_leaves_only_what_is_the_administrators(&container, &before);
    masks_are_respected_and_changed_settings_are_told(&container);
}

/// What was changed, what apps keep, and what `gapless add` wrote; nothing that starts anything.
fn a_removal_leaves_only_what_is_the_administrators(container: &Container, before: &Files) {
    container.sh("echo mine >/var/lib/gapless/upload");
    container.sh("rpm --erase gapless 2>&1");
    nothing_listens_or_runs(container);
    assert_eq!(container.sh("cat /var/lib/gapless/upload"), "mine\n");
    let saved = container.sh("cat /etc/gapless/gapless.toml.rpmsave");
    assert!(saved.ends_with("# mine\n"), "{saved}");
    let theirs = [
        "/etc/gapless",
        "/etc/sysconfig/gapless.rpmsave",
        "/etc/sysusers.d/gapless-shop.conf",
        "/etc/systemd/system/gapless@shop.socket.d",
        "/srv/gapless",
        "/var/cache/gapless",
        "/var/lib/gapless",
    ];
    let mut left = difference(before, &every_file(container));
    left.retain(|it| !theirs.iter().any(|path| it.starts_with(path)));
    assert!(left.is_empty(), "{left:#?}");
    // What was enabled is so again after the next installation, and starts.
    container.sh("rpm --install /srv/this.rpm 2>&1");
    the_second_app_is_back(container);
    container.systemctl("disable --now gapless@shop.socket gapless@shop.service");
    container.sh("rpm --erase gapless 2>&1");
    nothing_listens_or_runs(container);
}

fn masks_are_respected_and_changed_settings_are_told(container: &Container) {
    container.systemctl("mask gapless.socket");
    for change in ["--install /srv/this.rpm", "--upgrade /srv/next.rpm"] {
        container.sh(&format!("rpm {change} 2>&1"));
        nothing_listens_or_runs(container);
    }
    container.sh("sed -i s/^UMask=.*/UMask=0/ /usr/lib/systemd/system/gapless.service");
    let said = container.sh("rpm --upgrade --oldpackage /srv/this.rpm 2>&1");
    let told = "gapless.service have changed; they are in force after the next restart";
    assert!(said.contains(told), "{said}");
    assert_eq!(is(container, "enabled", "gapless.socket"), "masked");
    // Nor is it enabled or started when it is only disabled, or only stopped.
    container.systemctl("unmask gapless.socket");
    container.systemctl("disable gapless.socket");
    container.sh(&format!("{DNF} upgrade /srv/next.rpm 2>&1"));
    assert_eq!(is(container, "enabled", "gapless.socket"), "disabled");
    nothing_listens_or_runs(container);
    container.systemctl("enable gapless.socket");
    container.sh(&format!("{DNF} reinstall /srv/next.rpm 2>&1"));
    nothing_listens_or_runs(container);
}
