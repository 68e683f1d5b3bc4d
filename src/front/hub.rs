//! The main thread of a front: between the link and the lanes, and between fronts.
//!
//! It touches no request. Everything that it waits for is in one place, [`Hub::next_turn`], and
//! nothing there can block anything else there.

mod states;
mod wires;

use super::FrontError;
use super::introduction::TurnedAway;
use super::lane::{Event, Gift, LaneState, LaneThread, Mode, Order};
use super::live::Life;
use super::outbox::Outbox;
use super::parcel::{Outgoing, Parked};
use super::trustee::Slots;
use crate::link::seqpacket::{FLIGHT_DELAY, Seqpacket, is_for_now};
use crate::link::{
    Cell as CellOrder, FromFront, FrontEnd, FrontSettings, LinkError, Orphaned, Report, ToFront,
};
use crate::steps::{self, Step};
use crate::systemd::journal::Level;
use crate::usage::{self, Usage};
use states::{States, superseded};
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use wires::{end_workers, order, receive, receive_parcel, say, send_parcel};

/// Between two reports while something changes.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Between two lines about connections that were shed.
const SHED_NEWS: Duration = Duration::from_secs(10);

/// What the log says of connections that were shed: every one is counted in one line.
#[derive(Debug, Default)]
struct ShedNews {
    told: u64,
    at: Option<Instant>,
}

enum Turn {
    Said(Result<(ToFront, Vec<OwnedFd>), LinkError>),
    Sent(FromFront, Result<(), LinkError>),
    Event(Event),
    Tick,
    Parcel(io::Result<()>),
    InheritEnded,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hub {
    /// None when the keeper is gone.
    link: Option<FrontEnd>,
    lanes: Vec<LaneThread>,
    /// The latest of each lane.
    states: States,
    /// Connections given to each lane; a lane that adopted fewer has some on the way.
    given: Vec<u64>,
    events: mpsc::Sender<Event>,
    events_received: mpsc::Receiver<Event>,
    outbox: Outbox,
    outgoing: Option<Outgoing>,
    /// Parcels that are being received.
    inherits: JoinSet<()>,
    /// A permit for the next of their messages.
    room: Arc<Semaphore>,
    /// What comes is said there.
    slots: Slots,
    cell: Option<Arc<CellOrder>>,
    /// Given to the lanes, and not yet served from by all.
    unacknowledged: VecDeque<u64>,
    is_ready: bool,
    mode: Mode,
    /// Number of the last [`Order::Tell`].
    told: u64,
    /// The keeper asked, and waits for states as new as this.
    asked: Option<u64>,
    reported: Report,
    shed: ShedNews,
    /// Of this process, as of the last tick.
    usage: Option<Usage>,
    /// Whose turn it is to get a connection.
    turn: usize,
    tick: Interval,
    settings: FrontSettings,
    /// Of what this process logs.
    log: Option<Level>,
}

impl Hub {
    pub(super) fn new(
        link: OwnedFd,
        lanes: Vec<LaneThread>,
        (events, events_received): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
        (settings, slots): (FrontSettings, Slots),
        log: Option<Level>,
    ) -> Result<Self, FrontError> {
        let mut tick = tokio::time::interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            link: Some(FrontEnd::new(link).map_err(FrontError::Link)?),
            states: States::new(lanes.len()),
            given: vec![0; lanes.len()],
            lanes,
            events,
            events_received,
            outbox: Outbox::default(),
            outgoing: None,
            inherits: JoinSet::new(),
            room: Arc::new(Semaphore::new(1)),
            slots,
            cell: None,
            unacknowledged: VecDeque::new(),
            is_ready: false,
            mode: Mode::Serving,
            told: 0,
            asked: None,
            reported: Report::default(),
            shed: ShedNews::default(),
            usage: None,
            turn: 0,
            tick,
            settings,
            log,
        })
    }

    /// Until the keeper or the last connection ends it.
    pub(super) async fn run(mut self) -> Result<(), FrontError> {
        tracing::debug!(front = %self.settings.id, lanes = self.lanes.len(), "front starts");
        let why = loop {
            if self.is_empty() {
                break "no connection is left";
            }
            if let Some(number) = self.lanes.iter().position(|lane| lane.thread.is_finished()) {
                return Err(FrontError::LaneEnded(number));
            }
            let turn = self.next_turn().await;
            if let ControlFlow::Break(why) = self.take(turn).await {
                break why;
            }
        };
        steps::reached(Step::Emptied);
        self.tell_shed(Duration::ZERO);
        self.say_last_words();
        steps::reached(Step::LastWordsSaid);
        tracing::debug!(front = %self.settings.id, why, "front ends");
        self.end_lanes();
        Ok(())
    }

    /// Every branch is cancel-safe: the link and the parcel send whole messages or none.
    async fn next_turn(&mut self) -> Turn {
        let message = self.outbox.message(|| self.report());
        tokio::select! {
            said = receive(self.link.as_ref()) => Turn::Said(said),
            (message, sent) = say(self.link.as_ref(), message) => Turn::Sent(message, sent),
            Some(event) = self.events_received.recv() => Turn::Event(event),
            sent = send_parcel(self.outgoing.as_mut()) => Turn::Parcel(sent),
            Some(_) = self.inherits.join_next() => Turn::InheritEnded,
            _ = self.tick.tick() => Turn::Tick,
        }
    }

    async fn take(&mut self, turn: Turn) -> ControlFlow<&'static str> {
        match turn {
            Turn::Said(Ok((message, fds))) => return self.obey(message, fds).await,
            Turn::Said(Err(error)) | Turn::Sent(_, Err(error)) => return self.link_failed(&error),
            Turn::Sent(message, Ok(())) => {
                self.outbox.sent(&message);
                if message == FromFront::Ready {
                    steps::reached(Step::ReadySaid);
                }
                if let FromFront::Report(report) = message {
                    // What it uses always changes; that alone is not worth a report.
                    self.reported = Report {
                        usage: None,
                        ..report
                    };
                }
            }
            Turn::Event(Event::State(state)) => self.hear(state),
            Turn::Event(Event::Parked(parked)) => self.pass(parked).await,
            Turn::Event(Event::Gift(gift)) => self.give(gift).await,
            Turn::Event(Event::Starves(lane, life)) => self.let_yield(lane, life).await,
            Turn::Event(Event::Inherited(parked)) => {
                self.share(parked).await;
                steps::reached(Step::ParcelShared);
            }
            Turn::Tick => {
                self.tell_shed(SHED_NEWS);
                self.usage = usage::of(std::process::id());
                self.ask_lanes_at_tick().await;
            }
            Turn::Parcel(Ok(())) | Turn::InheritEnded => {}
            Turn::Parcel(Err(error)) => self.parcel_failed(&error).await,
        }
        ControlFlow::Continue(())
    }

    fn tell_shed(&mut self, pause: Duration) {
        let counters = self.states.total().counters;
        let cause = TurnedAway::IdleWhenFull.cause();
        let all = counters.connections_refused.get(cause).copied();
        let closed = all.unwrap_or(0).saturating_sub(self.shed.told);
        if closed == 0 || self.shed.at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.shed.told = self.shed.told.saturating_add(closed);
        self.shed.at = Some(Instant::now());
        let allowed = self.settings.http.connections_max;
        tracing::warn!(front = %self.settings.id, closed, allowed, "{closed} idle connections closed, those that were idle for longest: there were more than the {allowed} allowed; raise connections_max in [http], with LimitNOFILE= of the service");
    }

    async fn obey(&mut self, message: ToFront, fds: Vec<OwnedFd>) -> ControlFlow<&'static str> {
        match message {
            ToFront::Hello => {
                if self.is_ready && self.mode == Mode::Serving {
                    self.outbox.owe_ready();
                }
                self.ask_lanes_for_the_keeper().await;
            }
            ToFront::Ask => self.ask_lanes_for_the_keeper().await,
            ToFront::Serve(cell) => self.serve(cell).await,
            ToFront::Cut { generation } => self.order_all(|| Order::Cut(generation)).await,
            ToFront::Inherit => self.inherit(fds),
            ToFront::Retire => self.retire(fds).await,
            ToFront::KeepTunnels => self.order_all(|| Order::KeepTunnels).await,
            ToFront::Drain => self.become_mode(Mode::Draining).await,
            ToFront::LogLevel(level) => self.use_level(&level),
            ToFront::End => return ControlFlow::Break("the keeper says so"),
        }
        ControlFlow::Continue(())
    }

    fn use_level(&self, level: &str) {
        if let Some(log) = &self.log
            && let Err(error) = log.set(level)
        {
            tracing::error!(level, %error, "log level not changed: {error}");
        }
    }

    async fn serve(&mut self, cell: CellOrder) {
        let newest = self.cell.as_ref().map_or(0, |cell| cell.seq);
        if cell.seq < newest {
            tracing::warn!(seq = cell.seq, newest, "a cell older than ours is ignored");
            return;
        }
        let cell = Arc::new(cell);
        self.unacknowledged.push_back(cell.seq);
        self.cell = Some(Arc::clone(&cell));
        self.order_all(|| Order::Serve(Arc::clone(&cell))).await;
    }

    /// Starts to receive a parcel.
    fn inherit(&mut self, fds: Vec<OwnedFd>) {
        let socket = fds.into_iter().next().map(Seqpacket::new);
        match socket {
            Some(Ok(socket)) => {
                let (events, room) = (self.events.clone(), Arc::clone(&self.room));
                let inherited = (self.slots.inherit(&socket), socket);
                steps::reached(Step::InheritBegun);
                self.inherits
                    .spawn(receive_parcel(inherited, self.slots, events, room));
            }
            Some(Err(error)) => {
                tracing::error!(%error, "cannot inherit connections, continuing: {error}");
            }
            None => tracing::error!("Inherit came without its fd, continuing"),
        }
    }

    async fn retire(&mut self, fds: Vec<OwnedFd>) {
        match fds.into_iter().next().map(Outgoing::new) {
            Some(Ok(mut outgoing)) => {
                for parked in self
                    .outgoing
                    .take()
                    .into_iter()
                    .flat_map(Outgoing::into_rest)
                {
                    outgoing.push(parked);
                }
                self.outgoing = Some(outgoing);
                self.become_mode(Mode::Retiring).await;
                steps::reached(Step::RetireBegun);
            }
            Some(Err(error)) => tracing::error!(%error, "cannot retire, serving on: {error}"),
            None => tracing::error!("Retire came without its fd, serving on"),
        }
    }

    async fn become_mode(&mut self, mode: Mode) {
        tracing::debug!(front = %self.settings.id, ?mode, "front changes");
        self.mode = mode;
        self.order_all(|| Order::Become(mode)).await;
    }

    /// To the next front, or back to a lane when there is none any more.
    async fn pass(&mut self, parked: Parked) {
        match &mut self.outgoing {
            Some(outgoing) => {
                outgoing.push(parked);
                steps::reached(Step::ConnectionQueued);
            }
            None => self.share(vec![parked]).await,
        }
    }

    async fn parcel_failed(&mut self, error: &io::Error) {
        if is_for_now(error) {
            tracing::debug!(%error, retry = ?FLIGHT_DELAY, "too many connections in flight");
            tokio::time::sleep(FLIGHT_DELAY).await;
            return;
        }
        tracing::error!(%error, "the next front takes no connections, serving them here: {error}");
        let rest = self
            .outgoing
            .take()
            .map_or_else(VecDeque::new, Outgoing::into_rest);
        self.become_mode(Mode::Stranded).await;
        self.share(rest.into()).await;
    }

    /// Gives connections to the lanes in turn.
    async fn share(&mut self, parked: Vec<Parked>) {
        let lanes = self.lanes.len();
        let mut shares: Vec<Vec<Parked>> = (0..lanes).map(|_| Vec::new()).collect();
        for one in parked {
            let lane = self.turn.checked_rem(lanes).unwrap_or(0);
            self.turn = lane.wrapping_add(1);
            if let Some(share) = shares.get_mut(lane) {
                share.push(one);
            }
        }
        for ((lane, given), share) in self.lanes.iter().zip(&mut self.given).zip(shares) {
            if share.is_empty() {
                continue;
            }
            *given = given.saturating_add(u64::try_from(share.len()).unwrap_or(0));
            order(lane, Order::Adopt(share)).await;
        }
        self.make_room();
    }

    /// To the lane that it is for.
    async fn give(&mut self, gift: Gift) {
        let to = gift.given.lane();
        if let (Some(lane), Some(given)) = (self.lanes.get(to), self.given.get_mut(to)) {
            *given = given.saturating_add(1);
            order(lane, Order::Take(gift)).await;
        }
    }

    async fn let_yield(&self, starving: usize, life: Life) {
        for (number, lane) in self.lanes.iter().enumerate() {
            if number != starving {
                order(lane, Order::Yield(life)).await;
            }
        }
    }

    /// Lets the next of a parcel come when what came fits.
    fn make_room(&self) {
        let max = u64::from(self.settings.http.connections_max);
        if self.room.available_permits() == 0 && self.states.connections(&self.given) <= max {
            self.room.add_permits(1);
        }
    }

    async fn order_all(&self, make: impl Fn() -> Order) {
        for lane in &self.lanes {
            order(lane, make()).await;
        }
    }

    async fn ask_lanes(&mut self) {
        self.told = self.told.wrapping_add(1);
        let told = self.told;
        self.order_all(|| Order::Tell(told)).await;
    }

    async fn ask_lanes_for_the_keeper(&mut self) {
        self.ask_lanes().await;
        self.asked = Some(self.told);
    }

    async fn ask_lanes_at_tick(&mut self) {
        if self.asked.take().is_some() {
            // A lane is slow to tell: the keeper gets what we have.
            self.outbox.owe_report();
        }
        // One question under way at a time, so that a hung lane is not buried in them.
        if self.states.have_told(self.told) {
            self.ask_lanes().await;
        }
    }

    fn hear(&mut self, state: LaneState) {
        let before = self.states.total();
        let had_told = self.states.have_told(self.told);
        self.states.put(state);
        self.make_room();
        let is_an_answer = !had_told && self.states.have_told(self.told);
        let now = self.states.total();
        if !self.is_ready && self.states.are_known() {
            self.is_ready = true;
            self.outbox.owe_ready();
        }
        while let Some(seq) = self.unacknowledged.pop_front_if(|seq| *seq <= now.seq) {
            self.outbox.owe_acknowledged(seq);
            self.outbox.owe_report();
        }
        let cell = self.cell.as_deref();
        let has_drained = superseded(cell, &before)
            .difference(&superseded(cell, &now))
            .next()
            .is_some();
        let was_asked = is_an_answer && self.asked.take().is_some();
        if has_drained || was_asked || (is_an_answer && now != self.reported) {
            self.outbox.owe_report();
        }
    }

    fn report(&self) -> Report {
        Report {
            usage: self.usage,
            ..self.states.total()
        }
    }

    /// Nothing is here any more, and nothing is on its way.
    fn is_empty(&self) -> bool {
        let is_ending = match self.mode {
            Mode::Serving => false,
            Mode::Retiring | Mode::Stranded | Mode::Draining => true,
        };
        is_ending
            && self.outgoing.as_ref().is_none_or(Outgoing::is_empty)
            && self.inherits.is_empty()
            && self.events_received.is_empty()
            && self.states.are_empty(self.mode, &self.given)
    }

    fn link_failed(&mut self, error: &LinkError) -> ControlFlow<&'static str> {
        match error {
            LinkError::Version(_) | LinkError::Malformed(_) => {
                tracing::warn!(%error, "a message of the keeper is ignored: {error}");
                return ControlFlow::Continue(());
            }
            LinkError::Ended | LinkError::Socket(_) => self.link = None,
        }
        match self.settings.orphaned {
            Orphaned::ServeOn if self.cell.is_none() => {
                tracing::warn!(%error, "the keeper is gone and has not written this front down, ending: {error}");
                ControlFlow::Break("no keeper knows it")
            }
            Orphaned::ServeOn => {
                tracing::warn!(%error, "the keeper is gone for good, serving on: {error}");
                ControlFlow::Continue(())
            }
            Orphaned::EndAll => {
                tracing::error!(%error, "the keeper is gone, ending the app and this front: {error}");
                end_workers(self.cell.as_deref());
                ControlFlow::Break("the keeper is gone")
            }
        }
    }

    /// The counters of the last second, if the link has room.
    fn say_last_words(&self) {
        let Some(link) = &self.link else {
            return;
        };
        if let Err(error) = link.try_send(&FromFront::Report(self.report()), &[]) {
            tracing::debug!(%error, "the keeper gets no last report");
        }
    }

    fn end_lanes(self) {
        for LaneThread { orders, thread } in self.lanes {
            drop(orders);
            if thread.join().is_err() {
                tracing::error!("a lane ended badly");
            }
        }
    }
}
