//! Every kind of bad app is deployed in turn under the load: it never serves, the command names what
//! is wrong and what to do, and the releases keep the reason.

use crate::releases::write_app;
use crate::world::container::Container;
use crate::world::repository;
use crate::world::samples::in_documents;
use crate::{SOON, eventually, the_version, wait_settled};

/// A release that does not become live.
struct Bad {
    name: &'static str,
    /// Argument of `bad.py`, or a command of its own.
    runs: Runs,
    /// Lines of `[app]`, and tables after it.
    keys: &'static str,
    code: i32,
    /// In the first line.
    cause: &'static str,
    /// Among the last lines of the app; empty: it said nothing.
    said: &'static str,
    next: &'static str,
}

enum Runs {
    Way,
    Command(&'static str),
    File(Vec<u8>, u32),
}

/// Ready by then, on a machine that does other things too, is who ever will be.
const LATE: &str = "boot = \"3s\"\n";
const ASKED: &str = "boot = \"3s\"\n[health]\npath = \"/up\"\n";

impl Bad {
    fn exits(
        name: &'static str,
        cause: &'static str,
        said: &'static str,
        next: &'static str,
    ) -> Self {
        Self {
            name,
            runs: Runs::Way,
            keys: "",
            code: 6,
            cause,
            said,
            next,
        }
    }

    fn late(self, keys: &'static str) -> Self {
        Self { keys, ..self }
    }

    fn runs(self, runs: Runs) -> Self {
        Self { runs, ..self }
    }
}

/// A program of this machine with `from` replaced by `to`.
fn broken_program(from: &[u8], to: &[u8]) -> Runs {
    let mut program = std::fs::read("/bin/true").unwrap();
    let at = program.windows(from.len()).position(|it| it == from);
    let at = at.unwrap_or_else(|| panic!("no {} in /bin/true", from.escape_ascii()));
    program[at..at + from.len()].copy_from_slice(to);
    Runs::File(program, 0o755)
}

fn for_another_machine() -> Runs {
    let mut program = std::fs::read("/bin/true").unwrap();
    program[18] = if cfg!(target_arch = "aarch64") {
        62
    } else {
        183
    };
    Runs::File(program, 0o755)
}

fn script(first_line: &str) -> Runs {
    Runs::File(format!("{first_line}\necho hello\n").into_bytes(), 0o755)
}

fn late() -> Vec<Bad> {
    vec![
        Bad::exits(
            "other-port",
            "worker w0 was not ready within 3 s: it listens on 0.0.0.0:3000 instead of $PORT, which is ",
            "listening on 3000",
            "let it use $PORT, or set listen = \"port:3000\" in [app]",
        )
        .late(LATE),
        Bad::exits(
            "other-address",
            "worker w0 was not ready within 3 s: it listens on 10.7.7.7:",
            "listening on",
            "let it listen on 127.0.0.1, or on all addresses (0.0.0.0)",
        )
        .late(LATE),
        Bad::exits(
            "not-found",
            " answered 404",
            "listening on",
            "let the app answer /up, or set path in [health] to what it has",
        )
        .late(ASKED),
        Bad::exits(
            "unwell",
            " answered 500",
            "listening on",
            "see in its output why it is not well",
        )
        .late(ASKED),
        Bad::exits(
            "never",
            "worker w0 was not ready within 3 s: it listens nowhere, though $PORT is ",
            "still thinking",
            "let it listen on 127.0.0.1 at $PORT; if it only needs longer, raise boot in [app]",
        )
        .late(LATE),
    ]
}

fn what_lacks_something() -> Vec<Bad> {
    vec![
        Bad::exits(
            "no-runtime",
            "there is no program bun for it",
            "gapless: cannot start \"bun\"",
            "install bun where the service finds it, or name it by its full path",
        )
        .runs(Runs::Command("[\"bun\", \"server.ts\"]")),
        Bad::exits(
            "no-env",
            "its first line asks for nosuch, which is not there",
            "nosuch",
            "install nosuch where the service finds it, or name it by its full path",
        )
        .runs(script("#!/usr/bin/env nosuch")),
        Bad::exits(
            "no-interpreter",
            "its first line asks for /opt/nosuch/bin/x, which is not there",
            "gapless: cannot start",
            "install /opt/nosuch/bin/x where the service finds it",
        )
        .runs(script("#!/opt/nosuch/bin/x -q")),
        Bad::exits(
            "no-library",
            "the library libQ.so.6 is not on this machine",
            "error while loading shared libraries",
            "install the package that has libQ.so.6",
        )
        .runs(broken_program(b"libc.so.6\0", b"libQ.so.6\0")),
        Bad::exits(
            "new-libc",
            "it was built for GLIBC_9.34, which is newer than this machine",
            "not found",
            "build it on a system as old as this one, or link it statically",
        )
        .runs(broken_program(b"GLIBC_2.34\0", b"GLIBC_9.34\0")),
        Bad::exits("other-machine", "./app is built for ", "", "build it for ")
            .runs(for_another_machine()),
        Bad::exits(
            "no-module",
            "flask is not in the release",
            "No module named 'flask'",
            "install the dependencies into the release before it is deployed",
        ),
    ]
}

fn what_is_refused_or_ends() -> Vec<Bad> {
    vec![
        Bad {
            code: 5,
            ..Bad::exits("not-executable", "is not executable", "", "chmod")
                .runs(Runs::File(b"data\n".to_vec(), 0o644))
        },
        Bad::exits(
            "unreadable",
            "it has no permission for /root/key",
            "Permission denied: '/root/key'",
            "put it into the release, or let the user of the service read it; what the app writes \
             belongs into a directory of shared in [app]",
        ),
        Bad::exits(
            "read-only",
            "it wants to write /opt/log, which is read-only",
            "Read-only file system: '/opt/log'",
            "let it write into a directory of shared in [app] or into /tmp, or name the place by \
             ReadWritePaths= of the unit",
        ),
        Bad::exits(
            "memory",
            "it needs more memory than there is for it",
            "MemoryError",
            "give it more (MemoryMax= of the unit, memory in [limits], or the machine), or let it \
             take less",
        ),
        Bad::exits(
            "exit-3",
            "worker w0 exited with status 3 after ",
            "no database",
            "correct the app",
        ),
        Bad::exits(
            "exit-0",
            "it has to stay, and listen",
            "no database",
            "let it stay in the foreground: what it leaves in the background is ended with it",
        ),
        Bad::exits(
            "signal",
            "worker w0 was killed by SIGSEGV",
            "about to die",
            "correct the app",
        ),
        Bad::exits(
            "taken",
            "the port that it wants is taken",
            "Address already in use",
            "let it use $PORT: two generations run at the same time, each with its own; or set \
             listen = \"port:N\" in [app]",
        ),
        Bad::exits(
            "low-port",
            "it may not listen on the port that it wants",
            "Permission denied",
            "let it use $PORT: gapless itself is what listens below 1024",
        ),
    ]
}

fn write(container: &Container, bad: &Bad) -> String {
    let directory = format!("/root/{}", bad.name);
    let command = match &bad.runs {
        Runs::Way => {
            let app = std::fs::read(repository("tests/apps/bad.py")).unwrap();
            container.write(&format!("{directory}/bad.py"), &app, 0o644);
            format!(
                "[\"/usr/bin/python3\", \"-S\", \"-E\", \"bad.py\", \"{}\"]",
                bad.name
            )
        }
        Runs::Command(command) => (*command).to_owned(),
        Runs::File(bytes, mode) => {
            container.write(&format!("{directory}/app"), bytes, *mode);
            "[\"./app\"]".to_owned()
        }
    };
    let config = format!("[app]\ncommand = {command}\nstop = \"1s\"\n{}", bad.keys);
    container.write(
        &format!("{directory}/gapless.toml"),
        config.as_bytes(),
        0o644,
    );
    directory
}

fn is_refused(container: &Container, bad: &Bad) {
    let directory = write(container, bad);
    let name = bad.name;
    let told = container.try_sh(&format!("gapless deploy {directory} --release {name}"));
    assert_eq!(told.code(), bad.code, "{name}: {told}");
    let output = told.output();
    assert!(output.contains(bad.cause), "{name}: {told}");
    if bad.code == 5 {
        // Nothing was begun of it.
        assert!(!container.sh("gapless releases").contains(name), "{name}");
        return;
    }
    let next = output
        .lines()
        .find_map(|line| line.strip_prefix("  next: "));
    assert!(
        next.is_some_and(|next| next.starts_with(bad.next)),
        "{name}: {told}"
    );
    let how = "then gapless deploy; all it wrote: journalctl -u gapless.service";
    assert!(next.unwrap().ends_with(how), "{name}: {told}");
    assert!(
        output.contains("  now:  g1 serves on, as before\n"),
        "{name}: {told}"
    );
    let said = output
        .split_once("  its last lines:\n")
        .map(|(_, lines)| lines);
    let has_said = said.is_some_and(|lines| lines.contains(bad.said));
    assert!(has_said || bad.said.is_empty(), "{name}: {told}");
    let releases = container.sh("gapless releases; readlink /srv/gapless/gapless/current");
    let kept = releases
        .lines()
        .find(|line| line.starts_with(&format!("  {name} failed: ")));
    assert!(
        kept.is_some_and(|line| line.contains(bad.cause)),
        "{name}: {releases}"
    );
    let current = releases.lines().last();
    assert_eq!(current, Some("releases/good"), "{name}");
}

pub fn bad_apps_are_named_and_nobody_notices(container: &mut Container) {
    // What is deployed is brought to the disk, and that may be busy with something else.
    container.sh("mkdir -p /srv/gapless && mount -t tmpfs tmpfs /srv/gapless");
    write_app(container, "good");
    write_app(container, "better");
    container.sh("ip address add 10.7.7.7/32 dev lo && echo secret >/root/key");
    container.systemctl("enable --now gapless.socket gapless.service");
    container.sh("gapless deploy /root/good --release good");
    let main = container.main_pid();
    let load = container.load(&["--clients", "16", "--idle", "50"]);
    let all = [late(), what_lacks_something(), what_is_refused_or_ends()];
    for bad in all.iter().flatten() {
        is_refused(container, bad);
        assert_eq!(the_version(container), "good", "{}", bad.name);
    }
    a_directory_that_cannot_be_entered_is_named(container);
    what_is_refused_at_once_changes_nothing(container);
    the_way_there_and_back_is_told(container);
    a_hold_is_told_until_it_is_resumed(container);
    load.finish().expect_nothing_lost().expect_nothing_closed();
    assert_eq!(container.main_pid(), main);
    wait_settled(container);
    // Nothing of all that was tried is left.
    eventually("only keeper, front and worker are left", SOON, || {
        let left = container.processes();
        (!left.values().any(|it| it.contains("bad.py"))).then_some(())
    });
    let told = container.journal("-u gapless.service");
    // What is seen is told before it is decided.
    let mut lines = told
        .lines()
        .filter(|line| !line.contains("is not ready yet"));
    let line = lines.find(|line| line.contains("0.0.0.0:3000"));
    let whole = line.is_some_and(|line| line.contains("; next: let it use $PORT, or set listen"));
    assert!(whole, "{line:?}");
}

/// What `current` and `previous` name.
fn stored(container: &Container) -> (String, String) {
    let named = |link: &str| {
        let target = container.sh(&format!("readlink /srv/gapless/gapless/{link}"));
        target.trim().trim_start_matches("releases/").to_owned()
    };
    (named("current"), named("previous"))
}

fn what_is_refused_at_once_changes_nothing(container: &Container) {
    let releases = container.sh("gapless releases");
    for (line, code, said) in [
        ("gapless deploy /nonexistent", 5, "cannot read /nonexistent"),
        ("gapless rollback nosuch", 1, "there is no release nosuch"),
        ("gapless deploy /root/good --release good", 1, "good"),
        ("gapless deploi", 2, "deploy"),
        ("gapless --app shop status", 3, "there is no app shop"),
        (
            "runuser -u nobody -- gapless rollback",
            4,
            "run this with sudo",
        ),
    ] {
        let refused = container.try_sh(line);
        assert_eq!(refused.code(), code, "{line}: {refused}");
        assert!(refused.stderr.contains(said), "{line}: {refused}");
        assert_eq!(container.sh("gapless releases"), releases, "{line}");
    }
    assert_eq!(the_version(container), "good");
}

fn the_way_there_and_back_is_told(container: &Container) {
    let said = container.sh("gapless deploy /root/better --release better");
    let mut lines = said.lines();
    // One of those that failed made room.
    for step in [
        "staged", "started", "healthy", "swapped", "removed", "drained",
    ] {
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with(&format!("  {step} ")), "{step}: {said}");
    }
    let last = lines.next().unwrap_or_default();
    assert!(last.starts_with("better is live after "), "{said}");
    assert!(last.contains(" s: 0 of "), "{said}");
    assert!(
        last.ends_with(" lost.  Back: sudo gapless rollback"),
        "{said}"
    );
    assert_eq!(the_version(container), "better");
    assert_eq!(stored(container), ("better".into(), "good".into()));
    let said = container.sh("gapless rollback");
    in_documents("sudo gapless rollback").expect(&said.replace("good", "20261121-1"));
    assert_eq!(the_version(container), "good");
    assert_eq!(stored(container), ("good".into(), "better".into()));
}

fn a_hold_is_told_until_it_is_resumed(container: &Container) {
    let held = container.sh("gapless hold --for 1min");
    assert!(
        held.starts_with("held: nothing is in flight after "),
        "{held}"
    );
    assert!(
        held.contains("wait until gapless resume, at most 1min ("),
        "{held}"
    );
    let status = container.sh("gapless status");
    assert!(
        status.contains("\n  on hold    new requests wait since "),
        "{status}"
    );
    let resumed = container.sh("gapless resume");
    assert!(
        resumed.starts_with("resumed: requests go on after "),
        "{resumed}"
    );
    let again = container.sh("gapless resume");
    assert_eq!(again, "nothing was held; requests go on as before\n");
}

/// In /etc, where no staging makes it readable.
fn a_directory_that_cannot_be_entered_is_named(container: &Container) {
    let file = "/etc/gapless/gapless.toml";
    let config = b"[app]\ncommand = [\"/bin/sleep\", \"1000\"]\ndirectory = \"/root/good\"\n";
    container.push(file, config, 0o644);
    container.sh("chmod 0700 /root");
    let told = container.try_sh("gapless reload");
    assert_eq!(told.code(), 5, "{told}");
    for words in [
        "/root/good cannot be looked at: Permission denied",
        "let the user of the service read it",
        "g1 serves on, as before",
    ] {
        assert!(told.output().contains(words), "{told}");
    }
    container.sh(&format!("rm {file}"));
}
