//! Connections of one lane to one life of a worker.
//!
//! A connection is used by one request at a time and comes back when its response body ended. The
//! pool never retries and never chooses: that is the request's matter.
//!
//! # Answers with two readings
//!
//! An answer of the app with two lengths or an unknown coding is a 502. What the app may say before its
//! answer is whole is limited (64 KiB of head, 128 KiB with interim answers). A pooled connection is looked
//! at before it is used again: where anything came unasked, it is closed. What comes later than that, no
//! proxy can tell from the answer. So a connection that is likely to have a body behind (HEAD, a 204 with a
//! length) is not used again at all.

mod starving;
mod trial;
mod wire;

use super::body::RequestBody;
use super::live::Life;
use super::stream::Socket;
use crate::link::{Backend, Endpoint};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, Parts, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use starving::{PATIENCE, PATIENCE_MAX, Starving};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use trial::Trial;
use wire::{AppStream, Ear};

/// On one machine a connect takes microseconds or waits for a full backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Many app servers close a connection that was idle for 5 s (Node.js and uvicorn by default). A
/// request that crosses such a close on its way cannot be sent again unless it is idempotent, so
/// ours go first. With a server that closes sooner we see the close nearly always before we send.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// More idle connections than this are not worth their fds in the app. With fewer than there are busy
/// clients, one is made for each request, and waits for a place in the backlog of the app.
const IDLE_CONNECTIONS_MAX: usize = 512;

/// An app's head may have this size; hyper also keeps no more of a body at a time.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Fields of a response. Its bytes are the limit; of so many fields each has 65.
const FIELDS_MAX: usize = 1000;

/// No connection to the app, so nothing of the request was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot connect to the app")]
    Socket(#[source] io::Error),
    #[error("the app accepted no connection within {CONNECT_TIMEOUT:?}")]
    TimedOut,
    #[error("cannot speak HTTP to the app")]
    Handshake(#[source] hyper::Error),
}

#[derive(Debug)]
struct Idle {
    connection: AppConnection,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct BackendPool {
    backend: Backend,
    in_flight: Cell<u32>,
    /// Last in, first out: the rest ages and goes.
    idle: RefCell<Vec<Idle>>,
    is_retired: Cell<bool>,
    starving: Rc<Starving>,
    trial: Trial,
}

impl BackendPool {
    pub(super) fn new(backend: Backend) -> Rc<Self> {
        Rc::new(Self {
            backend,
            in_flight: Cell::new(0),
            idle: RefCell::default(),
            is_retired: Cell::new(false),
            starving: Rc::default(),
            trial: Trial::default(),
        })
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(super) fn life(&self) -> Life {
        (self.backend.slot, self.backend.life)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(super) fn enter(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    pub(super) fn leave(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// Not in the cell any more: idle connections go now, those in use when they end.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        self.idle.borrow_mut().clear();
    }

    /// An idle connection that is worth a try. `can_be_sent_again`: what is lost on it is not lost.
    pub(super) fn take_idle(&self, now: Instant, can_be_sent_again: bool) -> Option<AppConnection> {
        if !self.trial.allows(can_be_sent_again) {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop() {
            if now.saturating_duration_since(since) > IDLE_MAX {
                // What lies below is older still.
                idle.clear();
                return None;
            }
            if connection.sender.is_ready() && connection.is_quiet() {
                connection.ear.listen();
                connection.is_used.set(true);
                return Some(connection);
            }
        }
        None
    }

    pub(super) fn give_back(&self, connection: AppConnection, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if self.is_retired.get() || connection.sender.is_closed() || connection.ear.is_last() {
            return;
        }
        if idle.len() < IDLE_CONNECTIONS_MAX && !self.starving.takes_back_none(now) {
            idle.push(Idle {
                connection,
                since: now,
            });
        }
    }

    /// The answer on a used connection; None when the app took no second request there. See [`trial`].
    pub(super) async fn tried<F: Future>(
        &self,
        connection: &AppConnection,
        can_be_sent_again: bool,
        answered: F,
    ) -> Option<F::Output> {
        if self.trial.is_over() || connection.is_fresh() {
            return Some(answered.await);
        }
        let answer = trial::wait(&self.trial, connection, can_be_sent_again, answered).await;
        if answer.is_none() {
            self.idle.borrow_mut().clear();
        }
        answer
    }

    /// Drops what is too old to be used; called now and then, so that the fds go too.
    pub(super) fn expire(&self, now: Instant) {
        self.idle
            .borrow_mut()
            .retain(|idle| now.saturating_duration_since(idle.since) <= IDLE_MAX);
    }

    /// Somebody waits for what idle connections hold, in this lane or another. True: some were closed.
    pub(super) fn yields(&self, now: Instant) -> bool {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        // What came back just now may be taken again in a moment.
        idle.retain(|it| now.saturating_duration_since(it.since) < PATIENCE);
        idle.len() < before
    }

    /// Who asks by this fresh connection waits for its answer. The first of those who wait gets what is to
    /// be done meanwhile: `tell` the other lanes that they may hold what is waited for.
    pub(super) fn wait(
        self: &Rc<Self>,
        connection: &AppConnection,
        tell: impl Fn() + 'static,
    ) -> Option<impl Future<Output = ()> + 'static> {
        let (waiting, is_first) = self.starving.wait();
        connection.ear.waits(waiting);
        let pool = Rc::clone(self);
        is_first.then_some(async move {
            let mut delay = PATIENCE;
            loop {
                let before = pool.starving.since();
                tokio::time::sleep(delay).await;
                if !pool.starving.is_waiting() {
                    return;
                }
                let now = Instant::now();
                if pool.starving.wants_idle(now) {
                    if pool.yields(now) {
                        pool.starving.frees(now);
                    }
                    tell();
                }
                delay = if pool.starving.since() == before {
                    delay.saturating_mul(2).min(PATIENCE_MAX)
                } else {
                    PATIENCE
                };
            }
        })
    }

    /// A fresh connection; its task is owned by `tasks`.
    pub(super) async fn connect(&self, tasks: &TaskTracker) -> Result<AppConnection, ConnectError> {
        let socket = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.backend.endpoint))
            .await
            .map_err(|_elapsed| ConnectError::TimedOut)?
            .map_err(ConnectError::Socket)?;
        let socket = Rc::new(RefCell::new(socket));
        let ear = Rc::new(Ear::default());
        let io = TokioIo::new(AppStream::new(&socket, &ear));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(FIELDS_MAX)
            .handshake(io)
            .await
            .map_err(ConnectError::Handshake)?;
        let (upgraded, upgraded_received) = oneshot::channel();
        let told = Rc::clone(&ear);
        tasks.spawn_local(async move {
            tokio::select! {
                ended = connection.without_shutdown() => match ended {
                    // Nobody waits for it, unless the app switched protocols: then this closes.
                    Ok(parts) => drop(upgraded.send(parts)),
                    Err(error) => tracing::debug!(%error, "connection to the app ended"),
                },
                () = told.takes_no_more() => {
                    tracing::debug!("the app answered, and takes no more of the request");
                }
            }
        });
        Ok(AppConnection {
            sender,
            socket,
            ear,
            is_used: Cell::new(false),
            upgraded: upgraded_received,
        })
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
    }
}

/// A connection to the app, for one request at a time.
#[derive(Debug)]
pub(super) struct AppConnection {
    /// Hands requests to hyper.
    pub(super) sender: SendRequest<RequestBody>,
    socket: Rc<RefCell<Socket>>,
    ear: Rc<Ear>,
    /// It has answered a request already.
    is_used: Cell<bool>,
    /// What is left when hyper is done with it.
    upgraded: oneshot::Receiver<Parts<TokioIo<AppStream>>>,
}

impl AppConnection {
    /// After a 101: the socket, and what the app said in its new protocol already. None when the
    /// connection failed.
    pub(super) async fn into_upgraded(self) -> Option<(Socket, Bytes)> {
        let parts = self.upgraded.await.ok()?;
        drop(parts.io);
        Some((Rc::into_inner(self.socket)?.into_inner(), parts.read_buf))
    }

    fn is_fresh(&self) -> bool {
        !self.is_used.get()
    }

    /// Whether any byte came back since the request was sent.
    pub(super) fn has_heard(&self) -> bool {
        self.ear.has_heard()
    }

    /// The head of the final response is here.
    pub(super) fn has_answered(&self) {
        self.ear.has_answered();
    }

    /// What follows the answer may not be the next one.
    pub(super) fn is_for_one_answer(&self) {
        self.ear.set_last();
    }

    /// The answer is over, and the app has not taken the whole request: it may, but not for ever.
    pub(super) fn is_ahead_of_the_request(&self) {
        self.ear.answer_is_over();
    }

    /// The app has no room now for what it is to be told.
    pub(super) fn is_full(&self) -> bool {
        self.ear.is_full()
    }

    /// The app cannot be told any more; it may have said something before.
    pub(super) fn is_deaf(&self) -> bool {
        self.ear.is_deaf()
    }

    /// Interim answers that came since the last call, as the client is to get them; wakes when more do.
    pub(super) fn poll_interim(&self, cx: &Context<'_>) -> Option<Vec<u8>> {
        self.ear.poll_interim(cx)
    }

    /// More than an answer may be preceded by, and no answer.
    pub(super) fn said_too_much(&self) -> bool {
        self.ear.has_too_much()
    }

    /// Nothing unasked-for has come, and no end. hyper may not have been told yet, and would take
    /// such bytes for the next answer.
    fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&*self.socket.borrow(), &mut [0_u8; 1], flags);
        matches!(peeked, Err(Errno::AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Slot;
    use http_body_util::BodyExt;
    use hyper::Request;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A connection on which one request was answered, in the pool; and the app's end of it.
    async fn pooled(pool: &BackendPool, listener: &TcpListener) -> std::net::TcpStream {
        let mut connection = pool.connect(&TaskTracker::new()).await.unwrap();
        let (mut app, _) = listener.accept().unwrap();
        let request = Request::get("/").header("host", "a");
        let sent = connection
            .sender
            .try_send_request(request.body(RequestBody::Empty).unwrap());
        let answer = async {
            tokio::task::yield_now().await;
            let mut read = [0; 1024];
            assert!(app.read(&mut read).unwrap() > 0);
            app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
        };
        let (response, ()) = tokio::join!(sent, answer);
        let body = response.ok().unwrap().into_body().collect().await;
        assert_eq!(body.unwrap().to_bytes(), "ok");
        connection.sender.ready().await.unwrap();
        pool.give_back(connection, Instant::now());
        app
    }

    #[tokio::test]
    async fn a_connection_on_which_something_came_is_not_used_again() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let pool = BackendPool::new(Backend {
                    slot: Slot(0),
                    endpoint: Endpoint::Tcp(listener.local_addr().unwrap()),
                    life: 1,
                    pid: 0,
                });
                drop(pooled(&pool, &listener).await);
                assert!(
                    pool.take_idle(Instant::now(), true).is_none(),
                    "it was closed"
                );
                let mut app = pooled(&pool, &listener).await;
                // Nothing awaits in between, so hyper cannot have seen it.
                app.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
                assert!(
                    pool.take_idle(Instant::now(), true).is_none(),
                    "bytes came unasked"
                );
                let _app = pooled(&pool, &listener).await;
                assert!(pool.take_idle(Instant::now(), true).is_some());
            })
            .await;
    }
}
