//! The keeper's loop: hears what happened, asks the plan, carries out what it says.
//!
//! One task owns everything here; whatever takes time runs in tasks of its own and comes back as a
//! [`Happening`]. So there is no lock, and no decision is made on half of a picture.

mod adopting;
mod birth;
mod consoles;
mod deploying;
mod effects;
mod pausing;
mod precedence;
mod reloading;
mod rounds;
mod standing;
mod upgrading;

use rounds::Rounds;
use upgrading::Images;

pub use birth::run;

use deploying::Running;
use pausing::Quieting;
use reloading::{Answer, Finishing, Untold, Waiter, Wanted};

use super::adoption::{self, Memory};
use super::cgroup::OwnGroup;
use super::changes::WatchError;
use super::control::Asked;
use super::control::socket::ControlError;
use super::counter::GenerationCounter;
use super::crew::Crew;
use super::fronts::Fronts;
use super::happening::Happening;
use super::lifetime::SaidOnce;
use super::listeners::{ListenError, Listener};
use super::output::OutputError;
use super::plan::{Event, Moment};
use super::reaper;
use super::status::Said;
use super::stored;
use super::strays;
use super::upgrade::IMAGE;
use super::worker;
use super::yard::Yard;
use crate::api::{HoldVerdict, LevelInUse, Released};
use crate::causes::chain;
use crate::config::ConfigSource;
use crate::id::GenerationId;
use crate::link::Orphaned;
use crate::release::Store;
use crate::state::StateFile;
use crate::steps::{self, Step};
use crate::systemd::given::GivenError;
use crate::systemd::journal::Level;
use crate::systemd::{message_id, notify};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Happenings that may wait for the loop; tasks wait with the next.
const QUEUE: usize = 1024;
/// Happenings that are taken in one turn before the rest of the picture is brought into line.
const TURN: usize = 64;

/// At the end of a foreground, what the app left behind has so long to die of SIGKILL.
const STRAYS_LIMIT: Duration = Duration::from_secs(2);

/// How gapless runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the main process of a unit: sockets, restarts and logs are systemd's.
    Systemd,
    /// In a terminal: binds by itself, and ends everything when it ends.
    Foreground {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// For load balancers.
        admin: Option<SocketAddr>,
        /// A change of these files and directories reloads.
        watch: Vec<PathBuf>,
    },
}

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance.
    pub name: String,
    /// Where the configuration comes from, at every reload anew.
    pub source: ConfigSource,
    /// Under systemd or not.
    pub mode: Mode,
    /// For sockets; exists.
    pub runtime_directory: PathBuf,
    /// For what survives a reboot.
    pub state_directory: Option<PathBuf>,
    /// Where releases are; none: what the configuration names is all there is.
    pub store: Option<Store>,
    /// Of our own log.
    pub level: Level,
}

/// The keeper cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A container or chroot without it.
    #[error(
        "/proc is not there, by which gapless starts and knows processes; mount it before gapless starts: \
         mount -t proc proc /proc"
    )]
    NoProc(#[source] io::Error),
    /// No sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The passed fds are not usable.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// No thread for the output of workers.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The upgrade ended in neither image.
    #[error("cannot become the installed binary; systemd starts it anew, and it adopts what runs")]
    Exec(#[source] io::Error),
    /// An upgrade got here, and must go back.
    #[error("the state of the gapless before is not here or not understood")]
    Unable,
    /// An upgrade got as far as an earlier process.
    #[error("it crashed, or hung and was ended, before it served")]
    Died,
    /// No watch over files.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// No control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Something that the system must grant was not granted.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
}

/// How far READY=1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// The first start is under way.
    Undecided,
    /// It was decided, by this keeper or an earlier one.
    Decided,
    /// systemd knows.
    Said,
}

/// How the keeper ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing is left.
    Finished,
    /// Everything is left to the next keeper.
    Left,
    /// Everything is left to the next image in this very process.
    Replaced,
}

/// Everything the keeper is.
#[expect(clippy::struct_excessive_bools, reason = "each is a claim of its own")]
pub(super) struct Keeper {
    options: Options,
    pub(super) yard: Yard,
    group: Option<OwnGroup>,
    listeners: Vec<Listener>,
    /// What the next front empties and closes.
    closing: Vec<Listener>,
    env: BTreeMap<OsString, OsString>,
    pub(super) memory: Memory,
    pub(super) crews: BTreeMap<GenerationId, Crew>,
    pub(super) fronts: Fronts,
    waiters: Vec<Waiter>,
    finishing: Vec<Finishing>,
    /// The process of a release command.
    errand: Option<Running>,
    consoles: Vec<consoles::Open>,
    /// The configuration names nothing to run, and nothing is deployed.
    has_nothing: bool,
    untold: VecDeque<Untold>,
    counter: Option<GenerationCounter>,
    counter_said: SaidOnce,
    state: Option<StateFile>,
    events: VecDeque<Event>,
    /// Fronts that died young in a row.
    young_fronts: u32,
    /// When the next front is due, if one is missing.
    front_due: Option<Moment>,
    readiness: Readiness,
    /// SIGHUP came; nobody was told yet.
    has_heard_reload: bool,
    /// RELOADING=1 was said and READY=1 has to follow.
    is_reloading: bool,
    end: Option<End>,
    is_dirty: bool,
    stops: u32,
    /// Where load balancers ask; tasks of their own serve copies.
    pub(super) admin: Vec<Listener>,
    /// What was on its way to be live when this keeper adopted it.
    was_coming: Option<GenerationId>,
    pub(super) said: Said,
    quieting: Vec<Quieting>,
    began: Moment,
    pub(super) began_unix_seconds: u64,
    pub(super) rounds: Rounds,
    images: Images,
}

/// Now, on the clock that the next keeper shares.
pub(super) fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Moment::new(Duration::new(seconds, nanos))
}

impl Keeper {
    /// Until it is finished or left to the next keeper.
    async fn turn(&mut self, mut inbox: mpsc::Receiver<Happening>) {
        let mut beat = tokio::time::interval(self.beat_interval());
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.end.is_none() {
            let wait = self.deadline().map(|deadline| deadline - now());
            tokio::select! {
                happening = inbox.recv() => {
                    let mut next = happening;
                    for _ in 0..TURN {
                        let Some(happening) = next else { break };
                        self.hear(happening);
                        next = inbox.try_recv().ok();
                    }
                }
                () = sleep_for(wait) => self.tick(),
                _ = beat.tick() => self.beat(),
            }
            self.work();
            self.say_ready_if_decided();
            if self.end.is_none() && self.is_to_be_replaced(|| inbox.is_empty()).await {
                self.leave_to_next_image();
            }
        }
        self.leave();
    }

    fn deadline(&self) -> Option<Moment> {
        let untold = self.untold.front().map(|untold| untold.until);
        self.memory
            .plan
            .deadline()
            .into_iter()
            .chain(self.front_due)
            .chain(self.fronts.deadline())
            .chain(untold)
            .chain(self.pause_deadline())
            .min()
    }

    fn tick(&mut self) {
        if self.front_due.is_some_and(|due| due <= now()) {
            self.front_due = None;
            self.bear_front();
        }
        self.fronts.cut_late(now());
        self.pass_pause();
        self.events.push_back(Event::Tick);
    }

    fn hear(&mut self, happening: Happening) {
        let is_news = !matches!(
            happening,
            Happening::LanesAnswered | Happening::FrontSaid(..)
        );
        self.is_dirty |= is_news;
        match happening {
            Happening::WorkerExited(life, ending) => {
                let plan = self.memory.plan.generation(life.generation);
                let is_expected = plan.is_none_or(|plan| plan.is_ending(life.slot));
                self.hush(life.generation);
                if let Some(crew) = self.crews.get_mut(&life.generation)
                    && crew.exited(life, ending, is_expected, now())
                {
                    self.events
                        .push_back(Event::WorkerExited(life.generation, life.slot));
                }
            }
            Happening::WorkerAnswers(life, endpoint) => {
                if let Some(crew) = self.crews.get_mut(&life.generation)
                    && crew.answers(life, endpoint, &self.yard)
                {
                    self.events
                        .push_back(Event::WorkerReady(life.generation, life.slot));
                }
            }
            Happening::WorkerLate(life) => self.look_at_late(life),
            Happening::Notices(life, said) => self.notices(life, said),
            Happening::WorkerFelt(life, felt) => self.felt(life, &felt),
            Happening::FrontSaid(id, message) => self.fronts.said(id, message, now()),
            Happening::FrontExited(id, ending) => self.front_exited(id, ending),
            Happening::FrontHung(id) => {
                tracing::error!(name: message_id::FRONT_HUNG.name, front = %id, "{id} does not answer, replacing it; the app goes on");
                self.fronts.kill(id);
                self.rounds.lane_hangs();
                // That is dealt with; the keeper itself is well.
                log_up("watchdog", notify::watchdog());
            }
            Happening::LanesAnswered => {
                self.rounds.lanes_answered(now());
                log_up("watchdog", notify::watchdog());
            }
            Happening::ErrandEnded(ended) => self.errand_ended(ended),
            Happening::ConsoleEnded(pid) => self.console_ended(pid),
            Happening::Reload => self.reload_by_signal(),
            Happening::Changed(files) => self.reload_by_change(&files),
            Happening::Upgrade => self.upgrade(false, None),
            Happening::UpgradeChecked(result) => self.upgrade_checked(result),
            Happening::Stop => self.stop(),
            Happening::ChildEnded => self.reap_orphans(),
            Happening::Asked(asked) => self.answer(asked),
        }
    }

    fn answer(&mut self, asked: Asked) {
        // An asker that left is no concern: the answer is dropped with its channel.
        match asked {
            Asked::Status(answer) => drop(answer.send(self.status())),
            Asked::Health(answer) => drop(answer.send(self.health())),
            Asked::Metrics(answer) => drop(answer.send(self.metrics())),
            Asked::Reload(answer) => {
                tracing::info!(name: message_id::RELOAD_ASKED.name, "reload asked for by command");
                self.reload(Some(Answer::Once(answer)));
            }
            Asked::Deploy(id, steps) => {
                tracing::info!(name: message_id::RELOAD_ASKED.name, release = %id, "deploy of release {id} asked for by command");
                self.deploy(&id, steps);
            }
            Asked::Console(wanted) => self.open_console(&wanted),
            Asked::Hold(limit, answer) => self.pause(limit, answer),
            Asked::Resume(answer) => self.resume(answer),
            Asked::Rotate(is_drained, answer) => self.rotate(is_drained, answer),
            Asked::LogLevel(level, answer) => {
                self.use_level(&level);
                drop(answer.send(LevelInUse {
                    level: self.memory.log_level.clone(),
                }));
            }
            Asked::Upgrade(answer) => self.upgrade(false, Some(answer)),
            Asked::CheckUpgrade(answer) => self.upgrade(true, Some(answer)),
            Asked::Release(answer) => {
                self.memory.released = Some(now());
                self.save_state();
                log_up("state", notify::barrier(Duration::from_secs(5)));
                steps::reached(Step::ReleaseSaved);
                let crews = self.crews.values().flat_map(Crew::pids);
                drop(answer.send(Released {
                    pids: self.fronts.pids().chain(crews).collect(),
                }));
            }
        }
    }

    fn stop(&mut self) {
        if self
            .memory
            .released
            .is_some_and(|at| now() - at < adoption::RELEASE_HOLDS)
        {
            tracing::info!(name: message_id::RELEASED.name, "leaving everything to the next keeper");
            self.end = Some(End::Left);
            return;
        }
        self.stops += 1;
        self.give_up_upgrade("gapless is stopping");
        self.end_pause(HoldVerdict::Stopping, "gapless is stopping");
        if self.stops > 1 {
            tracing::warn!("told to stop a second time, ending at once");
            self.events.push_back(Event::StopNow);
            return;
        }
        tracing::info!(name: message_id::STOPPING.name, "stopping: finishing requests");
        log_up("stopping", notify::stopping());
        self.events.push_back(Event::Stop);
    }

    fn reap_orphans(&self) {
        let known: HashSet<u32> = self
            .fronts
            .pids()
            .chain(self.crews.values().flat_map(Crew::pids))
            .chain(self.images.check_pid())
            .chain(self.errand.as_ref().map(|errand| errand.pid))
            .chain(self.console_pids())
            .collect();
        let orphans = reaper::reap_orphans(&known);
        for (pid, ending) in &orphans {
            tracing::debug!(pid, why = %ending, "reaped an orphan");
        }
        // Of a generation that is gone: it may have left a child that nobody saw.
        if !orphans.is_empty() {
            let spared: Vec<String> = self
                .crews
                .keys()
                .map(|id| worker::mark_of(&self.yard, *id))
                .collect();
            strays::end_children(&worker::mark_of_all(&self.yard), &spared);
        }
    }

    /// The last thing: nothing of a finished keeper stays in the fd store; a left one keeps all.
    fn leave(&mut self) {
        self.end_consoles();
        match self.end {
            Some(End::Left) => {
                // The next one is no try: the unit was told to start what is installed.
                stored::forget(IMAGE);
                self.save_state();
                return steps::reached(Step::KeeperLeft);
            }
            Some(End::Replaced) => return,
            Some(End::Finished) | None => steps::reached(Step::AllGone),
        }
        self.write_lifetime();
        if self.yard.is_foreground {
            // Nobody else ends them.
            strays::end_all(&worker::mark_of_all(&self.yard), STRAYS_LIMIT);
        }
        adoption::forget(&self.fronts, self.crews.values());
        self.yard.deposits.forget();
        self.yard.remove_app_directory();
        tracing::info!(name: message_id::STOPPED.name, "stopped");
    }

    fn save_state(&mut self) {
        let remembered = self.remember();
        if let Some(state) = &mut self.state
            && let Err(error) = state.save(&remembered)
        {
            self.fronts.totals.state_failures += 1;
            tracing::error!(name: message_id::STATE_DAMAGED.name, error = %chain(&error), "state not written down, a crash of the keeper now would restart the app: {error}");
        }
        self.fronts.forget_dead();
        self.is_dirty = false;
    }

    pub(super) fn name(&self) -> &str {
        &self.options.name
    }

    pub(super) fn state_directory(&self) -> Option<&Path> {
        self.options.state_directory.as_deref()
    }

    /// Nothing runs because there is nothing to run.
    pub(super) fn is_bare(&self) -> bool {
        self.has_nothing && self.memory.plan.is_idle() && !self.memory.plan.is_stopping()
    }

    /// What a person types to change that.
    pub(super) fn deploy_command(&self) -> String {
        format!("sudo gapless{} deploy ./myapp", self.app_option())
    }

    /// What comes behind `gapless` in the commands that we name, where it is needed.
    pub(super) fn app_option(&self) -> String {
        match self.name() {
            "gapless" => String::new(),
            name => format!(" --app {name}"),
        }
    }

    pub(super) fn began(&self) -> Moment {
        self.began
    }

    pub(super) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    pub(super) fn own_group(&self) -> Option<&OwnGroup> {
        self.group.as_ref()
    }

    fn orphaned(&self) -> Orphaned {
        match self.options.mode {
            Mode::Systemd => Orphaned::ServeOn,
            Mode::Foreground { .. } => Orphaned::EndAll,
        }
    }
}

/// The unit of an instance, without suffix.
pub fn unit(name: &str) -> String {
    if name == "gapless" {
        name.into()
    } else {
        format!("gapless@{name}")
    }
}

fn log_up(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(what, %error, "systemd was not told of {what}, continuing: {error}");
    }
}

async fn sleep_for(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
