//! Ring 2: `gapless console`, as somebody at a terminal sees it, and as what runs there sees it.

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

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use world::process;
use world::service::{SOON, Service};
use world::{eventually, gapless, version};

/// Somebody at a terminal. Dropped, the terminal is gone.
struct Terminal {
    master: File,
    /// Held open, so that its modes can be seen.
    other: OwnedFd,
    path: String,
    child: Child,
    screen: String,
}

impl Terminal {
    /// A program in a session of its own, with the environment of the service.
    fn start(service: &Service, command: &[&str]) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let other = open(path.as_c_str(), flags, Mode::empty()).unwrap();
        let mut begun = beside(service, "setsid");
        let child = begun
            .arg("--ctty")
            .args(command)
            .env("TERM", "xterm")
            .env("PS1", "$ ")
            .stdin(other.try_clone().unwrap())
            .stdout(other.try_clone().unwrap())
            .stderr(other.try_clone().unwrap());
        Self {
            child: child.spawn().unwrap(),
            master: master.into(),
            other,
            path: path.into_string().unwrap(),
            screen: String::new(),
        }
    }

    fn console(service: &Service) -> Self {
        let gapless = gapless();
        Self::start(service, &[gapless.to_str().unwrap(), "console"])
    }

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn is_of(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.other).unwrap()
    }

    /// Fails the test when it does not come.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let until = Instant::now() + SOON;
        while !self.screen.contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {text:?} on {:?}", self.screen);
            self.read(left.min(Duration::from_millis(200)));
        }
    }

    fn read(&mut self, limit: Duration) {
        let limit = Timespec::try_from(limit).unwrap();
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        if poll(&mut fds, Some(&limit)).unwrap() > 0 {
            let mut piece = [0; 4096];
            let length = self.master.read(&mut piece).unwrap_or(0);
            self.screen += &String::from_utf8_lossy(&piece[..length]);
        }
    }

    /// Its exit code.
    #[track_caller]
    fn ends(&mut self) -> i32 {
        let status = process::wait(&mut self.child, SOON);
        self.read(Duration::ZERO);
        let status = status.unwrap_or_else(|| panic!("it goes on: {:?}", self.screen));
        status.code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn beside(service: &Service, program: &str) -> Command {
    let like = service.command(&[]);
    let environment = like
        .get_envs()
        .filter_map(|(key, value)| Some((key, value?)));
    let mut command = Command::new(program);
    command.env_clear().envs(environment);
    command
}

/// A service whose console is this shell script.
fn with_console(script: &str) -> Service {
    Service::probe(
        &version("v1"),
        &format!("console = ['sh', '-c', '''{script}''']"),
        "",
    )
}

#[test]
fn what_a_console_types_reaches_only_its_own_terminal() {
    // TIOCSTI, ioctl_tty(2), by every way to a terminal that a program has.
    let type_in = r#"
        for my $way ("<&STDIN", ">&STDOUT", ">&STDERR", "+</dev/tty") {
            open(my $fd, $way) or die "$way: $!";
            for (split //, "touch MARK\n") { ioctl($fd, 0x5412, my $byte = $_) or print "refused: $!\n" }
        }
        print "typed all\n";"#;
    let mut service = Service::new("gapless");
    let mark = service.scratch.0.join("typed");
    let type_in = type_in.replace("MARK", mark.to_str().unwrap());
    let program = service.scratch.write("type.pl", &type_in);
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe(&format!("console = ['perl', '{}']", program.display()), "");
    service.start();
    service.wait_ready();
    let mut shell = Terminal::start(&service, &["sh", "-i"]);
    shell.types(&format!("{} console; echo ended $?\n", gapless().display()));
    shell.shows("typed all");
    shell.shows("ended 0");
    shell.types("echo still $((40 + 2)); exit 7\n");
    shell.shows("still 42");
    assert_eq!(shell.ends(), 7);
    assert!(!mark.exists(), "{}", shell.screen);
}

#[test]
fn a_console_has_a_terminal_and_a_session_of_its_own() {
    let service = with_console(
        "echo said $(tty) $(cut -d\" \" -f6,7 /proc/$$/stat) $$ $TERM $(id -u).; cat /proc/$$/cgroup; echo done",
    );
    let mut terminal = Terminal::console(&service);
    terminal.shows("done\r\n");
    assert_eq!(terminal.ends(), 0);
    let (_, said) = terminal.screen.split_once("said ").unwrap();
    let words: Vec<_> = said.split('.').next().unwrap().split(' ').collect();
    let [tty, session, controlling, pid, term, uid] = words[..] else {
        panic!("{words:?}");
    };
    assert!(tty.starts_with("/dev/pts/"), "{said}");
    assert_ne!(tty, terminal.path);
    assert_eq!(session, pid, "it leads its session");
    assert_ne!(controlling, "0", "it has a controlling terminal");
    assert_eq!(
        (term, uid),
        ("xterm", rustix::process::geteuid().to_string().as_str())
    );
    if service.control_groups() > 0 {
        assert!(said.contains("/console0\r\n"), "{said}");
    }
}

#[test]
fn a_console_is_as_large_as_the_terminal_before_it() {
    let service = with_console("while read line; do echo size $(stty size).; done");
    let mut terminal = Terminal::console(&service);
    for (rows, columns) in [(24, 80), (50, 132), (10, 20)] {
        terminal.is_of(rows, columns);
        let wanted = format!("size {rows} {columns}.");
        // The size goes another way than what is typed.
        eventually("the size", SOON, || {
            terminal.types("\r");
            terminal.read(Duration::from_millis(200));
            terminal.screen.contains(&wanted).then_some(())
        });
    }
    terminal.types("\u{4}");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn the_exit_code_is_that_of_the_console() {
    let service = with_console("read how; eval \"$how\"");
    for (how, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("sleep 1000 & exit 4", 4),
    ] {
        let mut terminal = Terminal::console(&service);
        let before = terminal.modes();
        terminal.types(&format!("{how}\r"));
        assert_eq!(terminal.ends(), code, "{how}: {:?}", terminal.screen);
        let after = terminal.modes();
        assert_eq!(before.local_modes, after.local_modes, "{how}");
        assert_eq!(before.output_modes, after.output_modes, "{how}");
        expect_no_console(&service, how);
    }
}

/// Whatever its console started is gone.
#[track_caller]
fn expect_no_console(service: &Service, what: &str) {
    eventually(what, SOON, || {
        let mut all = service.processes().into_iter();
        let is_there = all.any(|it| {
            let command = std::fs::read(format!("/proc/{}/cmdline", it.pid)).unwrap_or_default();
            command.starts_with(b"sh\0") || command.starts_with(b"sleep\0")
        });
        (!is_there).then_some(())
    });
}

#[test]
fn what_comes_through_a_pipe_is_read_to_its_end() {
    let service = with_console("cat; echo end");
    for (given, wanted) in [
        ("", "end\n"),
        ("1 + 1\n", "1 + 1\nend\n"),
        ("one\ntwo\n", "one\ntwo\nend\n"),
        ("no end of line", "no end of lineend\n"),
    ] {
        let mut command = service.command(&["console"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(given.as_bytes()).unwrap();
        drop(stdin);
        let status = process::wait(&mut child, SOON).unwrap();
        let mut shown = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut shown)
            .unwrap();
        assert_eq!((status.code(), shown.as_str()), (Some(0), wanted));
    }
}

#[test]
fn all_that_a_console_writes_is_shown() {
    let service = with_console("seq 100000");
    let shown = service.cli(&["console"]).expect_success();
    assert_eq!(shown.lines().count(), 100_000);
    assert_eq!(shown.lines().last(), Some("100000"));
}

#[test]
fn a_console_ends_with_who_opened_it() {
    let service = with_console("trap \"\" HUP; echo begun; sleep 1000; sleep 1000");
    for signal in [
        Signal::TERM,
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::KILL,
    ] {
        let mut terminal = Terminal::console(&service);
        let before = terminal.modes();
        terminal.shows("begun");
        assert!(process::signal(terminal.child.id(), signal));
        let status = process::wait(&mut terminal.child, SOON).unwrap();
        if signal != Signal::KILL {
            assert_eq!(status.code(), Some(128 + signal.as_raw()));
            assert_eq!(before.local_modes, terminal.modes().local_modes);
        }
        expect_no_console(&service, "what ignores SIGHUP");
    }
}

#[test]
fn a_console_ends_with_the_keeper() {
    type End = fn(&mut Service);
    let ends: [(&str, End); 3] = [
        ("upgrade", |service| {
            service.cli(&["upgrade"]).expect_success();
        }),
        ("crash", Service::kill_keeper),
        ("stop", |service| {
            service.stop(SOON);
        }),
    ];
    let mut service =
        with_console("trap \"\" HUP; echo begun; trap \"sleep 1000\" EXIT; sleep 1000; sleep 1000");
    for (what, end) in ends {
        let mut terminal = Terminal::console(&service);
        terminal.shows("begun");
        end(&mut service);
        assert_eq!(terminal.ends(), 1, "{what}");
        terminal.shows("the console ended with the gapless that ran it");
        expect_no_console(&service, what);
    }
}

#[test]
fn there_is_an_end_to_the_number_of_consoles() {
    let service = with_console("echo begun; read line");
    let mut open: Vec<_> = (0..8).map(|_| Terminal::console(&service)).collect();
    for terminal in &mut open {
        terminal.shows("begun");
    }
    let mut one_more = Terminal::console(&service);
    assert_eq!(one_more.ends(), 1);
    one_more.shows("8 consoles are open");
    open[3].types("\r");
    assert_eq!(open[3].ends(), 0);
    let mut in_its_place = Terminal::console(&service);
    in_its_place.shows("begun");
}

#[test]
fn only_a_terminal_of_the_services_own_user_is_taken() {
    let service = with_console("echo begun");
    for (path, status, wanted) in [
        ("/console/4294967295", 200, "cannot look at the terminal"),
        ("/console/ptmx", 400, "is no number of a terminal"),
        ("/console/..%2ftty", 400, "is no number of a terminal"),
        ("/console/7?term=a%20b", 400, "says no TERM"),
        ("/console/7?tty=/dev/tty1", 400, "says no TERM"),
    ] {
        let reply = service.control("POST", path);
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.body.contains(wanted), "{path}: {}", reply.body);
    }
}

/// Answers whoever asks first.
fn puppet(service: &Service, status: u16, body: &'static str) -> std::thread::JoinHandle<()> {
    let socket = service.runtime_directory().join("control.sock");
    drop(std::fs::remove_file(&socket));
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        let head = format!(
            "HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
    })
}

#[test]
fn whoever_answers_instead_of_the_keeper_gets_nothing_run_and_nothing_drawn() {
    let service = Service::new("gapless");
    let refused = r#"{"refused":{"reason":"failed","detail":"touch \u001b]0;x\u0007 /x"}}"#;
    let refused: &str = Box::leak(format!("{refused}\n").into_boxed_str());
    for (status, body, wanted) in [
        (404, "", "is older than this one"),
        (500, "\u{1b}[2J\n", "was answered with 500"),
        (200, "", "was not understood"),
        (200, "{}\n", "was not understood"),
        (
            200,
            "{\"generations\":[{\"console\":[\"touch\",\"/x\"]}]}\n",
            "was not understood",
        ),
        (200, "\u{1b}[2J\u{1b}c\u{9b}2J\r\n", "was not understood"),
        (200, "\"began\"\n", "the console ended with"),
        (200, refused, "the console was not started: touch"),
    ] {
        let keeper = puppet(&service, status, body);
        let done = service.cli(&["console"]);
        keeper.join().unwrap();
        assert_eq!(done.code(), 1, "{done}");
        assert!(done.output().contains(wanted), "{body:?}: {done}");
        let is_drawn = done.output().contains(['\u{1b}', '\u{9b}', '\u{7}']);
        assert!(!is_drawn, "{body:?}: {done}");
    }
}

#[test]
fn where_nothing_is_live_there_is_no_console() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.configure("");
    service.start();
    service.wait_ready();
    let none = service.cli(&["console"]);
    assert_eq!(none.code(), 1, "{none}");
    assert!(none.output().contains("nothing is live"), "{none}");
}
