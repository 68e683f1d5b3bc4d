//! Real systems: throw-away Debian containers, each with its own systemd as pid 1, its own network
//! and gapless installed as a package would install it.
//!
//! An overlay over a cached base tree (`bases.sh`), booted by systemd-nspawn in the one form that
//! works on hosts with and without systemd. Needs root.

use super::cgroup::Cgroup;
use super::load::Load;
use super::long::Long;
use super::process::{self, Finished};
use super::{Behaviour, eventually, gapless, repository, tool, unique};
use gapless::api::Status;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

const BOOT_WITHIN: Duration = Duration::from_mins(1);
const COMMAND_WITHIN: Duration = Duration::from_mins(2);
/// A base tree, which is downloaded.
const BUILT_WITHIN: Duration = Duration::from_mins(20);

/// The bases: systemd 252 and 257.
pub const BASES: [&str; 2] = ["bookworm", "trixie"];

/// trixie with the runtimes of examples/ in it: tests/runtimes/tree.sh.
pub const RUNTIMES: &str = "trixie-apps";

/// One container. Dropped, it is powered off and everything of it is removed.
pub struct Container {
    base: String,
    name: String,
    directory: PathBuf,
    root: PathBuf,
    machine: Option<Machine>,
    is_mounted: bool,
    /// Otherwise the units of all containers on the machine would share theirs: nspawn makes its
    /// own below the one that it is started in.
    cgroup: Option<Cgroup>,
}

/// One boot of it.
struct Machine {
    nspawn: Child,
    /// As the host sees it.
    init: u32,
}

/// What is missing on this host to boot containers, if anything.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root; run `make test` as root".into());
    }
    let tools = ["systemd-nspawn", "nsenter", "setpriv", "ip", "mmdebstrap"];
    let absent: Vec<_> = tools
        .into_iter()
        .filter(|tool| !is_installed(tool))
        .collect();
    let remedy = "apt-get install systemd-container util-linux iproute2 mmdebstrap \
                  debian-archive-keyring, as `make test` does on Debian and Ubuntu";
    (!absent.is_empty()).then(|| format!("{} missing; {remedy}", absent.join(", ")))
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Where the base trees and the containers are; builds the tree of `base` when it is missing.
fn cache(base: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    if let Some(path) = built.get(base) {
        return path.clone();
    }
    let mut script = Command::new(repository(if base == RUNTIMES {
        "tests/runtimes/tree.sh"
    } else {
        "tests/world/bases.sh"
    }));
    script.arg(base);
    let path = process::run(script, BUILT_WITHIN).expect_success();
    let path = PathBuf::from(path.trim());
    sweep(&path.join("run"));
    built.insert(base.to_owned(), path.clone());
    path
}

/// Removes what test processes that were killed left behind.
fn sweep(run: &Path) {
    for entry in std::fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let owner = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
        if owner.is_some_and(|pid| process::pidfd(pid).is_none()) {
            remove(&name, &entry.path());
        }
    }
}

fn remove(name: &str, directory: &Path) {
    for (program, arguments) in [
        (
            "umount",
            vec!["--lazy".into(), directory.join("root").into_os_string()],
        ),
        (
            "umount",
            vec!["--lazy".into(), directory.as_os_str().to_owned()],
        ),
        ("ip", vec!["netns".into(), "delete".into(), name.into()]),
        (
            "rm",
            vec![
                "-rf".into(),
                "--one-file-system".into(),
                directory.as_os_str().to_owned(),
            ],
        ),
    ] {
        let mut command = Command::new(program);
        command.args(arguments);
        // Whatever comes of it: what is not there need not be removed.
        process::run(command, COMMAND_WITHIN);
    }
}

impl Container {
    /// A booted container with gapless installed and the probe app in /srv/probe, nothing started.
    pub fn boot(base: &str) -> Self {
        let mut container = Self::prepare(base);
        container.start();
        container.furnish();
        container
    }

    /// A booted container with the probe app in /srv/probe and without gapless.
    pub fn boot_bare(base: &str) -> Self {
        let mut container = Self::prepare(base);
        container.start();
        container.furnish_around();
        container
    }

    /// A container that is not booted yet, with nothing of ours in it.
    pub fn prepare(base: &str) -> Self {
        let cache = cache(base);
        let name = format!("{base}-{}", unique());
        let directory = cache.join("run").join(&name);
        let root = directory.join("root");
        let lower = cache.join("base").join(base);
        let mut container = Self {
            base: base.into(),
            name,
            directory,
            root,
            machine: None,
            is_mounted: false,
            cgroup: Cgroup::new(),
        };
        container.make_directories();
        if !container.mount(&lower) {
            // An overlay cannot lie on an overlay: inside another container, use memory.
            let path = container.directory.display().to_string();
            host("mount", &["-t", "tmpfs", "tmpfs", &path]);
            container.make_directories();
            assert!(
                container.mount(&lower),
                "cannot mount an overlay over {}",
                lower.display()
            );
        }
        container.is_mounted = true;
        host("ip", &["netns", "add", &container.name]);
        host("ip", &["-n", &container.name, "link", "set", "lo", "up"]);
        container
    }

    fn make_directories(&self) {
        for part in ["upper", "work", "root"] {
            std::fs::create_dir_all(self.directory.join(part)).unwrap();
        }
    }

    fn mount(&self, lower: &Path) -> bool {
        let directory = self.directory.display();
        let options = format!(
            "lowerdir={},upperdir={directory}/upper,workdir={directory}/work",
            lower.display()
        );
        let mut command = Command::new("mount");
        command
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(&self.root);
        process::run(command, COMMAND_WITHIN).status.success()
    }

    /// Writes a file into the tree, before the boot.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Boots; also after a [`Self::reboot`].
    pub fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.console_path())
            .unwrap();
        // Killed with the thread of its test, so that a test that is killed leaves no system running.
        let mut command = match &self.cgroup {
            Some(cgroup) => cgroup.command("setpriv"),
            None => Command::new("setpriv"),
        };
        command.args([
            "--pdeathsig",
            "KILL",
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
        ]);
        command.args([
            "--console=pipe",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
        ]);
        // nspawn refuses these to whatever runs in it, and a machine does not.
        command.arg(
            "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        );
        command.arg(format!(
            "--network-namespace-path={}",
            self.network().display()
        ));
        command
            .arg(format!("--machine={}", self.name))
            .arg("--directory")
            .arg(&self.root);
        command
            .arg("--boot")
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut nspawn = command.spawn().unwrap();
        let init = eventually("the container has a pid 1", BOOT_WITHIN, || {
            if let Some(status) = nspawn.try_wait().unwrap() {
                panic!("systemd-nspawn ended with {status}\n{}", self.console());
            }
            init_of(nspawn.id())
        });
        self.machine = Some(Machine { nspawn, init });
        eventually("the container is up", BOOT_WITHIN, || {
            let state = self.try_sh("systemctl is-system-running").stdout;
            ["running", "degraded"]
                .contains(&state.trim())
                .then_some(())
        });
    }

    /// What a package of gapless does (without its scripts: see tests/packages.rs), and the probe app.
    fn furnish(&self) {
        self.push(
            "/usr/bin/gapless",
            &std::fs::read(gapless()).unwrap(),
            0o755,
        );
        for unit in [
            "gapless.service",
            "gapless.socket",
            "gapless@.service",
            "gapless@.socket",
            "gapless-admin.socket",
            "gapless-admin@.socket",
            "gapless-control.socket",
            "gapless-control@.socket",
            "gapless-tmp.service",
            "gapless-tmp@.service",
        ] {
            self.install(
                &format!("units/{unit}"),
                &format!("/usr/lib/systemd/system/{unit}"),
            );
        }
        self.install("units/gapless.sysusers", "/usr/lib/sysusers.d/gapless.conf");
        self.install("units/gapless.tmpfiles", "/usr/lib/tmpfiles.d/gapless.conf");
        self.furnish_around();
        self.sh(
            "systemd-sysusers && systemd-tmpfiles --create gapless.conf && systemctl daemon-reload",
        );
    }

    /// What no package brings: the limits of this host, and the probe app.
    fn furnish_around(&self) {
        if let Some(limit) = fds_allowed() {
            let text = format!("[Service]\nLimitNOFILE={limit}\n");
            for unit in ["gapless.service", "gapless@.service"] {
                let path = format!("/etc/systemd/system/{unit}.d/fds-of-the-test-host.conf");
                self.push(&path, text.as_bytes(), 0o644);
            }
        }
        self.push(
            "/srv/probe/probe-app",
            &std::fs::read(tool("probe-app")).unwrap(),
            0o755,
        );
    }

    /// Copies a file of the repository.
    pub fn install(&self, from: &str, to: &str) {
        self.push(to, &std::fs::read(repository(from)).unwrap(), 0o644);
    }

    /// What the probe app does from its next start on.
    pub fn behave(&self, behaviour: &Behaviour) {
        self.push("/srv/probe/behaviour", behaviour.text().as_bytes(), 0o644);
    }

    /// gapless.service runs the probe app; `keys` are of `[app]`, `more` are further tables.
    pub fn serve_probe(&self, behaviour: &Behaviour, keys: &str, more: &str) {
        self.behave(behaviour);
        let config = super::probe_config("/srv/probe", "/srv/probe/probe-app", keys, more);
        self.serve(&config);
    }

    /// Enables and starts socket and service with this configuration.
    pub fn serve(&self, config: &str) {
        self.push("/etc/gapless/gapless.toml", config.as_bytes(), 0o644);
        self.systemctl("enable --now gapless.socket gapless.service");
    }

    /// A command inside, whatever comes of it.
    pub fn try_sh(&self, script: &str) -> Finished {
        let mut command = self.inside();
        command.args(["sh", "-c", script]);
        process::run(command, COMMAND_WITHIN)
    }

    /// A command inside that has to succeed; its output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).expect_success()
    }

    /// `systemctl`, which has to succeed.
    #[track_caller]
    pub fn systemctl(&self, arguments: &str) -> String {
        let done = self.try_sh(&format!("systemctl --no-pager {arguments}"));
        let success = done.status.success();
        assert!(
            success,
            "{done}\n{}\n{}",
            self.state(),
            self.journal("-n 80")
        );
        done.stdout
    }

    /// A command with the root, pids, network and cgroups of the container.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.init().to_string()])
            .env_clear();
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        command.env("HOME", "/root");
        command.env("TERM", "dumb").current_dir("/");
        command
    }

    /// Writes a file into the running container, whole: readers see the old or the new.
    pub fn push(&self, path: &str, bytes: &[u8], mode: u32) {
        let script = format!(
            "mkdir -p $(dirname {path}) && cat >{path}.new && chmod {mode:o} {path}.new \
             && mv {path}.new {path}"
        );
        let mut command = self.inside();
        let mut child = command
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(
            child.wait().unwrap().success(),
            "cannot write {path} in {}",
            self.name
        );
    }

    /// Reboots it, by its own systemctl, and waits until it is up again.
    pub fn reboot(&mut self) {
        // The connection to systemd may break before the answer.
        drop(self.try_sh("systemctl reboot --no-wall"));
        let mut machine = self.machine.take().unwrap();
        let status = process::wait(&mut machine.nspawn, BOOT_WITHIN);
        // 133: the container asks to be booted again, which is for us to do (--keep-unit).
        assert_eq!(
            status.and_then(|status| status.code()),
            Some(133),
            "{}",
            self.console()
        );
        self.start();
    }

    /// The load, on the network of the container but not in it.
    pub fn load(&self, arguments: &[&str]) -> Load {
        self.load_at("127.0.0.1:8888", arguments)
    }

    /// The same on another address.
    pub fn load_at(&self, address: &str, arguments: &[&str]) -> Load {
        Load::start_in(&self.network(), address, arguments)
    }

    /// A connection to who listens inside, if somebody does.
    pub fn connect(&self, address: &str) -> std::io::Result<TcpStream> {
        let namespace = File::open(self.network()).unwrap();
        let connecting = || {
            // Of this thread alone; the connection stays what it is.
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            TcpStream::connect(address)
        };
        std::thread::scope(|scope| scope.spawn(connecting).join().unwrap())
    }

    /// A path inside, as this machine reaches it: also what is mounted there.
    pub fn reach(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init()))
    }

    /// The ports of all who are connected to gapless.service.
    pub fn client_ports(&self) -> BTreeSet<u16> {
        let text = self.sh("ss -Htn state established dport = 8888");
        let ports = text.lines().filter_map(|line| {
            let local = line.split_whitespace().nth(2)?;
            local.rsplit(':').next()?.parse().ok()
        });
        ports.collect()
    }

    /// What is under way all the time, likewise.
    pub fn long(&self, tunnels: usize) -> Long {
        Long::begin_in(&self.network(), "127.0.0.1:8888", tunnels)
    }

    /// `gapless.service`'s journal, or whatever else the arguments choose.
    pub fn journal(&self, arguments: &str) -> String {
        self.try_sh(&format!(
            "journalctl --no-pager -o short-precise {arguments}"
        ))
        .output()
    }

    /// `systemctl status` of what is ours.
    pub fn state(&self) -> String {
        self.try_sh("systemctl --no-pager --full status 'gapless*'")
            .output()
    }

    /// A property of gapless.service.
    pub fn property(&self, name: &str) -> String {
        self.systemctl(&format!("show --value -p {name} gapless.service"))
            .trim()
            .to_owned()
    }

    /// Of gapless.service, as seen inside; none between two runs.
    pub fn main_pid(&self) -> Option<u32> {
        // `0` must never reach a kill: it would mean the process group of the test.
        self.property("MainPID").parse().ok().filter(|pid| *pid > 1)
    }

    /// `gapless status --json`.
    pub fn status(&self) -> Status {
        self.status_of("gapless")
    }

    /// The same of an instance.
    pub fn status_of(&self, name: &str) -> Status {
        // Its exit code says whether all is well, which is not the question here.
        let text = self.try_sh(&format!("gapless status --json {name}")).stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Pids of the live generation's workers, as seen inside.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.worker_pids_of("gapless")
    }

    /// The same of an instance.
    pub fn worker_pids_of(&self, name: &str) -> Vec<u32> {
        let status = self.status_of(name);
        let live = status
            .generations
            .iter()
            .filter(|generation| generation.state == "live");
        live.flat_map(|generation| generation.workers.iter().filter_map(|worker| worker.pid))
            .collect()
    }

    /// Sends a signal to one process inside, by its pid there.
    pub fn kill(&self, signal: &str, pid: u32) {
        self.sh(&format!("kill -{signal} {pid}"));
    }

    /// The command lines of all processes that belong to gapless or its apps, by pid.
    pub fn processes(&self) -> BTreeMap<u32, String> {
        let text =
            self.sh("ps -eo pid=,args= | grep -E 'gapless|probe-app|/srv/' | grep -v grep || true");
        text.lines()
            .filter_map(|line| {
                let (pid, command) = line.trim().split_once(' ')?;
                Some((pid.parse().ok()?, command.to_owned()))
            })
            .collect()
    }

    /// GET from gapless.service, once; the body of a good answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        self.get_from("8888", path)
    }

    /// The same from another port.
    #[track_caller]
    pub fn get_from(&self, port: &str, path: &str) -> String {
        let script = format!(
            "import urllib.request as u\n\
             print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=30).read().decode(), end='')"
        );
        let mut command = self.inside();
        command.args(["python3", "-c", &script]);
        process::run(command, COMMAND_WITHIN).expect_success()
    }

    fn init(&self) -> u32 {
        self.machine.as_ref().expect("the container is booted").init
    }

    fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn console_path(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.console_path()).unwrap_or_default()
    }

    /// Powers it off.
    fn stop(&mut self) {
        let Some(mut machine) = self.machine.take() else {
            return;
        };
        // nspawn passes SIGTERM on as a request to power off.
        process::signal(machine.nspawn.id(), Signal::TERM);
        if process::wait(&mut machine.nspawn, Duration::from_secs(20)).is_none() {
            drop(machine.nspawn.kill());
            drop(machine.nspawn.wait());
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() && self.machine.is_some() {
            let journal = self.journal("-b -n 150 _PID=1 + _SYSTEMD_UNIT=gapless.service");
            eprintln!(
                "--- {} ({}): state\n{}\n--- journal\n{journal}",
                self.name,
                self.base,
                self.state()
            );
        }
        self.stop();
        if self.is_mounted {
            remove(&self.name, &self.directory);
        }
    }
}

fn host(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    process::run(command, COMMAND_WITHIN).expect_success();
}

/// The child of nspawn that is the container's init.
fn init_of(nspawn: u32) -> Option<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("systemd"))
        })
}

/// The fds that this host allows a process, where that is less than the unit asks for.
fn fds_allowed() -> Option<u64> {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum?;
    (hard < 65_536).then_some(hard)
}
