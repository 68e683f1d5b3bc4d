//! Spawning through the chain loader, with real processes. This program is its own loader (the
//! keeper spawns through /proc/self/exe), so it has no test harness: `main` is both.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test may"
)]

use gapless::exec;
use gapless::keeper::notice::{Notice, NoticeSocket};
use gapless::keeper::output::{Output, Sink, Source, Tail, pipe};
use gapless::keeper::reaper::{Ending, become_subreaper, ended, reap_orphans, signal, to_pid};
use gapless::keeper::spawn::{
    Child, Environment, Orphan, Spawn, SpawnError, app_environment, harden_self, spawn,
};
use gapless::systemd::{given, kept, notify};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{PidfdFlags, Signal, pidfd_open};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// The words by which this program runs as something else than the test.
const SHOW_GIVEN: &str = "show-given";
const PARENT: &str = "parent";
const TALK: &str = "talk";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == exec::VERB => return exec::main(args),
        Some(word) if word == SHOW_GIVEN => return show_given(),
        Some(word) if word == PARENT => return parent(),
        Some(word) if word == TALK => return talk(),
        Some(_) | None => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(all());
    ExitCode::SUCCESS
}

async fn all() {
    a_worker_inherits_exactly_its_fds().await;
    a_worker_is_told_of_its_fds_under_its_own_pid().await;
    what_was_given_is_taken_by_name().await;
    the_environment_is_the_given_one_and_nothing_else().await;
    no_signal_is_blocked_and_sigpipe_is_not_ignored().await;
    a_missing_program_is_named_with_the_remedy().await;
    a_program_is_found_in_the_path_of_the_app().await;
    a_directory_that_is_not_there_fails_at_once();
    an_environment_too_large_fails_at_once();
    a_worker_leads_its_own_session_and_is_ended_with_it().await;
    orphans_are_reaped_and_known_children_are_left().await;
    a_child_may_die_with_its_parent().await;
    systemd_hears_every_message_and_gets_the_fds().await;
    an_app_that_talks_to_systemd_talks_to_us().await;
    without_a_notify_socket_nothing_is_sent().await;
    a_hardened_process_still_spawns().await;
}

/// What a test asks for; the rest is as for a worker.
#[derive(Default)]
struct Wanted<'a> {
    command: Vec<&'a str>,
    fds: Vec<(&'a str, &'a OwnedFd)>,
    env: Environment,
    dies: bool,
}

struct Started {
    child: Child,
    tail: Tail,
    _output: Output,
}

fn try_start(wanted: &Wanted<'_>, directory: &Path) -> Result<Started, SpawnError> {
    let output = Output::start(Sink::Nowhere).unwrap();
    let (read, write) = pipe().unwrap();
    let child = spawn(&Spawn {
        command: wanted.command.iter().map(Into::into).collect(),
        env: &wanted.env,
        directory,
        fds: wanted
            .fds
            .iter()
            .map(|(name, fd)| (*name, fd.as_fd()))
            .collect(),
        output: Some(write.as_fd()),
        tty: None,
        is_caged: false,
        cgroup: None,
        orphan: if wanted.dies {
            Orphan::Dies
        } else {
            Orphan::LivesOn
        },
    })?;
    let source = Source {
        generation: gapless::id::GenerationId(1),
        slot: gapless::id::Slot(0),
        release: String::new(),
    };
    let tail = output.watch(source, read, 1000).unwrap();
    Ok(Started {
        child,
        tail,
        _output: output,
    })
}

fn start(wanted: &Wanted<'_>) -> Started {
    try_start(wanted, Path::new("/")).unwrap()
}

async fn finish(started: Started) -> (Ending, Vec<String>) {
    let pidfd = gapless::poll::watch(started.child.pidfd).unwrap();
    let ending = tokio::time::timeout(LIMIT, ended(&pidfd, started.child.pid));
    let ending = ending.await.unwrap().unwrap();
    assert!(started.tail.settled(LIMIT).await);
    (ending, started.tail.lines())
}

async fn run(wanted: &Wanted<'_>) -> (Ending, Vec<String>) {
    finish(start(wanted)).await
}

async fn first_line(tail: &Tail) -> String {
    let line = async {
        loop {
            assert!(tail.settled(LIMIT).await);
            if let Some(line) = tail.lines().first() {
                break line.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, line).await.unwrap()
}

fn shell(script: &str) -> Vec<&str> {
    vec!["/bin/sh", "-c", script]
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn path() -> Environment {
    [("PATH".into(), "/usr/bin:/bin".into())].into()
}

async fn a_worker_inherits_exactly_its_fds() {
    // Ours must not leak, and neither what we inherited without close-on-exec.
    let stray = null();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let _ours: Vec<OwnedFd> = (0..5).map(|_| null()).collect();
    let (one, two) = (null(), null());
    let worker = start(&Wanted {
        command: shell("echo up; exec sleep 1000"),
        fds: vec![("one", &one), ("two", &two)],
        env: path(),
        ..Wanted::default()
    });
    assert_eq!(first_line(&worker.tail).await, "up");
    let mut fds: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", worker.child.pid))
        .unwrap()
        .map(|fd| fd.unwrap().path())
        .map(|fd| (fd.file_name().unwrap().to_owned(), fd.read_link().unwrap()))
        .map(|(fd, target)| format!("{} {}", fd.display(), target.display()))
        .collect();
    fds.sort();
    assert_eq!(fds.len(), 5, "{fds:?}");
    assert_eq!(fds[0], "0 /dev/null");
    assert!(
        fds[1].starts_with("1 pipe:") && fds[2].starts_with("2 pipe:"),
        "{fds:?}"
    );
    assert_eq!(fds[3..], ["3 /dev/null", "4 /dev/null"]);
    assert!(signal(&worker.child.pidfd, Signal::KILL).unwrap());
    finish(worker).await;
}

async fn a_worker_is_told_of_its_fds_under_its_own_pid() {
    let one = null();
    let script = "echo $(($LISTEN_PID == $$)) $LISTEN_FDS $LISTEN_FDNAMES";
    let told = Wanted {
        command: shell(script),
        fds: vec![("http", &one)],
        ..Wanted::default()
    };
    assert_eq!(run(&told).await.1, ["1 1 http"]);
    let nothing = Wanted {
        command: shell("echo \"$LISTEN_PID$LISTEN_FDS$LISTEN_FDNAMES.\""),
        ..Wanted::default()
    };
    assert_eq!(run(&nothing).await.1, ["."]);
}

fn own_program() -> String {
    let path = std::env::current_exe().unwrap();
    path.to_str().unwrap().to_owned()
}

async fn what_was_given_is_taken_by_name() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let cookie = given::socket_cookie(&listener).unwrap();
    let listener = OwnedFd::from(listener);
    let own = pidfd_open(to_pid(std::process::id()).unwrap(), PidfdFlags::empty()).unwrap();
    let (_read, write) = pipe().unwrap();
    let program = own_program();
    let (ending, lines) = run(&Wanted {
        command: vec![&program, SHOW_GIVEN],
        fds: vec![("http", &listener), ("worker", &own), ("pipe", &write)],
        ..Wanted::default()
    })
    .await;
    assert_eq!(ending, Ending::Exited(0), "{lines:?}");
    assert_eq!(lines[0], format!("http cloexec {address} true {cookie}"));
    assert_eq!(
        lines[1],
        format!("worker cloexec pid {}", std::process::id())
    );
    assert_eq!(lines[2], "pipe cloexec");
    assert_eq!(lines[3], "then 0");
}

/// In the child: takes everything and says what it is.
fn show_given() -> ExitCode {
    for given::Given { name, fd } in given::take().unwrap() {
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut line = format!("{name} cloexec");
        if let Ok(cookie) = given::socket_cookie(&fd) {
            let address = given::socket_address(&fd).unwrap();
            line = format!(
                "{line} {address} {} {cookie}",
                given::is_listening_stream(&fd)
            );
        }
        if let Some(pid) = given::pid_of_pidfd(&fd) {
            line = format!("{line} pid {pid}");
        }
        eprintln!("{line}");
    }
    eprintln!("then {}", given::take().unwrap().len());
    ExitCode::SUCCESS
}

async fn the_environment_is_the_given_one_and_nothing_else() {
    let inherited = [
        ("PORT", "1"),
        ("NOTIFY_SOCKET", "/x"),
        ("PWD", "/of/the/caller"),
        ("OLDPWD", "/of/the/caller"),
        ("_", "/usr/bin/gapless"),
        ("PATH", "/usr/bin:/bin"),
    ];
    let inherited = inherited.map(|(name, value)| (name.into(), value.into()));
    let (_, lines) = run(&Wanted {
        command: vec!["env"],
        env: app_environment(inherited),
        ..Wanted::default()
    })
    .await;
    assert_eq!(lines, ["PATH=/usr/bin:/bin", "PORT=1", "PWD=/"]);
}

/// Rust ignores SIGPIPE for itself, as systemd does for services; an app wants it by default.
async fn no_signal_is_blocked_and_sigpipe_is_not_ignored() {
    let (_, lines) = run(&Wanted {
        command: vec!["/bin/grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"],
        ..Wanted::default()
    })
    .await;
    let mask = |line: &String| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    let (blocked, ignored) = (mask(&lines[0]).unwrap(), mask(&lines[1]).unwrap());
    assert_eq!(blocked, 0, "{lines:?}");
    let sigpipe = 1 << (Signal::PIPE.as_raw() - 1);
    assert_eq!(ignored & sigpipe, 0, "{lines:?}");
}

async fn a_missing_program_is_named_with_the_remedy() {
    let (ending, lines) = run(&Wanted {
        command: vec!["no-such-program", "x"],
        env: path(),
        ..Wanted::default()
    })
    .await;
    assert_eq!(ending, Ending::Exited(127));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("\"no-such-program\"") && lines[0].contains("[app]"),
        "{lines:?}"
    );
    let (ending, lines) = run(&Wanted {
        command: vec!["/etc/passwd"],
        ..Wanted::default()
    })
    .await;
    assert_eq!(ending, Ending::Exited(126), "{lines:?}");
    assert!(lines[0].contains("executable"), "{lines:?}");
}

async fn a_program_is_found_in_the_path_of_the_app() {
    let directory = std::env::temp_dir().join(format!("gapless-spawn-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink("/bin/echo", directory.join("only-here")).unwrap();
    let (ending, lines) = run(&Wanted {
        command: vec!["only-here", "hello"],
        env: [("PATH".into(), directory.clone().into())].into(),
        ..Wanted::default()
    })
    .await;
    std::fs::remove_dir_all(directory).unwrap();
    assert_eq!(
        (ending, lines),
        (Ending::Exited(0), vec!["hello".to_owned()])
    );
}

fn a_directory_that_is_not_there_fails_at_once() {
    let wanted = Wanted {
        command: vec!["/bin/true"],
        ..Wanted::default()
    };
    let error = try_start(&wanted, Path::new("/nowhere/at/all"))
        .err()
        .unwrap();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

/// execve fails in the child then, after the fds were put in place: std must still hear of it.
fn an_environment_too_large_fails_at_once() {
    let fds: Vec<OwnedFd> = (0..20).map(|_| null()).collect();
    let wanted = Wanted {
        command: vec!["/bin/true"],
        fds: fds.iter().map(|fd| ("x", fd)).collect(),
        env: [("HUGE".into(), "x".repeat(200_000).into())].into(),
        ..Wanted::default()
    };
    let error = try_start(&wanted, Path::new("/")).err();
    assert!(matches!(error, Some(SpawnError::Start { .. })), "{error:?}");
}

async fn a_worker_leads_its_own_session_and_is_ended_with_it() {
    let started = start(&Wanted {
        // bash: its job control, unlike that of dash, works without a terminal, and gives each
        // sleep a process group of its own.
        command: vec![
            "/bin/bash",
            "-c",
            "set -m; sleep 1000 & sleep 1000 & cut -d' ' -f5,6 /proc/$$/stat; kill -KILL $$",
        ],
        env: path(),
        ..Wanted::default()
    });
    let pid = started.child.pid;
    let tail = started.tail.clone();
    let (ending, lines) = finish(started).await;
    assert_eq!(ending.to_string(), "was killed by SIGKILL");
    assert_eq!(lines, [format!("{pid} {pid}")]);
    // The pump has seen the end only if no sleep holds the pipe any more; it answers in any case.
    assert!(tail.settled(LIMIT).await);
}

async fn orphans_are_reaped_and_known_children_are_left() {
    become_subreaper().unwrap();
    // The orphan leaves the session, so that the end of the worker does not end it.
    let known = start(&Wanted {
        command: shell("setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000"),
        env: path(),
        ..Wanted::default()
    });
    let orphan: u32 = first_line(&known.tail).await.parse().unwrap();
    let orphan_fd = pidfd_open(to_pid(orphan).unwrap(), PidfdFlags::empty()).unwrap();
    let orphan_fd = gapless::poll::watch(orphan_fd).unwrap();
    assert!(signal(&known.child.pidfd, Signal::TERM).unwrap());
    let known_pid = known.child.pid;
    let known_fd = gapless::poll::watch(known.child.pidfd).unwrap();
    drop(known_fd.readable().await.unwrap());
    assert!(signal(&orphan_fd, Signal::KILL).unwrap());
    drop(orphan_fd.readable().await.unwrap());
    let reaped = reap_orphans(&HashSet::from([known_pid]));
    assert!(reaped.iter().any(|(pid, _)| *pid == orphan), "{reaped:?}");
    assert!(
        reaped.iter().all(|(pid, _)| *pid != known_pid),
        "{reaped:?}"
    );
    let ending = ended(&known_fd, known_pid).await.unwrap();
    assert_eq!(ending.to_string(), "was killed by SIGTERM");
}

async fn a_child_may_die_with_its_parent() {
    let mut parent = std::process::Command::new(own_program())
        .arg(PARENT)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(parent.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let child: u32 = line.trim().parse().unwrap();
    let pidfd = pidfd_open(to_pid(child).unwrap(), PidfdFlags::empty()).unwrap();
    let pidfd = gapless::poll::watch(pidfd).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    let ending = tokio::time::timeout(LIMIT, ended(&pidfd, child));
    // It is ours by now: we are a subreaper.
    assert_eq!(
        ending.await.unwrap().unwrap().to_string(),
        "was killed by SIGKILL"
    );
}

/// In a child: starts one of its own that dies with it, and waits to be killed.
fn parent() -> ExitCode {
    let (read, write) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&read, false).unwrap();
    let env = path();
    let child = spawn(&Spawn {
        command: shell("echo up; exec sleep 1000")
            .iter()
            .map(Into::into)
            .collect(),
        env: &env,
        directory: Path::new("/"),
        fds: Vec::new(),
        output: Some(write.as_fd()),
        tty: None,
        is_caged: false,
        cgroup: None,
        orphan: Orphan::Dies,
    })
    .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(std::fs::File::from(read));
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    println!("{}", child.pid);
    rustix::event::pause();
    ExitCode::SUCCESS
}

/// In a child: says everything that gapless says to systemd.
fn talk() -> ExitCode {
    notify::reloading().unwrap();
    notify::ready().unwrap();
    notify::status("all\nwell").unwrap();
    notify::extend_timeout(Duration::from_secs(2)).unwrap();
    notify::watchdog().unwrap();
    let (one, two) = (null(), null());
    kept::put("g7-w0", &[one.as_fd(), two.as_fd()]).unwrap();
    kept::remove("g6-w0").unwrap();
    notify::stopping().unwrap();
    notify::barrier(LIMIT).unwrap();
    eprintln!("{:?}", notify::watchdog_interval());
    ExitCode::SUCCESS
}

async fn talked(socket: Option<&Path>) -> (Ending, Vec<String>) {
    let program = own_program();
    let mut env: Environment = [("WATCHDOG_USEC".into(), "3000000".into())].into();
    env.extend(socket.map(|path| ("NOTIFY_SOCKET".into(), path.into())));
    run(&Wanted {
        command: vec![&program, TALK],
        env,
        ..Wanted::default()
    })
    .await
}

fn notify_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gapless-talk-{name}-{}", std::process::id()))
}

async fn systemd_hears_every_message_and_gets_the_fds() {
    let path = notify_path("up");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|(text, _)| text != "BARRIER=1\n") {
            heard.push(receive(&systemd));
        }
        heard
    });
    let (ending, lines) = talked(Some(&path)).await;
    assert_eq!(ending, Ending::Exited(0), "{lines:?}");
    assert_eq!(lines, ["Some(3s)"]);
    let heard = tokio::time::timeout(LIMIT, heard).await.unwrap().unwrap();
    std::fs::remove_file(path).unwrap();
    let begin = |text: &str| text.starts_with("RELOADING=1\nMONOTONIC_USEC=");
    assert!(begin(&heard[0].0), "{heard:?}");
    let expected = [
        ("READY=1\n", 0),
        ("STATUS=all well\n", 0),
        ("EXTEND_TIMEOUT_USEC=2000000\n", 0),
        ("WATCHDOG=1\n", 0),
        ("FDSTORE=1\nFDNAME=g7-w0\nFDPOLL=0\n", 2),
        ("FDSTOREREMOVE=1\nFDNAME=g6-w0\n", 0),
        ("STOPPING=1\n", 0),
        ("BARRIER=1\n", 1),
    ];
    let heard: Vec<_> = heard[1..]
        .iter()
        .map(|(text, fds)| (text.as_str(), *fds))
        .collect();
    assert_eq!(heard, expected);
}

/// Text and number of fds; the fds are closed.
fn receive(socket: &std::os::unix::net::UnixDatagram) -> (String, usize) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::empty()).unwrap();
    let mut fds = 0;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds += passed.count();
        }
    }
    (
        String::from_utf8(bytes[..received.bytes].to_vec()).unwrap(),
        fds,
    )
}

async fn an_app_that_talks_to_systemd_talks_to_us() {
    let path = notify_path("app");
    let socket = NoticeSocket::bind(&path).unwrap();
    let talk = talked(Some(&path));
    tokio::pin!(talk);
    let mut notices = Vec::new();
    // Its barrier ends because the socket is read meanwhile.
    let (ending, _) = loop {
        tokio::select! {
            ended = &mut talk => break ended,
            heard = socket.receive() => notices.extend(heard.unwrap().notices),
        }
    };
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ending, Ending::Exited(0));
    let expected = [
        Notice::Reloading,
        Notice::Ready,
        Notice::Status("all well".into()),
        Notice::ExtendTimeout(Duration::from_secs(2)),
        Notice::Watchdog,
        Notice::Stopping,
    ];
    assert_eq!(notices, expected);
}

async fn without_a_notify_socket_nothing_is_sent() {
    let (ending, lines) = talked(None).await;
    assert_eq!(ending, Ending::Exited(0), "{lines:?}");
}

async fn a_hardened_process_still_spawns() {
    harden_self().unwrap();
    let (ending, lines) = run(&Wanted {
        command: vec!["/bin/echo", "hello"],
        ..Wanted::default()
    })
    .await;
    assert_eq!(
        (ending, lines),
        (Ending::Exited(0), vec!["hello".to_owned()])
    );
    assert_eq!(
        given::pid_of_pidfd(
            pidfd_open(to_pid(std::process::id()).unwrap(), PidfdFlags::empty()).unwrap()
        ),
        Some(std::process::id())
    );
}
