//! Ring 2: `gapless add`, `remove` and `list`, with the real binary, a root directory of their own, and
//! a played systemctl, systemd-sysusers and userdel.

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

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use world::process::{self, Finished};
use world::service::{SOON, Service};
use world::{Scratch, eventually, gapless, skip, version};

/// Of whoever has no rights.
const NOBODY: u32 = 65_534;

/// Remembers what is enabled and active. `fail` and `kill` name the verb at which it says no, or ends
/// whoever asked: before it is done, or after.
const PLAYED: &str = r#"#!/bin/sh
case "${0##*/}" in
    systemctl) verb=$1; shift ;;
    *) verb=${0##*/} ;;
esac
echo "$verb $*" >>"$PLAY/log"
is() { [ -e "$PLAY/$1" ] && { read -r armed <"$PLAY/$1" || :; [ "$armed" = "$2" ]; } && rm "$PLAY/$1"; }
is kill "$verb" && { kill -KILL $PPID; exit 1; }
is fail "$verb" && { echo "no $verb today" >&2; exit 1; }
wants="$GAPLESS_ROOT/etc/systemd/system/sockets.target.wants"
case "$verb" in
show)
    # A property of one unit.
    [ "$1" != --value ] || { [ "$3" != User ] || echo gapless-blog; exit 0; }
    while [ "$1" != -- ]; do shift; done
    shift
    for unit; do
        active=inactive; file=disabled
        [ ! -e "$PLAY/active/$unit" ] || active=active
        [ ! -L "$wants/$unit" ] || file=enabled
        printf 'Id=%s\nActiveState=%s\nUnitFileState=%s\nTriggeredBy=\n\n' "$unit" $active $file
    done ;;
enable) mkdir -p "$wants"; for unit; do ln -sf /x "$wants/$unit"; done ;;
disable) for unit; do rm -f "$wants/$unit"; done; rmdir --ignore-fail-on-non-empty "$wants" ;;
start) for unit; do : >"$PLAY/active/$unit"; done ;;
stop) for unit; do rm -f "$PLAY/active/$unit"; done ;;
systemd-sysusers)
    user=$(sed -n 's/^u \([^ ]*\) .*/\1/p' "$1")
    echo "$user:x:998:998::/:/bin/false" >>"$GAPLESS_ROOT/etc/passwd"
    echo "$user:x:998:" >>"$GAPLESS_ROOT/etc/group" ;;
userdel) sed -i "/^$1:/d" "$GAPLESS_ROOT/etc/passwd" ;;
groupdel) sed -i "/^$1:/d" "$GAPLESS_ROOT/etc/group" ;;
esac
is kill "$verb.after" && kill -KILL $PPID
exit 0
"#;

/// A machine with gapless installed and nothing added.
struct World {
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        std::fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o755)).unwrap();
        for directory in [
            "root/run/systemd/system",
            "root/etc/systemd/system",
            "root/etc/gapless",
            "play/active",
        ] {
            std::fs::create_dir_all(scratch.0.join(directory)).unwrap();
        }
        scratch.write("root/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        scratch.write("root/etc/group", "root:x:0:\n");
        let units = "root/usr/lib/systemd/system";
        scratch.write(
            &format!("{units}/gapless.socket"),
            "[Socket]\nListenStream=8888\n",
        );
        scratch.write(&format!("{units}/gapless@.socket"), "[Socket]\n");
        let id = format!("#!/bin/sh\necho {NOBODY}\n");
        let played =
            ["systemctl", "systemd-sysusers", "userdel", "groupdel"].map(|it| (it, PLAYED));
        for (program, script) in played.into_iter().chain([("id", id.as_str())]) {
            let path = scratch.write(&format!("bin/{program}"), script);
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self { scratch }
    }

    fn root(&self) -> PathBuf {
        self.scratch.0.join("root")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        self.scratch.write(&format!("root/{path}"), text);
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(gapless());
        let bin = self.scratch.0.join("bin").display().to_string();
        command
            .args(line.split_whitespace())
            .env_clear()
            .env("PATH", format!("{bin}:/usr/bin:/bin"))
            .env("GAPLESS_ROOT", self.root())
            .env("PLAY", self.scratch.0.join("play"))
            .env("XDG_RUNTIME_DIR", self.scratch.0.join("session"));
        command
    }

    fn run(&self, line: &str) -> Finished {
        process::run(self.command(line), SOON)
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let said = self.run(&format!("{line} --json")).expect_success();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    fn arm(&self, what: &str, verb: &str) {
        self.scratch.write(&format!("play/{what}"), verb);
    }

    fn is_armed(&self, what: &str) -> bool {
        self.scratch.0.join("play").join(what).exists()
    }

    /// What the played programs were told to change.
    fn told(&self) -> Vec<String> {
        let log = self.scratch.0.join("play/log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        drop(std::fs::remove_file(log));
        let told = text.lines().map(|line| line.trim_end().to_owned());
        told.filter(|line| !line.starts_with("show ")).collect()
    }

    /// Every file with its text, every directory, and what is active.
    fn everything(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        look(&self.root(), &mut found);
        look(&self.scratch.0.join("play/active"), &mut found);
        found
    }

    fn is_active(&self, unit: &str) -> bool {
        self.scratch.0.join("play/active").join(unit).exists()
    }
}

fn look(directory: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            look(&path, found);
            found.insert(path, "directory".to_owned());
        } else {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|_| "link".to_owned());
            found.insert(path, text);
        }
    }
}

/// Nobody listens there now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("[::]:0").unwrap();
    listener.local_addr().unwrap().port()
}

const DROP_IN: &str = "etc/systemd/system/gapless@blog.socket.d/listen.conf";
const SOCKET: &str = "gapless@blog.socket";

#[test]
fn add_makes_what_an_instance_needs_names_every_file_and_says_what_is_next() {
    let world = World::new();
    let (port, socket) = (free_port(), world.path("run/blog.sock"));
    let said = world
        .run(&format!("add blog --listen {port} {}", socket.display()))
        .expect_success();
    for (file, text) in [
        (
            "etc/sysusers.d/gapless-blog.conf",
            "u gapless-blog - \"gapless app blog\" /var/lib/gapless@blog\n",
        ),
        (
            "etc/gapless/blog.toml",
            "gapless --app blog deploy ./myapp\n",
        ),
        (
            DROP_IN,
            &format!(
                "[Socket]\nListenStream={port}\nListenStream={}\n",
                socket.display()
            ),
        ),
    ] {
        assert!(
            said.contains(&world.path(file).display().to_string()),
            "{said}"
        );
        let written = world.read(file);
        assert!(written.starts_with("# Written by gapless add"), "{written}");
        assert!(written.ends_with(text), "{written}");
        let mode = world.path(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{file}");
    }
    let next = format!(
        "blog listens on {port}, {}, and waits for an app.  Next: sudo gapless --app blog deploy ./myapp",
        socket.display()
    );
    assert_eq!(said.lines().last(), Some(next.as_str()), "{said}");
    let sysusers = world.path("etc/sysusers.d/gapless-blog.conf");
    assert_eq!(
        world.told(),
        [
            format!("systemd-sysusers {}", sysusers.display()),
            "daemon-reload".to_owned(),
            format!("enable {SOCKET} gapless@blog.service"),
            format!("start {SOCKET}"),
        ]
    );
    world.run("--app blog check").expect_success();
}

#[test]
fn add_told_again_changes_nothing_and_other_addresses_are_refused_with_what_to_do() {
    let world = World::new();
    let port = free_port();
    let first = world.json(&format!("add blog --listen {port}"));
    assert_eq!(
        (&first["has_changed"], &first["name"]),
        (&true.into(), &"blog".into())
    );
    assert_eq!(first["done"][0]["did"], "wrote");
    let (before, _) = (world.everything(), world.told());
    // The same place, written otherwise.
    let again = world
        .run(&format!("add blog --listen [::]:{port}"))
        .expect_success();
    assert!(again.ends_with("nothing was changed.\n"), "{again}");
    assert_eq!(world.told(), [""; 0]);
    let other = world.run("add blog --listen 127.0.0.1:9");
    assert_eq!(other.code(), 1, "{other}");
    for part in [
        format!("listens on {port};"),
        "sudo systemctl edit gapless@blog.socket".to_owned(),
    ] {
        assert!(other.stderr.contains(&part), "{other}");
    }
    assert_eq!(world.everything(), before);
    // What the administrator said in a drop-in of his own counts.
    let edited = "etc/systemd/system/gapless@blog.socket.d/override.conf";
    world.write(
        edited,
        "[Socket]\nListenStream=\nListenStream=127.0.0.1:9\n",
    );
    world.run("add blog --listen 127.0.0.1:9").expect_success();
}

#[test]
fn what_somebody_wrote_stays_as_it_is() {
    let world = World::new();
    let (config, user) = ("[app]\ncommand = [\"/bin/true\"]\n", "u gapless-blog 950\n");
    world.write("etc/gapless/blog.toml", config);
    world.write("etc/sysusers.d/gapless-blog.conf", user);
    let added = world.json(&format!("add blog --listen {}", free_port()));
    assert_eq!(added["done"][0]["did"], "kept");
    assert_eq!(world.read("etc/gapless/blog.toml"), config);
    assert_eq!(world.read("etc/sysusers.d/gapless-blog.conf"), user);
}

#[test]
fn what_cannot_be_added_is_refused_with_the_reason_and_nothing_is_changed() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let shop = free_port();
    world
        .run(&format!("add shop --listen {shop}"))
        .expect_success();
    world.write("etc/occupied", "mine");
    let occupied = world.path("etc/occupied").display().to_string();
    let before = world.everything();
    for (line, code, why) in [
        ("add --listen 80", 2, "which app?"),
        ("add blog", 2, "--listen"),
        (
            "add gapless --listen 80",
            2,
            "systemctl edit gapless.socket",
        ),
        ("add a.b --listen 80", 2, "its user is gapless-a.b"),
        (
            "add a-name-that-is-much-too-long --listen 80",
            2,
            "it may have 23 letters",
        ),
        ("add ../x --listen 80", 2, "begin with a letter"),
        ("add blog --listen 0", 2, "a port from 1 to 65535"),
        ("add blog --listen localhost:80", 2, "127.0.0.1:8080"),
        ("add blog --listen ::1", 2, "into brackets"),
        ("add blog --listen 9 [::]:9", 1, "are the same place"),
        (
            &format!("add blog --listen {taken}"),
            1,
            &format!("is in use by pid {} (", std::process::id()),
        ),
        (
            &format!("add blog --listen 127.0.0.1:{shop}"),
            1,
            "is where gapless@shop.socket listens",
        ),
        (&format!("add blog --listen {occupied}"), 1, "is no socket"),
        (
            "add blog --listen 192.0.2.1:9",
            1,
            "no interface of this machine",
        ),
    ] {
        let refused = world.run(line);
        assert_eq!(refused.code(), code, "{line}: {refused}");
        assert!(
            refused.stderr.contains(why),
            "{line}: {why:?} not in {refused}"
        );
        assert_eq!(world.everything(), before, "{line}");
    }
    // As long as nobody enables it, port 8888 is not that of gapless.socket.
    std::os::unix::fs::symlink(
        "/x",
        world.path("etc/systemd/system/sockets.target.wants/gapless.socket"),
    )
    .unwrap();
    let refused = world.run("add blog --listen 127.0.0.1:8888");
    assert!(
        refused.stderr.contains("is where gapless.socket listens"),
        "{refused}"
    );
    std::fs::remove_dir(world.path("run/systemd/system")).unwrap();
    let refused = world.run(&format!("add blog --listen {}", free_port()));
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(
        refused.stderr.contains("gapless --app blog run -- CMD"),
        "{refused}"
    );
}

#[test]
fn who_is_not_root_is_told_to_use_sudo_and_who_comes_second_to_wait() {
    let world = World::new();
    let units = world.path("etc/systemd/system");
    let lines = [
        format!("add blog --listen {}", free_port()),
        "remove blog".to_owned(),
    ];
    let opened = std::fs::File::open(&units).unwrap();
    opened.lock().unwrap();
    for line in &lines {
        let refused = world.run(line);
        assert_eq!(refused.code(), 8, "{refused}");
        assert!(
            refused.stderr.contains("another gapless add or remove"),
            "{refused}"
        );
    }
    drop(opened);
    std::fs::set_permissions(&units, PermissionsExt::from_mode(0o555)).unwrap();
    for line in &lines {
        let mut command = world.command(line);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY);
        }
        let refused = process::run(command, SOON);
        assert_eq!(refused.code(), 4, "{refused}");
        assert!(refused.stderr.contains("run this with sudo"), "{refused}");
    }
    std::fs::set_permissions(&units, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Where whoever adds can be ended: with none, some and all of the files written and told.
const STEPS: [&str; 5] = [
    "systemd-sysusers",
    "systemd-sysusers.after",
    "daemon-reload",
    "enable.after",
    "start.after",
];

#[test]
fn whoever_is_killed_while_adding_is_completed_by_a_second_add_and_undone_by_remove() {
    let add = format!("add blog --listen {}", free_port());
    let world = World::new();
    let before = world.everything();
    world.run(&add).expect_success();
    let whole = world.everything();
    world.run("remove blog --purge").expect_success();
    assert_eq!(world.everything(), before);
    for step in STEPS {
        world.arm("kill", step);
        assert_eq!(world.run(&add).code(), 137, "{step}");
        assert!(!world.is_armed("kill"), "{step}");
        world.run(&add).expect_success();
        assert_eq!(world.everything(), whole, "{step}");
        world.run("remove blog --purge").expect_success();

        world.arm("kill", step);
        assert_eq!(world.run(&add).code(), 137, "{step}");
        // What a write leaves that is ended before its rename.
        let half = world.path(DROP_IN).with_extension("new");
        if half.parent().unwrap().exists() {
            std::fs::write(half, "half").unwrap();
        }
        world.run("remove blog --purge").expect_success();
        assert_eq!(world.everything(), before, "{step}");
    }
}

#[test]
fn a_step_that_fails_undoes_all_of_them_and_says_why() {
    let world = World::new();
    let before = world.everything();
    for step in ["systemd-sysusers", "daemon-reload", "enable", "start"] {
        world.arm("fail", step);
        let failed = world.run(&format!("add blog --listen {}", free_port()));
        assert_eq!(failed.code(), 1, "{failed}");
        for part in [
            "blog was not added: ",
            &format!("failed: no {step} today"),
            "what was done for it is undone",
        ] {
            assert!(failed.stderr.contains(part), "{step}: {failed}");
        }
        assert_eq!(world.everything(), before, "{step}: {failed}");
    }
}

/// With what a deployed app has.
fn with_data(world: &World) {
    for file in [
        "srv/gapless/blog/releases/r1/app",
        "var/lib/gapless@blog/upload",
        "var/cache/gapless@blog/x",
        "etc/default/gapless@blog",
    ] {
        world.write(file, "data");
    }
    std::os::unix::fs::symlink("releases/r1", world.path("srv/gapless/blog/current")).unwrap();
}

#[test]
fn remove_stops_and_disables_and_names_what_it_leaves_and_add_brings_it_back() {
    let world = World::new();
    let add = format!("add blog --listen {}", free_port());
    world.run(&add).expect_success();
    with_data(&world);
    let mine = "etc/systemd/system/gapless@blog.service.d/limits.conf";
    world.write(mine, "[Service]\nMemoryMax=1G\n");
    world.told();
    let said = world.run("remove blog").expect_success();
    assert_eq!(
        world.told(),
        [
            "disable gapless@blog.service gapless@blog.socket",
            "stop gapless@blog.socket",
            "reset-failed gapless@blog.service gapless@blog.socket gapless-admin@blog.socket \
             gapless-control@blog.socket",
            "daemon-reload",
        ]
    );
    for gone in [DROP_IN, "etc/sysusers.d/gapless-blog.conf"] {
        assert!(!world.path(gone).exists());
        assert!(
            said.contains(&format!("deleted  {}", world.path(gone).display())),
            "{said}"
        );
    }
    let (_, left) = said.split_once("blog is gone.  Left:\n").unwrap();
    for stays in [
        "etc/gapless/blog.toml",
        "etc/default/gapless@blog",
        "srv/gapless/blog",
        "var/lib/gapless@blog",
        "var/cache/gapless@blog",
        mine,
    ] {
        assert!(world.path(stays).exists(), "{stays}");
        assert!(
            left.contains(&world.path(stays).display().to_string()),
            "{stays}: {left}"
        );
    }
    for part in [
        "1 release",
        "the user gapless-blog",
        "sudo gapless remove blog --purge",
    ] {
        assert!(left.contains(part), "{left}");
    }
    assert!(world.read("etc/passwd").contains("gapless-blog:"));
    // Told again, it says the same.
    let again = world.json("remove blog");
    assert_eq!(again["done"], Value::Array(Vec::new()));
    assert_eq!(again["left"].as_array().unwrap().len(), 7, "{again}");
    let back = world.run(&add).expect_success();
    assert!(
        back.contains("; r1 starts with the first request"),
        "{back}"
    );
}

#[test]
fn purge_deletes_all_but_what_somebody_else_wrote() {
    let world = World::new();
    let before = world.everything();
    world
        .run(&format!("add blog --listen {}", free_port()))
        .expect_success();
    with_data(&world);
    let purged = world.run("remove blog --purge").expect_success();
    assert!(
        purged.ends_with("blog is gone, and nothing of it is left.\n"),
        "{purged}"
    );
    assert!(
        purged.contains("the user gapless-blog: uid 998"),
        "{purged}"
    );
    let mut after = world.everything();
    // Directories that others use, too.
    for shared in ["srv", "var", "var/lib", "var/cache", "etc/default"] {
        after.remove(&world.path(shared));
    }
    assert_eq!(after, before);

    world
        .run(&format!("add blog --listen {}", free_port()))
        .expect_success();
    world.write("srv/gapless/blog/notes", "mine");
    let said = world.json("remove blog --purge");
    assert_eq!(world.read("srv/gapless/blog/notes"), "mine");
    let left = said["left"].to_string();
    assert!(left.contains("srv/gapless/blog"), "{left}");
    assert!(
        left.contains("the user gapless-blog"),
        "there is data: {left}"
    );
}

#[test]
fn remove_refuses_the_default_what_is_not_there_and_what_is_being_deployed() {
    let world = World::new();
    for (line, code, why) in [
        ("remove", 2, "gapless list shows all"),
        ("remove gapless", 2, "sudo apt remove gapless"),
        ("remove nothing", 1, "there is no nothing on this machine"),
    ] {
        let refused = world.run(line);
        assert_eq!(refused.code(), code, "{line}: {refused}");
        assert!(refused.stderr.contains(why), "{line}: {refused}");
    }
    world
        .run(&format!("add blog --listen {}", free_port()))
        .expect_success();
    with_data(&world);
    let lock = std::fs::File::create(world.path("srv/gapless/blog/lock")).unwrap();
    lock.lock().unwrap();
    std::io::Write::write_all(&mut &lock, b"pid 7, admin: gapless deploy ./x").unwrap();
    let before = world.everything();
    let refused = world.run("remove blog --purge");
    assert_eq!(refused.code(), 8, "{refused}");
    let holder = "pid 7, admin: gapless deploy ./x is at work here";
    assert!(refused.stderr.contains(holder), "{refused}");
    assert_eq!(world.everything(), before);
    assert!(world.is_active(SOCKET));
    drop(lock);
    world.run("remove blog").expect_success();
}

#[test]
fn a_remove_that_fails_or_is_killed_is_completed_by_the_next() {
    let world = World::new();
    let before = world.everything();
    let add = format!("add blog --listen {}", free_port());
    for step in ["disable", "stop", "daemon-reload", "userdel"] {
        world.run(&add).expect_success();
        world.arm("fail", step);
        let failed = world.run("remove blog --purge");
        assert_eq!(failed.code(), 1, "{step}: {failed}");
        assert!(
            failed.stderr.contains(&format!("no {step} today")),
            "{failed}"
        );
        world.run("remove blog --purge").expect_success();
        assert_eq!(world.everything(), before, "{step}");
        world.run(&add).expect_success();
        world.arm("kill", &format!("{step}.after"));
        assert_eq!(world.run("remove blog --purge").code(), 137, "{step}");
        let last = world.run("remove blog --purge");
        let is_nothing_left = last.stderr.contains("there is no blog");
        assert!(last.status.success() || is_nothing_left, "{step}: {last}");
        assert_eq!(world.everything(), before, "{step}");
    }
}

/// The entry of an app in the list, and its line for people.
fn listed(world: &World, name: &str) -> Value {
    let apps = world.json("list")["apps"].clone();
    let found = apps
        .as_array()
        .unwrap()
        .iter()
        .find(|app| app["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {apps}"))
        .clone()
}

#[test]
fn list_shows_every_instance_how_it_is_and_what_to_do() {
    let world = World::new();
    let names = || {
        let apps = world.json("list")["apps"].clone();
        let names = apps
            .as_array()
            .unwrap()
            .iter()
            .map(|app| app["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(), ["gapless"]);
    let gapless = listed(&world, "gapless");
    assert_eq!(gapless["state"], "stopped");
    assert_eq!(gapless["next"], "sudo gapless start gapless");
    assert_eq!(gapless["addresses"][0], "8888");
    let port = free_port();
    world
        .run(&format!("add blog --listen {port}"))
        .expect_success();
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["unit"]),
        (&"waits-for-an-app".into(), &"gapless@blog.service".into())
    );
    assert_eq!(blog["next"], "sudo gapless --app blog deploy ./myapp");
    assert_eq!(blog["addresses"][0], port.to_string());
    with_data(&world);
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["release"]),
        (&"waits-for-a-request".into(), &"r1".into())
    );
    std::fs::remove_dir_all(world.scratch.0.join("play/active")).unwrap();
    assert_eq!(listed(&world, "blog")["state"], "stopped");
    world.write("var/lib/gapless@old/x", "");
    let old = listed(&world, "old");
    assert_eq!(
        (&old["state"], &old["healthy"]),
        (&"removed".into(), &Value::Null)
    );
    assert!(
        old["next"]
            .as_str()
            .unwrap()
            .contains("sudo gapless remove old --purge")
    );
    assert_eq!(names(), ["gapless", "blog", "old"]);
    let said = world.run("list").expect_success();
    let mut lines = said.lines();
    assert!(
        lines.next().unwrap().trim_start().starts_with("APP"),
        "{said}"
    );
    assert!(lines.next().unwrap().starts_with("○ gapless"), "{said}");
    assert!(
        said.contains("\n  old: its configuration or data is left; next: "),
        "{said}"
    );
}

#[test]
fn list_asks_what_runs_and_says_what_it_may_not_see() {
    let world = World::new();
    let mut service = Service::new("blog");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe("settle = \"100ms\"", "");
    service.start();
    service.wait_ready();
    service.get("/");
    eventually("the front has reported it", SOON, || {
        (service.status().requests.total == 1).then_some(())
    });
    // There for the commands, and where the service knows it.
    let place = world.path("run/gapless@blog");
    std::fs::rename(service.runtime_directory(), &place).unwrap();
    std::os::unix::fs::symlink(&place, service.runtime_directory()).unwrap();
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["healthy"]),
        (&"healthy".into(), &true.into())
    );
    assert_eq!(
        (&blog["requests"]["lost"], &blog["requests"]["total"]),
        (&0.into(), &1.into())
    );
    assert_eq!(blog["addresses"][0], service.address());
    let said = world.run("list").expect_success();
    assert!(said.contains("\n● blog "), "{said}");
    assert!(said.contains("0 of 1"), "{said}");

    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    let bad = service.control("POST", "/reload");
    assert!(
        bad.body.contains("\"verdict\":\"unhealthy\""),
        "{}",
        bad.body
    );
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["healthy"]),
        (&"not-healthy".into(), &false.into())
    );
    assert!(blog["because"].as_str().unwrap().contains("g2"), "{blog}");
    assert_eq!(blog["next"], "gapless --app blog status");

    if rustix::process::geteuid().is_root() {
        let socket = service.runtime_directory().join("control.sock");
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600)).unwrap();
        let mut command = world.command("list");
        command.uid(NOBODY);
        let said = process::run(command, SOON).expect_success();
        assert!(
            said.contains("blog: you may not ask it; next: sudo gapless list"),
            "{said}"
        );
    }
}

#[test]
fn list_shows_what_the_user_runs_in_the_foreground() {
    let world = World::new();
    let mut service = Service::new("dev");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe("settle = \"100ms\"", "");
    service.start();
    service.wait_ready();
    let session = world.scratch.0.join("session");
    std::fs::create_dir(&session).unwrap();
    std::fs::rename(service.runtime_directory(), session.join("gapless@dev")).unwrap();
    let dev = listed(&world, "dev");
    assert_eq!(
        (&dev["state"], &dev["unit"]),
        (&"healthy".into(), &Value::Null)
    );
    assert!(
        world
            .run("list")
            .expect_success()
            .contains("● dev (foreground) ")
    );
    std::fs::rename(session.join("gapless@dev"), service.runtime_directory()).unwrap();
}

#[test]
fn a_mistyped_name_makes_no_app_and_is_told_with_those_that_are_there() {
    let world = World::new();
    let port = free_port();
    world
        .run(&format!("add blog --listen {port}"))
        .expect_success();
    let before = world.everything();
    for line in [
        "--app blgo deploy /bin/true",
        "--app blgo rollback",
        "--app blgo releases",
        "--app blgo status",
        "--app blgo reload",
        "start blgo",
        "stop blgo",
        "restart blgo",
    ] {
        let refused = world.run(line);
        assert_eq!(refused.code(), 3, "{line}: {refused}");
        let expected = "gapless: there is no app blgo; apps here: gapless, blog; to add it: sudo gapless \
                        add blgo --listen ADDRESS, or gapless --app blgo run -- CMD";
        assert_eq!(refused.stderr.trim(), expected, "{line}");
        assert_eq!(refused.stdout, "", "{line}");
        assert_eq!(world.everything(), before, "{line}");
    }
    let json = world.run("--app blgo deploy /bin/true --json");
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let cause = json["cause"].as_str().unwrap();
    assert!(cause.starts_with("there is no app blgo"), "{json}");
}

#[test]
fn an_app_that_does_not_answer_is_told_as_systemd_sees_it() {
    let world = World::new();
    let said = |line: &str| {
        let refused = world.run(line);
        assert_eq!(refused.code(), 3, "{refused}");
        refused.stderr
    };
    let stopped = said("status");
    assert!(
        stopped.contains("gapless is not running; start it: sudo gapless start, or"),
        "{stopped}"
    );
    world.scratch.write("play/active/gapless.socket", "");
    let bare = said("status");
    assert!(
        bare.contains("nothing is deployed; gapless.socket is active; next: sudo gapless deploy"),
        "{bare}"
    );
    world.write(
        "etc/gapless/gapless.toml",
        "[app]\ndirectory = \"/srv/app\"\n",
    );
    for line in ["status", "reload", "drain", "upgrade"] {
        let waits = said(line);
        let expected = "gapless.socket is active, and the next request starts gapless.service";
        assert!(waits.contains(expected), "{line}: {waits}");
    }
    world.scratch.write("play/active/gapless.service", "");
    let mute = said("status");
    assert!(
        mute.contains("gapless.service is active, and nobody answers"),
        "{mute}"
    );
}

/// The mode of each file or directory of the app, and what `check` says when it is the given one.
#[test]
fn check_says_which_part_of_a_path_refuses_the_user_of_the_service() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can try what another user may do");
    }
    let world = World::new();
    let mode = |path: &str, mode: u32| {
        std::fs::set_permissions(world.path(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    let shown = |path: &str| world.path(path).display().to_string();
    let (script, interpreter) = ("srv/home/app/run", "srv/tools/sh");
    world.write(script, &format!("#!{} -e\n", shown(interpreter)));
    world.write(interpreter, "");
    std::os::unix::fs::symlink(world.path("srv/home/app"), world.path("srv/app")).unwrap();
    let config = format!(
        "[app]\ndirectory = \"{}\"\ncommand = [\"./run\"]\n",
        shown("srv/app")
    );
    world.write("etc/gapless/blog.toml", &config);
    let open = || {
        for path in ["srv/home", "srv/home/app", script, "srv/tools", interpreter] {
            mode(path, 0o755);
        }
    };
    open();
    world.run("--app blog check").expect_success();
    for (path, closed, says, right) in [
        ("srv/home", 0o700, "cannot enter the directory", "o+x"),
        ("srv/home/app", 0o750, "cannot enter the directory", "o+x"),
        (script, 0o754, "cannot execute", "o+x"),
        (script, 0o711, "cannot read the script", "o+r"),
        ("srv/tools", 0o700, "cannot execute the interpreter", "o+x"),
        (interpreter, 0o744, "cannot execute the interpreter", "o+x"),
    ] {
        open();
        mode(path, closed);
        let refused = world.run("--app blog check --json");
        assert_eq!(refused.code(), 5, "{path}: {refused}");
        let json: Value = serde_json::from_str(&refused.stdout).unwrap();
        let text = |key: &str| json["problems"][0][key].as_str().unwrap();
        let said = format!("{} {}", text("message"), text("remedy"));
        let part = format!("{} refuses it (mode {closed:o}, owner 0:0)", shown(path));
        let remedy = format!("sudo chmod {right} {}", shown(path));
        for expected in ["the user gapless-blog", says, &part, &remedy] {
            assert!(said.contains(expected), "{path}: {expected}: {said}");
        }
        assert_eq!(json["is_valid"], false, "{json}");
        assert_eq!(json["problems"].as_array().unwrap().len(), 1, "{json}");
    }
    open();
    std::fs::remove_file(world.path(interpreter)).unwrap();
    let refused = world.run("--app blog check");
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.stderr.contains("which is not there"), "{refused}");
}
