//! What is remembered of a request until its end. Cheap: heads are shared, not copied, and nothing
//! is made into text before it is known that somebody wants it.

use super::super::forwarded::Claim;
use super::super::lane::Lane;
use super::shape::Shape;
use crate::id::{GenerationId, Slot};
use hyper::header::{HeaderValue, REFERER, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri, Version};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Dropped, it is written.
#[derive(Debug)]
pub(in crate::front) struct Account {
    lane: Rc<Lane>,
    is_in_sample: bool,
    pub(super) began: Instant,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) claim: Claim,
    pub(super) id: HeaderValue,
    pub(super) status: Option<StatusCode>,
    pub(super) first_byte: Option<Duration>,
    pub(super) held: Duration,
    held_since: Option<Instant>,
    pub(super) served_by: Option<(GenerationId, Slot)>,
    pub(in crate::front) request_bytes: u64,
    pub(in crate::front) response_bytes: u64,
    /// In a word.
    pub(in crate::front) outcome: &'static str,
    is_failure: bool,
}

/// Nobody said anything else: the client left, or its connection was closed.
const CLIENT_LEFT: &str = "client_left";

impl Account {
    /// None when there is no access log. `head` is as it came, but for its request id.
    pub(in crate::front) fn open(
        lane: &Rc<Lane>,
        began: Instant,
        head: &Parts,
        id: &HeaderValue,
        claim: impl FnOnce() -> Claim,
    ) -> Option<Box<Self>> {
        if !lane.access().is_on() {
            return None;
        }
        Some(Box::new(Self {
            lane: Rc::clone(lane),
            is_in_sample: lane.access().is_in_sample(),
            began,
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            user_agent: head.headers.get(USER_AGENT).cloned(),
            referer: head.headers.get(REFERER).cloned(),
            claim: claim(),
            id: id.clone(),
            status: None,
            first_byte: None,
            held: Duration::ZERO,
            held_since: None,
            served_by: None,
            request_bytes: 0,
            response_bytes: 0,
            outcome: CLIENT_LEFT,
            is_failure: false,
        }))
    }

    pub(in crate::front) fn is_held(&mut self, now: Instant) {
        self.held_since.get_or_insert(now);
    }

    fn is_held_no_more(&mut self) {
        if let Some(since) = self.held_since.take() {
            self.held = self.held.saturating_add(since.elapsed());
        }
    }

    pub(in crate::front) fn is_served_by(&mut self, generation: GenerationId, worker: Slot) {
        self.is_held_no_more();
        self.served_by = Some((generation, worker));
    }

    pub(in crate::front) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.first_byte = Some(self.began.elapsed());
    }

    /// The client did not get what it asked for, by no fault of its own.
    pub(in crate::front) fn failed(&mut self, outcome: &'static str) {
        self.outcome = outcome;
        self.is_failure = true;
    }

    /// Whether it is the app's or our failure. Requests refused before a worker had them are not
    /// meant: the log says once why nothing is live.
    pub(super) fn is_failure(&self) -> bool {
        let is_5xx = self.status.is_some_and(|status| status.is_server_error());
        self.served_by.is_some() && (is_5xx || self.is_failure)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.is_held_no_more();
        if !self.is_in_sample && !self.is_failure() {
            return;
        }
        let lane = &self.lane;
        let http = lane.http();
        let log = lane.access();
        log.write(&Shape::of(
            self,
            &http.trusted_proxies,
            log.config.has_query,
        ));
    }
}
