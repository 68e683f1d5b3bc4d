//! The rpm by rpm and dnf, which Debian has too: its scripts run as they do elsewhere, only the
//! packages that it requires are not there.

use crate::build::{RPM, ask, rpms, run};
use crate::installed::{
    expect_listening, nothing_listens_or_runs, the_journal_explains_our_events,
    upgrades_lose_nothing, without_an_app_it_says_what_to_do_next,
};
use crate::world::container::{self, Container};
use crate::world::{Scratch, beside_others, repository, skip};
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
    let debs = run(Command::new(repository("tests/world/debs.sh")).args([BASE, "rpm", "dnf"]));
    for deb in std::fs::read_dir(debs.trim()).unwrap() {
        let deb = deb.unwrap().path();
        if deb.extension().is_some_and(|it| it == "deb") {
            let name = deb.file_name().unwrap().display();
            let bytes = std::fs::read(&deb).unwrap();
            container.write(&format!("/srv/debs/{name}"), &bytes, 0o644);
        }
    }
    container.sh("dpkg --install /srv/debs/*.deb 2>&1");
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
    container
}

#[test]
fn on_257_the_rpm_is_upgraded_with_everybody_connected() {
    if let Some(missing) = container::missing().or_else(|| RPM.missing()) {
        return skip(&missing);
    }
    rpms();
    let _held = beside_others();
    let container = with_rpms();
    container.sh("rpm --install /srv/this.rpm 2>&1");
    expect_listening(&container);
    without_an_app_it_says_what_to_do_next(&container);
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
    container.sh("echo mine >/var/lib/gapless/upload");
    container.sh("rpm --erase gapless 2>&1");
    nothing_listens_or_runs(&container);
    assert_eq!(container.sh("cat /var/lib/gapless/upload"), "mine\n");
    let saved = container.sh("cat /etc/gapless/gapless.toml.rpmsave");
    assert!(saved.contains("/srv/probe"), "{saved}");
    let units =
        container.sh("find /etc/systemd /usr/lib/systemd -name 'gapless*' -not -name '*.d'");
    assert_eq!(units, "");
}
