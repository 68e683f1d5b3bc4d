//! What one client connection is doing, and since when: the ground for its timeouts and for the
//! question whether it can be taken out of hyper.
//!
//! Shared between the stream, the exchange, the bodies and the driver of a connection, all on one
//! thread. Only stamps are written while requests run; the one timer is the driver's.

use super::live::CutMark;
use super::patience::Patience;
use crate::config::HttpConfig;
use hyper::body::Bytes;
use std::cell::{Cell, RefCell, RefMut};
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// Also where nothing is held, an answer takes a moment.
const HALF_CLOSED_MIN: Duration = Duration::from_secs(1);

/// Which wait took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// `idle_timeout`
    Idle,
    /// `head_timeout`
    Head,
    /// `body_timeout`
    Body,
    /// `write_timeout`
    Write,
    /// It shut down its side, and nothing could be written to it for `hold`.
    HalfClosed,
    /// `response_timeout`: answered by the request itself, the connection lives on.
    App,
}

/// How far the body of the current request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// There is none, or all of it was read.
    Whole,
    /// Being read.
    Open,
    /// Nobody wants the rest: hyper drains it if it can, or closes.
    Abandoned,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Progress {
    /// When the driver of the connection was last polled: one look at the clock for all that happens in
    /// a poll.
    now: Cell<Instant>,
    /// hyper has seen bytes of this connection; what it does not need yet, it has.
    has_read: Cell<bool>,
    has_served: Cell<bool>,
    /// Whether an unanswered first head may move on; not so when it is too large for a parcel.
    may_move_unserved: bool,
    responses_open: Cell<u32>,
    /// Heads that hyper has taken.
    requests: Cell<u64>,
    /// Numbers of those, and of coming ones, whose absolute target may have no path.
    pathless: RefCell<Vec<u64>>,
    is_flushed: Cell<bool>,
    upload: Cell<Upload>,
    /// Of the body of the current request.
    upload_bytes: Cell<u64>,
    /// Bytes came while a request was in flight: the next head may have begun.
    has_read_ahead: Cell<bool>,
    idle_since: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    /// With its reading, of bodies.
    reading: Patience,
    /// With its taking, of responses.
    writing: Patience,
    app_awaited_since: Cell<Option<Instant>>,
    /// Others wait to come in: end this if it is idle.
    is_shed: Cell<bool>,
    is_tunnel: Cell<bool>,
    /// The client said that nothing more comes, or left; and when it last took something since.
    half_closed_since: Cell<Option<Instant>>,
    /// hyper was not given what is there to read; it must look again when it is done.
    withholds: Cell<bool>,
    /// Set while a response of the app is on its way: hyper does not poll the body of a client
    /// that does not read, so the driver has to see the cut.
    cut: RefCell<Option<CutMark>>,
    /// hyper answered a head by itself: with this status, if it can be read.
    own_answer: Cell<Option<u16>>,
    /// The response that is being sent ends where the connection ends (HTTP/1.0), so only a reset
    /// can say that it broke off.
    ends_by_close: Cell<bool>,
    /// What the app says before its answer, until it is written.
    interim: RefCell<Bytes>,
    takes_interim: Cell<bool>,
    /// Some of it is written.
    is_interim_begun: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    pub(super) fn new(may_move_unserved: bool) -> Self {
        let now = Instant::now();
        Self {
            now: Cell::new(now),
            has_read: Cell::new(false),
            has_served: Cell::new(false),
            may_move_unserved,
            responses_open: Cell::new(0),
            requests: Cell::new(0),
            pathless: RefCell::default(),
            is_flushed: Cell::new(true),
            upload: Cell::new(Upload::Whole),
            upload_bytes: Cell::new(0),
            has_read_ahead: Cell::new(false),
            idle_since: Cell::new(now),
            head_since: Cell::new(None),
            reading: Patience::default(),
            writing: Patience::default(),
            app_awaited_since: Cell::new(None),
            is_shed: Cell::new(false),
            is_tunnel: Cell::new(false),
            half_closed_since: Cell::new(None),
            withholds: Cell::new(false),
            cut: RefCell::new(None),
            own_answer: Cell::new(None),
            ends_by_close: Cell::new(false),
            interim: RefCell::default(),
            takes_interim: Cell::new(false),
            is_interim_begun: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// A whole head was read.
    pub(super) fn request_begins(&self) {
        self.has_served.set(true);
        self.requests.set(self.requests.get().saturating_add(1));
        self.is_shed.set(false);
        self.writing.begin();
        self.responses_open
            .set(self.responses_open.get().saturating_add(1));
        self.is_flushed.set(false);
        self.head_since.set(None);
        self.has_read_ahead.set(false);
        self.upload.set(Upload::Whole);
        self.upload_bytes.set(0);
    }

    /// See [`super::guard::Guard::take_pathless`].
    pub(super) fn sees_pathless(&self, heads: Vec<u64>) {
        if !heads.is_empty() {
            self.pathless.borrow_mut().extend(heads);
        }
    }

    /// Whether the current request is one.
    pub(super) fn is_pathless(&self) -> bool {
        let mut heads = self.pathless.borrow_mut();
        let current = self.requests.get();
        let is_one = heads.contains(&current);
        heads.retain(|head| *head > current);
        is_one
    }

    /// The response body was handed to hyper to its end, or given up.
    pub(super) fn response_ends(&self, now: Instant) {
        self.responses_open
            .set(self.responses_open.get().saturating_sub(1));
        self.app_awaited_since.set(None);
        self.cut.replace(None);
        self.idle_since.set(now);
        if self.has_read_ahead.get() {
            self.head_since.set(Some(now));
        }
    }

    pub(super) fn set_upload(&self, upload: Upload) {
        self.upload.set(upload);
        if upload == Upload::Open {
            self.reading.begin();
        }
        // The app may take the last byte of a body after its response ended: then nobody else
        // tells the driver that the connection is idle now.
        if upload != Upload::Open && self.responses_open.get() == 0 {
            self.wake();
        }
    }

    pub(super) fn upload(&self) -> Upload {
        self.upload.get()
    }

    pub(super) fn uploaded(&self, bytes: u64) {
        let sum = self.upload_bytes.get().saturating_add(bytes);
        self.upload_bytes.set(sum);
    }

    pub(super) fn upload_bytes(&self) -> u64 {
        self.upload_bytes.get()
    }

    /// From now on the app owes an answer.
    pub(super) fn app_is_awaited(&self) {
        self.app_awaited_since.set(Some(self.now()));
    }

    /// The app took more of the request: its time begins anew. That happens on the app's side, where
    /// the client's clock may stand.
    pub(super) fn app_took_some(&self) {
        if self.app_awaited_since.get().is_some() {
            self.app_awaited_since.set(Some(Instant::now()));
        }
    }

    pub(super) fn app_answered(&self, cut: CutMark) {
        self.app_awaited_since.set(None);
        self.cut.replace(Some(cut));
    }

    pub(super) fn app_is_not_awaited(&self) {
        self.app_awaited_since.set(None);
        if !self.is_interim_begun.get() {
            self.interim.take();
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.borrow().as_ref().is_some_and(CutMark::is_cut)
    }

    pub(super) fn read_some(&self, bytes: usize) {
        self.has_read.set(true);
        self.reading.moved(bytes, self.now());
        if self.responses_open.get() > 0 {
            if self.upload.get() != Upload::Open {
                self.has_read_ahead.set(true);
            }
        } else if self.head_since.get().is_none() {
            self.head_since.set(Some(self.now()));
        }
    }

    pub(super) fn read_blocked(&self) {
        self.reading.waits(self.now());
    }

    pub(super) fn wrote_some(&self, bytes: usize) {
        self.writing.moved(bytes, self.now());
        if self.half_closed_since.get().is_some() {
            self.half_closed_since.set(Some(self.now()));
        }
    }

    /// What goes out while nothing is in flight is hyper's answer to a head that it cannot read. True: it
    /// begins.
    pub(super) fn goes_out(&self, bytes: &[u8]) -> bool {
        let begins = !self.is_in_flight() && self.own_answer.get().is_none();
        if begins {
            let status = bytes
                .get("HTTP/1.1 ".len()..)
                .and_then(|rest| rest.get(..3));
            let status = status.and_then(|status| std::str::from_utf8(status).ok());
            self.own_answer
                .set(status.and_then(|status| status.parse().ok()));
        }
        begins
    }

    pub(super) fn own_answer(&self) -> Option<u16> {
        self.own_answer.get()
    }

    pub(super) fn set_takes_interim(&self, takes_interim: bool) {
        self.takes_interim.set(takes_interim);
    }

    /// The client knows what an interim answer is.
    pub(super) fn takes_interim(&self) -> bool {
        self.takes_interim.get()
    }

    /// To be written before the answer, which waits for it.
    pub(super) fn app_says_before(&self, interim: &[u8]) {
        let mut waiting = self.interim.borrow_mut();
        *waiting = [&**waiting, interim].concat().into();
    }

    pub(super) fn has_interim(&self) -> bool {
        !self.interim.borrow().is_empty()
    }

    /// What is written next has to wait for the rest of it.
    pub(super) fn is_interim_begun(&self) -> bool {
        self.is_interim_begun.get()
    }

    /// What is left of it, for who writes it.
    pub(super) fn interim(&self) -> RefMut<'_, Bytes> {
        self.interim.borrow_mut()
    }

    pub(super) fn interim_is_written(&self, is_whole: bool) {
        self.is_interim_begun.set(!is_whole);
    }

    pub(super) fn set_ends_by_close(&self, ends_by_close: bool) {
        self.ends_by_close.set(ends_by_close);
    }

    pub(super) fn ends_by_close(&self) -> bool {
        self.ends_by_close.get()
    }

    /// Since when the head that is being read is.
    pub(super) fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }

    /// What there is to read, hyper gets only when nothing is in flight any more.
    pub(super) fn withholds(&self) {
        self.withholds.set(true);
    }

    /// The client ended its side of the connection, and is owed an answer.
    pub(super) fn client_ended(&self) {
        self.withholds();
        if self.half_closed_since.get().is_none() {
            self.half_closed_since.set(Some(self.now()));
        }
    }

    pub(super) fn write_blocked(&self) {
        self.writing.waits(self.now());
    }

    /// hyper flushes the socket only when its own buffer is empty.
    pub(super) fn flushed(&self) {
        if self.responses_open.get() == 0 {
            self.is_flushed.set(true);
            if self.withholds.take() {
                self.wake();
            }
        }
    }

    /// No request is in flight, everything is written, and what hyper has read is only the
    /// beginning of a next head: the parts of the connection are the whole connection.
    pub(super) fn is_movable(&self) -> bool {
        self.responses_open.get() == 0
            && self.is_flushed.get()
            && self.upload.get() == Upload::Whole
            && (self.has_served.get() || !self.has_read.get() || self.may_move_unserved)
    }

    /// All of the `heads` that came were taken and answered: if nothing else came, nothing is here.
    pub(super) fn has_answered(&self, heads: u64) -> bool {
        !self.is_in_flight()
            && self.requests.get() == heads
            && self.upload.get() == Upload::Whole
            && self.half_closed_since.get().is_none()
            && !self.ends_by_close.get()
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.responses_open.get() > 0 || !self.is_flushed.get()
    }

    /// Not even half a head is here.
    pub(super) fn is_unused(&self) -> bool {
        !self.is_in_flight() && self.head_since.get().is_none()
    }

    /// It comes from another front, where it was idle for so long.
    pub(super) fn was_idle(&self, before: Duration) {
        if let Some(since) = Instant::now().checked_sub(before) {
            self.idle_since.set(since);
        }
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle_since().elapsed()
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// The protocol was switched.
    pub(super) fn is_a_tunnel_now(&self) {
        self.is_tunnel.set(true);
    }

    /// Since when it could be ended without harm, if so; and whether it ever was of use.
    pub(super) fn spare_since(&self) -> Option<(bool, Instant)> {
        let is_spare = self.is_unused() && !self.is_tunnel.get() && !self.is_shed.get();
        is_spare.then(|| (self.has_served.get(), self.idle_since.get()))
    }

    /// Ends it, unless a request comes first.
    pub(super) fn shed(&self) {
        self.is_shed.set(true);
        self.wake();
    }

    pub(super) fn is_shed(&self) -> bool {
        self.is_shed.get()
    }

    /// When which wait will have taken too long, as things stand.
    pub(super) fn deadline(&self, http: &HttpConfig) -> Option<(Instant, Expiry)> {
        let write = self
            .writing
            .ends(http.write_timeout, http.rate_min)
            .map(|at| (at, Expiry::Write));
        let half_closed = self
            .half_closed_since
            .get()
            .map(|at| (at + http.hold.max(HALF_CLOSED_MIN), Expiry::HalfClosed));
        let other = if self.responses_open.get() > 0 {
            self.deadline_in_flight(http)
        } else if let Some(since) = self.head_since.get() {
            Some((since + http.head_timeout, Expiry::Head))
        } else {
            Some((self.idle_since.get() + http.idle_timeout, Expiry::Idle))
        };
        [write, half_closed, other]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    fn deadline_in_flight(&self, http: &HttpConfig) -> Option<(Instant, Expiry)> {
        if self.upload.get() == Upload::Open
            && let Some(at) = self.reading.ends(http.body_timeout, http.rate_min)
        {
            return Some((at, Expiry::Body));
        }
        let since = self.app_awaited_since.get()?;
        Some((since + http.response_timeout, Expiry::App))
    }

    /// Whether the app owes its answer for longer than `response_timeout`.
    pub(super) fn app_is_late(&self, http: &HttpConfig) -> bool {
        self.deadline_in_flight(http)
            .is_some_and(|(at, expiry)| expiry == Expiry::App && at <= self.now())
    }

    /// The driver is polled: at this time, and by whom it is to be woken when something happened that no
    /// socket tells.
    pub(super) fn is_polled(&self, waker: &Waker) {
        self.now.set(Instant::now());
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    /// For what happens in a poll of the driver.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}
