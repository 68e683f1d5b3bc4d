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

#[path = "several/adding.rs"]
mod adding;
#[path = "several/listing.rs"]
mod listing;
#[path = "several/removing.rs"]
mod removing;
#[path = "several/told.rs"]
mod told;
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
