//! Every request of the corpus: what the client gets, what the app sees, and that nothing after it
//! is out of step.

use super::app::{Seen, StrictApp};
use super::cases::{After, RequestCase, Then, disagreement, read};
use super::client::{End, Wire};
use super::world::{Front, PATIENCE, Port, http, live};
use gapless::config::HttpConfig;
use gapless::link::Orphaned;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

/// One lane, so one pool: what one request leaves there, the next one gets.
pub fn one_lane() -> HttpConfig {
    HttpConfig {
        lanes: NonZeroU32::new(1),
        body_bytes_max: 100_000,
        ..http()
    }
}

/// What a proxy made of a case.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub answers: Vec<u16>,
    pub bodies: Vec<String>,
    pub then: Then,
    pub app: Vec<Seen>,
    /// What came out of step, if anything.
    pub harm: Option<String>,
}

/// Whether what is expected is all that is waited for.
#[derive(Clone, Copy, PartialEq)]
pub enum Look {
    ForWhatIsExpected,
    /// Until the connection is silent.
    ForAnything,
}

/// Sends `case`, then good requests on its connection and on a fresh one. `patience` is how long
/// silence means that the proxy waits for more.
pub async fn outcome(
    case: &RequestCase,
    number: usize,
    address: SocketAddr,
    app: &StrictApp,
    (patience, look): (Duration, Look),
) -> Outcome {
    let mut wire = Wire::connect(address).await;
    wire.send_case(case).await;
    let (mut answers, mut bodies) = (Vec::new(), Vec::new());
    let mut end = None;
    if case.client == After::Resets {
        drop(wire);
        end = Some(End::Closed);
    } else {
        while end.is_none() {
            let has_all = answers.len() == case.answers.len();
            if case.then == Then::Open && has_all && look == Look::ForWhatIsExpected {
                break;
            }
            match wire.answer(false, patience).await {
                Ok(answer) => {
                    answers.push(answer.status);
                    bodies.push(String::from_utf8_lossy(&answer.body).into_owned());
                }
                Err(other) => end = Some(other),
            }
        }
        let path = format!("/same-{number}");
        let same = match end {
            Some(End::Closed) => Ok(()),
            Some(End::Silent) | None => wire.gets_its_own(&path, patience).await,
        };
        end = match (same, end) {
            (Ok(()), Some(End::Closed)) | (Err(_), _) => Some(End::Closed),
            (Ok(()), Some(End::Silent) | None) => None,
        };
    }
    let then = if end.is_none() {
        Then::Open
    } else {
        Then::Closed
    };
    let mut harm = None;
    for round in 0..2 {
        let path = format!("/fresh-{number}-{round}");
        let mut fresh = Wire::connect(address).await;
        if let Err(other) = fresh.gets_its_own(&path, PATIENCE).await {
            harm = Some(other);
        }
    }
    let mut seen = app.seen();
    seen.retain(|seen| {
        !seen.line.starts_with("GET /fresh-") && !seen.line.starts_with("GET /same-")
    });
    Outcome {
        answers,
        bodies,
        then,
        app: seen,
        harm,
    }
}

/// Where outcome and case disagree.
pub fn verdict(case: &RequestCase, outcome: &Outcome) -> Option<String> {
    let lines: Vec<_> = outcome.app.iter().map(|seen| seen.line.clone()).collect();
    if outcome.harm.is_some() {
        return outcome.harm.clone();
    }
    if outcome.answers != case.answers || outcome.then != case.then || lines != case.app {
        return Some(format!(
            "wanted {:?} {:?} and the app to see {:?}, got {:?} {:?} and {lines:?}",
            case.answers, case.then, case.app, outcome.answers, outcome.then
        ));
    }
    let own = outcome
        .bodies
        .iter()
        .zip(&outcome.answers)
        .filter(|(_, status)| **status == 200);
    let own: Vec<_> = own.map(|(body, _)| body).collect();
    if own.into_iter().ne(&lines) {
        return Some(format!("answers of others: {:?}", outcome.bodies));
    }
    let first = outcome.app.first()?;
    if let Some(wrong) = disagreement(&first.head, &case.app_head) {
        return Some(format!("{wrong} does not hold in {:?}", first.head));
    }
    let body = case.app_body.as_ref().map(|body| super::cases::bytes(body));
    body.filter(|body| *body != first.body)
        .map(|body| format!("body {:?} instead of {body:?}", first.body))
}

#[tokio::test]
async fn every_hostile_request_has_the_outcome_that_the_corpus_says() {
    let cases: Vec<RequestCase> = read("requests");
    assert!(cases.len() >= 120, "{}", cases.len());
    let (port, app) = (Port::open(), StrictApp::start().await);
    let mut front = Front::start_with(&port, one_lane(), Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let outcome = outcome(
            case,
            number,
            port.address,
            &app,
            (PATIENCE, Look::ForWhatIsExpected),
        )
        .await;
        let faults = app.faults();
        if let Some(what) = verdict(case, &outcome) {
            wrong.push(format!("{}\n    {}\n    {what}", case.name, case.why));
        } else if !faults.is_empty() {
            wrong.push(format!("{}\n    the app was sent {faults:?}", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} disagree:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    let report = front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    // A client's fault is no loss of ours.
    assert!(
        report.counters.lost.is_empty(),
        "{:?}",
        report.counters.lost
    );
    front.end().await;
}
