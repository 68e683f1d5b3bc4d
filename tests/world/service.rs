//! Plays systemd for one service: creates its sockets, hears its notifications, keeps its fds and
//! gives them back at the next start, as systemd 252 to 257 do.
//!
//! What it does not play: jobs, ExecStop= and ExecStopPost=, start limits, the sandbox.
//! Those are ring 3's. It never restarts anything by itself: a test says `start`.

mod ear;
mod reply;

use ear::Ear;
use reply::{ask, try_ask};

#[allow(
    unused_imports,
    reason = "every test crate uses its own part of the world"
)]
pub use self::{
    ear::{Heard, Message},
    reply::{Reply, get, get_unix, receive},
};

use super::cgroup::Cgroup;
use super::journal::Journal;
use super::load::Load;
use super::process::{self, Finished, Seen};
use super::{Behaviour, Scratch, eventually, gapless, tool, unique, write_whole};
use command_fds::{CommandFdExt, FdMapping};
use gapless::api::Status;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a test waits for at most, where the configuration gives no other limit.
pub const SOON: Duration = Duration::from_secs(20);

/// A service under the played systemd. Dropped, every process of it is killed.
pub struct Service {
    name: String,
    pub scratch: Scratch,
    given: Vec<(String, OwnedFd)>,
    address: Option<SocketAddr>,
    ear: Ear,
    main: Option<Child>,
    /// In the environment of every process of it.
    mark: String,
    cgroup: Option<Cgroup>,
    environment: BTreeMap<String, String>,
    watchdog: Option<Duration>,
    /// Program and arguments: `gapless serve NAME`.
    main_command: Vec<OsString>,
}

impl Service {
    /// A service `NAME` without sockets or configuration, not started.
    pub fn new(name: &str) -> Self {
        let scratch = Scratch::new();
        for directory in ["state", "cache", "etc"] {
            std::fs::create_dir(scratch.0.join(directory)).unwrap();
        }
        // Where the command line looks for an instance that is none of this machine's services.
        std::fs::create_dir_all(runtime_directory(&scratch, name)).unwrap();
        let ear = Ear::new(scratch.0.join("notify"));
        Self {
            name: name.into(),
            given: Vec::new(),
            address: None,
            ear,
            main: None,
            mark: format!("TEST_MARK={}", unique()),
            cgroup: Cgroup::new(),
            environment: BTreeMap::new(),
            watchdog: None,
            main_command: vec![gapless().into(), "serve".into(), name.into()],
            scratch,
        }
    }

    /// As where systemd delegates no control group.
    pub fn live_in_no_group(&mut self) {
        self.cgroup = None;
    }

    /// `gapless` with one TCP socket `http`, running the probe app; ready. `keys` are of `[app]`,
    /// `more` are further tables.
    pub fn probe(behaviour: &Behaviour, keys: &str, more: &str) -> Self {
        let mut service = Self::new("gapless");
        service.listen_tcp("http");
        service.behave(behaviour);
        service.configure_probe(keys, more);
        service.start();
        service.wait_ready();
        service
    }

    /// A TCP socket on a port of the kernel's choice, open before anything runs.
    pub fn listen_tcp(&mut self, name: &str) -> SocketAddr {
        // Else every process that another thread starts meanwhile has it, too.
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        sockopt::set_socket_reuseport(&fd, true).unwrap();
        bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listen(&fd, 4096).unwrap();
        let listener = TcpListener::from(fd);
        let address = listener.local_addr().unwrap();
        self.given.push((name.into(), listener.into()));
        *self.address.get_or_insert(address)
    }

    /// A unix socket; its path.
    pub fn listen_unix(&mut self, name: &str) -> PathBuf {
        let path = self.scratch.0.join(format!("{name}.sock"));
        self.given
            .push((name.into(), UnixListener::bind(&path).unwrap().into()));
        path
    }

    /// Any other fd, as a socket unit would pass it.
    pub fn give(&mut self, name: &str, fd: OwnedFd) {
        self.given.push((name.into(), fd));
    }

    /// The same in place of what was passed by this name.
    pub fn give_again(&mut self, name: &str, fd: OwnedFd) {
        self.given.retain(|(known, _)| known != name);
        self.give(name, fd);
    }

    /// The socket at this address is taken out of the unit; it is open for as long as somebody has it.
    pub fn take_out(&mut self, address: &str) -> Option<OwnedFd> {
        let at = |fd: &OwnedFd| gapless::systemd::given::socket_address(fd).ok();
        let place = self
            .given
            .iter()
            .position(|(_, fd)| at(fd).as_deref() == Some(address))?;
        Some(self.given.remove(place).1)
    }

    /// A variable of the unit's Environment=.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.into(), value.into());
    }

    /// WatchdogSec=; the test looks at the messages, nothing is killed.
    pub fn watch(&mut self, limit: Duration) {
        self.watchdog = Some(limit);
    }

    /// Runs another program as the main process: for the rig's own tests.
    pub fn run_instead(&mut self, command: &[&str]) {
        self.main_command = command.iter().map(OsString::from).collect();
    }

    /// Its log goes to the played journal from its next start on.
    pub fn log_to(&mut self, journal: &Journal) {
        let before = journal.wrapper().into_iter().map(OsString::from);
        self.main_command = before.chain(self.main_command.drain(..)).collect();
    }

    pub fn configure(&self, text: &str) {
        write_whole(
            &self
                .scratch
                .0
                .join("etc")
                .join(format!("{}.toml", self.name)),
            text,
        );
    }

    pub fn configure_probe(&self, keys: &str, more: &str) {
        let directory = self.scratch.0.display().to_string();
        let program = tool("probe-app").display().to_string();
        self.configure(&super::probe_config(&directory, &program, keys, more));
    }

    /// What the probe app does from its next start on.
    pub fn behave(&self, behaviour: &Behaviour) {
        write_whole(&self.scratch.0.join("behaviour"), &behaviour.text());
    }

    /// Starts the main process with its sockets and everything in the store.
    pub fn start(&mut self) {
        assert!(self.main.is_none(), "it runs already");
        let fds = self.fds_to_give();
        let mut command = self.shell(fds.len());
        let names: Vec<_> = fds.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        let mappings = fds
            .into_iter()
            .zip(3..)
            .map(|((_, parent_fd), child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        command.fd_mappings(mappings.collect()).unwrap();
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output_path())
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        // Held over the spawn, so that the first message already finds its sender known.
        let mut heard = self.ear.heard.0.lock().unwrap();
        let child = command.spawn().unwrap();
        heard.main = child.id();
        drop(heard);
        self.main = Some(child);
    }

    /// `exec gapless serve NAME` behind a shell that knows its own pid, which becomes the main one's.
    fn shell(&self, fds: usize) -> Command {
        let mut command = Command::new("/bin/sh");
        command.env_clear();
        let mut script = String::new();
        if let Some(cgroup) = &self.cgroup {
            let procs = cgroup.0.join("cgroup.procs");
            script = format!("echo $$ >{} && ", procs.display());
        }
        if fds > 0 {
            script.push_str("LISTEN_PID=$$; export LISTEN_PID; ");
            command.env("LISTEN_FDS", fds.to_string());
        }
        if let Some(limit) = self.watchdog {
            script.push_str("WATCHDOG_PID=$$; export WATCHDOG_PID; ");
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        script.push_str("exec \"$@\"");
        command.args(["-c", &script, "sh"]).args(&self.main_command);
        command.envs(self.unit_environment()).current_dir("/");
        command
    }

    /// What systemd sets for every process of the unit, control commands included.
    fn unit_environment(&self) -> Vec<(String, String)> {
        let directory = |name: &str| self.scratch.0.join(name).display().to_string();
        let (key, value) = self.mark.split_once('=').unwrap();
        let mut all: Vec<(String, String)> = [
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".into(),
            ),
            ("LANG", "C.UTF-8".into()),
            ("NOTIFY_SOCKET", self.ear.path.display().to_string()),
            ("INVOCATION_ID", "0123456789abcdef0123456789abcdef".into()),
            (
                "RUNTIME_DIRECTORY",
                runtime_directory(&self.scratch, &self.name)
                    .display()
                    .to_string(),
            ),
            ("XDG_RUNTIME_DIR", directory("run")),
            ("STATE_DIRECTORY", directory("state")),
            ("CACHE_DIRECTORY", directory("cache")),
            ("CONFIGURATION_DIRECTORY", directory("etc")),
            ("GAPLESS_STORE", directory("store")),
            (key, value.into()),
        ]
        .map(|(key, value): (&str, String)| (key.to_owned(), value))
        .into();
        all.extend(self.environment.clone());
        all
    }

    /// Socket fds first, then stored ones, newest first. Non-blocking, as with NonBlocking=yes.
    fn fds_to_give(&self) -> Vec<(String, OwnedFd)> {
        let heard = self.ear.heard.0.lock().unwrap();
        let given = self.given.iter().map(|(name, fd)| (name, fd.as_fd()));
        let stored = heard
            .store
            .iter()
            .rev()
            .map(|stored| (&stored.name, stored.fd.as_fd()));
        given
            .chain(stored)
            .map(|(name, fd)| {
                fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
                (name.clone(), fd.try_clone_to_owned().unwrap())
            })
            .collect()
    }

    /// Waits for READY=1 of the process that runs now.
    #[track_caller]
    pub fn wait_ready(&self) {
        let pid = self.main_pid();
        self.wait_for("READY=1", SOON, |heard| {
            let mut all = heard.messages.iter().filter(|message| message.pid == pid);
            all.any(|message| message.get("READY") == Some("1"))
                .then_some(())
        });
    }

    /// Waits until what was heard has an answer to `question`.
    #[track_caller]
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut(&Heard) -> Option<T>,
    ) -> T {
        let end = Instant::now() + limit;
        let mut heard = self.ear.heard.0.lock().unwrap();
        loop {
            if let Some(answer) = question(&heard) {
                return answer;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(heard);
                panic!("not within {limit:?}: {what}\n{}", self.story());
            }
            heard = self.ear.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Looks at what was heard.
    pub fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.ear.heard.0.lock().unwrap())
    }

    /// The last STATUS=.
    pub fn said(&self) -> Option<String> {
        self.heard(|heard| {
            heard
                .messages
                .iter()
                .rev()
                .find_map(|message| message.get("STATUS").map(str::to_owned))
        })
    }

    /// Its value moves on with every call: messages heard after it are `heard.messages[mark..]`.
    pub fn heard_so_far(&self) -> usize {
        self.heard(|heard| heard.messages.len())
    }

    /// RUNTIME_DIRECTORY.
    /// Of the one app.
    pub fn state_directory(&self) -> PathBuf {
        self.scratch.0.join("state")
    }

    pub fn runtime_directory(&self) -> PathBuf {
        runtime_directory(&self.scratch, &self.name)
    }

    pub fn main_pid(&self) -> u32 {
        self.main.as_ref().expect("it was started").id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(self.main.as_ref().expect("it was started"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The main process was started and has not ended; one that did is reaped.
    pub fn is_running(&mut self) -> bool {
        let main = self.main.as_mut();
        if main.is_some_and(|main| main.try_wait().unwrap().is_some()) {
            self.main = None;
        }
        self.main.is_some()
    }

    /// Waits for the main process to end by itself.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let status = process::wait(self.main.as_mut().expect("it was started"), limit);
        let Some(status) = status else {
            panic!(
                "the main process did not end within {limit:?}\n{}",
                self.story()
            )
        };
        self.main = None;
        status
    }

    /// SIGKILL to the keeper, and the next one, as Restart=always brings it.
    pub fn kill_keeper(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end(SOON);
        self.start();
        self.wait_ready();
    }

    /// SIGKILL to the main process as soon as it has sent so many messages.
    pub fn kill_at_message(&self, number: usize) {
        self.ear.heard.0.lock().unwrap().ends_at = Some(number);
    }

    /// Not any more.
    pub fn let_live(&self) {
        self.ear.heard.0.lock().unwrap().ends_at = None;
    }

    /// Power is gone: no process ends in order, and what was in memory is gone, too.
    pub fn lose_power(&mut self) {
        let main = self.main.take();
        eventually("nothing runs", SOON, || {
            let left = self.all_processes();
            for seen in &left {
                process::signal(seen.pid, Signal::KILL);
            }
            left.is_empty().then_some(())
        });
        if let Some(mut main) = main {
            main.wait().unwrap();
        }
        self.ear.heard.0.lock().unwrap().store.clear();
        let runtime = self.runtime_directory();
        std::fs::remove_dir_all(&runtime).unwrap();
        std::fs::create_dir_all(&runtime).unwrap();
    }

    /// What the fd store has under this name.
    #[track_caller]
    pub fn stored_fd(&self, name: &str) -> OwnedFd {
        let heard = self.ear.heard.0.lock().unwrap();
        let mut stored = heard.store.iter();
        let found = stored.find(|stored| stored.name == name);
        found.expect("it is kept").fd.try_clone().unwrap()
    }

    /// Loses what the fd store has under this name.
    pub fn lose(&self, name: &str) {
        let mut heard = self.ear.heard.0.lock().unwrap();
        heard.store.retain(|stored| stored.name != name);
    }

    /// Keeps on what the fd store has under this name, so that nobody can write to it any more.
    pub fn keep_read_only(&self, name: &str) {
        let heard = &mut self.ear.heard.0.lock().unwrap();
        let stored = heard.store.iter_mut().find(|stored| stored.name == name);
        let stored = stored.expect("it is kept");
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&stored.fd)
        );
        stored.fd = Arc::new(File::open(path).unwrap().into());
    }

    /// `systemctl restart`: what ExecStop= does for it, then SIGTERM, and the next keeper.
    pub fn restart(&mut self) {
        self.control("POST", "/release").expect_ok();
        self.signal(Signal::TERM);
        assert!(self.wait_end(SOON).success());
        self.start();
        self.wait_ready();
    }

    /// `systemctl stop`, without ExecStop=: SIGTERM, wait, forget the store.
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let status = self.wait_end(limit);
        self.ear.heard.0.lock().unwrap().store.clear();
        status
    }

    /// `gapless COMMAND NAME` as the unit's control commands are run.
    pub fn cli(&self, arguments: &[&str]) -> Finished {
        self.begin_cli(arguments).join().unwrap()
    }

    /// The same, beside what happens meanwhile.
    pub fn begin_cli(&self, arguments: &[&str]) -> JoinHandle<Finished> {
        let mut command = self.command(arguments);
        command.arg(&self.name);
        std::thread::spawn(move || process::run(command, Duration::from_secs(100)))
    }

    /// `gapless check` of its configuration.
    pub fn check(&self) -> Finished {
        let file = format!("etc/{}.toml", self.name);
        let mut command = self.command(&["check"]);
        command.arg(self.scratch.0.join(file));
        process::run(command, Duration::from_secs(100))
    }

    /// `gapless ARGUMENTS` in the environment of the unit.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(gapless());
        command
            .args(arguments)
            .env_clear()
            .envs(self.unit_environment());
        command
    }

    /// `gapless reload NAME`.
    pub fn reload(&self) -> Finished {
        self.cli(&["reload"])
    }

    /// GET /status of the control socket.
    #[track_caller]
    pub fn status(&self) -> Status {
        let body = self.control("GET", "/status").expect_ok();
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// The same, if somebody is there to ask.
    pub fn try_status(&self) -> Option<Status> {
        let socket = runtime_directory(&self.scratch, &self.name).join("control.sock");
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        let reply = try_ask(stream, "GET", "/status")?;
        serde_json::from_str(&reply.body).ok()
    }

    /// GET /metrics of the control socket.
    #[track_caller]
    pub fn metrics(&self) -> String {
        self.control("GET", "/metrics").expect_ok()
    }

    /// Asks the control socket.
    #[track_caller]
    pub fn control(&self, method: &str, path: &str) -> Reply {
        let socket = runtime_directory(&self.scratch, &self.name).join("control.sock");
        let stream = UnixStream::connect(&socket)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", socket.display(), self.story()));
        stream
            .set_read_timeout(Some(Duration::from_secs(100)))
            .unwrap();
        ask(stream, method, path)
    }

    /// The same, if somebody is there to ask and lives to answer.
    pub fn try_control(&self, method: &str, path: &str) -> Option<Reply> {
        let socket = runtime_directory(&self.scratch, &self.name).join("control.sock");
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        try_ask(stream, method, path).filter(|reply| reply.is_whole)
    }

    /// Asks the app through the first TCP socket.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        get(&self.address(), path)
    }

    /// Of the first TCP socket.
    pub fn address(&self) -> String {
        self.address.expect("it has a TCP socket").to_string()
    }

    pub fn load(&self, arguments: &[&str]) -> Load {
        Load::start(&self.address(), arguments)
    }

    /// All that its processes wrote to stdout and stderr.
    pub fn journal(&self) -> String {
        let bytes = std::fs::read(self.output_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn output_path(&self) -> PathBuf {
        self.scratch.0.join("journal")
    }

    /// Every living process of it.
    pub fn processes(&self) -> Vec<Seen> {
        let mut all = self.all_processes();
        let fronts: Vec<u32> = all
            .iter()
            .filter(|it| it.is_front())
            .map(|it| it.pid)
            .collect();
        // Trustees belong to their fronts; one that outlives its front is seen.
        all.retain(|it| !(it.is_front() && fronts.contains(&it.parent)));
        all
    }

    /// Trustees included.
    pub fn all_processes(&self) -> Vec<Seen> {
        let pids = self.cgroup.as_ref().map(Cgroup::pids).unwrap_or_default();
        let mut all = process::marked(&self.mark);
        all.extend(pids.into_iter().filter_map(process::see));
        all.sort();
        all.dedup();
        all
    }

    /// Its control groups, with all below.
    pub fn control_groups(&self) -> usize {
        self.cgroup.as_ref().map_or(0, Cgroup::count)
    }

    /// Without trustees, the oldest first.
    pub fn fronts(&self) -> Vec<u32> {
        let all = self.all_processes().into_iter();
        all.filter(|it| it.is_front() && !it.is_trustee())
            .map(|it| it.pid)
            .collect()
    }

    /// Everything a person needs after a failure.
    pub fn story(&self) -> String {
        let heard = self.heard(|heard| {
            let tell = |all: &[Message]| {
                let last = &all[all.len().saturating_sub(30)..];
                last.iter()
                    .map(|m| format!("{} {:?} {} fds\n", m.pid, m.text, m.fds))
                    .collect::<Vec<_>>()
                    .concat()
            };
            format!(
                "{}--- ignored\n{}--- stored\n{:?}",
                tell(&heard.messages),
                tell(&heard.ignored),
                heard.stored()
            )
        });
        let journal = self.journal();
        let lines: Vec<_> = journal.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!(
            "--- messages\n{heard}\n--- processes\n{:#?}\n--- output\n{tail}",
            self.processes()
        )
    }
}

fn runtime_directory(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.0.join("run").join(format!("gapless@{name}"))
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
        if let Some(mut main) = self.main.take() {
            drop(main.kill());
            drop(main.wait());
        }
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > end {
                break;
            }
            for seen in left {
                process::end(seen.pid, Signal::KILL);
            }
        }
    }
}
