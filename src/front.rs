//! The front: accepts, leases, proxies, drains. It never decides what is live.
//!
//! One lane per probe socket, each a thread with a runtime of its own; the main thread stands
//! between them and the link. Lanes share nothing while they serve. A front is born with its
//! settings, and dies by `Retire`, `Drain` or `End`; it never ends because its keeper did, unless
//! it was told that no next keeper can come.
//!
//! # Crowds of hostile clients
//!
//! What a client can take is bounded, and a byte now and then resets no bound. A head has `head_timeout`
//! from its first byte to its last. Bodies and responses are bounded by `patience`. When a lane is full, it
//! sheds the connections that were idle for longest, first those that never sent a request: a client that
//! opens many connections and says nothing keeps nobody out. Connections in use are never shed. The
//! connections of one address are counted for all lanes together (`addresses`).
//!
//! A front takes the hard limit of file descriptors and serves as many connections as that holds
//! (`descriptors`). What one connection holds is two buffers of 64 KiB at most, and what hyper reads ahead
//! of the app's answer. The keeper has descriptors of its own, and serves no client.

mod accept;
mod access;
mod addresses;
mod body;
mod buffer;
mod claims;
pub mod confinement;
mod connection;
mod descriptors;
mod exchange;
mod forwarded;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod guard;
mod head;
mod hub;
mod interim;
mod introduction;
mod lane;
mod live;
mod outbox;
mod parcel;
mod patience;
mod pool;
mod progress;
mod proxy;
mod proxy_header;
mod refusal;
mod share;
mod stream;
mod tally;
mod trailers;
pub mod trustee;
mod tunnel;

use crate::link::FrontSettings;
use crate::steps::{self, Step};
use crate::systemd::journal::Level;
use hub::Hub;
use lane::LaneThread;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use trustee::Trustee;

pub use buffer::Spool;
pub use refusal::cause_of;

/// What lanes may have under way to the main thread before they wait for it.
const EVENTS_MAX: usize = 1024;

/// The sockets that a front is born with.
#[derive(Debug)]
pub struct FrontFds {
    /// Its end of the link.
    pub link: OwnedFd,
    /// Listening stream sockets (TCP or unix) for clients.
    pub listeners: Vec<Listening>,
    /// Listening unix sockets on which the keeper asks whether a lane lives; one per lane.
    pub probes: Vec<OwnedFd>,
    /// To whom its connections go if it dies.
    pub trustee: Trustee,
    /// Where buffers keep what does not fit into memory.
    pub spool: Spool,
}

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listening {
    /// A listening stream socket.
    pub fd: OwnedFd,
    /// Nobody is to connect to it any more: it is closed when its queue is empty.
    pub is_closing: bool,
}

/// A front that cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// No lane, no front.
    #[error("the front was given no probe socket, so it has no lane; the keeper passes one each")]
    NoLane,
    /// Threads, epoll or signals.
    #[error("cannot start the runtime of the front")]
    Runtime(#[source] io::Error),
    /// No thread for lines on stdout.
    #[error("cannot start the thread of the access log; check TasksMax= of the service")]
    AccessLog(#[source] io::Error),
    /// The link is no socket that can be polled.
    #[error("cannot use the link to the keeper")]
    Link(#[source] io::Error),
    /// A listening socket cannot be used.
    #[error("cannot use listening socket {number} of the front")]
    Listener {
        /// Its place in [`FrontFds::listeners`].
        number: usize,
        /// Why.
        source: io::Error,
    },
    /// A lane ended though nobody told it to.
    #[error("lane {0} of the front ended by itself; this is a bug, please report it")]
    LaneEnded(usize),
}

/// Serves until the keeper ends it. Called on the main thread, outside any runtime. `log`: what the
/// keeper may change the level of, unless the log is somebody else's.
///
/// # Errors
/// When the front cannot start, or a lane is gone. What the network does is never an error here.
pub fn run(
    fds: FrontFds,
    mut settings: FrontSettings,
    log: Option<Level>,
) -> Result<(), FrontError> {
    let FrontFds {
        link,
        listeners,
        probes,
        trustee,
        spool,
    } = fds;
    let spool = Arc::new(spool);
    if probes.is_empty() {
        return Err(FrontError::NoLane);
    }
    descriptors::fit(&mut settings.http, probes.len());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(FrontError::Runtime)?;
    let (stdout, writer) = access::lines_for(settings.access)
        .map_err(FrontError::AccessLog)?
        .unzip();
    let served = runtime.block_on(async {
        ignore_signals().map_err(FrontError::Runtime)?;
        let (events, events_received) = mpsc::channel(EVENTS_MAX);
        let lanes = LaneThread::start_all(
            &settings,
            &listeners,
            probes,
            (stdout.as_ref(), trustee.slots, &spool),
            &events,
        )?;
        drop((listeners, stdout));
        steps::reached(Step::LanesStarted);
        let hub = Hub::new(
            link,
            lanes,
            (events, events_received),
            (settings, trustee.slots),
            log,
        )?;
        hub.run().await
    });
    if let Some(writer) = writer {
        writer.finish();
    }
    if served.is_ok() {
        trustee.dismiss();
        steps::reached(Step::TrusteeDismissed);
    }
    served
}

/// The keeper speaks over the link. A terminal sends SIGINT to the whole process group, and what
/// `systemctl kill` sends to the unit is meant for the keeper: neither may end a front. tokio never
/// restores the default action, so the streams need not be kept.
fn ignore_signals() -> io::Result<()> {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::quit(),
    ] {
        drop(signal(kind)?);
    }
    Ok(())
}
