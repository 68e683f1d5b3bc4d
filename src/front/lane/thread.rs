//! The thread of a lane: its sockets, its runtime, and its orders.

use super::super::accept::{self, Listener};
use super::super::access::Lines;
use super::super::{FrontError, Listening};
use super::{Event, Lane, Order};
use crate::front::addresses::Addresses;
use crate::front::buffer::Spool;
use crate::front::share::Share;
use crate::front::trustee::Slots;
use crate::link::FrontSettings;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::mpsc;

/// Orders that a lane may have waiting. One that lets so many wait hangs, which the keeper learns
/// from the probe.
const ORDERS_MAX: usize = 256;

/// A lane as the main thread sees it.
#[derive(Debug)]
pub(in crate::front) struct LaneThread {
    pub(in crate::front) orders: mpsc::Sender<Order>,
    pub(in crate::front) thread: JoinHandle<()>,
}

impl LaneThread {
    /// One per probe socket, each with a copy of every listener.
    pub(in crate::front) fn start_all(
        settings: &FrontSettings,
        listeners: &[Listening],
        probes: Vec<OwnedFd>,
        (stdout, slots, spool): (Option<&Lines>, Slots, &Arc<Spool>),
        events: &mpsc::Sender<Event>,
    ) -> Result<Vec<Self>, FrontError> {
        let lanes = probes.len();
        let addresses = Addresses::new(settings.http.connections_per_address_max);
        let each = Share::of_each(lanes).zip(probes);
        let started = each.map(|(share, probe)| {
            let copies = copies_of(listeners)?;
            let (settings, events) = (settings.clone(), events.clone());
            let name = format!("lane-{}", share.lane());
            let shared = (Arc::clone(&addresses), stdout.cloned());
            let kept = (slots, Arc::clone(spool));
            let lane = move || Lane::new((share, lanes), &settings, shared, kept, events);
            Self::start(name, lane, (copies, probe))
        });
        started.collect()
    }

    fn start(
        name: String,
        lane: impl FnOnce() -> Rc<Lane> + Send + 'static,
        (listeners, probe): (Vec<Listening>, OwnedFd),
    ) -> Result<Self, FrontError> {
        let (orders, orders_received) = mpsc::channel(ORDERS_MAX);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let run = move || {
            let (runtime, accepting, probing) = match begin(listeners, probe) {
                Ok(all) => all,
                // Who is told has nothing else to wait for.
                Err(error) => return drop(begun.send(Err(error))),
            };
            if begun.send(Ok(())).is_err() {
                return;
            }
            runtime.block_on(async move {
                let lane = lane();
                let (accepting, probing) = accept::start(&lane, accepting, probing);
                lane.run(orders_received, accepting).await;
                drop(probing);
            });
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(FrontError::Runtime)?;
        // A socket that cannot be used ends the start.
        has_begun
            .recv()
            .map_err(|gone| FrontError::Runtime(io::Error::other(gone)))??;
        Ok(Self { orders, thread })
    }
}

/// Tasks of a lane never leave its thread, and a runtime that knows so needs no set of its own for them.
fn begin(
    listeners: Vec<Listening>,
    probe: OwnedFd,
) -> Result<(LocalRuntime, Vec<Listener>, Listener), FrontError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(FrontError::Runtime)?;
    let entered = runtime.enter();
    let listeners = listeners.into_iter().enumerate().map(|(number, it)| {
        Listener::new(it.fd, it.is_closing)
            .map_err(|source| FrontError::Listener { number, source })
    });
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    let probe = Listener::new(probe, false).map_err(FrontError::Runtime)?;
    drop(entered);
    Ok((runtime, listeners, probe))
}

fn copies_of(listeners: &[Listening]) -> Result<Vec<Listening>, FrontError> {
    let copies = listeners.iter().enumerate().map(|(number, it)| {
        let copy = it.fd.try_clone().map(|fd| Listening { fd, ..*it });
        copy.map_err(|source| FrontError::Listener { number, source })
    });
    copies.collect()
}
