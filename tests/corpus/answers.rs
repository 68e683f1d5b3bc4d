//! Every answer of the corpus: what the client gets, and that the next request gets its own.

use super::app::StrictApp;
use super::cases::{AnswerCase, disagreement, read};
use super::client::{End, Wire};
use super::requests::one_lane;
use super::world::{Front, PATIENCE, Port, live, soon};
use gapless::link::Orphaned;

/// Sends the request that `case` answers, then good ones over the same pool.
async fn disagreement_with(
    case: &AnswerCase,
    number: usize,
    port: &Port,
    app: &StrictApp,
) -> Option<String> {
    app.answer(case.clone());
    let mut wire = Wire::connect(port.address).await;
    // So that there is a pooled connection to do harm to.
    if let Err(harm) = wire
        .gets_its_own(&format!("/before-{number}"), PATIENCE)
        .await
    {
        return Some(harm);
    }
    let is_head = case.method == "HEAD";
    let request = format!(
        "{} /case HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n",
        case.method
    );
    wire.send(request.as_bytes()).await;
    let answer = wire.answer(is_head, PATIENCE).await;
    if case.late.is_some() {
        app.late.notify_one();
        soon("late bytes", app.late_sent.notified()).await;
    }
    let wrong = compare(case, answer, &wire.read);
    // On the same connection if it is open; in any case on two more.
    let mut harm = None;
    let is_open = case.whole && case.status != 502;
    if is_open {
        harm = wire
            .gets_its_own(&format!("/same-{number}"), PATIENCE)
            .await
            .err();
    }
    for round in 0..3 {
        let mut fresh = Wire::connect(port.address).await;
        let path = format!("/fresh-{number}-{round}");
        harm = harm.or(fresh.gets_its_own(&path, PATIENCE).await.err());
    }
    wrong.or(harm)
}

fn compare(
    case: &AnswerCase,
    answer: Result<super::client::Answer, End>,
    read: &[u8],
) -> Option<String> {
    match answer {
        Ok(answer) if case.whole => {
            let body = case.body.as_ref();
            if answer.status != case.status {
                return Some(format!("status {}", answer.status));
            }
            if let Some(body) = body.filter(|body| body.as_bytes() != answer.body) {
                return Some(format!(
                    "{:?} instead of {body:?}",
                    String::from_utf8_lossy(&answer.body)
                ));
            }
            disagreement(&answer.head, &case.head)
                .map(|line| format!("{line} does not hold in {:?}", answer.head))
        }
        Err(End::Closed) if !case.whole => {
            // A client that is very near may lose what was on its way when it is reset.
            let head = format!("HTTP/1.1 {} ", case.status);
            let is_begun = read.is_empty() || read.starts_with(head.as_bytes());
            (!is_begun).then(|| format!("began with {:?}", String::from_utf8_lossy(read)))
        }
        other => Some(format!(
            "{other:?} after {:?}",
            String::from_utf8_lossy(&read[..read.len().min(300)])
        )),
    }
}

#[tokio::test]
async fn every_hostile_answer_has_the_outcome_that_the_corpus_says() {
    let cases: Vec<AnswerCase> = read("answers");
    assert!(cases.len() >= 40, "{}", cases.len());
    let (port, app) = (Port::open(), StrictApp::start().await);
    let mut front = Front::start_with(&port, one_lane(), Orphaned::ServeOn).await;
    front.serve(1, live(1, &[app.address])).await;
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Some(what) = disagreement_with(case, number, &port, &app).await {
            wrong.push(format!("{}\n    {}\n    {what}", case.name, case.why));
        }
        assert_eq!(app.faults(), [""; 0], "{}", case.name);
    }
    assert!(
        wrong.is_empty(),
        "{} disagree:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    front
        .until("no lease", |report| report.leases.is_empty())
        .await;
    front.end().await;
}
