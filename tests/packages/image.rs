//! The image of packaging/container/Containerfile, without a registry: the tree that it describes,
//! made by the script that it runs, entered as a container runtime would, with gapless as pid 1.

use crate::build::{build_binary, run};
use crate::world::process::{self, Finished};
use crate::world::service::{SOON, get};
use crate::world::{Scratch, eventually, repository, skip, tool};
use gapless::api::Status;
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the last stage of the Containerfile says after `instruction`.
fn said(instruction: &str) -> String {
    let text = std::fs::read_to_string(repository("packaging/container/Containerfile")).unwrap();
    let (_, last) = text.rsplit_once("\nFROM ").unwrap();
    let mut lines = last.lines();
    let line = lines.find_map(|line| line.strip_prefix(instruction));
    line.unwrap_or_else(|| panic!("no {instruction}"))
        .trim()
        .to_owned()
}

fn entrypoint() -> Vec<String> {
    serde_json::from_str(&said("ENTRYPOINT")).unwrap()
}

fn as_user() -> [String; 4] {
    let user = said("USER");
    let (user, group) = user.split_once(':').unwrap();
    ["--setgid", group, "--setuid", user].map(ToOwned::to_owned)
}

/// A container of it, with `app` as somebody's `FROM gapless`. Dropped, all of it is killed.
struct Image {
    tree: Scratch,
    /// unshare(1), whose only child is pid 1 there.
    runtime: Child,
    /// As this machine sees it.
    init: u32,
}

impl Image {
    fn start() -> Self {
        build_binary();
        let tree = Scratch::new();
        let root = tree.0.display().to_string();
        run(Command::new(repository("packaging/container/tree.sh")).arg(&root));
        std::fs::set_permissions(&tree.0, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::copy(tool("probe-app"), tree.0.join("app/myapp")).unwrap();
        // What every container runtime brings.
        for mount in ["proc", "dev"] {
            std::fs::create_dir(tree.0.join(mount)).unwrap();
        }
        let null = format!("{root}/dev/null");
        run(Command::new("mknod").args(["-m", "666", &null, "c", "1", "3"]));
        let log = std::fs::File::create(tree.0.join("log")).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.arg(format!("--root={root}"));
        unshare.arg(format!("--wd={}", said("WORKDIR")));
        unshare.args(as_user()).args(entrypoint());
        // As podman's --env PORT=0 would: other tests have other ports.
        unshare
            .args(["--", "/app/myapp"])
            .env_clear()
            .env("PORT", "0");
        unshare
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let runtime = unshare.spawn().unwrap();
        let init = eventually("it has a pid 1", SOON, || only_child(runtime.id()));
        let image = Self {
            tree,
            runtime,
            init,
        };
        eventually("it is healthy", SOON, || {
            image.status().filter(|it| it.healthy)
        });
        image
    }

    /// `podman exec`.
    fn exec(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.init.to_string(),
            "--all",
            "--root",
            "--wd",
        ]);
        command.args(as_user()).args(arguments).env_clear();
        process::run(command, SOON)
    }

    fn status(&self) -> Option<Status> {
        serde_json::from_str(&self.exec(&["/usr/bin/gapless", "status", "--json"]).stdout).ok()
    }

    fn address(&self) -> String {
        let address = self.status().unwrap().listeners[0].address.clone();
        assert!(address.starts_with("0.0.0.0:"), "{address}");
        address.replace("0.0.0.0", "127.0.0.1")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.tree.0.join("log")).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        process::signal(self.init, Signal::KILL);
        let _ended = process::wait(&mut self.runtime, SOON);
    }
}

fn only_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let child = children.split_whitespace().next()?.parse().ok()?;
    let is_gapless = process::see(child)?.command.starts_with("/usr/bin/gapless");
    is_gapless.then_some(child)
}

/// A process below pid 1 whose parent has left it alone.
fn orphan(image: &Image) -> u32 {
    let target = image.init.to_string();
    let mut nsenter = Command::new("nsenter");
    // With the programs of this machine: the image has none.
    nsenter.args(["--target", &target, "--pid", "sh", "-c"]);
    nsenter.arg("sleep 600 </dev/null >/dev/null 2>&1 &");
    run(&mut nsenter);
    eventually("pid 1 has an orphan", SOON, || {
        let path = format!("/proc/{0}/task/{0}/children", image.init);
        let children = std::fs::read_to_string(path).unwrap();
        let mut children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children.find(|pid| process::see(*pid).is_some_and(|it| it.command == "sleep 600"))
    })
}

#[test]
fn as_pid_1_of_the_smallest_image_it_reaps_orphans_reloads_at_sighup_and_drains_at_sigterm() {
    if !rustix::process::geteuid().is_root() {
        return skip("a pid namespace needs root; run `make test` as root");
    }
    let mut image = Image::start();
    let address = image.address();
    assert_eq!(said("STOPSIGNAL"), "SIGTERM");
    assert!(get(&address, "/echo").expect_ok().starts_with("v1"));
    let seen = image.exec(&["/usr/bin/gapless", "status"]).output();
    assert!(seen.contains("keeper     pid 1,"), "{seen}");

    let left = orphan(&image);
    assert!(process::signal(left, Signal::KILL));
    // A zombie would still have a directory.
    eventually("the orphan is reaped", SOON, || {
        (!Path::new(&format!("/proc/{left}")).exists()).then_some(())
    });

    assert!(process::signal(image.init, Signal::HUP));
    eventually("the second generation serves alone", SOON, || {
        let generations = image.status()?.generations;
        (generations.len() == 1 && generations[0].state == "live" && generations[0].id.0 == 2)
            .then_some(())
    });

    let slow = {
        let address = address.clone();
        std::thread::spawn(move || get(&address, "/slow?ms=1500"))
    };
    eventually("a request is under way", SOON, || {
        (image.status()?.fronts[0].in_flight == 1).then_some(())
    });
    assert!(process::signal(image.init, Signal::TERM));
    assert!(slow.join().unwrap().expect_ok().starts_with("v1"));
    let ended = process::wait(&mut image.runtime, SOON).unwrap();
    assert!(ended.success(), "{ended}: {}", image.log());
}
