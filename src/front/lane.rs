//! A lane: one thread with its own runtime, accept, live cell, pool and counters.
//!
//! The main thread gives orders, the lane tells its whole state. A lane always takes the next
//! order, even when the main thread is slow to hear what it has to tell.

mod thread;

pub(super) use thread::LaneThread;

use super::access::{AccessLog, Lines};
use super::addresses::Addresses;
use super::buffer::Spool;
use super::connection;
use super::forwarded::RequestIds;
use super::introduction::Introduced;
use super::live::{Life, Live};
use super::parcel::Parked;
use super::progress::Progress;
use super::share::{Given, Share};
use super::tally;
use super::trustee::{Berth, Slot, Slots};
use crate::config::{HttpConfig, ProxyProtocol};
use crate::id::GenerationId;
use crate::link::{Cell as CellOrder, Counters, FrontSettings, REQUEST_BOUNDS, Report, Served};
use crate::steps::{self, Step};
use crate::systemd::message_id;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// A keep-alive connection between two requests is no spare one.
pub(super) const SPARE_AFTER: Duration = Duration::from_secs(1);

/// The part of all connections that is shed at a time, so that a flood does not have us look
/// through all of them for each that comes.
const SHED_SHARE: usize = 64;

/// Connections that are adopted, or woken, in a row; then all else of the lane has its turn. A lane
/// that begins ten thousand at once answers nobody meanwhile, not even the keeper. Each is polled about
/// twice, and the runtime polls 61 tasks between two of our turns: with more, they would only queue.
const CONNECTIONS_PER_TURN: usize = 16;

/// What a lane does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Accept and serve.
    Serving,
    /// Send them to the next front when they are idle.
    Retiring,
    /// The next front is gone: serve those that are here, accept none.
    Stranded,
    /// Close them when they are idle.
    Draining,
}

/// Main thread → lane.
#[derive(Debug)]
pub(super) enum Order {
    Serve(Arc<CellOrder>),
    Cut(GenerationId),
    /// Serve these as if accepted.
    Adopt(Vec<Parked>),
    /// Another lane accepted it.
    Take(Gift),
    Become(Mode),
    /// Tunnels go on to their own end while this front retires.
    KeepTunnels,
    /// A request in another lane waits for a worker that idle connections may hold.
    Yield(Life),
    /// Tell the state, with this number.
    Tell(u64),
}

/// Lane → main thread.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and they are moved once or twice"
)]
pub(super) enum Event {
    State(LaneState),
    /// Taken out of hyper, for the next front.
    Parked(Parked),
    /// Accepted, for a lane that has fewer.
    Gift(Gift),
    /// A request waits for this worker: see [`Order::Yield`].
    Starves(usize, Life),
    /// From an older front, for the lanes to share; sent by the main thread to itself.
    Inherited(Vec<Parked>),
}

/// A connection that one lane accepted for another.
#[derive(Debug)]
pub(super) struct Gift {
    /// Before the fd: see [`Berth`].
    pub(super) berth: Berth,
    pub(super) fd: OwnedFd,
    pub(super) given: Given,
}

/// All that there is to know about a lane.
#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) lane: usize,
    /// The last [`Order::Tell`].
    pub(super) told: u64,
    /// Connections taken from [`Order::Adopt`] and [`Order::Take`].
    pub(super) adopted: u64,
    pub(super) mode: Mode,
    pub(super) report: Report,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    share: Share,
    /// Of the instance.
    name: String,
    http: HttpConfig,
    access: AccessLog,
    connections_max: u64,
    addresses: Arc<Addresses>,
    held_max: u64,
    live: Rc<Live>,
    counters: RefCell<Counters>,
    mode: Cell<Mode>,
    mode_since: Cell<Instant>,
    keeps_tunnels: Cell<bool>,
    told: Cell<u64>,
    adopted: Cell<u64>,
    /// Not adopted yet.
    arriving: RefCell<VecDeque<Parked>>,
    /// Connections from this number on are to be woken.
    waking: Cell<Option<u64>>,
    in_flight: Cell<u64>,
    held: Cell<u64>,
    /// Each connection that hyper has holds a clone.
    awake: Rc<()>,
    /// By number, so that a cut or another mode can wake them.
    connections: RefCell<BTreeMap<u64, Weak<Progress>>>,
    connections_ever: Cell<u64>,
    /// Those of them that are tunnels, so that a swap can wake them.
    tunnels: RefCell<BTreeMap<u64, Weak<Progress>>>,
    slots: Slots,
    /// Connections that would live on without this front.
    settled: Rc<Cell<u64>>,
    /// A connection ended.
    room: Notify,
    /// The main thread should hear of this.
    news: Rc<Notify>,
    events: mpsc::Sender<Event>,
    request_ids: RequestIds,
    spool: Arc<Spool>,
    app_tasks: TaskTracker,
    client_tasks: TaskTracker,
}

impl Lane {
    fn new(
        (share, lanes): (Share, usize),
        settings: &FrontSettings,
        (addresses, stdout): (Arc<Addresses>, Option<Lines>),
        (slots, spool): (Slots, Arc<Spool>),
        events: mpsc::Sender<Event>,
    ) -> Rc<Self> {
        let news = Rc::new(Notify::new());
        let lanes = u64::try_from(lanes).unwrap_or(1).max(1);
        let http = settings.http.clone();
        Rc::new(Self {
            connections_max: u64::from(http.connections_max).div_ceil(lanes),
            addresses,
            held_max: u64::from(http.held_max).div_ceil(lanes),
            http,
            name: settings.name.clone(),
            access: AccessLog::new(settings.access, stdout, &settings.name),
            live: Live::new(share.lane(), Rc::clone(&news)),
            share,
            counters: RefCell::new(tally::fresh()),
            mode: Cell::new(Mode::Serving),
            mode_since: Cell::new(Instant::now()),
            keeps_tunnels: Cell::new(false),
            told: Cell::new(0),
            adopted: Cell::new(0),
            arriving: RefCell::default(),
            waking: Cell::new(None),
            in_flight: Cell::new(0),
            held: Cell::new(0),
            awake: Rc::default(),
            connections: RefCell::default(),
            connections_ever: Cell::new(0),
            tunnels: RefCell::default(),
            slots,
            settled: Rc::default(),
            room: Notify::new(),
            news,
            events,
            request_ids: RequestIds::new(),
            spool,
            app_tasks: TaskTracker::new(),
            client_tasks: TaskTracker::new(),
        })
    }

    pub(super) fn http(&self) -> &HttpConfig {
        &self.http
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn access(&self) -> &AccessLog {
        &self.access
    }

    pub(super) fn live(&self) -> &Rc<Live> {
        &self.live
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// The mode, and since when.
    pub(super) fn mode_since(&self) -> (Mode, Instant) {
        (self.mode.get(), self.mode_since.get())
    }

    /// Tunnels do not end because this front retires.
    pub(super) fn keeps_tunnels(&self) -> bool {
        self.keeps_tunnels.get()
    }

    pub(super) fn request_ids(&self) -> &RequestIds {
        &self.request_ids
    }

    /// Where buffers keep what does not fit into memory.
    pub(super) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// Owns the connections to the app.
    pub(super) fn app_tasks(&self) -> &TaskTracker {
        &self.app_tasks
    }

    /// Owns the connections of clients.
    pub(super) fn client_tasks(&self) -> &TaskTracker {
        &self.client_tasks
    }

    /// Never held over an await.
    pub(super) fn counters(&self) -> RefMut<'_, Counters> {
        self.counters.borrow_mut()
    }

    pub(super) fn counts_a_retry(&self) {
        let mut counters = self.counters();
        counters.retries = counters.retries.saturating_add(1);
    }

    pub(super) fn request_begins(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    pub(super) fn request_ends(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// A place among the held requests, unless all are taken. `again`: it was counted before.
    pub(super) fn hold(self: &Rc<Self>, again: bool) -> Option<Held> {
        if self.held.get() >= self.held_max {
            return None;
        }
        self.held.set(self.held.get().saturating_add(1));
        if !again {
            let mut counters = self.counters();
            counters.held = counters.held.saturating_add(1);
        }
        Some(Held {
            lane: Rc::clone(self),
            since: Instant::now(),
        })
    }

    /// What is said of a connection that just came, until it has a slot. Where it has to introduce
    /// itself first, the next front would not know whether it did.
    pub(super) fn berth(&self, fd: impl AsFd) -> Berth {
        let must_introduce = self.http.proxy_protocol == ProxyProtocol::Require;
        self.slots.berth(fd, None, must_introduce)
    }

    /// Counts a connection among those that are awake, until the guard drops.
    pub(super) fn stay_awake(&self) -> Rc<()> {
        Rc::clone(&self.awake)
    }

    /// Connections that do not rest.
    pub(super) fn awake(&self) -> usize {
        Rc::strong_count(&self.awake).saturating_sub(1)
    }

    /// What is said of a connection in case of our end.
    pub(super) fn slot(&self, fd: impl AsFd, introduced: Option<Introduced>) -> Slot {
        self.slots.take(fd, introduced, &self.settled)
    }

    fn next_number(&self) -> u64 {
        let number = self.connections_ever.get();
        self.connections_ever.set(number.wrapping_add(1));
        number
    }

    /// Puts a connection among the tunnels, until the guard drops.
    pub(super) fn enter_tunnel(self: &Rc<Self>, progress: &Rc<Progress>) -> Tunneled {
        let number = self.next_number();
        progress.is_a_tunnel_now();
        self.tunnels
            .borrow_mut()
            .insert(number, Rc::downgrade(progress));
        Tunneled {
            lane: Rc::clone(self),
            number,
        }
    }

    /// Puts a connection among those that can be woken, until the guard drops.
    pub(super) fn enter(self: &Rc<Self>, progress: &Rc<Progress>) -> Entered {
        let number = self.next_number();
        self.connections
            .borrow_mut()
            .insert(number, Rc::downgrade(progress));
        self.share.grows();
        Entered {
            lane: Rc::clone(self),
            number,
        }
    }

    /// To the lane that has the fewest connections, where this one has far more; or back.
    pub(super) fn give(&self, fd: OwnedFd, berth: Berth) -> Option<(OwnedFd, Berth)> {
        let given = self.share.give();
        let (Some(given), Ok(place)) = (given, self.events.try_reserve()) else {
            return Some((fd, berth));
        };
        place.send(Event::Gift(Gift { berth, fd, given }));
        None
    }

    /// Nobody hears of it when the main thread is far behind; the next who waits says so again.
    pub(super) fn starves(&self, life: Life) {
        if let Ok(place) = self.events.try_reserve() {
            place.send(Event::Starves(self.share.lane(), life));
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.open_connections() >= self.connections_max
    }

    /// Notified when a connection ended.
    pub(super) fn room(&self) -> &Notify {
        &self.room
    }

    /// Of all lanes.
    pub(super) fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// Ends some of the connections that were idle for longest, first those without any request
    /// yet: else whoever opens enough of them and says nothing keeps everybody else out.
    pub(super) fn shed_idle(&self) {
        let now = Instant::now();
        let connections = self.connections.borrow();
        let spare = |progress: Rc<Progress>| {
            let (has_served, since) = progress.spare_since()?;
            (now.duration_since(since) >= SPARE_AFTER).then_some((has_served, since, progress))
        };
        let mut spare: Vec<_> = connections
            .values()
            .filter_map(|progress| spare(progress.upgrade()?))
            .collect();
        spare.sort_by_key(|(has_served, since, _)| (*has_served, *since));
        spare
            .iter()
            .take(connections.len().div_ceil(SHED_SHARE))
            .for_each(|(_, _, progress)| progress.shed());
    }

    pub(super) fn open_connections(&self) -> u64 {
        u64::try_from(self.connections.borrow().len()).unwrap_or(u64::MAX)
    }

    /// Hands a connection over to the main thread; waits while it has too many to send.
    pub(super) async fn park(&self, parked: Parked) {
        if self.events.send(Event::Parked(parked)).await.is_err() {
            tracing::debug!("the front ends, a parked connection goes with it");
        }
    }

    /// In turns: see [`Self::take_a_turn`].
    fn wake_all(&self) {
        self.waking.set(Some(0));
    }

    fn serve(&self, cell: &CellOrder) {
        self.live.serve(cell);
        if let Some(generation) = self.live.newest() {
            // That it served nothing is an account, too.
            self.counters().add_served(generation, Served::default());
        }
        // Those of a generation that left the cell have a limit now.
        let tunnels = self.tunnels.borrow();
        let tunnels = tunnels.values().filter_map(Weak::upgrade);
        tunnels.for_each(|progress| progress.wake());
    }

    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Serve(cell) => self.serve(&cell),
            Order::Cut(generation) => self.cut(generation),
            Order::Adopt(parked) => self.arriving.borrow_mut().extend(parked),
            Order::Take(gift) => {
                self.adopted.set(self.adopted.get().saturating_add(1));
                connection::serve_given(self, gift);
            }
            Order::Become(mode) => {
                // Another heir is no reason to begin the window of the tunnels anew.
                if self.mode.replace(mode) != mode {
                    self.mode_since.set(Instant::now());
                }
                self.wake_all();
            }
            Order::KeepTunnels => self.keeps_tunnels.set(true),
            Order::Yield(life) => self.live.yields(life),
            Order::Tell(number) => {
                self.told.set(number);
                self.live.expire_idle();
            }
        }
        self.news.notify_one();
    }

    fn cut(&self, generation: GenerationId) {
        let leases = self.live.cut(generation);
        if leases > 0 {
            tracing::warn!(name: message_id::CUT.name, %generation, leases, lane = self.share.lane(), why = "drain limit passed", "{generation}: {leases} requests cut, they ran past the drain limit");
        }
        self.wake_all();
    }

    fn has_turns(&self) -> bool {
        self.waking.get().is_some() || !self.arriving.borrow().is_empty()
    }

    /// A part of what takes long where there are many connections.
    fn take_a_turn(self: &Rc<Self>) {
        self.wake_some();
        if !self.arriving.borrow().is_empty() {
            self.adopt_some();
        }
    }

    fn wake_some(&self) {
        let Some(from) = self.waking.take() else {
            return;
        };
        let connections = self.connections.borrow();
        let mut rest = connections.range(from..);
        for (_, progress) in rest.by_ref().take(CONNECTIONS_PER_TURN) {
            if let Some(progress) = progress.upgrade() {
                progress.wake();
            }
        }
        self.waking.set(rest.next().map(|(number, _)| *number));
    }

    fn adopt_some(self: &Rc<Self>) {
        for _ in 0..CONNECTIONS_PER_TURN {
            let Some(one) = self.arriving.borrow_mut().pop_front() else {
                break;
            };
            self.adopted.set(self.adopted.get().saturating_add(1));
            connection::serve_parked(self, one);
        }
        steps::reached(Step::LaneAdopted);
        if self.mode() == Mode::Serving && self.arriving.borrow().is_empty() {
            self.shed_excess();
        }
        self.news.notify_one();
    }

    /// More came from another front than may be here: ends those that were idle for longest. With
    /// those that are not idle, it takes until they are.
    fn shed_excess(&self) {
        let connections = self.connections.borrow();
        let all = || connections.values().filter_map(Weak::upgrade);
        let leaving = all().filter(|progress| progress.is_shed()).count();
        let max = usize::try_from(self.connections_max).unwrap_or(usize::MAX);
        let excess = connections
            .len()
            .saturating_sub(max)
            .saturating_sub(leaving);
        if excess == 0 {
            return;
        }
        let spare = all().filter_map(|progress| Some((progress.spare_since()?.1, progress)));
        let mut spare: Vec<_> = spare.collect();
        spare.sort_by_key(|(since, _)| *since);
        spare
            .iter()
            .take(excess)
            .for_each(|(_, progress)| progress.shed());
    }

    fn state(&self) -> LaneState {
        LaneState {
            lane: self.share.lane(),
            told: self.told.get(),
            adopted: self.adopted.get(),
            mode: self.mode.get(),
            report: Report {
                seq: self.live.seq(),
                leases: self.live.leases(),
                connections: self.open_connections(),
                settled: self.settled.get(),
                tunnels: u64::try_from(self.tunnels.borrow().len()).unwrap_or(u64::MAX),
                held: self.held.get(),
                in_flight: self.in_flight.get(),
                counters: Counters {
                    access_dropped: self.access.dropped(),
                    ..self.counters.borrow().clone()
                },
                usage: None,
            },
        }
    }

    /// Until the main thread lets go of the orders.
    async fn run(self: Rc<Self>, mut orders: mpsc::Receiver<Order>, mut accepting: JoinSet<()>) {
        self.news.notify_one();
        let mut has_news = false;
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                () = self.news.notified(), if !has_news => has_news = true,
                place = self.events.reserve(), if has_news => match place {
                    Ok(place) => {
                        has_news = false;
                        place.send(Event::State(self.state()));
                    }
                    Err(_closed) => return,
                },
                // After the sockets and the tasks that wait by now.
                () = tokio::task::yield_now(), if self.has_turns() => self.take_a_turn(),
            }
            if self.mode() != Mode::Serving && !accepting.is_empty() {
                // Closes our copies of the listening sockets; the backlog is the next front's.
                accepting.shutdown().await;
            }
        }
    }
}

/// One held request.
#[derive(Debug)]
pub(super) struct Held {
    lane: Rc<Lane>,
    since: Instant,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lane.held.set(self.lane.held.get().saturating_sub(1));
        let waited = self.since.elapsed();
        self.lane.counters().hold.count(&REQUEST_BOUNDS, waited);
    }
}

/// One tunnel.
#[derive(Debug)]
pub(super) struct Tunneled {
    lane: Rc<Lane>,
    number: u64,
}

impl Drop for Tunneled {
    fn drop(&mut self) {
        self.lane.tunnels.borrow_mut().remove(&self.number);
    }
}

/// One open client connection.
#[derive(Debug)]
pub(super) struct Entered {
    lane: Rc<Lane>,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.lane.connections.borrow_mut().remove(&self.number);
        self.lane.share.shrinks();
        self.lane.room.notify_waiters();
        let is_last =
            self.lane.mode() != Mode::Serving && self.lane.connections.borrow().is_empty();
        // Another front may have more for us.
        let fits_again = self.lane.open_connections() == self.lane.connections_max;
        if is_last || fits_again {
            self.lane.news.notify_one();
        }
    }
}
