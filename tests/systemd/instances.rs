//! More than one app on a machine.

use crate::releases::write_app;
use crate::world::container::Container;
use crate::world::samples::in_documents;
use crate::world::version;
use crate::{QUICK, the_version};
use std::collections::BTreeSet;

/// Two instances of the template beside each other.
pub fn instances_of_the_template_have_their_own_user_and_socket(container: &mut Container) {
    for (name, port) in [("blue", "8081"), ("green", "8082")] {
        let user = format!("u gapless-{name} - \"gapless app {name}\" /var/lib/gapless@{name}\n");
        container.push(
            &format!("/etc/sysusers.d/gapless-{name}.conf"),
            user.as_bytes(),
            0o644,
        );
        let listen = format!("[Socket]\nListenStream=127.0.0.1:{port}\n");
        let drop_in = format!("/etc/systemd/system/gapless@{name}.socket.d/listen.conf");
        container.push(&drop_in, listen.as_bytes(), 0o644);
        let config = format!(
            "[app]\ncommand = [\"/srv/probe/probe-app\"]\ndirectory = \"/srv/probe\"\n\
             env = {{ PROBE_VERSION = \"{name}\" }}\n"
        );
        container.push(
            &format!("/etc/gapless/{name}.toml"),
            config.as_bytes(),
            0o644,
        );
        let listen = format!("[Socket]\nListenStream=127.0.0.1:1{port}\n");
        let drop_in = format!("/etc/systemd/system/gapless-admin@{name}.socket.d/listen.conf");
        container.push(&drop_in, listen.as_bytes(), 0o644);
    }
    container.sh("systemd-sysusers && systemctl daemon-reload");
    container.systemctl("enable gapless-admin@blue.socket gapless-admin@green.socket");
    container.systemctl("enable --now gapless@blue.socket gapless@green.socket");
    container.systemctl("enable --now gapless@blue.service gapless@green.service");
    for (name, port) in [("blue", "8081"), ("green", "8082")] {
        assert!(container.get_from(port, "/").starts_with(name));
        container.sh(&format!("gapless status {name}"));
        assert_eq!(container.get_from(&format!("1{port}"), "/readyz"), "ok\n");
        container.systemctl(&format!("reload gapless@{name}.service"));
    }
}

/// What is on the disk, and who is a user; not what systemd, the journal and a boot write by themselves.
fn footprints(container: &Container) -> BTreeSet<String> {
    let found = container.sh(
        "find /etc /srv /var/lib /var/cache -xdev -printf '%p %y %m %U:%G %l\\n'; \
         cat /etc/passwd /etc/group",
    );
    let changes = [
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sub",
        "/etc/.pwd.lock",
        "/etc/.updated",
        "/var/lib/systemd",
        "/var/lib/gapless/",
        "/var/lib/dbus",
    ];
    let lines = found.lines().map(str::to_owned);
    lines
        .filter(|line| !changes.iter().any(|it| line.starts_with(it)))
        .collect()
}

/// A second app from the first command to the last, beside one that does not notice.
pub fn an_app_is_added_and_removed_beside_one_that_loses_nothing(container: &mut Container) {
    container.serve_probe(&version("v1"), QUICK, "");
    write_app(container, "d1");
    let before = footprints(container);
    let load = container.load(&["--idle", "100"]);
    let said = container.sh("gapless add blog --listen 8081");
    let next = "Next: sudo gapless --app blog deploy ./myapp\n";
    assert!(said.ends_with(next), "{said}");
    in_documents("sudo gapless add blog").expect(&said);
    let added = footprints(container);
    let page = container.get_from("8081", "/");
    assert!(
        page.contains("sudo gapless --app blog deploy ./myapp"),
        "{page}"
    );
    let said = container.sh("gapless --app blog deploy /root/d1 --release d1");
    let as_dated = |said: &str| said.replace("probe", "d1").replace("d1", "20261121-1");
    in_documents("sudo gapless --app blog deploy").expect(&as_dated(&said));
    assert!(container.get_from("8081", "/echo").starts_with("d1 "));
    assert_eq!(the_version(container), "v1");
    let user = container.sh("stat -c %U:%G /var/lib/gapless@blog");
    assert_eq!(user, "gapless-blog:gapless-blog\n");
    let listed = container.sh("gapless list");
    in_documents("gapless list").expect(&as_dated(&listed));
    for app in ["\n● gapless  healthy  probe ", "\n● blog     healthy  d1 "] {
        assert!(listed.contains(app), "{listed}");
    }
    let held = container.sh("gapless --app blog hold && gapless --app blog status");
    let ends = held.matches("gapless --app blog resume").count();
    assert_eq!(ends, 2, "{held}");
    container.sh("gapless --app blog resume");
    let logs = container.sh("gapless --app blog logs -n all");
    assert!(logs.contains("release d1"), "{logs}");
    what_cannot_be_added_leaves_nothing(container);
    load.finish().expect_nothing_lost().expect_nothing_closed();
    container.reboot();
    assert!(container.get_from("8081", "/echo").starts_with("d1 "));
    assert_eq!(the_version(container), "v1");
    let load = container.load(&["--idle", "100"]);
    it_is_removed_and_comes_back(container);
    container.sh("gapless remove blog --purge");
    load.finish().expect_nothing_lost().expect_nothing_closed();
    let after = footprints(container);
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(added.len() > before.len() + 5, "{added:#?}");
    let known = container.systemctl("list-units --all --plain --no-legend 'gapless*@blog*'");
    assert_eq!(known, "");
}

fn what_cannot_be_added_leaves_nothing(container: &Container) {
    let before = footprints(container);
    for (address, why) in [
        ("8081", "is where gapless@blog.socket listens"),
        ("127.0.0.1:8888", "is where gapless.socket listens"),
        // systemd itself cannot listen there.
        ("/proc/shop.sock", "what was done for it is undone"),
    ] {
        let refused = container.try_sh(&format!("gapless add shop --listen {address}"));
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(refused.stderr.contains(why), "{refused}");
        assert_eq!(footprints(container), before, "{refused}");
    }
    let known = container.systemctl("list-units --all --plain --no-legend 'gapless*@shop*'");
    assert_eq!(known, "");
}

fn it_is_removed_and_comes_back(container: &Container) {
    container.sh("echo mine >/var/lib/gapless@blog/upload");
    let removed = container.sh("gapless remove blog");
    in_documents("sudo gapless remove blog").expect(&removed);
    let port = container.sh("ss -Hltn sport = 8081");
    assert_eq!(port, "", "its port is closed");
    assert!(!container.processes().values().any(|it| it.contains("blog")));
    for left in [
        "/etc/gapless/blog.toml",
        "/srv/gapless/blog",
        "/var/lib/gapless@blog",
        "the user gapless-blog",
        "sudo gapless remove blog --purge",
    ] {
        assert!(removed.contains(left), "{left}: {removed}");
    }
    let listed = container.sh("gapless list");
    assert!(listed.contains("○ blog     removed  d1 "), "{listed}");
    container.sh("gapless add blog --listen 8081");
    assert!(container.get_from("8081", "/echo").starts_with("d1 "));
    assert_eq!(container.sh("cat /var/lib/gapless@blog/upload"), "mine\n");
}
