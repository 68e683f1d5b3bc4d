//! The fronts as the keeper sees them: processes, links, what they serve from, what they report.
//!
//! Nothing here waits for a front: a stopped or hung one must not stop the keeper. Messages go
//! through a bounded queue of their own task; one that is full counts as a hung front.

mod birth;
mod ending;
mod estate;
mod succession;
mod told;
mod wires;

pub use birth::{Birth, FrontError};
pub use ending::Exited;
pub use estate::Bequest;

use super::happening::Outbox;
use super::plan::Moment;
use super::stored;
use super::totals::Totals;
use crate::config::HttpConfig;
use crate::id::{FrontId, GenerationId};
use crate::link::{Cell, FromFront, KeeperEnd, Link, Report, Target, ToFront};
use crate::poll;
use crate::steps::{self, Step};
use crate::systemd::message_id;
use estate::Estate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
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
    #[serde(default)]
    keeps_tunnels: bool,
}

/// The kernel's side of a front.
pub struct FrontFds {
    /// Of its process.
    pub pidfd: OwnedFd,
    /// Our end.
    pub link: OwnedFd,
    /// None: of an older gapless.
    pub bequest: Option<Bequest>,
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
    /// Older ones are told to retire when this one has what they send to.
    bequeathing: Vec<(FrontId, OwnedFd)>,
    /// No cell before this was ever told to it; 0 if an earlier keeper bore it.
    first_seq: u64,
    /// It replaces only the binary: the tunnels of those that retire for it go on.
    is_upgrade: bool,
    /// Made old by an upgrade, what it still serves then is cut.
    ends: Option<Moment>,
    /// Made old by an upgrade: its tunnels go on.
    keeps_tunnels: bool,
    is_cut: bool,
    letters: mpsc::Sender<Letter>,
    /// One of them is on its way, and may wait for room.
    is_speaking: Rc<std::cell::Cell<bool>>,
    /// None: it is of an older gapless, and its connections die with it.
    bequest: Option<Bequest>,
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
    /// Of fronts that died.
    estates: BTreeMap<FrontId, Estate>,
    /// What the store has of the dead, until the state says that they are.
    left_in_store: Vec<String>,
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
            estates: BTreeMap::new(),
            left_in_store: Vec::new(),
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
        steps::reached(Step::FrontSpawned);
        stored::keep(&stored::of_front(id, "pidfd"), &born.child.pidfd);
        stored::keep(&stored::of_front(id, "link"), &born.link);
        born.bequest.keep(id);
        steps::reached(Step::FrontKept);
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
            keeps_tunnels: false,
        };
        let report = Some(Report::default());
        let fds = FrontFds {
            pidfd: born.child.pidfd,
            link: born.link,
            bequest: Some(born.bequest),
        };
        self.attach(remembered, pid, fds, report)
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
        fds: FrontFds,
    ) -> io::Result<()> {
        tracing::info!(name: message_id::ADOPTED.name, front = %remembered.id, pid, "{} adopted", remembered.id);
        self.attach(remembered, pid, fds, None)
    }

    fn attach(
        &mut self,
        remembered: RememberedFront,
        pid: u32,
        fds: FrontFds,
        report: Option<Report>,
    ) -> io::Result<()> {
        let FrontFds {
            pidfd,
            link,
            bequest,
        } = fds;
        let RememberedFront {
            id,
            stage,
            http,
            lanes,
            born,
            heir,
            is_upgrade,
            ends,
            keeps_tunnels,
        } = remembered;
        let (letters, inbox) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let link: Rc<KeeperEnd> = Rc::new(Link::new(link)?);
        tasks.spawn_local(wires::listen(id, Rc::clone(&link), self.outbox.clone()));
        let is_speaking = Rc::new(std::cell::Cell::new(false));
        tasks.spawn_local(wires::speak(id, link, inbox, Rc::clone(&is_speaking)));
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
            bequeathing: Vec::new(),
            first_seq: report.as_ref().map_or(0, |_newborn| self.cell.seq),
            is_upgrade,
            ends,
            keeps_tunnels,
            is_cut: false,
            letters,
            is_speaking,
            bequest,
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
            keeps_tunnels: front.keeps_tunnels,
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
