//! One client connection: drives hyper, owns its one timer, and decides how it ends: finished,
//! timed out, moved to the next front, closed by a drain, or cut.
//!
//! # A connection that rests
//!
//! Most connections say nothing most of the time. After 200 ms without a request, or at once where a lane
//! has more than 64 others that do not rest, a connection is taken out of hyper, by the door through which
//! it would move to another front. Then its stream only waits until there is something to read, and hyper
//! has it again. A new connection begins so, too. A connection that rests can do all that an idle one can:
//! move, drain, be shed, time out, outlive its front. It has 2.7 to 3.1 kB of memory, and some 20 kB if it
//! does not rest (tests/bench/NOTES.md).

use super::addresses::Seat;
use super::body::{OwnBody, ResponseBody};
use super::exchange::Exchange;
use super::forwarded::Origin;
use super::introduction::{self, Introduced, TurnedAway};
use super::lane::{Gift, Lane, Mode};
use super::parcel::{self, Parked};
use super::progress::{Expiry, Progress, Upload};
use super::proxy::{self, Client};
use super::refusal::MALFORMED_HEAD;
use super::stream::{ClientStream, Socket};
use super::tally;
use super::trustee::Berth;
use super::tunnel::{self, Farewell, Switched};
use crate::steps::{self, Step};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::{HttpService, service_fn};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

/// hyper reads and writes bodies through a buffer of this size at most; heads have their own limit.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// hyper keeps this many fields on the stack; another number costs an allocation per request.
const HEADERS_AT_HAND: usize = 100;

/// A close(2) with unread bytes is a reset, which may take our last answer away from a client that
/// still sends: so we read on for a moment, as nginx's lingering_close does.
const LINGER: Duration = Duration::from_secs(2);

/// What a client may send into a closing connection.
const LINGER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A connection that is idle for so long rests: what hyper has for each, some 20 kB, is given up, and
/// made anew when something comes. That takes time, so not between two requests of a client that is
/// busy, as long as not too many have it at a time: see [`AWAKE_MAX`].
const REST_AFTER: Duration = Duration::from_millis(200);

/// Where more connections of a lane than these are awake, each rests as soon as it is idle. An allocator
/// keeps what a burst took, so a burst must not take much; and what so many have is in no cache when
/// their turn comes, so that to make it anew costs no more.
const AWAKE_MAX: usize = 64;

/// How a connection ended for its lane.
#[derive(Debug)]
enum End {
    /// As HTTP or the client has it.
    Finished(hyper::Result<()>),
    TimedOut(Expiry),
    /// Idle, and wanted by the next front.
    Moves,
    /// Idle, and the front ends.
    Drained,
    /// The generation that it was served from was cut mid-response.
    Cut,
    /// Idle, while others wait to come in.
    Shed,
}

/// A connection that may stay.
#[derive(Debug)]
pub(super) struct Visit {
    /// Before the socket: see [`Berth`].
    pub(super) berth: Berth,
    pub(super) socket: Socket,
    /// None where it began with HTTP.
    pub(super) introduced: Option<Introduced>,
    /// Kept to its end.
    pub(super) seat: Seat,
    /// For so long when it came.
    pub(super) idle: Duration,
}

/// Serves a connection that just came.
///
/// # Errors
/// When the runtime cannot watch it.
pub(super) fn serve_accepted(lane: &Rc<Lane>, fd: OwnedFd, berth: Berth) -> io::Result<()> {
    let socket = Socket::from_fd(fd)?;
    {
        let mut counters = lane.counters();
        counters.connections_accepted = counters.connections_accepted.saturating_add(1);
    }
    introduction::receive(lane, (socket, berth));
    Ok(())
}

/// Serves a connection that another lane accepted. What cannot be served is closed.
pub(super) fn serve_given(lane: &Rc<Lane>, gift: Gift) {
    let Gift { berth, fd, given } = gift;
    if let Err(error) = serve_accepted(lane, fd, berth) {
        tracing::warn!(%error, "cannot serve a connection, closing it: {error}");
    }
    drop(given);
}

/// Serves a connection that another front began. What cannot be served is closed.
pub(super) fn serve_parked(lane: &Rc<Lane>, parked: Parked) {
    let Parked {
        fd,
        bytes,
        introduced,
        idle,
        berth,
    } = parked;
    let socket = match Socket::from_fd(fd) {
        Ok(socket) => socket,
        Err(error) => {
            return tracing::warn!(%error, "cannot take over a connection, closing it: {error}");
        }
    };
    let peer = match socket.peer() {
        Ok(peer) => peer,
        // ENOTCONN: it left on its way here.
        Err(error) => {
            drop(berth);
            return tracing::debug!(%error, "connection gone");
        }
    };
    {
        let mut counters = lane.counters();
        counters.connections_inherited = counters.connections_inherited.saturating_add(1);
    }
    let seat = introduction::inherited_seat(lane, peer, introduced);
    let visit = Visit {
        berth,
        socket,
        introduced,
        seat,
        idle,
    };
    serve(lane, visit, bytes);
}

/// `prefix` was read already, and belongs to the first request.
pub(super) fn serve(lane: &Rc<Lane>, visit: Visit, prefix: Bytes) {
    let peer = match visit.socket.peer() {
        Ok(peer) => peer,
        // ENOTCONN: it left between accept and now.
        Err(error) => return tracing::debug!(%error, "connection gone"),
    };
    let fits = prefix.len() <= parcel::BYTES_MAX;
    let progress = Rc::new(Progress::new(fits));
    progress.was_idle(visit.idle);
    let entered = lane.enter(&progress);
    let client = Rc::new(Client {
        lane: Rc::clone(lane),
        progress,
        origin: Origin::new(peer, visit.introduced, &lane.http().trusted_proxies)
            .with_odd_names(lane.http().odd_field_names)
            .with_forwarded(lane.http().forwarded),
        switched: RefCell::new(None),
    });
    let Visit {
        berth,
        socket,
        introduced,
        seat,
        ..
    } = visit;
    // Not in the task: it begins later, and a connection that only waits for it is settled.
    let slot = lane.slot(&socket, introduced);
    berth.cede();
    let stream = ClientStream::new(socket, prefix, Rc::clone(&client.progress), slot);
    lane.client_tasks().spawn_local(async move {
        let (end, stream) = run(&client, stream).await;
        // Boxed, as it is large and rare: every connection has room for it otherwise.
        Box::pin(leave(&client, end, stream, (introduced, seat))).await;
        drop(entered);
    });
}

/// Rests until bytes come, converses, and rests again.
async fn run(client: &Rc<Client>, mut stream: ClientStream) -> (End, ClientStream) {
    let mut driver = Driver {
        client,
        sleep: None,
        is_closing: false,
    };
    loop {
        if let Rested::Ends(end) = driver.rest(&stream).await {
            return (end, stream);
        }
        // In a box, so that a connection that rests does not have the room for it.
        let (said, after) = Box::pin(converse(&mut driver, stream)).await;
        stream = after;
        if let Said::Ends(end) = said {
            return (end, stream);
        }
    }
}

/// With hyper, until the connection ends or may rest.
async fn converse(driver: &mut Driver<'_>, stream: ClientStream) -> (Said, ClientStream) {
    let client = driver.client;
    let _awake = client.lane.stay_awake();
    let service = service_fn(|request| {
        let exchange = Exchange::begin(&client.lane, &client.progress);
        proxy::answer(Rc::clone(client), exchange, request)
    });
    let mut connection = builder(&client.lane).serve_connection(TokioIo::new(stream), service);
    let said = std::future::poll_fn(|cx| driver.poll(&mut connection, cx)).await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    stream.take_back(parts.read_buf);
    (said, stream)
}

async fn leave(
    client: &Rc<Client>,
    end: End,
    stream: ClientStream,
    (introduced, seat): (Option<Introduced>, Seat),
) {
    let has_more = stream.has_more();
    let (slot, socket, read) = stream.into_parts();
    let switched = client.switched.take();
    match (end, switched) {
        (End::Finished(Ok(())), Some(switched)) => {
            drop(slot);
            tunnel(client, *switched, socket, read).await;
        }
        (End::Moves, _) => {
            let visit = Visit {
                berth: slot.into_berth(!read.is_empty()),
                socket,
                introduced,
                seat,
                idle: client.progress.idle(),
            };
            move_on(client, visit, read).await;
        }
        (end, _) => {
            drop(slot);
            finish(client, end, (socket, has_more)).await;
        }
    }
}

/// The 101 is sent, and hyper is done with the connection.
async fn tunnel(client: &Client, switched: Switched, socket: Socket, read: Bytes) {
    let (lane, progress) = (&client.lane, &client.progress);
    let (socket, farewell) = tunnel::run(lane, progress, switched, socket, read).await;
    match farewell {
        Farewell::None => {}
        Farewell::Close => close(socket, true).await,
        Farewell::Reset => {
            if let Err(error) = socket.reset_on_close() {
                tracing::debug!(%error, "cannot reset a connection, closing it");
            }
        }
    }
}

fn builder(lane: &Lane) -> Builder {
    let http = lane.http();
    let mut builder = Builder::new();
    builder
        // Counts idle time too; ours do not: see Progress.
        .header_read_timeout(None)
        // Else it looks for the end by reading; ours looks without: see ClientStream.
        .half_close(true)
        .max_header_size(http.head_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(http.head_bytes_max));
    if http.headers_max != HEADERS_AT_HAND {
        builder.max_headers(http.headers_max);
    }
    builder
}

/// What came of conversing.
enum Said {
    Ends(End),
    /// Nothing, for [`REST_AFTER`] at most.
    Nothing,
}

/// What came of resting.
enum Rested {
    Ends(End),
    /// There is something to read, if only the end.
    Readable,
}

struct Driver<'a> {
    client: &'a Rc<Client>,
    sleep: Option<Pin<Box<Sleep>>>,
    is_closing: bool,
}

impl Driver<'_> {
    async fn rest(&mut self, stream: &ClientStream) -> Rested {
        std::future::poll_fn(|cx| {
            self.client.progress.is_polled(cx.waker());
            if stream.poll_any(cx).is_ready() {
                return Poll::Ready(Rested::Readable);
            }
            if let Some(end) = self.other_end() {
                return Poll::Ready(Rested::Ends(end));
            }
            self.poll_sleep(cx, None).map(Rested::Ends)
        })
        .await
    }

    fn poll<S>(
        &mut self,
        connection: &mut Connection<TokioIo<ClientStream>, S>,
        cx: &mut Context<'_>,
    ) -> Poll<Said>
    where
        S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
    {
        let progress = &self.client.progress;
        progress.is_polled(cx.waker());
        if self.client.lane.mode() == Mode::Draining
            && progress.is_in_flight()
            && !self.is_closing
            && !self.is_switching()
        {
            // Not earlier: without a request in flight hyper would close, though a head may be
            // half here; with one, its response says `Connection: close`.
            self.is_closing = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        if let Poll::Ready(result) = Pin::new(&mut *connection).poll(cx) {
            return Poll::Ready(Said::Ends(End::Finished(result)));
        }
        if let Some(end) = self.other_end() {
            return Poll::Ready(Said::Ends(end));
        }
        let may_rest = progress.is_movable() && progress.is_unused() && !self.is_switching();
        let patience = if self.client.lane.awake() > AWAKE_MAX {
            Duration::ZERO
        } else {
            REST_AFTER
        };
        let rests_at = may_rest.then(|| progress.idle_since() + patience);
        if rests_at.is_some_and(|at| at <= progress.now()) {
            return Poll::Ready(Said::Nothing);
        }
        self.poll_sleep(cx, rests_at).map(Said::Ends)
    }

    /// An end that is neither HTTP's nor the clock's.
    fn other_end(&self) -> Option<End> {
        let progress = &self.client.progress;
        if progress.is_cut() {
            return Some(End::Cut);
        }
        // Only now: a request that was on its way when it was chosen has been read.
        if progress.is_shed() && progress.is_unused() && !self.is_switching() {
            return Some(End::Shed);
        }
        match self.client.lane.mode() {
            Mode::Retiring if progress.is_movable() && !self.is_switching() => Some(End::Moves),
            Mode::Draining if progress.is_unused() && !self.is_switching() => Some(End::Drained),
            Mode::Serving | Mode::Stranded | Mode::Retiring | Mode::Draining => None,
        }
    }

    /// A 101 is on its way: neither idle nor closing, and a tunnel in a moment.
    fn is_switching(&self) -> bool {
        self.client.switched.borrow().is_some()
    }

    /// Until a deadline has passed; wakes also at `other`. The sleep is armed for what is nearest, and
    /// left alone when that moves away: when it fires too early, it is armed again. So a request costs
    /// no timer.
    fn poll_sleep(&mut self, cx: &mut Context<'_>, other: Option<Instant>) -> Poll<End> {
        let deadline = self.client.progress.deadline(self.client.lane.http());
        if let Some((at, expiry)) = deadline
            && expiry != Expiry::App
            && at <= self.client.progress.now()
        {
            return Poll::Ready(End::TimedOut(expiry));
        }
        let deadline = deadline.map(|(at, _)| at);
        let Some(at) = deadline.into_iter().chain(other).min() else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        }
        if sleep.as_mut().poll(cx).is_ready() {
            // Passed in between; look again at once.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

async fn finish(client: &Client, end: End, (socket, has_more): (Socket, bool)) {
    match end {
        End::Cut => abort(client, &socket),
        End::TimedOut(expiry) => {
            tracing::debug!(?expiry, "connection timed out");
            if expiry == Expiry::Write || client.progress.is_in_flight() {
                abort(client, &socket);
            }
        }
        End::Shed => {
            let cause = TurnedAway::IdleWhenFull.cause();
            tally::count(&mut client.lane.counters().connections_refused, cause);
        }
        End::Moves | End::Drained => {}
        End::Finished(Ok(())) => {
            let lingers = has_more || client.progress.upload() == Upload::Abandoned;
            close(socket, lingers).await;
        }
        End::Finished(Err(error)) => failed(client, &error, socket).await,
    }
}

/// To the next front; or, if it has read more than a parcel holds, on here.
async fn move_on(client: &Client, visit: Visit, bytes: Bytes) {
    if bytes.len() > parcel::BYTES_MAX {
        return serve(&client.lane, visit, bytes);
    }
    let Visit {
        socket,
        berth,
        introduced,
        idle,
        ..
    } = visit;
    match socket.into_fd() {
        Ok(fd) => {
            let parked = Parked {
                berth,
                fd,
                bytes,
                introduced,
                idle,
            };
            steps::reached(Step::ConnectionTaken);
            client.lane.park(parked).await;
        }
        Err(error) => tracing::warn!(%error, "cannot take a connection out, closing it: {error}"),
    }
}

async fn failed(client: &Client, error: &hyper::Error, socket: Socket) {
    tracing::debug!(%error, "connection ended");
    if error.is_parse() && !client.progress.is_in_flight() {
        // hyper answered a head that it could not read.
        tally::count(&mut client.lane.counters().refusals, MALFORMED_HEAD);
        client.lane.access().refused_head(client, MALFORMED_HEAD);
        return close(socket, true).await;
    }
    abort(client, &socket);
}

/// Closes so that a response on its way is seen to be incomplete.
fn abort(client: &Client, socket: &Socket) {
    if client.progress.ends_by_close()
        && let Err(error) = socket.reset_on_close()
    {
        tracing::debug!(%error, "cannot reset a connection, closing it");
    }
}

async fn close(mut socket: Socket, lingers: bool) {
    if let Err(error) = socket.shutdown().await {
        return tracing::debug!(%error, "connection was closed by the client");
    }
    if lingers {
        // However that ends, the socket is closed next.
        drop(tokio::time::timeout(LINGER, discard(&mut socket)).await);
    }
}

async fn discard(socket: &mut Socket) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    let mut discarded = 0_usize;
    while discarded < LINGER_BYTES_MAX {
        match socket.read(&mut bytes).await? {
            0 => break,
            count => discarded = discarded.saturating_add(count),
        }
    }
    Ok(())
}

/// Serves the keeper's question whether this lane lives: through hyper and the lane's own epoll,
/// but without an app. Such connections are neither limited nor counted.
pub(super) fn serve_probe(lane: &Rc<Lane>, socket: Socket) {
    let idle_max = lane.http().idle_timeout;
    lane.client_tasks().spawn_local(async move {
        let service = service_fn(|_request| async {
            let mut response = Response::new(ResponseBody::Own(OwnBody::empty(), None));
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok::<_, Infallible>(response)
        });
        let mut builder = Builder::new();
        builder.header_read_timeout(None);
        let serving = builder.serve_connection(TokioIo::new(socket), service);
        match tokio::time::timeout(idle_max, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "probe connection ended"),
            Err(_elapsed) => tracing::debug!("probe connection was idle for too long"),
        }
    });
}
