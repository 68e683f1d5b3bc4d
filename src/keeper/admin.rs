//! The listener for load balancers and Prometheus: `/healthz`, `/readyz`, `/metrics`, and nothing
//! that commands. Its sockets come from systemd, with FileDescriptorName=admin; `gapless run` binds
//! one itself when asked to.
//!
//! One request per connection, small heads, a limit on time and number: whoever is slow here makes
//! way for others, and never costs the keeper more than that.
//!
//! A socket of systemd, not an address in the configuration: gapless binds nothing under systemd, and
//! systemd's queue outlives the keeper. No copy is in the fd store: only the keeper accepts there, one
//! request for each connection, and systemd passes the same socket to the next one after a crash and a
//! restart alike. Only a restart of the socket units closes it for a moment.
//!
//! Ready means served or held, also while the app behind a fixed port is exchanged: not before the first
//! generation, not at a stop, not with the budget spent.

use super::control::Asked;
use super::happening::{Happening, Outbox};
use super::listeners::Listener;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

/// Connections at a time: for one more, the oldest is closed. Who asks and listens is answered long
/// before that.
const CONNECTIONS_MAX: usize = 64;
/// A connection lasts no longer.
const LIMIT: Duration = Duration::from_secs(5);
/// hyper's smallest.
const HEAD_BYTES_MAX: usize = 8192;
/// After an accept that failed for want of fds.
const SHORTAGE_DELAY: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";

/// Of the whole service; an error says why not, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The keeper's loop turns, and the lanes answer it.
    pub alive: Result<(), &'static str>,
    /// A request sent now is served.
    pub ready: Result<(), &'static str>,
}

/// Answers on one socket until the runtime ends.
pub async fn serve(listener: Listener, outbox: Outbox) {
    let Listener { address, fd, .. } = listener;
    let listener = std::net::TcpListener::from(fd);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(address, %error, "the admin socket {address} cannot be served, going on without it: {error}");
            return;
        }
    };
    tracing::info!(
        address,
        "load balancers are answered on {address}: /healthz, /readyz, /metrics"
    );
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|connection: &AbortHandle| !connection.is_finished());
                if oldest_first.len() >= CONNECTIONS_MAX
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                let connection = answer(stream, outbox.clone());
                oldest_first.push_back(connections.spawn_local(connection));
            }
            Err(error) => {
                tracing::debug!(%error, retry = ?SHORTAGE_DELAY, "cannot accept on the admin socket");
                tokio::time::sleep(SHORTAGE_DELAY).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, outbox: Outbox) {
    let service = service_fn(|request| respond(request, &outbox));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever is late or malformed is closed, and that is all there is to say.
    drop(tokio::time::timeout(LIMIT, connection).await);
}

async fn respond(
    request: Request<Incoming>,
    outbox: &Outbox,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let why = "only GET and HEAD are answered here";
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, why);
        let allowed = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return Ok(response);
    }
    Ok(match request.uri().path() {
        "/healthz" => judged(ask(outbox, Asked::Health).await.map(|health| health.alive)),
        "/readyz" => judged(ask(outbox, Asked::Health).await.map(|health| health.ready)),
        "/metrics" => match ask(outbox, Asked::Metrics).await {
            Some(metrics) => whole(StatusCode::OK, super::control::OPENMETRICS, metrics),
            None => judged(None),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /healthz, /readyz and /metrics",
        ),
    })
}

fn judged(health: Option<Result<(), &'static str>>) -> Response<Full<Bytes>> {
    match health.unwrap_or(Err("gapless is ending")) {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    whole(status, TEXT, format!("{line}\n"))
}

fn whole(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn ask<T>(outbox: &Outbox, question: fn(oneshot::Sender<T>) -> Asked) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    outbox.put(Happening::Asked(question(answer))).await;
    answered.await.ok()
}
