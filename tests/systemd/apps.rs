//! Apps that were not written for gapless, and what they may touch.

use crate::deposits::what_it_keeps_outlives_everything_but_a_stop;
use crate::world::container::Container;
use crate::world::{eventually, version};
use crate::{QUICK, SOON, the_version};
use std::time::Duration;

/// Point 9.
pub fn apps_not_written_for_gapless_run_unchanged(container: &mut Container) {
    for script in [
        "answer.py",
        "python_port.py",
        "python_given.py",
        "node_port.js",
    ] {
        container.install(
            &format!("tests/apps/{script}"),
            &format!("/srv/apps/{script}"),
        );
    }
    for (program, script) in [
        ("python3", "python_port.py"),
        ("python3", "python_given.py"),
        ("node", "node_port.js"),
    ] {
        let config = |version: &str| {
            format!(
                "[app]\ncommand = [\"/usr/bin/{program}\", \"/srv/apps/{script}\"]\n\
                 directory = \"/srv/apps\"\nenv = {{ APP_VERSION = \"{version}\" }}\n"
            )
        };
        container.serve(&config("first"));
        container.systemctl("restart gapless.service");
        eventually(script, SOON, || {
            (the_version(container) == "first").then_some(())
        });
        let kinds = "get,post16k,pipelined,new";
        let load = container.load(&["--clients", "16", "--idle", "20", "--kinds", kinds]);
        container.push(
            "/etc/gapless/gapless.toml",
            config("second").as_bytes(),
            0o644,
        );
        container.systemctl("reload gapless.service");
        load.run_for(Duration::from_millis(500));
        let counted = load.finish();
        counted.expect_nothing_lost().expect_nothing_closed();
        assert!(
            counted.versions.contains_key("second"),
            "{script}: {counted:#?}"
        );
        container.systemctl("stop gapless.socket gapless.service");
    }
    what_it_keeps_outlives_everything_but_a_stop(container);
}

/// Those of the unit, and in a front one more, proc(5).
fn filters(container: &Container, pid: u32) -> u32 {
    let said = container.sh(&format!("grep '^Seccomp_filters:' /proc/{pid}/status"));
    said.split_whitespace().last().unwrap().parse().unwrap()
}

/// The app cannot touch what is not its own, and its lines are found in the journal.
pub fn the_sandbox_and_the_journal_are_as_promised(container: &mut Container) {
    let behaviour = version("v1").with("SAY", "<4>the app says hello");
    let look = "echo $(id -un) $(id -Gn) $GAPLESS_GENERATION; \
                grep -E 'Seccomp:|NoNewPrivs:|CapEff:' /proc/self/status; \
                readlink /proc/self/ns/mnt; cat /proc/self/cgroup; tty";
    let console = format!("console = ['sh', '-c', \"{look}\"]");
    container.serve_probe(&behaviour, &format!("{QUICK}\n{console}"), "");
    let fields = "-o json --output-fields=PRIORITY,MESSAGE,GAPLESS_GENERATION,_UID --no-pager";
    let lines = container.sh(&format!(
        "journalctl -u gapless.service {fields} | grep hello"
    ));
    assert!(lines.contains("\"PRIORITY\":\"4\""), "{lines}");
    let environment = container.get("/env");
    assert!(environment.contains("GAPLESS_GENERATION="), "{environment}");
    let of_keeper = filters(container, container.main_pid().unwrap());
    let of_front = filters(container, container.status().fronts[0].pid);
    let of_app = filters(container, container.worker_pids()[0]);
    assert_eq!((of_front, of_app), (of_keeper + 1, of_keeper));
    let user = container.sh(&format!("ps -o user= -p {}", container.worker_pids()[0]));
    assert_eq!(user.trim(), "gapless");
    the_console_is_within_the_unit(container);
    let another =
        container.try_sh("setpriv --reuid 65534 --regid 65534 --clear-groups gapless console");
    assert_eq!(another.code(), 4, "{another}");
    let own = container.sh("gapless logs -g 1 -n all");
    assert!(own.contains("the app says hello"), "{own}");
    assert!(own.contains("g1 is live"), "{own}");
    let none = container.try_sh("gapless logs -g 99");
    assert_eq!(none.code(), 1, "{none}");
    assert_eq!(
        container.sh("stat -c %U:%G /run/gapless").trim(),
        "gapless:gapless"
    );
}

/// As the worker: its user, its sandbox, its mounts; its control group and terminal are its own.
fn the_console_is_within_the_unit(container: &Container) {
    let said = container.sh("gapless console");
    let worker = container.worker_pids()[0];
    let mounts = container.sh(&format!("readlink /proc/{worker}/ns/mnt"));
    assert_ne!(mounts, container.sh("readlink /proc/1/ns/mnt"));
    for part in [
        "gapless gapless 1\n",
        "NoNewPrivs:\t1\n",
        "Seccomp:\t2\n",
        "CapEff:\t0000000000000000\n",
        mounts.as_str(),
        "/gapless.service/console0\n",
        "/dev/pts/",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}
