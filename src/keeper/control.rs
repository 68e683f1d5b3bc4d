//! The control API: HTTP and JSON over a unix socket ([`socket`]). Whoever may write to the socket may
//! command.
//!
//! It only passes questions on to the keeper's loop and answers back; it decides nothing.

pub mod socket;

use super::admin::Health;
use super::console::Wanted;
use super::happening::{Happening, Outbox};
use crate::api::{
    self, ConsoleStep, HoldOutcome, LevelInUse, Released, ReloadOutcome, Rotation, Status, Step,
    UpgradeOutcome,
};
use crate::config;
use crate::release::ReleaseId;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{self, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Frame;
use socket::Door;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Content-Type of `/metrics`.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of a deploy there are never more.
pub(super) const STEPS: usize = 8;

const JSON_LINES: &str = "application/jsonl; charset=utf-8";

/// A question and where the answer goes. A dropped answer means that the keeper is ending.
#[derive(Debug)]
pub enum Asked {
    /// `GET /status`
    Status(oneshot::Sender<Status>),
    /// `GET /healthz` and `GET /readyz` of the admin sockets.
    Health(oneshot::Sender<Health>),
    /// `GET /metrics`
    Metrics(oneshot::Sender<String>),
    /// `POST /reload`
    Reload(oneshot::Sender<ReloadOutcome>),
    /// `POST /deploy/ID`
    Deploy(ReleaseId, mpsc::Sender<Step>),
    /// `POST /console/NUMBER?term=TERM`: `[app] console` of the live generation on `/dev/pts/NUMBER`.
    Console(Wanted),
    /// `POST /hold/TIME`: new requests wait; answered when nothing is in flight any more.
    Hold(Duration, oneshot::Sender<HoldOutcome>),
    /// `POST /resume`
    Resume(oneshot::Sender<HoldOutcome>),
    /// `POST /drain` and `POST /undrain`: whether `/readyz` is to say no.
    Rotate(bool, oneshot::Sender<Rotation>),
    /// `POST /log-level/LEVEL`
    LogLevel(String, oneshot::Sender<LevelInUse>),
    /// `POST /upgrade`: become the installed binary.
    Upgrade(oneshot::Sender<UpgradeOutcome>),
    /// `POST /upgrade/check`: only ask it whether it could take over.
    CheckUpgrade(oneshot::Sender<UpgradeOutcome>),
    /// `POST /release`: the unit is being restarted, be ready to be replaced.
    Release(oneshot::Sender<Released>),
}

/// Answers until the runtime ends.
pub async fn serve(door: Door, outbox: Outbox) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/reload", post(reload))
        .route("/deploy/{id}", post(deploy))
        .route("/console/{terminal}", post(console))
        .route("/hold/{time}", post(hold))
        .route("/resume", post(resume))
        .route("/drain", post(drain))
        .route("/undrain", post(undrain))
        .route("/log-level/{level}", post(log_level))
        .route("/upgrade", post(upgrade))
        .route("/upgrade/check", post(check_upgrade))
        .route("/release", post(release))
        .with_state(outbox);
    if let Err(error) = axum::serve(door, router).await {
        tracing::error!(%error, "the control socket failed, restart the service to get it back: {error}");
    }
}

async fn status(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, Asked::Status).await)
}

async fn metrics(State(outbox): State<Outbox>) -> Response {
    match ask(&outbox, Asked::Metrics).await {
        Some(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        None => ending(),
    }
}

async fn reload(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, Asked::Reload).await)
}

async fn upgrade(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, Asked::Upgrade).await)
}

async fn check_upgrade(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, Asked::CheckUpgrade).await)
}

/// The answer grows as the deploy goes on: a line of JSON for each step.
async fn deploy(
    State(outbox): State<Outbox>,
    extract::Path(id): extract::Path<String>,
) -> Response {
    let id = match id.parse::<ReleaseId>() {
        Ok(id) => id,
        Err(error) => {
            let why = format!("{id:?} is no name of a release: {error}\n");
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
    };
    let (steps, taken) = mpsc::channel(STEPS);
    outbox.put(Happening::Asked(Asked::Deploy(id, steps))).await;
    lines(taken)
}

/// The answer has a line when the console has begun, and one when it has ended.
async fn console(
    State(outbox): State<Outbox>,
    extract::Path(terminal): extract::Path<String>,
    extract::RawQuery(query): extract::RawQuery,
) -> Response {
    let (steps, taken) = mpsc::channel::<ConsoleStep>(STEPS);
    match Wanted::parse(&terminal, query.as_deref(), steps) {
        Ok(wanted) => outbox.put(Happening::Asked(Asked::Console(wanted))).await,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
    lines(taken)
}

fn lines<T: serde::Serialize + Send + 'static>(steps: mpsc::Receiver<T>) -> Response {
    let body = Body::new(Lines(steps));
    ([(header::CONTENT_TYPE, JSON_LINES)], body).into_response()
}

/// The steps of what goes on, a line for each. Dropped with its connection, so the keeper sees that
/// nobody listens any more.
struct Lines<T>(mpsc::Receiver<T>);

impl<T: serde::Serialize> hyper::body::Body for Lines<T> {
    type Data = Bytes;
    type Error = serde_json::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, serde_json::Error>>> {
        self.0.poll_recv(cx).map(|step| {
            let line = serde_json::to_vec(&step?).map(|mut line| {
                line.push(b'\n');
                Frame::data(line.into())
            });
            Some(line)
        })
    }
}

async fn release(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, Asked::Release).await)
}

async fn hold(
    State(outbox): State<Outbox>,
    extract::Path(time): extract::Path<String>,
) -> Response {
    match api::parse_hold(&time) {
        Ok(limit) => json(ask(&outbox, |answer| Asked::Hold(limit, answer)).await),
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

async fn resume(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, Asked::Resume).await)
}

async fn drain(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, |answer| Asked::Rotate(true, answer)).await)
}

async fn undrain(State(outbox): State<Outbox>) -> Response {
    json(ask(&outbox, |answer| Asked::Rotate(false, answer)).await)
}

async fn log_level(
    State(outbox): State<Outbox>,
    extract::Path(level): extract::Path<String>,
) -> Response {
    match config::parse_level(&level) {
        Ok(level) => json(ask(&outbox, |answer| Asked::LogLevel(level, answer)).await),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn ask<T>(outbox: &Outbox, question: impl FnOnce(oneshot::Sender<T>) -> Asked) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    outbox.put(Happening::Asked(question(answer))).await;
    answered.await.ok()
}

fn json<T: serde::Serialize>(answer: Option<T>) -> Response {
    answer.map_or_else(ending, |answer| axum::Json(answer).into_response())
}

fn ending() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "gapless is ending\n").into_response()
}
