//! One worker: how it is started, what it is offered to listen on, what its tasks watch.

mod ending;
mod offer;
mod tasks;

pub use ending::{end, mark_of, mark_of_all};
pub use offer::{Offer, environment_of_app};

use super::death::Death;
use super::diagnosis::{self, Fault, Lateness};
use super::happening::{Felt, Happening, WorkerLife};
use super::health::{self, Candidate, LastSeen, Tree};
use super::kin::{Kin, Told};
use super::notice::{Notice, NoticeError, NoticeSocket};
use super::output::{self, OutputError, Source, Tail};
use super::plan::{Moment, Pulse};
use super::reaper;
use super::release::Release;
use super::spawn::{self, Environment, Orphan, Spawn, SpawnError};
use super::stored;
use super::yard::Yard;
use crate::api::WorkerStatus;
use crate::config::{HealthConfig, Listen};
use crate::diagnosis::Diagnosis;
use crate::id::{GenerationId, Slot};
use crate::link::Endpoint;
use crate::poll;
use crate::systemd::given;
use crate::usage;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A worker could not be started or adopted.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Its NOTIFY_SOCKET could not be made.
    #[error("no NOTIFY_SOCKET for it")]
    Notice(#[from] NoticeError),
    /// Its output cannot be read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Out of fds, ports or watches.
    #[error("cannot prepare its sockets and pipes")]
    Prepare(#[source] io::Error),
    /// The previous keeper did not leave what is needed to go on with it.
    #[error("the fd store has no {0} of it")]
    NotKept(&'static str),
    /// It ended while no keeper was there.
    #[error("it ended while no keeper was watching")]
    Dead,
}

impl WorkerError {
    /// What is wrong, by its name.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Spawn(SpawnError::Start { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotADirectory
                ) =>
            {
                Diagnosis::DirectoryUnusable
            }
            Self::Spawn(_)
            | Self::Notice(_)
            | Self::Output(_)
            | Self::Prepare(_)
            | Self::NotKept(_)
            | Self::Dead => Diagnosis::NotStarted,
        }
    }
}

/// What the next keeper must know of a worker, beside the kept fds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedWorker {
    /// Its place.
    pub slot: Slot,
    life: u64,
    port: Option<u16>,
    endpoint: Option<Endpoint>,
    said: Option<String>,
    speaks: bool,
    started: Moment,
    /// All of its processes were told to end. Absent from what a keeper without it wrote down.
    #[serde(default)]
    is_ending: bool,
}

/// A slot over all lives of its workers.
#[derive(Default)]
pub struct Place {
    /// The one that lives now.
    pub worker: Option<Worker>,
    lives: u64,
    /// Why we end the one that lives now, if we do; then, how the last one ended.
    pub death: Option<Death>,
    /// `listen = "fd"`: our listening socket, open over the deaths of workers, so that waiting
    /// connections are accepted by the next.
    listener: Option<TcpListener>,
}

/// One life.
pub struct Worker {
    /// Which.
    pub life: u64,
    /// Of the process; also its process group and session.
    pub pid: u32,
    /// To signal it.
    pub pidfd: OwnedFd,
    /// When.
    pub started: Moment,
    /// The last lines that it wrote.
    pub tail: Tail,
    /// Where it answers, once it does.
    pub endpoint: Option<Endpoint>,
    said: Option<String>,
    /// It uses its NOTIFY_SOCKET, so only READY=1 makes it ready.
    speaks: bool,
    port: Option<u16>,
    candidates: Vec<Candidate>,
    last_seen: LastSeen,
    heartbeat: watch::Sender<Option<Duration>>,
    kin: Kin,
    told: watch::Sender<Told>,
    tasks: JoinSet<()>,
    asking: Option<tokio::task::AbortHandle>,
    /// Maximum start time.
    boot: Duration,
    /// As its health check says.
    health: Pulse,
    /// Its watchdog ran out.
    is_silent: bool,
}

impl Place {
    /// Starts the next life.
    ///
    /// # Errors
    /// [`WorkerError`]; nothing runs then.
    pub fn start(&mut self, offer: &Offer<'_>) -> Result<(), WorkerError> {
        let Offer {
            generation,
            slot,
            release,
            yard,
            ..
        } = *offer;
        let listen = release.app.listen;
        if self.listener.is_none() && matches!(listen, Listen::Fd | Listen::Auto) {
            let listener = offer::listen_on_loopback().map_err(WorkerError::Prepare)?;
            stored::keep(&stored::of_worker(generation, slot, "listen"), &listener);
            self.listener = Some(listener);
        }
        let port = match listen {
            Listen::Auto | Listen::Port => Some(health::free_port().map_err(WorkerError::Prepare)?),
            Listen::FixedPort(port) => Some(port),
            Listen::Fd | Listen::Unix => None,
        };
        let socket = offer::socket_path(yard, generation, slot);
        offer::remove(&socket);
        let notify = offer::notify_path(yard, generation, slot);
        offer::remove(&notify);
        let notices = NoticeSocket::bind(&notify)?;
        let (reading, writing) = output::pipe().map_err(WorkerError::Prepare)?;
        let env = offer::environment(offer, port, &socket, &notify);
        let deposits = yard.deposits.of(release.owner(generation, slot));
        let deposits = deposits.map_err(WorkerError::Prepare)?;
        let listener = self.listener.iter().map(|fd| ("http", fd.as_fd()));
        let kept = deposits
            .iter()
            .map(|(name, fd)| (name.as_str(), fd.as_fd()));
        let fds = listener.chain(kept).collect();
        let child = spawn::spawn(&Spawn {
            command: release.app.command.iter().map(OsString::from).collect(),
            env: &env,
            directory: &release.app.directory,
            fds,
            output: Some(writing.as_fd()),
            tty: None,
            cgroup: offer.cgroup,
            orphan: if yard.is_foreground {
                Orphan::Dies
            } else {
                Orphan::LivesOn
            },
            is_caged: yard.cages(release),
        })?;
        let of = |thing| stored::of_worker(generation, slot, thing);
        stored::keep(&of("pidfd"), &child.pidfd);
        stored::keep(&of("notify"), notices.as_fd());
        stored::keep(&of("output"), &reading);
        self.lives += 1;
        let remembered = RememberedWorker {
            slot,
            life: self.lives,
            port,
            endpoint: None,
            said: None,
            speaks: false,
            started: offer.now,
            is_ending: false,
        };
        let fds = Fds {
            pidfd: child.pidfd,
            notices,
            reading,
        };
        self.attach(remembered, child.pid, fds, generation, release, yard)
    }

    /// What a console gets that talks to the worker here; none: nobody works here.
    pub fn environment_beside(&self, offer: &Offer<'_>) -> Option<Environment> {
        let port = self.worker.as_ref()?.port;
        let socket = offer::socket_path(offer.yard, offer.generation, offer.slot);
        Some(offer::environment_beside(offer, port, &socket))
    }

    /// Takes over the place of a worker of the previous keeper, and the worker if it lives. The
    /// place stays also without: its listening socket holds connections for the next life.
    ///
    /// # Errors
    /// Beside the place, [`WorkerError`]; the caller counts the worker as ended, and it is.
    pub fn adopt(
        remembered: RememberedWorker,
        generation: GenerationId,
        release: &Release,
        yard: &Yard,
        take: &mut dyn FnMut(&str) -> Option<OwnedFd>,
    ) -> (Self, Result<(), WorkerError>) {
        let slot = remembered.slot;
        let mut named = |thing| take(&stored::of_worker(generation, slot, thing));
        let mut place = Self {
            death: None,
            worker: None,
            lives: remembered.life,
            listener: named("listen").map(TcpListener::from),
        };
        let Some(pidfd) = named("pidfd") else {
            return (place, Err(WorkerError::NotKept("pidfd")));
        };
        let Some(pid) = given::pid_of_pidfd(&pidfd) else {
            let who = WorkerLife {
                generation,
                slot,
                life: place.lives,
            };
            let last_words = named("notify").and_then(|fd| NoticeSocket::from_fd(fd).ok());
            for said in last_words.iter().flat_map(NoticeSocket::pending) {
                if let Some(keeping) = said.keeping {
                    let number = release.worker_number(slot);
                    yard.deposits.heed(who, number, keeping);
                }
            }
            return (place, Err(WorkerError::Dead));
        };
        let fds = Fds::adopt(pidfd, named("notify"), named("output"));
        let adopted =
            fds.and_then(|fds| place.attach(remembered, pid, fds, generation, release, yard));
        if adopted.is_err() {
            reaper::kill_session(pid);
        }
        (place, adopted)
    }

    fn attach(
        &mut self,
        remembered: RememberedWorker,
        pid: u32,
        fds: Fds,
        generation: GenerationId,
        release: &Release,
        yard: &Yard,
    ) -> Result<(), WorkerError> {
        let RememberedWorker {
            slot,
            life,
            port,
            endpoint,
            said,
            speaks,
            started,
            is_ending,
        } = remembered;
        let who = WorkerLife {
            generation,
            slot,
            life,
        };
        let source = Source {
            generation,
            slot,
            release: release.label.clone(),
        };
        let tail = yard
            .output
            .watch(source, fds.reading, release.lines_per_second_max)?;
        let watched = fds
            .pidfd
            .try_clone()
            .and_then(poll::watch)
            .map_err(WorkerError::Prepare)?;
        let (heartbeat, beats) = watch::channel(None);
        let notices = Rc::new(fds.notices);
        let mut tasks = JoinSet::new();
        let kin = ending::kin(pid, generation, slot, yard);
        let (told, hears) = watch::channel(ending::told_before(is_ending));
        tasks.spawn_local(tasks::watch_end(
            who,
            watched,
            (kin.clone(), hears),
            tail.clone(),
            Rc::clone(&notices),
            yard.clone(),
        ));
        tasks.spawn_local(tasks::hear(who, notices, yard.clone()));
        tasks.spawn_local(tasks::watch_heartbeat(who, beats, yard.clone()));
        let candidates =
            self.candidates(release, port, &offer::socket_path(yard, generation, slot));
        let mut worker = Worker {
            life,
            pid,
            pidfd: fds.pidfd,
            started,
            tail,
            endpoint,
            said,
            speaks,
            port,
            candidates,
            last_seen: LastSeen::default(),
            heartbeat,
            kin,
            told,
            tasks,
            asking: None,
            boot: release.app.boot,
            health: Pulse::Well,
            is_silent: false,
        };
        match worker.endpoint.clone() {
            Some(endpoint) => worker.answers(who, endpoint, release, yard),
            None if !worker.speaks => worker.ask(who, release.health.clone(), yard),
            None => {}
        }
        self.worker = Some(worker);
        Ok(())
    }

    fn candidates(&self, release: &Release, port: Option<u16>, socket: &Path) -> Vec<Candidate> {
        let unix = matches!(release.app.listen, Listen::Auto | Listen::Unix);
        let listener = self
            .listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let port = port.map(Candidate::Port);
        let unix = unix.then(|| Candidate::Unix(socket.to_owned()));
        port.into_iter()
            .chain(unix)
            .chain(listener.map(Candidate::Fd))
            .collect()
    }

    /// Closes the connections that wait in our listening socket for a worker that will not come
    /// soon: whoever sent a request into it would wait beyond any limit. The front answers for them.
    pub fn turn_away(&self) {
        let Some(listener) = self.listener.as_ref().filter(|_| self.worker.is_none()) else {
            return;
        };
        for _ in 0..offer::BACKLOG {
            // Not by O_NONBLOCK: the flag would be the app's, too.
            if !offer::has_waiting(listener) || listener.accept().is_err() {
                return;
            }
        }
    }

    /// The worker of this life, which ended.
    pub fn take(&mut self, life: WorkerLife) -> Option<Worker> {
        self.worker.take_if(|worker| worker.life == life.life)
    }

    /// For the state.
    pub fn remember(&self, slot: Slot) -> Option<RememberedWorker> {
        let worker = self.worker.as_ref()?;
        Some(RememberedWorker {
            slot,
            life: worker.life,
            port: worker.port,
            endpoint: worker.endpoint.clone(),
            said: worker.said.clone(),
            speaks: worker.speaks,
            started: worker.started,
            is_ending: worker.is_ending(),
        })
    }

    /// How often a worker had to be started again.
    pub fn respawns(&self) -> u64 {
        self.lives.saturating_sub(1)
    }

    /// Its worker is gone, and the next one is elsewhere: who waits in our listening socket for it
    /// is told so by its end.
    pub fn vacate(&mut self, generation: GenerationId, slot: Slot, yard: &Yard) {
        if self.listener.take().is_some() {
            stored::forget(&stored::of_worker(generation, slot, "listen"));
        }
        self.death = None;
        self.forget(generation, slot, yard);
    }

    /// Removes what it left in the runtime directory.
    pub fn forget(&self, generation: GenerationId, slot: Slot, yard: &Yard) {
        offer::remove(&offer::socket_path(yard, generation, slot));
        offer::remove(&offer::notify_path(yard, generation, slot));
    }

    /// For the status.
    pub fn status(&self, slot: Slot, state: &str, now: Moment) -> WorkerStatus {
        let worker = self.worker.as_ref();
        let usage = worker.and_then(|worker| usage::of(worker.pid));
        WorkerStatus {
            slot,
            pid: worker.map(|worker| worker.pid),
            state: state.into(),
            said: worker.and_then(|worker| worker.said.clone()),
            endpoint: worker
                .and_then(|worker| worker.endpoint.as_ref())
                .map(ToString::to_string),
            age_seconds: worker.map_or(0, |worker| (now - worker.started).as_secs()),
            respawns: self.respawns(),
            memory_bytes: usage.map(|usage| usage.memory_bytes),
            cpu_seconds: usage.map(|usage| usage.cpu.as_secs_f64()),
            threads: usage.map(|usage| usage.threads),
            fds: usage.and_then(|usage| usage.fds),
            kept: Vec::new(),
        }
    }
}

impl Worker {
    /// It is ready and answers here; from now on its watchdog counts, and it is asked how it is.
    pub fn answers(&mut self, who: WorkerLife, endpoint: Endpoint, release: &Release, yard: &Yard) {
        self.endpoint = Some(endpoint.clone());
        self.heartbeat.send_replace(release.app.watchdog);
        let health = release.health.clone();
        if let Some(path) = health.path.clone() {
            let watch = tasks::watch_health(who, endpoint, path, health, yard.clone());
            self.tasks.spawn_local(watch);
        }
    }

    fn pulse(&self) -> Pulse {
        if self.is_silent {
            Pulse::Silent
        } else {
            self.health
        }
    }

    /// Takes in what was found of how it is; all that is known together, if that is news.
    pub fn felt(&mut self, felt: &Felt) -> Option<Pulse> {
        let before = self.pulse();
        match felt {
            Felt::Health(pulse, _) => self.health = *pulse,
            Felt::Silent => self.is_silent = true,
            Felt::SpeaksAgain => self.is_silent = false,
        }
        // An app may say WATCHDOG=trigger a thousand times; and what was well for an earlier keeper
        // may not be for this one, or the other way round.
        let is_news = self.pulse() != before || matches!(felt, Felt::Health(..));
        is_news.then(|| self.pulse())
    }

    /// What is wrong with it, if it is late. Asked while it still runs.
    pub fn why_late(&self, listen: Listen) -> Fault {
        let tree = Tree {
            pid: self.pid,
            cgroup: None,
        };
        let late = Lateness {
            speaks: self.speaks,
            candidates: &self.candidates,
            seen: &self.last_seen.observations(),
            elsewhere: &health::elsewhere(&self.candidates, tree),
            lines: &self.tail.lines(),
        };
        diagnosis::of_lateness(late, listen)
    }

    /// Takes a notice in; true when it concerns the plan too.
    pub fn said(
        &mut self,
        notice: &Notice,
        who: WorkerLife,
        health: &HealthConfig,
        yard: &Yard,
    ) -> bool {
        match notice {
            Notice::Ready if self.endpoint.is_none() => {
                self.ask(who, health.clone(), yard);
                false
            }
            Notice::Status(text) => {
                self.said = Some(text.clone());
                false
            }
            Notice::Watchdog => {
                self.heartbeat.send_modify(|_| ());
                false
            }
            Notice::ExtendTimeout(_) => {
                self.wait_for_its_word();
                true
            }
            Notice::WatchdogTrigger => true,
            Notice::Ready | Notice::Reloading | Notice::Stopping => false,
        }
    }

    /// It speaks, so it is not asked any more.
    fn wait_for_its_word(&mut self) {
        self.speaks = true;
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }

    fn ask(&mut self, who: WorkerLife, health: HealthConfig, yard: &Yard) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        let (candidates, pid, boot) = (self.candidates.clone(), self.pid, self.boot);
        let (seen, outbox) = (self.last_seen.clone(), yard.outbox.clone());
        let asking = self.tasks.spawn_local(async move {
            let tree = Tree { pid, cgroup: None };
            let answering = health::wait_until_answering(&candidates, &health, tree, &seen);
            let endpoint = tasks::tell_lateness(who, boot, answering, &outbox).await;
            outbox.put(Happening::WorkerAnswers(who, endpoint)).await;
        });
        self.asking = Some(asking);
    }
}

struct Fds {
    pidfd: OwnedFd,
    notices: NoticeSocket,
    reading: OwnedFd,
}

impl Fds {
    fn adopt(
        pidfd: OwnedFd,
        notify: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<Self, WorkerError> {
        let notify = notify.ok_or(WorkerError::NotKept("notify socket"))?;
        Ok(Self {
            pidfd,
            notices: NoticeSocket::from_fd(notify)?,
            reading: output.ok_or(WorkerError::NotKept("output pipe"))?,
        })
    }
}
