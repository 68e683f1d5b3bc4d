//! From accept to the first byte of HTTP: who a connection comes from, and whether it may stay.
//!
//! With `proxy_protocol = "require"` that is what its PROXY header says, read before hyper sees
//! anything; what was read beyond the header goes on as the beginning of the first request.
//!
//! The header must come from a trusted proxy or over a unix socket, or the connection is closed. Its
//! address takes the place of the peer's from there on; whether that client is a trusted proxy itself is
//! asked of that address. What the header said moves along in the parcel.

use super::addresses::Seat;
use super::connection::{self, Visit};
use super::lane::{Lane, Mode};
use super::progress::Progress;
use super::proxy_header::{self, Parsed, ProxyHeaderError};
use super::stream::{Peer, Socket};
use super::tally;
use super::trustee::Berth;
use crate::config::ProxyProtocol;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// What a PROXY header said. It travels along when the connection moves to the next front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Introduced {
    /// The client's address.
    As(IpAddr),
    /// No address: nothing is known of the client, so nothing that it says is believed.
    AsNobody,
}

/// Why a connection is closed before it could say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TurnedAway {
    /// A PROXY header is due, and this peer may not write one.
    #[error("it does not come from trusted_proxies, which proxy_protocol requires")]
    NotTrusted,
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    #[error("its PROXY header did not come within head_timeout, or broke off")]
    HeaderMissing,
    #[error("its address has connections_per_address_max already")]
    AddressFull,
    #[error("it was idle, and others wait to come in")]
    IdleWhenFull,
}

impl TurnedAway {
    /// In [`crate::link::Counters::connections_refused`]; fixed, for dashboards.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::NotTrusted => "proxy_not_trusted",
            Self::Header(_) | Self::HeaderMissing => "proxy_header",
            Self::AddressFull => "address_full",
            Self::IdleWhenFull => "idle_when_full",
        }
    }
}

/// What came of waiting for a header.
enum Waited {
    Came(Introduced, Bytes),
    TurnedAway(TurnedAway),
    /// The client left, or we do: nothing to tell.
    Gone,
}

/// Serves a connection that just came, or turns it away.
pub(super) fn receive(lane: &Rc<Lane>, (socket, berth): (Socket, Berth)) {
    let peer = match socket.peer() {
        Ok(peer) => peer,
        // ENOTCONN: it left between accept and now.
        Err(error) => return tracing::debug!(%error, "connection gone"),
    };
    match lane.http().proxy_protocol {
        ProxyProtocol::Off => admit(lane, (socket, berth), (peer, None), Bytes::new()),
        ProxyProtocol::Require if may_introduce(lane, peer) => {
            let progress = Rc::new(Progress::new(true));
            let entered = lane.enter(&progress);
            let lane = Rc::clone(lane);
            let tasks = lane.client_tasks().clone();
            tasks.spawn_local(async move {
                be_introduced(&lane, &progress, (socket, berth), peer).await;
                drop(entered);
            });
        }
        ProxyProtocol::Require => turn_away(lane, &socket, TurnedAway::NotTrusted),
    }
}

/// Whose PROXY header is believed: else any client that reaches the port could be anybody.
fn may_introduce(lane: &Lane, peer: Peer) -> bool {
    match peer {
        Peer::Local => true,
        Peer::Ip(ip) => is_trusted(lane, ip),
    }
}

fn is_trusted(lane: &Lane, ip: IpAddr) -> bool {
    let trusted = &lane.http().trusted_proxies;
    trusted.iter().any(|network| network.contains(&ip))
}

async fn be_introduced(
    lane: &Rc<Lane>,
    progress: &Progress,
    (mut socket, berth): (Socket, Berth),
    peer: Peer,
) {
    match wait_for_header(lane, progress, &mut socket).await {
        Waited::Came(introduced, rest) => {
            admit(lane, (socket, berth), (peer, Some(introduced)), rest);
        }
        Waited::TurnedAway(why) => turn_away(lane, &socket, why),
        Waited::Gone => {}
    }
}

/// A front that retires waits for the header, too, and lets the connection move after it; one that
/// drains does not.
async fn wait_for_header(lane: &Lane, progress: &Progress, socket: &mut Socket) -> Waited {
    let mut reading = pin!(read_header(socket));
    let waiting = std::future::poll_fn(|cx| {
        progress.is_polled(cx.waker());
        if let Poll::Ready(read) = reading.as_mut().poll(cx) {
            return Poll::Ready(read);
        }
        if progress.is_shed() {
            return Poll::Ready(Ok(Waited::TurnedAway(TurnedAway::IdleWhenFull)));
        }
        if lane.mode() == Mode::Draining {
            return Poll::Ready(Ok(Waited::Gone));
        }
        Poll::Pending
    });
    match tokio::time::timeout(lane.http().head_timeout, waiting).await {
        Ok(Ok(waited)) => waited,
        Ok(Err(error)) => {
            tracing::debug!(%error, "connection gone");
            Waited::Gone
        }
        Err(_elapsed) => Waited::TurnedAway(TurnedAway::HeaderMissing),
    }
}

async fn read_header(socket: &mut Socket) -> io::Result<Waited> {
    let mut bytes = Vec::new();
    loop {
        if socket.read_buf(&mut bytes).await? == 0 {
            // A port scan, or a health check that only connects.
            return Ok(if bytes.is_empty() {
                Waited::Gone
            } else {
                Waited::TurnedAway(TurnedAway::HeaderMissing)
            });
        }
        match proxy_header::parse(&bytes) {
            Ok(Parsed::More) => {}
            Ok(Parsed::Header { length, client }) => {
                let introduced = client.map_or(Introduced::AsNobody, Introduced::As);
                let rest = Bytes::from(bytes).split_off(length);
                return Ok(Waited::Came(introduced, rest));
            }
            Err(error) => return Ok(Waited::TurnedAway(error.into())),
        }
    }
}

fn admit(
    lane: &Rc<Lane>,
    (socket, berth): (Socket, Berth),
    (peer, introduced): (Peer, Option<Introduced>),
    prefix: Bytes,
) {
    let seat = match limited_address(lane, peer, introduced) {
        None => Some(Seat::default()),
        Some(ip) => lane.addresses().seat(ip),
    };
    match seat {
        None => turn_away(lane, &socket, TurnedAway::AddressFull),
        Some(seat) => {
            let visit = Visit {
                berth,
                socket,
                introduced,
                seat,
                idle: Duration::ZERO,
            };
            connection::serve(lane, visit, prefix);
        }
    }
}

/// The place of a connection that an older front admitted.
pub(super) fn inherited_seat(lane: &Lane, peer: Peer, introduced: Option<Introduced>) -> Seat {
    match limited_address(lane, peer, introduced) {
        None => Seat::default(),
        Some(ip) => lane.addresses().seat_for_inherited(ip),
    }
}

/// None where a connection stands for many clients, or for none.
fn limited_address(lane: &Lane, peer: Peer, introduced: Option<Introduced>) -> Option<IpAddr> {
    let ip = match (introduced, peer) {
        (Some(Introduced::As(ip)), _) | (None, Peer::Ip(ip)) => ip,
        (Some(Introduced::AsNobody), _) | (None, Peer::Local) => return None,
    };
    (!is_trusted(lane, ip)).then_some(ip)
}

/// By a reset: it leaves nothing behind here, whatever it sends on.
fn turn_away(lane: &Lane, socket: &Socket, why: TurnedAway) {
    tally::count(&mut lane.counters().connections_refused, why.cause());
    tracing::debug!(cause = why.cause(), why = %why, "connection refused: {why}");
    if let Err(error) = socket.reset_on_close() {
        tracing::debug!(%error, "cannot reset a connection, closing it");
    }
}
