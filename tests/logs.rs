//! Ring 2: what gapless says to the journal and on stdout, as the manual has it: every field with
//! its value, every event with its id.

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

use gapless::systemd::message_id;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::{Read, Seek, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use world::journal::{Fields, Journal};
use world::service::{SOON, Service};
use world::{Scratch, eventually, gapless, hello, tool, version};

const QUICK: &str = "settle = \"10ms\"\ndrain = \"1s\"\nstop = \"1s\"";

/// A service that logs to a played journal; started, perhaps not ready.
fn begun(log: &str) -> (Service, Journal) {
    let journal = Journal::new();
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(&version("one"));
    service.configure_probe(QUICK, log);
    service.log_to(&journal);
    service.start();
    (service, journal)
}

fn ready(log: &str) -> (Service, Journal) {
    let (service, journal) = begun(log);
    service.wait_ready();
    (service, journal)
}

fn connect(service: &Service) -> TcpStream {
    let socket = TcpStream::connect(service.address()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Sends `request` and reads to the end.
fn ask(service: &Service, request: &[u8]) -> String {
    let mut socket = connect(service);
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    // A reset ends an answer too.
    drop(socket.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(service: &Service, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    ask(service, request.as_bytes())
}

fn access(journal: &Journal, path: &str) -> Fields {
    journal.wait_for(&[
        ("MESSAGE_ID", message_id::REQUEST.id),
        ("GAPLESS_HTTP_PATH", path),
    ])
}

fn number(entry: &Fields, field: &str) -> u64 {
    entry[field].parse().unwrap()
}

/// The names of the fields that the manual lists for the access log.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man/gapless.1");
    let manual = std::fs::read_to_string(path).unwrap();
    let section = manual.split(".Ss Access log\n").nth(1).unwrap();
    let list = section.split(".El\n").next().unwrap();
    list.lines()
        .filter_map(|line| line.strip_prefix(".It Ev "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_documented_field_of_a_request_has_its_value() {
    let log = "[log]\naccess = \"all\"\n[http]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
    let (service, journal) = begun(log);
    // Sent while nothing is live.
    let answer = ask(
        &service,
        b"POST /headers?token=secret HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
          X-Forwarded-For: 198.51.100.7, 203.0.113.9, 10.1.2.3\r\nX-Request-Id: req-42\r\n\
          User-Agent: te\"st\tagent\r\nReferer: https://a.example/from?key=secret\r\n\
          Authorization: Basic secret\r\nCookie: id=secret\r\nContent-Length: 6\r\n\r\nsecret",
    );
    assert!(answer.contains("\"x-request-id\": \"req-42\""), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let entry = access(&journal, "/headers");
    for (field, value) in [
        ("GAPLESS_CLIENT", "203.0.113.9"),
        ("GAPLESS_HTTP_METHOD", "POST"),
        ("GAPLESS_HTTP_PROTOCOL", "HTTP/1.1"),
        ("GAPLESS_HTTP_STATUS", "200"),
        ("GAPLESS_HTTP_USER_AGENT", "te\"st\\x09agent"),
        ("GAPLESS_HTTP_REFERER", "https://a.example/from"),
        ("GAPLESS_REQUEST_BYTES", "6"),
        ("GAPLESS_RESPONSE_BYTES", &body.len().to_string()),
        ("GAPLESS_GENERATION", "g1"),
        ("GAPLESS_WORKER", "w0"),
        ("GAPLESS_REQUEST_ID", "req-42"),
        ("GAPLESS_OUTCOME", "whole"),
        ("GAPLESS_NAME", "gapless"),
        ("SYSLOG_IDENTIFIER", "gapless-access"),
        ("PRIORITY", "6"),
    ] {
        assert_eq!(entry.get(field).map(String::as_str), Some(value), "{field}");
    }
    let held = number(&entry, "GAPLESS_HELD_US");
    let first_byte = number(&entry, "GAPLESS_FIRST_BYTE_US");
    let whole = number(&entry, "GAPLESS_DURATION_US");
    assert!(
        0 < held && held < first_byte && first_byte <= whole,
        "{entry:#?}"
    );
    let message = &entry["MESSAGE"];
    assert!(message.starts_with("POST /headers 200 in "), "{message}");
    assert!(message.ends_with(" g1 w0, 203.0.113.9"), "{message}");
    assert!(
        !entry.values().any(|it| it.contains("secret")),
        "{entry:#?}"
    );
    let ours = entry
        .keys()
        .filter(|it| it.starts_with("GAPLESS_") && *it != "GAPLESS_NAME");
    assert_eq!(ours.cloned().collect::<BTreeSet<_>>(), documented());
}

#[test]
fn a_request_is_logged_once_and_at_its_end_however_it_ends() {
    let (service, journal) = ready("[log]\naccess = \"all\"");
    drop(get(&service, "/whole"));
    let whole = access(&journal, "/whole");
    assert_eq!(whole["GAPLESS_CLIENT"], "127.0.0.1");
    assert_eq!(whole["GAPLESS_HELD_US"], "0");

    drop(ask(
        &service,
        b"GET /refused HTTP/1.1\r\nConnection: close\r\n\r\n",
    ));
    let refused = access(&journal, "/refused");
    assert_eq!(refused["GAPLESS_OUTCOME"], "bad_host");
    assert_eq!(refused["GAPLESS_HTTP_STATUS"], "400");
    assert_eq!(refused.get("GAPLESS_GENERATION"), None);
    assert_ne!(refused["GAPLESS_RESPONSE_BYTES"], "0");

    // Nothing of it can be told: what one takes for the method, another takes for the path.
    for (head, status) in [
        ("GET /split\nHost: t\r\n\r\n".to_owned(), "400"),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "long".repeat(8000)),
            "431",
        ),
    ] {
        let answer = ask(&service, head.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let unread = journal.wait_for(&[
            ("GAPLESS_OUTCOME", "malformed_head"),
            ("GAPLESS_HTTP_STATUS", status),
        ]);
        assert_eq!(unread["GAPLESS_CLIENT"], "127.0.0.1");
        let message = &unread["MESSAGE"];
        assert!(
            message.starts_with(&format!("no request, {status} in ")),
            "{message}"
        );
        for field in ["HTTP_METHOD", "HTTP_PATH", "HTTP_PROTOCOL", "REQUEST_ID"] {
            assert_eq!(unread.get(&format!("GAPLESS_{field}")), None);
        }
    }

    let mut left = connect(&service);
    left.write_all(b"GET /hang HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    eventually("the app has it", SOON, || {
        service
            .status()
            .generations
            .iter()
            .any(|it| it.leases == 1)
            .then_some(())
    });
    drop(left);
    let left = access(&journal, "/hang");
    assert_eq!(left["GAPLESS_OUTCOME"], "client_left");
    assert_eq!(left.get("GAPLESS_HTTP_STATUS"), None);
    assert_eq!(left["GAPLESS_WORKER"], "w0");

    drop(get(&service, "/crash"));
    let lost = access(&journal, "/crash");
    assert_eq!(lost["GAPLESS_OUTCOME"], "app_died");
    assert_eq!(
        (&*lost["GAPLESS_HTTP_STATUS"], &*lost["PRIORITY"]),
        ("502", "4")
    );

    tunnel(&service);
    let tunnel = access(&journal, "/upgrade");
    assert_eq!(tunnel["GAPLESS_HTTP_STATUS"], "101");
    assert_eq!(tunnel["GAPLESS_OUTCOME"], "whole");
    assert_eq!(
        (
            &*tunnel["GAPLESS_REQUEST_BYTES"],
            &*tunnel["GAPLESS_RESPONSE_BYTES"]
        ),
        ("4", "4")
    );

    cut(&service, &journal);
    let id = Some(message_id::REQUEST.id);
    let all = journal.entries().into_iter();
    let all = all.filter(|entry| entry.get("MESSAGE_ID").map(String::as_str) == id);
    assert_eq!(all.count(), 8);
}

/// Four bytes there, four bytes back.
fn tunnel(service: &Service) {
    let mut socket = connect(service);
    socket
        .write_all(
            b"GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping",
        )
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ping") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    drop(socket.read_to_end(&mut answer));
}

fn cut(service: &Service, journal: &Journal) {
    let mut slow = connect(service);
    slow.write_all(b"GET /slow?ms=60000 HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    eventually("the app has it", SOON, || {
        service
            .status()
            .generations
            .iter()
            .any(|it| it.leases == 1)
            .then_some(())
    });
    service.reload().expect_success();
    let cut = access(journal, "/slow");
    assert_eq!(cut["GAPLESS_OUTCOME"], "cut");
    assert_eq!(
        (&*cut["GAPLESS_HTTP_STATUS"], &*cut["GAPLESS_GENERATION"]),
        ("503", "g1")
    );
    assert!(number(&cut, "GAPLESS_DURATION_US") > 900_000, "{cut:#?}");
    journal.wait_for(&[
        ("MESSAGE_ID", message_id::CUT.id),
        ("GAPLESS_GENERATION", "g1"),
    ]);
}

#[test]
fn only_failures_are_logged_by_default_and_a_share_is_even() {
    let (service, journal) = ready("");
    drop(get(&service, "/fine"));
    drop(get(&service, "/crash"));
    access(&journal, "/crash");
    let is_access = |entry: &Fields| {
        entry
            .get("SYSLOG_IDENTIFIER")
            .is_some_and(|it| it == "gapless-access")
    };
    assert_eq!(
        journal.entries().iter().filter(|it| is_access(it)).count(),
        1
    );

    service.configure_probe(
        QUICK,
        "[log]\naccess = \"50%\"\naccess_query = true\n[http]\nlanes = 1",
    );
    service.reload().expect_success();
    eventually("the new front alone serves", SOON, || {
        (service.status().fronts.len() == 1).then_some(())
    });
    for number in 0..10 {
        drop(get(&service, &format!("/share?n={number}")));
    }
    drop(get(&service, "/crash?last"));
    access(&journal, "/crash?last");
    let shares = journal.entries().into_iter().filter(|it| {
        it.get("GAPLESS_HTTP_PATH")
            .is_some_and(|path| path.starts_with("/share?n="))
    });
    assert_eq!(shares.count(), 5);
}

/// journald takes 48 KiB for a line of a service, and so does this.
#[test]
fn an_app_writes_long_lines_and_is_where_its_environment_says() {
    let journal = Journal::new();
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(&version("one"));
    let (directory, probe) = (service.scratch.0.clone(), tool("probe-app"));
    let (long, longer) = (40_000, 48 * 1024 + 1000);
    let script = directory.join("start");
    let text = format!(
        "printf '<4>%0{long}d\\n%0{longer}d\\n' 0 1; echo \"in $PWD, from ${{OLDPWD-nowhere}}\"; exec {}",
        probe.display()
    );
    std::fs::write(&script, text).unwrap();
    service.configure(&format!(
        "[app]\ncommand = [\"/bin/sh\", \"{}\"]\ndirectory = \"{directory}\"\n\
         env = {{ PROBE_FILE = \"{directory}/behaviour\" }}\n{QUICK}\n",
        script.display(),
        directory = directory.display(),
    ));
    service.set("PWD", "/somewhere/else");
    service.set("OLDPWD", "/somewhere");
    service.log_to(&journal);
    service.start();
    service.wait_ready();
    let place = format!("in {}, from nowhere", directory.display());
    journal.wait_for(&[("MESSAGE", &place)]);
    let entries = journal.entries();
    let of_app = entries
        .iter()
        .filter(|it| it.contains_key("GAPLESS_WORKER"));
    let lengths: Vec<_> = of_app
        .filter(|it| it["MESSAGE"].len() > 500)
        .map(|it| (it["PRIORITY"].as_str(), it["MESSAGE"].len()))
        .collect();
    assert_eq!(lengths, [("4", long), ("6", 48 * 1024), ("6", 1000)]);
}

#[test]
fn a_busy_journal_costs_entries_and_no_request_waits() {
    let (service, journal) = ready("[log]\naccess = \"all\"");
    let busy = journal.pause();
    let mut socket = connect(&service);
    for _ in 0..20 {
        let requests = "GET / HTTP/1.1\r\nHost: t\r\n\r\n".repeat(100);
        socket.write_all(requests.as_bytes()).unwrap();
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 200").count() < 100 {
            let mut bytes = [0; 8192];
            let count = socket.read(&mut bytes).unwrap();
            answers.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }
    drop(busy);
    let told = journal.wait_for(&[("MESSAGE_ID", message_id::ACCESS_DROPPED.id)]);
    let dropped = number(&told, "GAPLESS_ENTRIES");
    assert!(dropped > 0 && dropped < 2000, "{told:#?}");
    eventually("each entry is there or counted", SOON, || {
        let id = Some(message_id::REQUEST.id);
        let all = journal.entries().into_iter();
        let taken = all.filter(|entry| entry.get("MESSAGE_ID").map(String::as_str) == id);
        let left = 2000 - u32::try_from(taken.count()).unwrap();
        let counted = service.scrape().value("access_log_dropped_total", &[]);
        (counted == Some(f64::from(left))).then_some(())
    });
    let least = f64::from(u32::try_from(dropped).unwrap());
    let text = service.scrape();
    text.expect_within("access_log_dropped_total", &[], least..2000.0);
}

#[test]
fn the_level_is_changed_while_everything_runs() {
    let (service, journal) = ready("");
    let from_front = |path: &str| {
        let path = path.to_owned();
        journal.entries().into_iter().any(|entry| {
            entry
                .get("TARGET")
                .is_some_and(|it| it == "gapless::front::proxy")
                && entry.get("GAPLESS_HTTP_PATH") == Some(&path)
        })
    };
    let front = service.status().fronts[0].pid;
    drop(get(&service, "/before"));
    service.cli(&["log-level", "debug"]).expect_success();
    eventually("the front says more", SOON, || {
        drop(get(&service, "/more"));
        from_front("/more").then_some(())
    });
    assert!(!from_front("/before"));
    journal.wait_for(&[
        ("MESSAGE_ID", message_id::LEVEL_CHANGED.id),
        ("GAPLESS_LEVEL", "debug"),
        ("GAPLESS_WAS", "info"),
    ]);
    // A reload reads the configuration again.
    service.reload().expect_success();
    journal.wait_for(&[
        ("MESSAGE_ID", message_id::LEVEL_CHANGED.id),
        ("GAPLESS_LEVEL", "info"),
    ]);
    eventually("the front says less", SOON, || {
        let path = format!("/{}", world::unique());
        drop(get(&service, &path));
        (!from_front(&path)).then_some(())
    });
    assert_eq!(
        service.status().fronts[0].pid,
        front,
        "no front was replaced"
    );
    let wrong = service.cli(&["log-level", "inof"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr.contains("\"inof\" is no level"), "{wrong}");
}

/// A new kind of event comes with a test that sees it.
#[test]
fn every_message_id_is_looked_for_by_a_test() {
    let tests = include_str!("logs.rs");
    for message in message_id::ALL {
        let constant = message.name.to_uppercase().replace('-', "_");
        let looked_for = format!("message_id::{constant}");
        assert!(
            tests.contains(&looked_for),
            "no test looks for {looked_for}"
        );
    }
}

#[test]
fn every_message_id_is_in_the_manual_and_the_other_way_round() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man/gapless.1");
    let manual = std::fs::read_to_string(path).unwrap();
    let section = manual.split(".Ss Events\n").nth(1).unwrap();
    let list = section.split(".El\n").next().unwrap();
    let entries: Vec<_> = list.split(".It Li ").skip(1).collect();
    assert_eq!(entries.len(), message_id::ALL.len());
    for (entry, message) in entries.into_iter().zip(message_id::ALL) {
        let (id, name, meaning) = (message.id, message.name, message.meaning);
        assert_eq!(entry, format!("{id}\n.Em {name} :\n{meaning}\n"));
    }
}

#[test]
fn events_carry_their_message_ids() {
    let (mut service, journal) = ready("");
    let event = |message: message_id::Message, fields: &[(&str, &str)]| {
        let mut wanted = vec![("MESSAGE_ID", message.id), ("SYSLOG_IDENTIFIER", "gapless")];
        wanted.extend(fields);
        journal.wait_for(&wanted)
    };
    let g1 = ("GAPLESS_GENERATION", "g1");
    let w0 = ("GAPLESS_WORKER", "w0");
    event(message_id::STARTED, &[]);
    event(message_id::BEGUN, &[g1]);
    event(message_id::FRONT_STARTED, &[("GAPLESS_FRONT", "f1")]);
    let live = event(message_id::LIVE, &[g1]);
    assert_eq!(live["MESSAGE"], "g1 is live");
    assert_eq!(
        (&*live["GAPLESS_NAME"], &*live["PRIORITY"]),
        ("gapless", "5")
    );

    drop(get(&service, "/crash"));
    event(message_id::WORKER_DIED, &[g1, w0]);
    event(message_id::WORKER_RESPAWNED, &[g1, w0]);
    assert!(
        get(&service, "/").starts_with("HTTP/1.1 200"),
        "it answers again"
    );

    service.reload().expect_success();
    event(message_id::RELOAD_ASKED, &[]);
    for message in [message_id::DRAINING, message_id::DRAINED, message_id::GONE] {
        event(message, &[g1]);
    }
    event(message_id::LIVE, &[("GAPLESS_GENERATION", "g2")]);
    service.cli(&["drain"]).expect_success();
    event(message_id::ROTATED, &[]);
    service.cli(&["hold"]).expect_success();
    event(message_id::HELD, &[("GAPLESS_LIMIT_S", "10.0")]);
    service.cli(&["resume"]).expect_success();
    let resumed = event(message_id::RESUMED, &[("GAPLESS_WHY", "by command")]);
    assert!(resumed["MESSAGE"].starts_with("requests go on after "));

    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    assert_eq!(service.reload().code(), 6);
    event(message_id::START_FAILED, &[("GAPLESS_GENERATION", "g3")]);
    service.configure("[app]\nwrong = 1\n");
    assert_eq!(service.reload().code(), 5);
    event(message_id::CONFIG_INVALID, &[]);

    let front = service.status().fronts[0].pid;
    world::process::end(front, Signal::KILL);
    event(message_id::FRONT_DIED, &[("GAPLESS_FRONT", "f1")]);
    event(message_id::FRONT_STARTED, &[("GAPLESS_FRONT", "f2")]);
    eventually("f2 serves", SOON, || {
        let fronts = service.status().fronts;
        (fronts[0].state == "serving").then_some(())
    });
    service.kill_keeper();
    event(message_id::ADOPTED, &[("GAPLESS_GENERATION", "g2"), w0]);
    event(message_id::ADOPTED, &[("GAPLESS_FRONT", "f2")]);

    service.control("POST", "/release").expect_ok();
    service.signal(Signal::TERM);
    service.wait_end(SOON);
    event(message_id::RELEASED, &[]);
    service.start();
    service.wait_ready();
    service.stop(SOON);
    event(message_id::STOPPING, &[]);
    event(message_id::STOPPED, &[]);
}

#[test]
fn what_hangs_and_what_is_damaged_is_told_with_its_message_id() {
    let journal = Journal::new();
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(&version("one").with("WATCHDOG_MS", "300"));
    service.configure_probe(&format!("{QUICK}\nwatchdog = \"1s\""), "");
    service.log_to(&journal);
    service.start();
    service.wait_ready();
    journal.wait_for(&[
        ("MESSAGE_ID", message_id::WORKER_HUNG.id),
        ("GAPLESS_GENERATION", "g1"),
        ("GAPLESS_WORKER", "w0"),
    ]);
    let front = service.status().fronts[0].pid;
    assert!(world::process::signal(front, Signal::STOP));
    journal.wait_for(&[
        ("MESSAGE_ID", message_id::FRONT_HUNG.id),
        ("GAPLESS_FRONT", "f1"),
    ]);
    service.signal(Signal::KILL);
    service.wait_end(SOON);
    let mut state = std::fs::File::from(service.stored_fd("gapless-state"));
    let length = usize::try_from(state.metadata().unwrap().len()).unwrap();
    state.rewind().unwrap();
    state.write_all(&vec![0xA5; length]).unwrap();
    service.start();
    journal.wait_for(&[("MESSAGE_ID", message_id::STATE_DAMAGED.id)]);
}

#[test]
fn a_spent_budget_is_told_once_and_so_is_its_end() {
    let (service, journal) =
        ready("[restart]\nburst = 1\ninterval = \"1h\"\ndelay_min = \"10ms\"\ndelay_max = \"1h\"");
    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    drop(get(&service, "/crash"));
    let degraded = journal.wait_for(&[("MESSAGE_ID", message_id::DEGRADED.id)]);
    assert_eq!(degraded["PRIORITY"], "3");
    service.behave(&version("good"));
    service.reload().expect_success();
    journal.wait_for(&[("MESSAGE_ID", message_id::HEALED.id)]);
    let id = Some(message_id::DEGRADED.id);
    let told = journal.entries().into_iter();
    let told = told.filter(|entry| entry.get("MESSAGE_ID").map(String::as_str) == id);
    assert_eq!(told.count(), 1);
}

/// Lines that `gapless run` writes to its stdout for three requests.
fn lines_of_a_run(format: &str) -> Vec<String> {
    let scratch = Scratch::new();
    let stdout = scratch.0.join("stdout");
    let program = hello().display().to_string();
    let config = format!(
        "[app]\ncommand = [\"{program}\"]\ndirectory = \"{}\"\n{QUICK}\n\
         [log]\naccess = \"all\"\naccess_format = \"{format}\"\n",
        scratch.0.display()
    );
    std::fs::write(scratch.0.join("gapless.toml"), config).unwrap();
    let mut child = Command::new(gapless())
        .args(["run", "--port", "0"])
        .env("XDG_RUNTIME_DIR", &scratch.0)
        .env_remove("PORT")
        .current_dir(&scratch.0)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&stdout).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = eventually("it is healthy", SOON, || {
        let mut command = Command::new(gapless());
        command
            .args(["status", "--json"])
            .env("XDG_RUNTIME_DIR", &scratch.0);
        let said = world::process::run(command, SOON).stdout;
        let status: gapless::api::Status = serde_json::from_str(&said).ok()?;
        status.healthy.then(|| status.listeners[0].address.clone())
    });
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .write_all(
            b"GET /a\x22b?c=d HTTP/1.1\r\nHost: t\r\nUser-Agent: q\"\x80\r\nReferer: http://r/?s\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    // What is asked for is written before it ends.
    assert!(world::process::signal(child.id(), Signal::INT));
    assert!(world::process::wait(&mut child, SOON).unwrap().success());
    let text = std::fs::read_to_string(stdout).unwrap();
    let lines = text.lines().filter(|line| line.contains("/a"));
    lines.map(str::to_owned).collect()
}

#[test]
fn off_the_journal_requests_are_lines_on_stdout() {
    let lines = lines_of_a_run("combined");
    let [line] = lines.as_slice() else {
        panic!("{lines:#?}")
    };
    let (before, after) = line.split_once(" +0000] ").unwrap();
    let time = before.strip_prefix("127.0.0.1 - - [").unwrap();
    assert!(time.len() == 20 && time.matches(':').count() == 3, "{line}");
    let (request, rest) = after.split_once(" 404 ").unwrap();
    assert_eq!(request, r#""GET /a\x22b HTTP/1.1""#);
    let (bytes, rest) = rest.split_once(' ').unwrap();
    assert!(bytes.parse::<u64>().unwrap() > 0);
    assert_eq!(rest, r#""http://r/" "q\x22\x80""#);
}

#[test]
fn a_line_of_json_has_the_fields_of_the_journal() {
    let lines = lines_of_a_run("json");
    let [line] = lines.as_slice() else {
        panic!("{lines:#?}")
    };
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    let names: BTreeSet<String> = object
        .keys()
        .map(|key| format!("GAPLESS_{}", key.to_uppercase()))
        .collect();
    let mut expected = documented();
    expected.insert("GAPLESS_TIME".to_owned());
    assert_eq!(names, expected);
    assert_eq!(object["http_path"], "/a\"b");
    assert_eq!(object["http_status"], 404);
    assert_eq!(object["http_user_agent"], "q\"\\x80");
    assert!(object["time"].as_str().unwrap().ends_with('Z'));
}
