//! A tunnel: what a connection is after 101 Switching Protocols. Bytes are copied both ways, and
//! the lease of the request that opened it is held until both ways have ended.
//!
//! It never looks into what it carries, except for where the frames of a WebSocket end: when the
//! tunnel has to go, the close frame of RFC 6455 section 5.5.1 may stand only there.
//!
//! # Its beginning
//!
//! When the app answers an `Upgrade` with 101, hyper ends on both sides and the connection becomes a
//! tunnel. Each way ends on its own. A tunnel counts as a `tunnel`, not as a request in flight. Upgrades
//! are never sent twice. Upgrades to HTTP itself (h2c) are answered as ordinary requests: what is inside
//! would reach the app past all that the front checks and sets.
//!
//! CONNECT is refused unless `[http] connect` passes it on to an app that is a proxy itself; gapless
//! connects to nobody but the app. A 2xx to it begins a tunnel as a 101 does. If no tunnel comes of it,
//! bytes that came before the answer are nobody's request, though they may look like one: an answer ends
//! the connection then.
//!
//! # Its end
//!
//! When its generation leaves the cell, or its front retires, each tunnel ends at a random moment of
//! `[http] tunnels`, so that clients do not come back all at once: a WebSocket by a close frame 1012 at the
//! next frame boundary, anything else by closing both sides. At a stop, and where requests wait for the
//! generation to go (a fixed port), all are told within a second. To end takes another two seconds at most:
//! one for a frame, one for the goodbye. A cut ends what is left, and counts it as lost only if it had not
//! been told.

pub(super) mod frames;
mod pipe;

use super::access::Account;
use super::lane::{Lane, Mode};
use super::live::{Departure, Lease};
use super::pool::AppConnection;
use super::progress::Progress;
use super::stream::Socket;
use super::tally;
use frames::Frames;
use hyper::body::Bytes;
use pipe::Pipe;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// hyper gives the app's connection back in the same step in which it gives the 101.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// For a frame to end, so that the close frame can follow; and then for both sides to close.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the end of a tunnel may take.
const ENDING: Duration = PATIENCE.saturating_mul(2);

/// In which tunnels end where requests wait for their end, or gapless does.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The parts of a window among which tunnels are spread.
const SHARES: u32 = 4096;

/// What the app switched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// Anything else: opaque.
    Other,
}

/// A 101 on its way to the client.
#[derive(Debug)]
pub(super) struct Switched {
    pub(super) account: Option<Box<Account>>,
    pub(super) connection: AppConnection,
    pub(super) lease: Lease,
    pub(super) protocol: Protocol,
}

/// What is left to do for the client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Both ways ended: nothing.
    None,
    /// Shut it down, and read on for a moment so that what we said last arrives.
    Close,
    /// Something broke off, and the client should see that.
    Reset,
}

#[derive(Debug)]
enum End {
    /// Both ways, by themselves.
    Finished,
    /// We ended it in its time.
    Told,
    /// The drain limit passed first.
    Cut,
    /// `write_timeout`
    Stuck,
    Failed(io::Error),
}

/// From the 101 to the end of both ways.
pub(super) async fn run(
    lane: &Rc<Lane>,
    progress: &Rc<Progress>,
    switched: Switched,
    client: Socket,
    read: Bytes,
) -> (Socket, Farewell) {
    let Switched {
        account,
        connection,
        lease,
        protocol,
    } = switched;
    let taken = tokio::time::timeout(TAKEOVER_TIMEOUT, connection.into_upgraded()).await;
    let Ok(Some((app, app_read))) = taken else {
        tracing::warn!(generation = %lease.generation(), "the app's connection was lost at its upgrade, closing");
        return (client, Farewell::Reset);
    };
    let counted = lane.enter_tunnel(progress);
    tracing::debug!(generation = %lease.generation(), ?protocol, "tunnel begins");
    let mut tunnel = Tunnel {
        lane,
        progress,
        lease,
        client,
        app,
        up: Pipe::new(read, None),
        down: Pipe::new(
            app_read,
            (protocol == Protocol::WebSocket).then(Frames::default),
        ),
        share: share(),
        told: None,
        sleep: None,
    };
    let end = std::future::poll_fn(|cx| tunnel.poll(cx)).await;
    if let End::Failed(error) = &end {
        tracing::debug!(%error, "a side of a tunnel is gone");
    }
    tracing::debug!(why = ?end, generation = %tunnel.lease.generation(), "tunnel ends");
    let farewell = tunnel.farewell(&end);
    if let Some(account) = account {
        tunnel.close_account(*account, &end);
    }
    let Tunnel {
        lease, client, app, ..
    } = tunnel;
    if farewell == Farewell::Reset
        && let Err(error) = app.reset_on_close()
    {
        tracing::debug!(%error, "cannot reset a tunnel, closing it");
    }
    drop(app);
    drop(counted);
    drop(lease);
    (client, farewell)
}

/// Where in a window this tunnel ends: chance, so that clients do not all come back at once.
fn share() -> u32 {
    // See `RequestIds` for this source of randomness.
    let random = RandomState::new().hash_one("tunnel");
    u32::try_from(random % u64::from(SHARES)).unwrap_or(0)
}

/// The moments within `window` at which tunnels are told to end, so that they have ended when it
/// passes.
fn spread(window: Duration) -> Duration {
    window.saturating_sub(ENDING).max(window / 2)
}

struct Tunnel<'a> {
    lane: &'a Lane,
    progress: &'a Progress,
    lease: Lease,
    client: Socket,
    app: Socket,
    /// Client → app.
    up: Pipe,
    /// App → client.
    down: Pipe,
    /// Of [`SHARES`].
    share: u32,
    /// Since when it is to end.
    told: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Tunnel<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // For a cut, a swap, or another mode of the lane.
        self.progress.is_polled(cx.waker());
        loop {
            if self.lease.is_cut() {
                return Poll::Ready(self.cut(cx));
            }
            let now = Instant::now();
            if self.told.is_none() && self.ends_at().is_some_and(|at| at <= now) {
                self.tell(now);
            }
            if let Poll::Ready(end) = self.poll_pipes(cx) {
                return Poll::Ready(end);
            }
            let Some((at, end)) = self.deadline() else {
                return Poll::Pending;
            };
            if at > now {
                if self.poll_sleep(at, cx).is_pending() {
                    return Poll::Pending;
                }
            } else if let Some(end) = end {
                return Poll::Ready(end);
            }
        }
    }

    fn poll_pipes(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let up = self.up.poll(cx, &mut self.client, &mut self.app);
        let down = self.down.poll(cx, &mut self.app, &mut self.client);
        match (up, down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                Poll::Ready(End::Failed(error))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
        }
    }

    /// When this tunnel is to end, as things stand.
    fn ends_at(&self) -> Option<Instant> {
        let window = self.lane.http().tunnels;
        let at_once = window.min(AT_ONCE);
        let (mode, since) = self.lane.mode_since();
        let by_front = match mode {
            Mode::Serving | Mode::Stranded => None,
            Mode::Retiring if self.lane.keeps_tunnels() => {
                let limit = self.lane.http().upgrade_drain;
                limit.map(|limit| {
                    let spread = spread(window.min(limit));
                    (since + limit.saturating_sub(spread + ENDING), spread)
                })
            }
            Mode::Retiring => Some((since, spread(window))),
            Mode::Draining => Some((since, at_once)),
        };
        let by_generation = self.lease.departure().map(|departure| match departure {
            Departure::Superseded(at) => (at, spread(window)),
            // Requests wait for the place that this generation takes up.
            Departure::Withdrawn(at) => (at, at_once),
        });
        let moment = |(since, spread): (Instant, Duration)| {
            since + spread.saturating_mul(self.share) / SHARES
        };
        by_front.into_iter().chain(by_generation).map(moment).min()
    }

    fn tell(&mut self, now: Instant) {
        self.told = Some(now);
        self.down.say_close_at_boundary();
        let mut counters = self.lane.counters();
        counters.tunnels_ended = counters.tunnels_ended.saturating_add(1);
    }

    /// The nearest moment at which something has to happen, and the end that it then is.
    fn deadline(&self) -> Option<(Instant, Option<End>)> {
        let stuck = |pipe: &Pipe| {
            let since = pipe.blocked_since()?;
            Some((since + self.lane.http().write_timeout, Some(End::Stuck)))
        };
        let own = match self.told {
            None => self.ends_at().map(|at| (at, None)),
            Some(told) => Some((self.told_until(told), Some(End::Told))),
        };
        [stuck(&self.up), stuck(&self.down), own]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    fn told_until(&self, told: Instant) -> Instant {
        if !self.down.has_frames() {
            return told;
        }
        self.down.closed_at().unwrap_or(told) + PATIENCE
    }

    fn poll_sleep(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }

    fn cut(&mut self, cx: &mut Context<'_>) -> End {
        if self.told.is_some() {
            return End::Told;
        }
        tally::count(&mut self.lane.counters().lost, "cut");
        self.down.try_say_close(cx, &mut self.client);
        End::Cut
    }

    /// Both ways of a tunnel are its bodies.
    fn close_account(&self, mut account: Account, end: &End) {
        account.request_bytes = self.up.passed();
        account.response_bytes = self.down.passed();
        match end {
            End::Finished => account.outcome = "whole",
            End::Told => account.outcome = "tunnel_ended",
            End::Cut => account.failed("cut"),
            End::Stuck => account.outcome = "tunnel_stuck",
            End::Failed(_) => account.outcome = "tunnel_broken",
        }
    }

    fn farewell(&self, end: &End) -> Farewell {
        match end {
            End::Finished => Farewell::None,
            End::Told => Farewell::Close,
            End::Cut if self.down.closed_at().is_some() => Farewell::Close,
            End::Cut | End::Stuck | End::Failed(_) => Farewell::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_end_of_the_last_tunnel() {
        let window = Duration::from_secs(15);
        assert_eq!(spread(window), Duration::from_secs(13));
        assert_eq!(spread(Duration::from_secs(1)), Duration::from_millis(500));
        assert_eq!(spread(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn shares_differ() {
        let shares: std::collections::BTreeSet<u32> = (0..100).map(|_| share()).collect();
        assert!(shares.len() > 50 && shares.iter().all(|share| *share < SHARES));
    }
}
