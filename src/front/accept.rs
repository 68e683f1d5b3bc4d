//! Accepting, per lane: from its copies of the listeners, and from its own probe socket.
//!
//! Never spins: where accept(2) fails for want of something, it waits for a connection to end, or
//! for [`SHORTAGE_DELAY`].

use super::connection;
use super::lane::{Lane, SPARE_AFTER};
use super::stream::Socket;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Another process may have given up what was short; nobody tells us when.
const SHORTAGE_DELAY: Duration = Duration::from_millis(100);

/// Between two lines of the log about it.
const SHORTAGE_NEWS: Duration = Duration::from_mins(1);

/// So many in a row, at least, then the other tasks of the lane; and the other lanes get their
/// share of a burst.
const ACCEPTS_PER_TURN_MIN: u64 = 8;

/// The part of those who are here that may come in a row. Where thousands are served, a turn is long,
/// and by a fixed number a queue of thousands would wait for hundreds of turns.
const ACCEPTS_SHARE: u64 = 64;

/// How long a socket that is to be closed stays empty before it is: for handshakes under way, whose last
/// packet may have to be sent again (RFC 6298 section 2: after 1 s).
const EMPTY_FOR: Duration = Duration::from_millis(1500);

/// A listening socket in the epoll of its lane.
#[derive(Debug)]
pub(super) struct Listener {
    socket: AsyncFd<OwnedFd>,
    is_closing: bool,
}

impl Listener {
    /// # Errors
    /// When it cannot be polled.
    pub(super) fn new(fd: OwnedFd, is_closing: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            socket: crate::poll::watch(fd)?,
            is_closing,
        })
    }

    /// None: it was to be closed, and its queue is empty.
    async fn next(&self) -> Option<io::Result<OwnedFd>> {
        if self.is_closing {
            return tokio::time::timeout(EMPTY_FOR, self.accept()).await.ok();
        }
        Some(self.accept().await)
    }

    async fn accept(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        self.socket
            .async_io(Interest::READABLE, |listener| {
                Ok(accept_with(listener, flags)?)
            })
            .await
    }
}

/// Starts to accept; the tasks end when the sets are dropped: the first of the client listeners,
/// the second of the probe socket, which answers to the last.
pub(super) fn start(
    lane: &Rc<Lane>,
    listeners: Vec<Listener>,
    probe: Listener,
) -> (JoinSet<()>, JoinSet<()>) {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn_local(accept_clients(Rc::clone(lane), listener));
    }
    let mut probing = JoinSet::new();
    probing.spawn_local(accept_probes(Rc::clone(lane), probe));
    (accepting, probing)
}

async fn accept_clients(lane: Rc<Lane>, listener: Listener) {
    // Nobody remembers a front that its keeper did not write down before it ended; then that told it
    // nothing either.
    lane.live().first_cell().await;
    let mut shortage = Shortage::default();
    let mut in_a_row = 0;
    loop {
        while lane.is_full() {
            in_a_row = 0;
            let room = lane.room().notified();
            lane.shed_idle();
            // Room, or others that have become spare in the meantime.
            drop(tokio::time::timeout(SPARE_AFTER, room).await);
        }
        let Some(accepted) = listener.next().await else {
            return;
        };
        let accepted = accepted.and_then(|fd| {
            // At once: until then nobody knows that it came.
            let berth = lane.berth(&fd);
            let kept = lane.give(fd, berth);
            kept.map_or(Ok(()), |(fd, berth)| {
                connection::serve_accepted(&lane, fd, berth)
            })
        });
        if let Err(error) = accepted {
            shortage.wait(&lane, &error).await;
        }
        in_a_row += 1;
        if in_a_row >= ACCEPTS_PER_TURN_MIN.max(lane.open_connections() / ACCEPTS_SHARE) {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

async fn accept_probes(lane: Rc<Lane>, listener: Listener) {
    let mut shortage = Shortage::default();
    loop {
        match listener.accept().await.and_then(Socket::from_fd) {
            Ok(socket) => connection::serve_probe(&lane, socket),
            Err(error) => shortage.wait(&lane, &error).await,
        }
    }
}

/// Logged now and then, not at every try: in a shortage each connection that ends lets one more
/// come in, and the next is short again.
#[derive(Debug, Default)]
struct Shortage {
    logged: Option<Instant>,
}

impl Shortage {
    async fn wait(&mut self, lane: &Lane, error: &io::Error) {
        if concerns_one_connection(error) {
            return;
        }
        let is_news = |at: Instant| at.elapsed() >= SHORTAGE_NEWS;
        if self.logged.is_none_or(is_news) {
            self.logged = Some(Instant::now());
            tracing::warn!(%error, retry = ?SHORTAGE_DELAY, "cannot accept connections, trying on: {error}");
        }
        drop(tokio::time::timeout(SHORTAGE_DELAY, lane.room().notified()).await);
    }
}

/// accept(2): errors of the new connection are returned by accept; the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [
            Errno::CONNABORTED,
            Errno::INTR,
            Errno::PROTO,
            Errno::NETDOWN,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::NOTCONN,
            Errno::INVAL,
        ]
        .contains(&errno)
    })
}
