//! The ends of what the main thread is connected to; those that are not there are pending forever.

use super::super::lane::{Event, LaneThread, Order};
use super::super::parcel::{self, Outgoing, Unpacked};
use super::super::trustee::{Berth, Slots};
use crate::link::seqpacket::Seqpacket;
use crate::link::{Cell, FromFront, FrontEnd, LinkError, Target, ToFront};
use crate::steps::{self, Step};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// See [`receive_parcel`].
const ROOM_DELAY: Duration = Duration::from_secs(1);

pub(super) async fn order(lane: &LaneThread, order: Order) {
    if lane.orders.send(order).await.is_err() {
        tracing::error!("a lane takes no orders any more");
    }
}

pub(super) async fn receive(link: Option<&FrontEnd>) -> Result<(ToFront, Vec<OwnedFd>), LinkError> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn say(
    link: Option<&FrontEnd>,
    message: Option<FromFront>,
) -> (FromFront, Result<(), LinkError>) {
    match (link, message) {
        (Some(link), Some(message)) => {
            let sent = link.send(&message, &[]).await;
            (message, sent)
        }
        (None, _) | (_, None) => std::future::pending().await,
    }
}

pub(super) async fn send_parcel(outgoing: Option<&mut Outgoing>) -> io::Result<()> {
    match outgoing {
        Some(outgoing) => outgoing.send().await,
        None => std::future::pending().await,
    }
}

/// A parcel waits until what came before fits, so that none of it is closed for want of descriptors;
/// but not for longer than [`ROOM_DELAY`], because meanwhile nobody serves what is in it.
pub(super) async fn receive_parcel(
    inherited: (Berth, Seqpacket),
    slots: Slots,
    events: mpsc::Sender<Event>,
    room: Arc<Semaphore>,
) {
    let (berth, socket) = inherited;
    // Both to the end, and this one first.
    let _berth = berth;
    loop {
        let message = match socket.receive().await {
            Ok(message) if message.bytes.is_empty() => return,
            Ok(message) => message,
            Err(error) => {
                return tracing::warn!(%error, "a parcel ended badly, continuing: {error}");
            }
        };
        match parcel::unpack(message) {
            Ok(Unpacked { mut parked, closed }) => {
                for one in &mut parked {
                    one.berth = slots.berth(&one.fd, one.introduced, !one.bytes.is_empty());
                }
                if closed > 0 {
                    tracing::warn!(
                        closed,
                        "{closed} connections of a parcel were closed: this front may open no more file descriptors; raise LimitNOFILE= of the service"
                    );
                }
                steps::reached(Step::ParcelReceived);
                if let Ok(Ok(permit)) = timeout(ROOM_DELAY, room.acquire()).await {
                    permit.forget();
                }
                if events.send(Event::Inherited(parked)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "connections of a parcel were closed, continuing: {error}");
            }
        }
    }
}

/// Ends the process groups of the workers in `cell`.
pub(super) fn end_workers(cell: Option<&Cell>) {
    let backends = match cell.map(|cell| &cell.target) {
        Some(Target::Live { backends, .. }) => backends.as_slice(),
        Some(Target::Hold | Target::Refuse) | None => &[],
    };
    for backend in backends {
        let group = i32::try_from(backend.pid).ok().and_then(Pid::from_raw);
        // Group 1 would be everything: kill(2).
        let Some(group) = group.filter(|group| *group != Pid::INIT) else {
            continue;
        };
        if let Err(error) = kill_process_group(group, Signal::KILL) {
            tracing::warn!(%error, pid = backend.pid, "cannot end a worker, continuing: {error}");
        }
    }
}
