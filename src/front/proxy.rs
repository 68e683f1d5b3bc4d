//! One request: held if need be, leased, sent, answered; sent again only where that cannot run
//! anything twice.
//!
//! What a worker lost before its answer began is sent once more, if it may run twice: to another worker, or
//! to the same one after 50 ms or with the next cell, whichever is first. If the main process of an app of
//! several processes died, the others take requests until the keeper has seen it and ends them. So the
//! request would be lost for good if it went to the same worker at once.

use super::access::Account;
use super::body::{Download, Go, OwnBody, RequestBody, ResponseBody, UploadFault};
use super::buffer::Buffer;
use super::exchange::Exchange;
use super::forwarded::{Origin, REQUEST_ID};
use super::head::{self, BodyKind, Framing, Wish};
use super::lane::{Held, Lane};
use super::live::{Claim, Lease, Life};
use super::pool::AppConnection;
use super::progress::{Progress, Upload};
use super::refusal::{Form, Refusal};
use super::tunnel::Switched;
use hyper::body::{Body, Incoming};
use hyper::header::{ACCEPT, CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// A worker that refuses connections is being respawned, or its backlog is full: the next try is
/// due at the next cell, or after this time, since nobody tells when a backlog has room again.
const RECONNECT_DELAY: Duration = Duration::from_millis(50);

/// What the requests of one client connection have in common.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) lane: Rc<Lane>,
    pub(super) progress: Rc<Progress>,
    pub(super) origin: Origin,
    /// A 101 is on its way, and hyper ends with it.
    pub(super) switched: RefCell<Option<Box<Switched>>>,
}

/// What came of sending a request once.
enum Attempt {
    Answered(Response<Incoming>, AppConnection),
    /// No byte of it was sent: here it is again.
    NotSent(Request<RequestBody>, Unsent),
    /// Sent, and no response.
    Lost {
        is_silent: bool,
        is_malformed: bool,
    },
    Refused(Refusal),
}

const MALFORMED: Attempt = Attempt::Lost {
    is_silent: false,
    is_malformed: true,
};

/// The app has not read it, and will not.
const UNREAD: Attempt = Attempt::Lost {
    is_silent: true,
    is_malformed: false,
};

enum Unsent {
    Unreachable,
    ConnectionWasClosed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pick {
    Pooled,
    Fresh,
}

/// Answers in any case; `exchange` was begun when hyper handed the request over.
pub(super) async fn answer(
    client: Rc<Client>,
    mut exchange: Exchange,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, incoming) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let is_connect = head.method == Method::CONNECT;
    let version = head.version;
    // RFC 9110 section 15.2: a client of HTTP/1.0 knows none.
    client
        .progress
        .set_takes_interim(version == Version::HTTP_11);
    let accept = head.headers.get(ACCEPT).cloned();
    let id = client
        .origin
        .request_id(&mut head.headers, client.lane.request_ids());
    tracing::debug!(request.id = ?id, http.method = %head.method, http.path = head.uri.path(), "request");
    let claim = || client.origin.claim(&head.headers);
    let account = Account::open(&client.lane, exchange.started(), &head, &id, claim);
    exchange.describe(account);
    let forwarded = forward(&client, head, incoming, &mut exchange).await;
    let mut response = match forwarded {
        Ok((response, connection, lease)) if head::opens_tunnel(is_connect, response.status()) => {
            client.progress.app_answered(lease.cut_mark());
            switch(&client, response, connection, lease, exchange)
        }
        Ok((response, connection, lease)) => {
            let unsized_body = response.body().size_hint().exact().is_none();
            let ends_by_close = version == Version::HTTP_10 && unsized_body;
            client.progress.set_ends_by_close(ends_by_close);

            client.progress.app_answered(lease.cut_mark());
            let mut response =
                pass_on(&client, is_connect, response, (connection, lease), exchange);
            if ends_by_close {
                // Of HTTP/1.1, hyper says keep-alive, which this client may have asked for.
                *response.version_mut() = Version::HTTP_10;
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err(refusal) => {
            client.progress.app_is_not_awaited();
            client.progress.set_ends_by_close(false);
            exchange.refused(refusal);
            let form = Form::wanted(accept.as_ref());
            refuse(&client, (refusal, form), is_head, exchange)
        }
    };
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response)
}

fn refuse(
    client: &Client,
    (refusal, form): (Refusal, Form),
    is_head: bool,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let can_continue = client.progress.upload() == Upload::Whole;
    let lane = &client.lane;
    let about = (lane.name(), lane.http().retry_after_seconds);
    let response = refusal.response(form, about, can_continue);
    response.map(|body| {
        let body = if is_head { OwnBody::empty() } else { body };
        ResponseBody::Own(body, Some(exchange))
    })
}

fn pass_on(
    client: &Client,
    is_connect: bool,
    response: Response<Incoming>,
    (connection, lease): (AppConnection, Lease),
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let (mut head, incoming) = response.into_parts();
    // RFC 9112 section 9.6: who sends the rest all the same is told that nobody reads it.
    let is_cut_short = exchange.is_uploading()
        && (connection.is_deaf() || head::says_close(head.version, &head.headers));
    head::prepare_response(is_connect, head.status, &mut head.headers);
    if is_cut_short {
        let close = HeaderValue::from_static("close");
        head.headers.insert(CONNECTION, close);
    }
    head.version = Version::HTTP_11;
    exchange.answered(head.status);
    tracing::debug!(http.status = head.status.as_u16(), generation = %lease.generation(), "response");
    let is_ahead = client.lane.http().buffer_responses > 0 && !incoming.is_end_stream();
    let body = if is_ahead {
        Download::ahead(&client.lane, incoming, connection, exchange, lease)
    } else {
        Download::new(incoming, connection, exchange, lease)
    };
    Response::from_parts(head, ResponseBody::App(Box::new(body)))
}

/// Only the head is an exchange; what follows is a tunnel, which begins when hyper has sent it.
fn switch(
    client: &Client,
    response: Response<Incoming>,
    connection: AppConnection,
    lease: Lease,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let (mut head, _) = response.into_parts();
    let protocol = head::prepare_switch(head.status, &mut head.headers);
    head.version = Version::HTTP_11;
    // hyper must not find its own upgrade of the other connection here.
    head.extensions.clear();
    exchange.answered(head.status);
    exchange.is_whole();
    tracing::debug!(http.status = head.status.as_u16(), generation = %lease.generation(), "response");
    let account = exchange.becomes_a_tunnel();
    client.switched.replace(Some(Box::new(Switched {
        account,
        connection,
        lease,
        protocol,
    })));
    let body = ResponseBody::Own(OwnBody::empty(), Some(exchange));
    Response::from_parts(head, body)
}

async fn forward(
    client: &Client,
    mut head: Parts,
    incoming: Incoming,
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, AppConnection, Lease), Refusal> {
    let http = client.lane.http();
    let announced = incoming.size_hint();
    let kind = match (incoming.is_end_stream(), announced.exact()) {
        (true, _) => BodyKind::Empty,
        (false, Some(_)) => BodyKind::Sized,
        (false, None) => BodyKind::Chunked,
    };
    let go = head::expects_continue(&head, kind).then(|| Arc::new(Go::default()));
    let mut body = RequestBody::new(
        incoming,
        &client.progress,
        exchange.passing(),
        http.body_bytes_max,
        go.clone(),
    );
    if announced.lower() > http.body_bytes_max {
        return Err(Refusal::BodyTooLarge);
    }
    if head.method == Method::CONNECT && !http.connect {
        return Err(Refusal::ConnectUnsupported);
    }
    if client.progress.is_pathless() {
        head.extensions.insert(head::Pathless);
    }
    let wish = head::prepare_request(&mut head, kind)?;
    client.origin.describe(&mut head.headers);
    let is_collected = http.buffer_requests > 0 && wish == Wish::Response;
    if is_collected && kind != BodyKind::Empty {
        collect(client, &mut body, &mut head).await?;
    }
    let mut request = Request::from_parts(head, body);
    if let Some(go) = go.filter(|_| !is_collected) {
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                go.give();
            }
        });
    }
    send(client, (request, wish), exchange).await
}

/// So that no worker waits for a client that sends slowly.
async fn collect(client: &Client, body: &mut RequestBody, head: &mut Parts) -> Result<(), Refusal> {
    let buffer = Buffer::new(client.lane.http().buffer_requests, client.lane.spool());
    let collected = body.collect(buffer).await;
    collected.map_err(|fault| lost(fault, false))?;
    head::is_collected(&mut head.headers, body.collected_bytes());
    Ok(())
}

/// Until answered, lost or refused. `hold` limits only the time in which nothing was sent.
async fn send(
    client: &Client,
    (mut request, wish): (Request<RequestBody>, Wish),
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, AppConnection, Lease), Refusal> {
    // The connection goes with the tunnel; and a pooled one that the app just closes would lose a
    // request that must not be sent again.
    let mut pick = match wish {
        Wish::Response => Pick::Pooled,
        Wish::Upgrade | Wish::Connect => Pick::Fresh,
    };
    let mut can_send_again = wish == Wish::Response && is_repeatable(&request);
    let mut wait = Wait {
        // Not from its head on: it may have been collected since.
        hold_ends: client.progress.now() + client.lane.http().hold,
        avoided: Vec::new(),
        was_held: false,
    };
    loop {
        let lease = wait.for_lease(&client.lane, exchange).await?;
        exchange.is_served_by(&lease);
        let spare = can_send_again.then(|| copy_of(&request));
        match attempt(client, &lease, (request, wish), (pick, can_send_again)).await {
            Attempt::Answered(response, connection) => return Ok((response, connection, lease)),
            Attempt::NotSent(back, why) => {
                request = back;
                match why {
                    Unsent::Unreachable => wait.avoided.push(lease.pool().life()),
                    Unsent::ConnectionWasClosed => {}
                }
            }
            Attempt::Lost {
                is_silent,
                is_malformed,
            } => match spare {
                Some(spare) if is_silent => {
                    can_send_again = false;
                    client.lane.counts_a_retry();
                    // Of an app of several processes the others may still take it, and end the next
                    // moment: another worker, or this one when the keeper had time to see it.
                    wait.avoided.push(lease.pool().life());
                    // The app may just be respawning: that gets the patience of a new request, and time
                    // for that one look at the only worker where nothing else is ever held.
                    let patience = client.lane.http().hold.max(2 * RECONNECT_DELAY);
                    wait.hold_ends = Instant::now() + patience;
                    request = spare;
                }
                Some(_) | None => return Err(lost(exchange.passing().fault(), is_malformed)),
            },
            Attempt::Refused(refusal) => return Err(refusal),
        }
        pick = Pick::Fresh;
    }
}

fn lost(fault: UploadFault, is_malformed: bool) -> Refusal {
    match fault {
        UploadFault::TooLarge => Refusal::BodyTooLarge,
        UploadFault::Broken => Refusal::BodyBroken,
        UploadFault::None if is_malformed => Refusal::AppMalformed,
        UploadFault::None => Refusal::AppDied,
    }
}

/// RFC 9110 section 9.2.2: these may run twice; and there is no body that is gone once sent.
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let is_idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    is_idempotent && matches!(request.body(), RequestBody::Empty)
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    copy.headers_mut().clone_from(request.headers());
    copy
}

async fn attempt(
    client: &Client,
    lease: &Lease,
    (request, wish): (Request<RequestBody>, Wish),
    (pick, can_send_again): (Pick, bool),
) -> Attempt {
    let pool = lease.pool();
    let pooled = if pick == Pick::Pooled {
        pool.take_idle(client.progress.now(), can_send_again)
    } else {
        None
    };
    let connection = match pooled {
        Some(pooled) => Ok(Some(pooled)),
        None => fresh_connection(client, lease).await,
    };
    let mut connection = match connection {
        Ok(Some(connection)) => connection,
        Ok(None) => return Attempt::NotSent(request, Unsent::Unreachable),
        Err(refusal) => return Attempt::Refused(refusal),
    };
    client.progress.app_is_awaited();
    let method = request.method().clone();
    let sent = connection.sender.try_send_request(request);
    let answered = behind_interim(client, &connection, sent);
    let answered = pool.tried(&connection, can_send_again, answered);
    let answered = match watched(client, lease, answered).await {
        Err(refusal) => return Attempt::Refused(refusal),
        Ok(None) => return UNREAD,
        Ok(Some(answered)) => answered,
    };
    match answered {
        Ok(response) if !head::is_possible(wish, response.status()) => MALFORMED,
        Ok(response) => {
            connection.has_answered();
            match head::framing(&method, &response) {
                Framing::Clear => {}
                Framing::Doubtful => connection.is_for_one_answer(),
                Framing::Broken => return MALFORMED,
            }
            Attempt::Answered(response, connection)
        }
        Err(mut error) => {
            if let Some(request) = error.take_message() {
                return Attempt::NotSent(request, Unsent::ConnectionWasClosed);
            }
            tracing::debug!(error = %error.error(), generation = %lease.generation(), "no response");
            Attempt::Lost {
                is_silent: !connection.has_heard(),
                is_malformed: error.error().is_parse() || connection.said_too_much(),
            }
        }
    }
}

/// None: the worker takes none now.
async fn fresh_connection(
    client: &Client,
    lease: &Lease,
) -> Result<Option<AppConnection>, Refusal> {
    let pool = lease.pool();
    match watched(client, lease, pool.connect(client.lane.app_tasks())).await? {
        Ok(connection) => {
            let (lane, life) = (Rc::clone(&client.lane), pool.life());
            let tell = move || lane.starves(life);
            if let Some(meanwhile) = pool.wait(&connection, tell) {
                client.lane.app_tasks().spawn_local(meanwhile);
            }
            Ok(Some(connection))
        }
        Err(error) => {
            let (generation, worker) = (lease.generation(), pool.backend().slot);
            tracing::debug!(%error, %generation, %worker, "not sent, trying on");
            Ok(None)
        }
    }
}

/// The answer of the app, when what it said before that is with the client.
async fn behind_interim<F: Future>(
    client: &Client,
    connection: &AppConnection,
    sent: F,
) -> F::Output {
    let mut sent = pin!(sent);
    let mut answer = None;
    std::future::poll_fn(|cx| {
        if answer.is_none()
            && let Poll::Ready(ready) = sent.as_mut().poll(cx)
        {
            answer = Some(ready);
        }
        if let Some(interim) = connection.poll_interim(cx)
            && client.progress.takes_interim()
        {
            client.progress.app_says_before(&interim);
        }
        if client.progress.has_interim() {
            // Whoever writes it wakes us, and it is written only when this has been polled.
            return Poll::Pending;
        }
        answer.take().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Ends the wait for the app by a cut or by `response_timeout`. The driver of the connection owns
/// the timer and wakes us; a cut wakes all connections of the lane.
async fn watched<F: Future>(client: &Client, lease: &Lease, wait: F) -> Result<F::Output, Refusal> {
    let mut wait = pin!(wait);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = wait.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if lease.is_cut() {
            return Poll::Ready(Err(Refusal::Cut));
        }
        if client.progress.app_is_late(client.lane.http()) {
            return Poll::Ready(Err(Refusal::AppTimedOut));
        }
        Poll::Pending
    })
    .await
}

/// A request that looks for a lease.
struct Wait {
    hold_ends: Instant,
    /// Tried in vain since the last wait.
    avoided: Vec<Life>,
    was_held: bool,
}

impl Wait {
    async fn for_lease(
        &mut self,
        lane: &Rc<Lane>,
        exchange: &mut Exchange,
    ) -> Result<Lease, Refusal> {
        let mut held: Option<Held> = None;
        loop {
            // Before the claim: from here on no change of the cell is missed.
            let changed = lane.live().changed();
            match lane.live().claim(&self.avoided) {
                Claim::Leased(lease) => return Ok(lease),
                Claim::Refused => return Err(Refusal::NoLiveGeneration),
                Claim::Bare => return Err(Refusal::NothingDeployed),
                Claim::Wait => {}
            }
            let now = Instant::now();
            if now >= self.hold_ends {
                return Err(self.too_long());
            }
            if held.is_none() {
                held = Some(lane.hold(self.was_held).ok_or(Refusal::HoldFull)?);
                exchange.is_held(now);
                self.was_held = true;
            }
            let until = if self.avoided.is_empty() {
                self.hold_ends
            } else {
                self.hold_ends.min(now + RECONNECT_DELAY)
            };
            // Elapsed or changed: either way the next claim tells.
            drop(tokio::time::timeout_at(until, changed).await);
            if until < self.hold_ends || Instant::now() < self.hold_ends {
                self.avoided.clear();
            }
        }
    }

    fn too_long(&self) -> Refusal {
        if self.avoided.is_empty() {
            Refusal::HeldTooLong
        } else {
            Refusal::AppRefused
        }
    }
}
