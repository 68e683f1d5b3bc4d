//! The fronts as the keeper sees them: processes, links, what they serve from, what they report.
//!
//! Nothing here waits for a front: a stopped or hung one must not stop the keeper. Messages go
//! through a bounded queue of their own task; one that is full counts as a hung front.

mod birth;
mod succession;
mod wires;

pub use birth::{Birth, FrontError};

use super::happening::Outbox;
use super::lane_probe;
use super::plan::Moment;
use super::reaper;
use super::stored;
use super::totals::Totals;
use crate::api::FrontStatus;
use crate::config::HttpConfig;
use crate::id::{FrontId, GenerationId};
use crate::link::{self, Cell, FromFront, KeeperEnd, Link, Report, Target, ToFront};
use crate::poll;
use crate::systemd::message_id;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Messages that may wait for a front before it counts as hung.
const QUEUE: usize = 256;

/// What a front is told that may take fds along.
type Letter = (ToFront, Vec<OwnedFd>);

/// How far a front has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its lanes are not up yet.
    Starting,
    /// Accepts and serves.
    Serving,
    /// Hands its connections to a younger one.
    Retiring,
    /// Finishes its requests for a stop.
    Draining,
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Retiring => "retiring",
            Self::Draining => "draining",
        }
    }
}

/// What the next keeper must know of a front, beside the kept fds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RememberedFront {
    id: FrontId,
    stage: Stage,
    http: HttpConfig,
    lanes: usize,
    born: Moment,
    heir: Option<FrontId>,
    #[serde(default)]
    is_upgrade: bool,
    #[serde(default)]
    ends: Option<Moment>,
}

struct Front {
    id: FrontId,
    pid: u32,
    pidfd: OwnedFd,
    stage: Stage,
    http: HttpConfig,
    lanes: usize,
    born: Moment,
    /// Gets its connections when it retires.
    heir: Option<FrontId>,
    /// It replaces only the binary: the tunnels of those that retire for it go on.
    is_upgrade: bool,
    /// Made old by an upgrade, what it still serves then is cut.
    ends: Option<Moment>,
    is_cut: bool,
    letters: mpsc::Sender<Letter>,
    /// None: adopted, and it has not spoken yet, so anything may be leased.
    report: Option<Report>,
    /// Its two tasks end with it.
    _tasks: JoinSet<()>,
}

/// All living fronts, and the cell that they serve from.
pub struct Fronts {
    living: BTreeMap<FrontId, Front>,
    next: u64,
    cell: Cell,
    outbox: Outbox,
    /// Counters of the fronts that are gone.
    pub totals: Totals,
}

impl Fronts {
    /// None yet.
    pub fn new(outbox: Outbox, totals: Totals) -> Self {
        let cell = Cell {
            seq: 1,
            target: Target::Hold,
            is_bare: false,
        };
        Self {
            living: BTreeMap::new(),
            next: 1,
            cell,
            outbox,
            totals,
        }
    }

    /// Goes on counting where the previous keeper stopped.
    pub fn resume(&mut self, next: u64, cell: Cell) {
        (self.next, self.cell) = (next, cell);
    }

    /// The number that the next front gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// What the lanes serve from, or soon will.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// No front is left.
    pub fn is_empty(&self) -> bool {
        self.living.is_empty()
    }

    /// A front that serves or soon will.
    pub fn has_any_current(&self) -> bool {
        self.living.values().any(Front::is_current)
    }

    /// Starts a front. When it is ready, older ones retire in its favour.
    ///
    /// # Errors
    /// [`FrontError`]; the older fronts serve on.
    pub fn bear(&mut self, birth: &Birth<'_>) -> Result<FrontId, FrontError> {
        let id = FrontId(self.next);
        self.next = self.next.saturating_add(1);
        let born = birth::bear(id, birth)?;
        stored::keep(&stored::of_front(id, "pidfd"), &born.child.pidfd);
        stored::keep(&stored::of_front(id, "link"), &born.link);
        let (pid, lanes) = (born.child.pid, born.lanes);
        tracing::info!(name: message_id::FRONT_STARTED.name, front = %id, pid, lanes, "{id} started");
        let remembered = RememberedFront {
            id,
            stage: Stage::Starting,
            http: birth.http.clone(),
            lanes,
            born: birth.now,
            heir: None,
            is_upgrade: birth.is_upgrade,
            ends: None,
        };
        let report = Some(Report::default());
        self.attach(remembered, pid, born.child.pidfd, born.link, report)
            .map_err(|error| birth.failed(error))?;
        Ok(id)
    }

    /// Takes over a front of the previous keeper.
    ///
    /// # Errors
    /// When its fds cannot be watched.
    pub fn adopt(
        &mut self,
        remembered: RememberedFront,
        pid: u32,
        pidfd: OwnedFd,
        link: OwnedFd,
    ) -> io::Result<()> {
        tracing::info!(name: message_id::ADOPTED.name, front = %remembered.id, pid, "{} adopted", remembered.id);
        self.attach(remembered, pid, pidfd, link, None)
    }

    fn attach(
        &mut self,
        remembered: RememberedFront,
        pid: u32,
        pidfd: OwnedFd,
        link: OwnedFd,
        report: Option<Report>,
    ) -> io::Result<()> {
        let RememberedFront {
            id,
            stage,
            http,
            lanes,
            born,
            heir,
            is_upgrade,
            ends,
        } = remembered;
        let (letters, inbox) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let link: Rc<KeeperEnd> = Rc::new(Link::new(link)?);
        tasks.spawn_local(wires::listen(id, Rc::clone(&link), self.outbox.clone()));
        tasks.spawn_local(wires::speak(id, link, inbox));
        let watched = poll::watch(pidfd.try_clone()?)?;
        tasks.spawn_local(wires::watch_end(id, watched, pid, self.outbox.clone()));
        let front = Front {
            id,
            pid,
            pidfd,
            stage,
            http,
            lanes,
            born,
            heir,
            is_upgrade,
            ends,
            is_cut: false,
            letters,
            report,
            _tasks: tasks,
        };
        self.living.insert(id, front);
        self.tell(id, ToFront::Hello, Vec::new());
        self.tell(id, ToFront::Serve(self.cell.clone()), Vec::new());
        Ok(())
    }

    /// Makes every lane of every front serve from `target`, if it does not yet.
    pub fn serve(&mut self, target: Target, is_bare: bool) -> bool {
        if self.cell.target == target && self.cell.is_bare == is_bare {
            return false;
        }
        self.cell = Cell {
            seq: self.cell.seq.saturating_add(1),
            target,
            is_bare,
        };
        for id in self.ids() {
            self.tell(id, ToFront::Serve(self.cell.clone()), Vec::new());
        }
        true
    }

    /// From now on they log at this level.
    pub fn use_level(&mut self, level: &str) {
        for id in self.ids() {
            self.tell(id, ToFront::LogLevel(level.to_owned()), Vec::new());
        }
    }

    /// Ends what still runs on the generation.
    pub fn cut(&mut self, generation: GenerationId) {
        for id in self.ids() {
            self.tell(id, ToFront::Cut { generation }, Vec::new());
        }
    }

    /// Every lane of every front that serves does so from this cell or a later one.
    pub fn has_acknowledged(&self, seq: u64) -> bool {
        let serving = self
            .living
            .values()
            .filter(|front| front.stage != Stage::Starting);
        serving
            .map(|front| front.report.as_ref())
            .all(|report| report.is_some_and(|r| r.seq >= seq))
    }

    /// No front can hold a lease on the generation, which left the cell with number `left_at`.
    pub fn is_drained(&self, generation: GenerationId, left_at: u64) -> bool {
        self.living.values().all(|front| match &front.report {
            None => false,
            Some(report) => {
                let never_served = report.seq == 0;
                let is_free = report
                    .leases
                    .get(&generation)
                    .is_none_or(|&leases| leases == 0);
                is_free && (never_served || report.seq >= left_at)
            }
        })
    }

    /// Requests in flight on the generation, as last reported.
    pub fn leases(&self, generation: GenerationId) -> u64 {
        self.reports()
            .filter_map(|report| report.leases.get(&generation))
            .sum()
    }

    /// Every front serves from the cell as it is now, and nothing is in flight on any but what waits for
    /// a generation.
    pub fn is_quiet(&self) -> bool {
        let is_quiet = |front: &Front| {
            let report = front.report.as_ref();
            report.is_some_and(|it| it.seq >= self.cell.seq && it.in_flight <= it.held)
        };
        !self.living.is_empty() && self.living.values().all(is_quiet)
    }

    /// Requests that a worker has, as last reported.
    pub fn in_flight(&self) -> u64 {
        let busy = |report: &Report| report.in_flight.saturating_sub(report.held);
        self.reports().map(busy).sum()
    }

    /// As last reported.
    pub fn tunnels(&self) -> u64 {
        self.reports().map(|report| report.tunnels).sum()
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        let reports = self.living.values();
        reports.filter_map(|front| front.report.as_ref())
    }

    /// A front is ready: the older ones hand over to it. False when it is not known any more.
    pub fn ready(&mut self, id: FrontId, now: Moment) -> bool {
        let Some(front) = self.living.get_mut(&id) else {
            return false;
        };
        if front.stage != Stage::Starting {
            return true;
        }
        front.stage = Stage::Serving;
        tracing::info!(front = %id, "{id} serves");
        let older: Vec<_> = self.living.range(..id).map(|(id, _)| *id).collect();
        for old in older {
            self.retire(old, id, now);
        }
        true
    }

    /// Sends the idle connections of `old` to `new`, now and as they become idle. One that retires
    /// already gets the new heir: its former one could not end while it may still get connections.
    fn retire(&mut self, old: FrontId, new: FrontId, now: Moment) {
        let is_done = |front: &Front| front.stage == Stage::Draining;
        if self.living.get(&old).is_none_or(is_done) {
            return;
        }
        let (receiving, sending) = match link::pair() {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(front = %old, %error, "no fds to hand connections over, {old} serves them to their end: {error}");
                return;
            }
        };
        let is_upgrade = self.living.get(&new).is_some_and(|front| front.is_upgrade);
        let mut keeps_tunnels = false;
        if let Some(front) = self.living.get_mut(&old) {
            // One whose tunnels have been given their window already ends them.
            keeps_tunnels = is_upgrade && front.stage != Stage::Retiring;
            if keeps_tunnels {
                front.ends = front.http.upgrade_drain.map(|limit| now + limit);
            }
            (front.stage, front.heir) = (Stage::Retiring, Some(new));
        }
        if keeps_tunnels {
            self.tell(old, ToFront::KeepTunnels, Vec::new());
        }
        tracing::info!(front = %old, to = %new, "{old} retires, its connections move to {new}");
        self.tell(new, ToFront::Inherit, vec![receiving]);
        self.tell(old, ToFront::Retire, vec![sending]);
    }

    /// Stop accepting, finish, end.
    pub fn drain(&mut self) {
        for id in self.ids() {
            if let Some(front) = self.living.get_mut(&id) {
                front.stage = Stage::Draining;
            }
            self.tell(id, ToFront::Drain, Vec::new());
        }
    }

    /// End now, by word and by SIGKILL.
    pub fn end(&mut self) {
        self.living.values().for_each(Front::kill);
    }

    /// A front that hangs is ended; its exit brings the next.
    pub fn kill(&mut self, id: FrontId) {
        if let Some(front) = self.living.get(&id) {
            front.kill();
        }
    }

    /// Ends a front whose lanes did not come up in time.
    pub fn kill_late(&mut self, now: Moment, limit: Duration) {
        for front in self.living.values() {
            if front.stage == Stage::Starting && now - front.born > limit {
                tracing::error!(front = %front.id, limit_s = limit.as_secs(), "{} has no lanes in time, replacing it", front.id);
                front.kill();
            }
        }
    }

    /// Takes a report in.
    pub fn said(&mut self, id: FrontId, message: FromFront, now: Moment) {
        let Some(front) = self.living.get_mut(&id) else {
            return;
        };
        match message {
            FromFront::Ready => {
                self.ready(id, now);
            }
            // The report that follows says it again, with the leases of that moment. Those of the last
            // report are older: with them a generation would look drained that is not.
            FromFront::Acknowledged { .. } => {}
            FromFront::Report(report) => front.report = Some(report),
        }
    }

    /// The process is gone; its counters are added to the totals. Says whether it was to serve.
    pub fn exited(&mut self, id: FrontId, runtime_directory: &Path) -> Option<Exited> {
        let front = self.living.remove(&id)?;
        lane_probe::forget(runtime_directory, id, front.lanes);
        stored::forget(&stored::of_front(id, "pidfd"));
        stored::forget(&stored::of_front(id, "link"));
        let was_wanted = front.is_current();
        let report = front.report.unwrap_or_default();
        // A tunnel broke off as a request does.
        let in_flight = if was_wanted || front.is_cut {
            report.in_flight.saturating_add(report.tunnels)
        } else {
            0
        };
        self.totals.bury(&report.counters, in_flight);
        Some(Exited {
            was_wanted,
            born: front.born,
            in_flight,
        })
    }

    /// Forgets everything in the fd store.
    pub fn forget(&self) {
        for id in self.living.keys() {
            stored::forget(&stored::of_front(*id, "pidfd"));
            stored::forget(&stored::of_front(*id, "link"));
        }
    }

    /// The sockets on which the serving front's lanes answer the keeper.
    pub fn probes(&self, runtime_directory: &Path) -> Vec<(FrontId, PathBuf)> {
        let serving = self
            .living
            .values()
            .filter(|front| front.stage == Stage::Serving);
        serving
            .flat_map(|front| {
                (0..front.lanes).map(|lane| {
                    (
                        front.id,
                        lane_probe::path(runtime_directory, front.id, lane),
                    )
                })
            })
            .collect()
    }

    /// Counters of all fronts, dead ones included.
    pub fn counters(&self) -> Totals {
        let mut totals = self.totals.clone();
        for report in self.reports() {
            totals.add(&report.counters);
        }
        totals
    }

    /// For the control API.
    pub fn status(&self) -> Vec<FrontStatus> {
        let status = |front: &Front| {
            let report = front.report.clone().unwrap_or_default();
            FrontStatus {
                id: front.id,
                pid: front.pid,
                state: front.stage.word().into(),
                connections: report.connections,
                tunnels: report.tunnels,
                in_flight: report.in_flight,
                held: report.held,
                usage: report.usage,
            }
        };
        self.living.values().map(status).collect()
    }

    /// Process ids, for the handover to a scope.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.living.values().map(|front| front.pid)
    }

    /// Asks every front for a fresh report.
    pub fn ask(&mut self) {
        for id in self.ids() {
            self.tell(id, ToFront::Ask, Vec::new());
        }
    }

    /// For the state.
    pub fn remember(&self) -> Vec<RememberedFront> {
        let remember = |front: &Front| RememberedFront {
            id: front.id,
            stage: front.stage,
            http: front.http.clone(),
            lanes: front.lanes,
            born: front.born,
            heir: front.heir,
            is_upgrade: front.is_upgrade,
            ends: front.ends,
        };
        self.living.values().map(remember).collect()
    }

    fn ids(&self) -> Vec<FrontId> {
        self.living.keys().copied().collect()
    }

    fn tell(&mut self, id: FrontId, message: ToFront, fds: Vec<OwnedFd>) {
        let Some(front) = self.living.get(&id) else {
            return;
        };
        if front.letters.try_send((message, fds)).is_err() {
            tracing::error!(front = %id, "{id} takes no messages any more, replacing it");
            front.kill();
        }
    }
}

impl Front {
    fn kill(&self) {
        if let Err(error) = reaper::signal(&self.pidfd, Signal::KILL) {
            tracing::error!(front = %self.id, %error, "cannot end {}: {error}", self.id);
        }
    }

    fn is_current(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Serving)
    }
}

impl RememberedFront {
    /// Whose fds to look for in the store.
    pub fn id(&self) -> FrontId {
        self.id
    }
}

/// What a front left behind.
#[derive(Clone, Copy, Debug)]
pub struct Exited {
    /// It was neither retiring nor draining: another one must take its place.
    pub was_wanted: bool,
    /// When it was born.
    pub born: Moment,
    /// Requests and tunnels that were in flight at its last report.
    pub in_flight: u64,
}
