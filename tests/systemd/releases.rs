//! Releases are there after a reboot, however a deploy ended.

use crate::the_version;
use crate::world::container::Container;

/// From nothing: greeting, deploys, rollback, a stopped service, a full disk, a reboot.
pub fn releases_survive_a_reboot(container: &mut Container) {
    container.systemctl("stop gapless.service");
    container.systemctl("start gapless.service");
    let greeting = container.get("/");
    assert!(
        greeting.contains("sudo gapless deploy ./myapp"),
        "{greeting}"
    );
    for version in ["d1", "d2", "d3"] {
        write_app(container, version);
    }
    container.systemctl("disable gapless.service");
    let first = container.sh("gapless deploy /root/d1 --release d1");
    assert!(
        first.contains("  enabled   gapless.service, gapless.socket: at boot"),
        "{first}"
    );
    container.systemctl("is-enabled gapless.service gapless.socket");
    let load = container.load(&[]);
    container.sh("tar c -C /root/d2 . | gapless deploy - --release d2");
    assert_eq!(the_version(container), "d2");
    container.sh("gapless rollback");
    assert_eq!(the_version(container), "d1");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    let secret = "/srv/gapless/gapless/current/.env";
    assert_eq!(
        container.sh(&format!("runuser -u gapless -- cat {secret}")),
        "d1"
    );
    let stranger = container.try_sh(&format!("runuser -u nobody -- cat {secret}"));
    assert!(!stranger.status.success(), "{stranger}");
    container.sh("test -d /var/lib/gapless/shared/uploads");
    container.sh("runuser -u gapless -- touch /srv/gapless/gapless/current/uploads/x");

    container.sh("mount -t tmpfs -o size=1m full /srv/gapless/gapless/incoming");
    let refused = container.try_sh("gapless deploy /root/d3 --release d3");
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(
        refused
            .stderr
            .contains("no room at /srv/gapless/gapless/incoming/d3"),
        "{refused}"
    );
    container.sh("umount /srv/gapless/gapless/incoming");

    container.systemctl("stop gapless.service");
    let said = container.sh("gapless deploy /root/d3 --release d3");
    assert!(
        said.contains("gapless.service, by systemctl start"),
        "{said}"
    );
    assert_eq!(the_version(container), "d3");
    let journal = container.journal("-u gapless.service -n 60");
    let (_, journal) = journal.rsplit_once("started by a deploy").unwrap();
    assert!(!journal.contains("begins: release d1"), "{journal}");
    container.reboot();
    assert_eq!(the_version(container), "d3");
    assert!(
        container
            .sh("gapless releases")
            .contains("d3       current   healthy")
    );
    assert_eq!(container.sh("ls /srv/gapless/gapless/incoming"), "");
    killed_deploys_survive_a_reboot(container);
}

/// Where one ended, and what the machine begins with then; every step is in `tests/deploy_steps.rs`.
fn killed_deploys_survive_a_reboot(container: &mut Container) {
    container.sh("mkdir /root/steps");
    for (step, version, expected) in [
        ("store.manifest.placed", "k1", "d3"),
        ("store.swap.heard", "k2", "d3"),
        ("store.current.moved", "k3", "k3"),
    ] {
        write_app(container, version);
        let deploy = format!("gapless deploy /root/{version} --release {version}");
        container.sh(&format!("touch /root/steps/{step}"));
        let killed = container.try_sh(&format!("GAPLESS_STEPS=/root/steps {deploy}"));
        assert_eq!(killed.code(), 137, "{killed}");
        container.reboot();
        assert_eq!(the_version(container), expected, "{step}");
    }
    container.sh("gapless deploy /root/d1 --release last");
    assert_eq!(the_version(container), "d1");
    assert_eq!(container.sh("ls /srv/gapless/gapless/incoming"), "");
}

pub fn write_app(container: &Container, version: &str) {
    let config = format!(
        "[app]\ncommand = [\"/srv/probe/probe-app\"]\nsettle = \"100ms\"\nshared = [\"uploads\"]\n\
         env = {{ PROBE_VERSION = \"{version}\" }}\n"
    );
    container.sh(&format!("mkdir /root/{version}"));
    container.push(
        &format!("/root/{version}/gapless.toml"),
        config.as_bytes(),
        0o644,
    );
    container.push(&format!("/root/{version}/.env"), version.as_bytes(), 0o600);
}
