//! The account of one request: opened when its head is whole, closed by drop, whatever happens.

use super::access::Account;
use super::body::Passing;
use super::lane::Lane;
use super::live::Lease;
use super::progress::{Progress, Upload};
use super::refusal::Refusal;
use super::tally;
use crate::id::GenerationId;
use crate::link::Served;
use hyper::StatusCode;
use std::rc::Rc;
use tokio::time::Instant;

/// The cause of what the app began to answer and did not finish.
const DIED_MID_RESPONSE: &str = "app_died_mid_response";

/// The cause of an answer that was here, in a file that cannot be read.
const BUFFER_LOST: &str = "buffer_lost";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The client left, or nothing else was said.
    Unfinished,
    Whole,
    Refused,
    Lost(&'static str),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange {
    lane: Rc<Lane>,
    progress: Rc<Progress>,
    started: Instant,
    status: Option<StatusCode>,
    outcome: Outcome,
    /// Where it went last.
    generation: Option<GenerationId>,
    passing: Rc<Passing>,
    /// For the access log, if there is one.
    account: Option<Box<Account>>,
}

impl Exchange {
    /// The head is whole.
    pub(super) fn begin(lane: &Rc<Lane>, progress: &Rc<Progress>) -> Self {
        progress.request_begins();
        lane.request_begins();
        Self {
            lane: Rc::clone(lane),
            progress: Rc::clone(progress),
            started: progress.now(),
            status: None,
            outcome: Outcome::Unfinished,
            generation: None,
            passing: Rc::default(),
            account: None,
        }
    }

    /// Who asks for what.
    pub(super) fn describe(&mut self, account: Option<Box<Account>>) {
        self.account = account;
    }

    /// It waits for a live generation, perhaps not for the first time.
    pub(super) fn is_held(&mut self, now: Instant) {
        if let Some(account) = &mut self.account {
            account.is_held(now);
        }
    }

    /// It goes there, perhaps not for the first time.
    pub(super) fn is_served_by(&mut self, lease: &Lease) {
        self.generation = Some(lease.generation());
        if let Some(account) = &mut self.account {
            account.is_served_by(lease.generation(), lease.pool().backend().slot);
        }
    }

    /// So much of the response body passed.
    pub(super) fn passed(&mut self, bytes: usize) {
        if let Some(account) = &mut self.account {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            account.response_bytes = account.response_bytes.saturating_add(bytes);
        }
    }

    /// The rest is the tunnel's.
    pub(super) fn becomes_a_tunnel(&mut self) -> Option<Box<Account>> {
        self.account.take()
    }

    /// As its client's connection has it.
    pub(super) fn now(&self) -> Instant {
        self.progress.now()
    }

    /// The client is still sending the body of the request.
    pub(super) fn is_uploading(&self) -> bool {
        self.progress.upload() == Upload::Open
    }

    /// The body of the request on its way to the app.
    pub(super) fn passing(&self) -> &Rc<Passing> {
        &self.passing
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        if let Some(account) = &mut self.account {
            account.answered(status);
        }
    }

    /// Our own answer; it is counted as soon as it is decided, and it is always whole.
    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.answered(refusal.status());
        self.outcome = Outcome::Refused;
        if let Some(account) = &mut self.account {
            account.outcome = refusal.cause();
            if let Some(cause) = refusal.lost() {
                account.failed(cause);
            }
        }
        let mut counters = self.lane.counters();
        tally::count(&mut counters.refusals, refusal.cause());
        if let Some(cause) = refusal.lost() {
            tally::count(&mut counters.lost, cause);
        }
        drop(counters);
        tracing::debug!(cause = refusal.cause(), blame = ?refusal.blame(), "request refused");
    }

    /// The response was taken to its end.
    pub(super) fn is_whole(&mut self) {
        if self.outcome == Outcome::Unfinished {
            self.outcome = Outcome::Whole;
        }
    }

    pub(super) fn is_cut(&mut self) {
        self.outcome = Outcome::Lost("cut");
    }

    pub(super) fn app_died_mid_response(&mut self, error: &hyper::Error) {
        tracing::debug!(%error, "the app's response broke off");
        self.outcome = Outcome::Lost(DIED_MID_RESPONSE);
    }

    pub(super) fn buffer_is_lost(&mut self) {
        self.outcome = Outcome::Lost(BUFFER_LOST);
    }
}

impl Exchange {
    /// What it adds to its generation: to the one that it was sent to, or would have been.
    fn served(&self) -> Option<(GenerationId, Served)> {
        let is_error = self.status?.is_server_error();
        let failed = match self.outcome {
            Outcome::Unfinished => return None,
            Outcome::Whole | Outcome::Refused => is_error,
            Outcome::Lost(cause) => is_error || cause == DIED_MID_RESPONSE,
        };
        let served = Served {
            requests: 1,
            failed: u64::from(failed),
        };
        let generation = self.generation.or_else(|| self.lane.live().newest())?;
        Some((generation, served))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(account) = &mut self.account {
            account.request_bytes = self.progress.upload_bytes();
            match self.outcome {
                Outcome::Whole => account.outcome = "whole",
                Outcome::Lost(cause) => account.failed(cause),
                Outcome::Unfinished | Outcome::Refused => {}
            }
        }
        self.progress.response_ends(now);
        self.lane.request_ends();
        let mut counters = self.lane.counters();
        if let Some((generation, served)) = self.served() {
            counters.add_served(generation, served);
        }
        match (self.outcome, self.status) {
            (Outcome::Whole | Outcome::Refused, Some(status)) => {
                let took = now.duration_since(self.started);
                tally::finished(&mut counters, status.as_u16(), took);
            }
            (Outcome::Lost(cause), status) => {
                tally::count(&mut counters.lost, cause);
                if let Some(status) = status {
                    // The client was answered so far; what is lost is a part of all.
                    let took = now.duration_since(self.started);
                    tally::finished(&mut counters, status.as_u16(), took);
                }
            }
            (Outcome::Whole | Outcome::Refused | Outcome::Unfinished, _) => {}
        }
    }
}
