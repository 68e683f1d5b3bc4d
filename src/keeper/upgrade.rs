//! Replacing gapless by its installed binary: what is known of an upgrade, and the dry run, in which
//! the installed binary says of a copy of the state whether it could take over.
//!
//! # An upgrade
//!
//! An upgrade begins with `POST /upgrade` or SIGUSR2. The keeper runs the installed binary (where it was
//! started from: `argv[0]`, or its own path) as `gapless adopt-check` on a copy of the state and the
//! configuration. A binary that exits, hangs for 5 s, or refuses is refused. Then the keeper waits for a
//! quiet moment: no reload under way, no front starting, at most one old front. Then it becomes that
//! binary, with the same pid:
//!
//! * It has a copy of all that is in systemd's fd store (`keeper/stored.rs`), because systemd gives those
//!   fds only to a new process, and hands them on as systemd does: LISTEN_FDS from 3 with names. So the
//!   next image starts as any other does, by adopting, and stores nothing again. The foreground, which has
//!   no store, is upgraded the same way.
//! * The fds 3, 4, … are taken in a keeper by its runtime, so it first becomes a relay, see `exec::relay`.
//! * Signals are held back from the last look at what was heard until the next image hears them. Only the
//!   main thread hears signals; the others are started with them blocked.
//! * The next image bears a front, for which the older ones retire as at a restart, but their tunnels go
//!   on: `KeepTunnels` goes before `Retire`. An upgrade is over when that front serves.
//! * What is installed while an upgrade waits is asked before it is executed: only what was asked is.
//! * State and link are only extended, by fields with defaults and by messages that an older front ignores,
//!   so an upgrade to the version before is one like any other. To a format that it does not know, the
//!   installed binary says no in the dry run.
//! * Whoever asked is not held on to over the exec: the answer names a number, under which the outcome
//!   stands in the status.
//! * Nothing that was heard is lost, as the exec waits for it. What was accepted on the control or an admin
//!   socket but not heard yet breaks. Our own commands ask again, if asking changes nothing.
//!
//! # The way back
//!
//! The image before is kept, in the fd store, until a front of the next one serves. If the next image
//! cannot begin, does not find or understand the state, or its front does not come up, it becomes the one
//! before again, which adopts and says why. An image that crashes, or hangs until systemd's watchdog ends
//! it, cannot do that. So the first thing of a process that systemd gives a kept image is to become that
//! image. The kept image is forgotten before, so that nobody goes to and fro: after that the installed
//! binary is tried again. A binary that dies even before that is started again and again, and whatever runs
//! serves on without a keeper until another is installed.

use super::adoption::Remembered;
use super::happening::{Happening, Outbox};
use super::output;
use super::plan::Moment;
use super::reaper;
use super::spawn::{self, Child, Environment, Orphan, Spawn, SpawnError};
use super::stored;
use crate::api::{UpgradeOutcome, UpgradeVerdict};
use crate::config::{self, ConfigSource};
use crate::exec::relay::Next;
use crate::id::FrontId;
use crate::poll;
use crate::state::{StateError, StateFile};
use crate::systemd::given::Given;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The word that selects the dry run.
pub const CHECK: &str = "adopt-check";
/// Name of the fd with the copy of the state.
pub const STATE: &str = "state";
/// Name of the kept fd with the image that was replaced; kept until the next one serves.
pub const IMAGE: &str = "gapless-image";
/// For the answer of the installed binary.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// A longer answer is none.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// This one's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The installed binary is asked.
    Checking {
        /// That is all that was wanted.
        only: bool,
    },
    /// For a quiet moment: no reload is under way, no more than one old front.
    Waiting,
    /// The next image is on its way, or runs already.
    Executing,
    /// It runs, and its front is to serve.
    Arriving(FrontId),
    /// Over.
    Decided,
}

/// The newest upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// For whoever asks.
    pub outcome: UpgradeOutcome,
    /// When.
    pub asked: Moment,
    /// How far it is.
    pub stage: Stage,
}

impl Upgrade {
    /// Asked for now; `number` is that of the one before.
    pub fn begin(number: u64, program: &Path, only: bool, asked: Moment) -> Self {
        let outcome = UpgradeOutcome {
            number: number.saturating_add(1),
            verdict: UpgradeVerdict::UnderWay,
            from: VERSION.to_owned(),
            to: None,
            program: program.to_owned(),
            cause: "asking the installed binary".to_owned(),
            elapsed_ms: 0,
        };
        let stage = Stage::Checking { only };
        Self {
            outcome,
            asked,
            stage,
        }
    }
}

/// What the installed binary says of itself in the dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitness {
    /// Its version.
    pub gapless: String,
    /// What it finds wrong with the configuration.
    pub config_problem: Option<String>,
}

/// The dry run, in the installed binary: understands the state, and looks at the configuration.
///
/// # Errors
/// [`StateError`]: it could not take over.
pub fn examine(state: OwnedFd, config_file: Option<PathBuf>) -> Result<Fitness, StateError> {
    StateFile::from_fd(state).load::<Remembered>()?;
    let problem = config_file.and_then(|file| {
        let source = ConfigSource {
            file: Some(file),
            ..ConfigSource::default()
        };
        config::load(&source).err().map(|error| error.summary())
    });
    Ok(Fitness {
        gapless: VERSION.to_owned(),
        config_problem: problem,
    })
}

/// Where the installed binary is: as we were started, if that says it, else where we are from.
///
/// # Errors
/// As readlink(2) of our own image.
pub fn installed() -> io::Result<PathBuf> {
    let named = std::env::args_os().next().map(PathBuf::from);
    if let Some(named) = named.filter(|path| path.is_absolute()) {
        return Ok(named);
    }
    let path = std::env::current_exe()?.into_os_string();
    // proc_pid_exe(5), of a binary that was replaced before we looked.
    let text = path.to_string_lossy();
    Ok(text
        .strip_suffix(" (deleted)")
        .map_or_else(|| PathBuf::from(&path), PathBuf::from))
}

/// Which file the installed binary is: another one is there after an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    /// None when it cannot be seen.
    pub fn of(program: &Path) -> Option<Self> {
        let seen = std::fs::metadata(program).ok()?;
        Some(Self {
            device: seen.dev(),
            inode: seen.ino(),
            changed: (seen.ctime(), seen.ctime_nsec()),
        })
    }
}

/// How a new image that cannot take over becomes the old one again.
pub struct WayBack {
    image: OwnedFd,
    fds: Vec<(String, OwnedFd)>,
    program: PathBuf,
}

impl WayBack {
    /// None when no image was before this one, or there are no fds to spare.
    pub fn of(given: &[Given], program: &Path) -> Option<Self> {
        let copy = |given: &Given| Some((given.name.clone(), given.fd.try_clone().ok()?));
        Self::with(given.iter().map(copy).collect::<Option<_>>()?, program)
    }

    /// The same, of what is not needed any more.
    pub fn with(fds: Vec<(String, OwnedFd)>, program: &Path) -> Option<Self> {
        let (images, fds): (Vec<_>, Vec<_>) = fds.into_iter().partition(|(name, _)| name == IMAGE);
        let (_, image) = images.into_iter().next()?;
        let program = program.to_owned();
        Some(Self {
            image,
            fds,
            program,
        })
    }

    /// Only systemd gives the image without the control socket: to a new process, because the one
    /// that was to take over ended before it served.
    pub fn is_of_a_dead_image(&self) -> bool {
        self.fds.iter().all(|(name, _)| name != stored::CONTROL)
    }

    /// The old image, which is told why. It gets no image to go back to: it was good before. And if
    /// it does not come up, either, the next process is a new try of the installed one.
    pub fn next(self, why: &str) -> Next {
        tracing::error!("this gapless cannot take over, going back to the one before: {why}");
        stored::forget(IMAGE);
        // Open until the exec, as this process has nothing else to do.
        let image = self.image.into_raw_fd();
        Next {
            relay: PathBuf::from(format!("/proc/self/fd/{image}")),
            image: None,
            back: Some(format!("it ran, but could not take over: {why}")),
            program: self.program,
            arguments: std::env::args_os().skip(1).collect(),
            fds: self.fds,
        }
    }
}

/// The dry run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// No copy of the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// No pipe, or no watch.
    #[error("cannot prepare the dry run")]
    Prepare(#[from] io::Error),
}

/// A dry run under way.
pub struct Check {
    child: Child,
    output: OwnedFd,
    identity: Option<Identity>,
}

impl Check {
    /// Starts the installed binary on a copy of the state.
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn start(
        program: &Path,
        remembered: &Remembered,
        config_file: Option<&Path>,
        env: &Environment,
    ) -> Result<Self, CheckError> {
        std::fs::metadata(program)?;
        let identity = Identity::of(program);
        let state = StateFile::create("gapless-state-copy")?;
        state.save(remembered)?;
        let (output, writing) = output::pipe()?;
        let mut command: Vec<OsString> = vec![program.into(), CHECK.into()];
        if let Some(file) = config_file {
            command.extend(["--config".into(), file.into()]);
        }
        let child = spawn::spawn(&Spawn {
            command,
            env,
            directory: Path::new("/"),
            fds: vec![(STATE, state.as_fd())],
            output: Some(writing.as_fd()),
            tty: None,
            cgroup: None,
            orphan: Orphan::Dies,
            is_caged: false,
        })?;
        Ok(Self {
            child,
            output,
            identity,
        })
    }

    /// Which file was asked.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Who must not be reaped as an orphan.
    pub fn pid(&self) -> u32 {
        self.child.pid
    }

    /// Tells the keeper's loop what came of it, within its limit.
    pub async fn run(self, outbox: Outbox) {
        let pid = self.child.pid;
        let result = self.result().await.unwrap_or_else(|error| {
            reaper::kill_session(pid);
            Err(format!("it cannot be watched: {error}"))
        });
        outbox.put(Happening::UpgradeChecked(result)).await;
    }

    async fn result(self) -> io::Result<Result<Fitness, String>> {
        let Child { pid, pidfd } = self.child;
        let watched = poll::watch(pidfd.try_clone()?)?;
        let mut answer = pipe::Receiver::from_owned_fd(self.output)?.take(ANSWER_BYTES_MAX);
        let mut bytes = Vec::new();
        let both = async {
            answer.read_to_end(&mut bytes).await?;
            reaper::ended(&watched, pid).await
        };
        let Ok(ending) = tokio::time::timeout(CHECK_LIMIT, both).await else {
            reaper::kill_session(pid);
            reaper::signal(&pidfd, Signal::KILL)?;
            reaper::ended(&watched, pid).await?;
            let limit = CHECK_LIMIT.as_secs();
            return Ok(Err(format!(
                "it did not answer the dry run within {limit} s"
            )));
        };
        let ending = ending?;
        let text = String::from_utf8_lossy(&bytes);
        let fitness = text
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok());
        Ok(match (ending, fitness) {
            (reaper::Ending::Exited(0), Some(fitness)) => Ok(fitness),
            _ => Err(refusal(ending, &text)),
        })
    }
}

fn refusal(ending: reaper::Ending, text: &str) -> String {
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map_or_else(String::new, |line| {
        let line: String = line.chars().filter(|c| !c.is_control()).take(500).collect();
        format!(": {line}")
    });
    format!("it {ending} in the dry run without saying that it can take over{last}")
}
