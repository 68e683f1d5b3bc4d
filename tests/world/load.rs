//! The load: runs the strict client beside what happens, and reads what it counted.

use super::{process, tool};
use rustix::process::{Resource, getrlimit};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Connecting hundreds of clients through a busy machine, each with its first answer.
const UP_WITHIN: Duration = Duration::from_secs(40);
/// The longest answer under way, and the one request of each idle connection.
const DONE_WITHIN: Duration = Duration::from_mins(1);

/// Lanes do not get the same share of those who connect, and a full one makes room: so a third more
/// than there will be.
const SPARE: u64 = 3;

/// As many idle connections of `wanted` as the hard limit of descriptors holds in a front of two lanes,
/// and `connections_max` for them. Fewer show the same, so they are told, and no failure: nobody but
/// the owner of the machine can raise that limit.
#[allow(
    clippy::print_stderr,
    reason = "what was tested with less goes to stderr"
)]
pub fn idle_that_fit(wanted: u64) -> (u64, u64) {
    let needed = wanted + wanted / SPARE;
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let allowed = needed.min(hard.saturating_sub(64 + 2 * 96) / 2);
    let fitting = wanted.min(allowed - allowed / (SPARE + 1));
    if fitting < wanted {
        eprintln!("{wanted} idle connections wanted, {fitting} had: ulimit -Hn says {hard}");
    }
    (fitting, allowed)
}

/// A running load. Dropped, it is killed.
pub struct Load {
    client: Child,
    lines: Receiver<String>,
}

/// What the strict client counted: see `tests/load/client.rs`.
#[derive(Debug, Deserialize)]
pub struct Counted {
    pub ok: u64,
    pub lost: u64,
    pub refused: u64,
    pub lost_by_kind: BTreeMap<String, u64>,
    pub losses: Vec<serde_json::Value>,
    pub closed: u64,
    pub closed_by: BTreeMap<String, u64>,
    pub connects: u64,
    pub idle: Idle,
    pub stall: Stall,
    pub latency_ms: BTreeMap<String, serde_json::Value>,
    pub versions: BTreeMap<String, u64>,
    pub pids: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
pub struct Idle {
    pub opened: u64,
    pub answered: u64,
    pub closed: u64,
}

#[derive(Debug, Deserialize)]
pub struct Stall {
    pub ms: u64,
    pub at_ms: u64,
    pub kind: Option<String>,
}

impl Load {
    /// Starts it on this machine's network and waits until every client had an answer.
    pub fn start(address: &str, arguments: &[&str]) -> Self {
        Self::begin(Command::new(tool("strict-client")), address, arguments)
    }

    /// The same in a network namespace, where it outlives what runs there.
    pub fn start_in(namespace: &Path, address: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", namespace.display()))
            .arg(tool("strict-client"));
        Self::begin(command, address, arguments)
    }

    fn begin(mut command: Command, address: &str, arguments: &[&str]) -> Self {
        command
            .arg(address)
            .args(arguments)
            .args(["--seconds", "3600", "--until-stdin-closes"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let output = BufReader::new(client.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let load = Self { client, lines };
        let line = load.lines.recv_timeout(UP_WITHIN);
        assert_eq!(
            line.as_deref(),
            Ok("ready"),
            "the load is not up within {UP_WITHIN:?}"
        );
        load
    }

    /// Lets it run for so long, and fails the test at once when it ends before.
    pub fn run_for(&self, time: Duration) {
        let said = self.lines.recv_timeout(time);
        assert_eq!(
            said,
            Err(RecvTimeoutError::Timeout),
            "the load ended by itself"
        );
    }

    /// Lets every client finish what it asked and every idle connection ask once.
    pub fn finish(mut self) -> Counted {
        drop(self.client.stdin.take());
        let line = self.lines.recv_timeout(DONE_WITHIN);
        let line = line.unwrap_or_else(|_| panic!("the load does not end within {DONE_WITHIN:?}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.client.stdin.take());
        if process::wait(&mut self.client, Duration::from_secs(5)).is_none() {
            self.client.kill().unwrap();
            self.client.wait().unwrap();
        }
    }
}

impl Counted {
    /// Every request had its whole, right answer.
    #[track_caller]
    pub fn expect_nothing_lost(&self) -> &Self {
        assert!(self.ok > 0, "nothing was asked: {self:#?}");
        assert_eq!(self.lost, 0, "requests were lost: {self:#?}");
        self
    }

    /// No connection was closed by the server, and every idle one answered at the end.
    #[track_caller]
    pub fn expect_nothing_closed(&self) -> &Self {
        assert_eq!(self.closed, 0, "connections were closed: {self:#?}");
        assert_eq!(
            self.idle.answered, self.idle.opened,
            "idle connections fell silent: {self:#?}"
        );
        self
    }

    /// No answer began later than this after it could have.
    #[track_caller]
    pub fn expect_no_stall_beyond(&self, limit: Duration) -> &Self {
        let longest = Duration::from_millis(self.stall.ms);
        assert!(
            longest <= limit,
            "a stall of {longest:?}, more than {limit:?}: {self:#?}"
        );
        self
    }
}
