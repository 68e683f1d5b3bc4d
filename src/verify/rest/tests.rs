use super::super::connection::{Framing, Head};
use super::*;
use tokio::time::Instant;

fn answer(status: u16, header: &str, body: &str) -> Answer {
    let text = format!("HTTP/1.1 {status} X\r\nX-Request-Id: {header}");
    let mut hasher = DefaultHasher::new();
    hasher.write(body.as_bytes());
    Answer {
        head: Head::parse(&text).unwrap(),
        body: body.as_bytes().to_vec(),
        bytes: u64::try_from(body.len()).unwrap(),
        digest: hasher.finish(),
        framing: Framing::Sized,
        began: Instant::now(),
    }
}

/// An app of one target, asked with tokens.
struct App {
    rest: Rest,
    tokens: Tokens,
}

impl App {
    fn new() -> Self {
        Self {
            rest: Rest::new(1),
            tokens: Tokens::new(7),
        }
    }

    /// What it answers to the token that it was asked with.
    fn answers(&mut self, is_rest: bool, answer: impl Fn(&str) -> Answer) -> Judged {
        let own = self.tokens.next();
        let answer = answer(&own);
        self.rest.judge(0, &answer, (&self.tokens, &own), is_rest)
    }
}

fn lost(judged: &Judged) -> Option<Lost> {
    match judged {
        Judged::Bad(lost, _) => Some(*lost),
        Judged::Good(_) | Judged::Failed(_) => None,
    }
}

#[test]
fn an_answer_with_the_token_of_another_request_is_crossed_in_head_and_body() {
    let mut app = App::new();
    let other = Tokens::new(7).next();
    assert_eq!(lost(&app.answers(true, |own| answer(200, own, ""))), None);
    assert_eq!(lost(&app.answers(true, |own| answer(200, own, own))), None);
    let head = app.answers(false, |own| answer(200, &other, own));
    assert_eq!(lost(&head), Some(Lost::Crossed));
    let body = app.answers(false, |own| answer(200, own, &format!("hello {other}")));
    assert_eq!(lost(&body), Some(Lost::Crossed));
    let list = app.answers(false, |own| answer(200, own, &format!("{other}, {own}")));
    assert_eq!(lost(&list), None, "a list of requests, its own among them");
}

#[test]
fn a_page_from_a_cache_that_shows_whoever_asked_first_is_not_crossed() {
    let mut app = App::new();
    let first = app.tokens.next();
    for is_rest in [true, false] {
        let judged = app.answers(is_rest, |_| answer(200, &first, &first));
        assert_eq!(lost(&judged), None);
    }
}

#[test]
fn what_the_app_does_at_rest_is_no_loss_and_what_it_does_not_is() {
    let mut app = App::new();
    assert_eq!(lost(&app.answers(true, |_| answer(404, "", "no"))), None);
    assert_eq!(
        app.answers(true, |_| answer(500, "", "")),
        Judged::Failed(500)
    );
    assert_eq!(
        app.answers(false, |_| answer(500, "", "")),
        Judged::Failed(500)
    );
    assert_eq!(lost(&app.answers(false, |_| answer(410, "", ""))), None);
    let other = app.answers(false, |_| answer(503, "", ""));
    assert_eq!(lost(&other), Some(Lost::ServerError));
    let moved = app.answers(false, |_| answer(302, "", ""));
    assert_eq!(lost(&moved), Some(Lost::OtherStatus));
}

#[test]
fn a_refusal_by_gapless_is_lost_even_at_rest_and_named_by_its_cause() {
    let mut app = App::new();
    let died = "the app ended before it answered\n";
    let judged = app.answers(true, |_| answer(502, "", died));
    let why = "502 by gapless: app_died".to_owned();
    assert_eq!(judged, Judged::Bad(Lost::ServerError, why));
    let own = app.answers(true, |_| answer(502, "", "my own"));
    assert_eq!(own, Judged::Failed(502));
}

#[test]
fn a_page_looks_the_same_whatever_token_is_in_it() {
    let mut app = App::new();
    let page = |own: &str| answer(200, own, &format!("<p>{own}</p>"));
    assert_eq!(app.answers(true, page), app.answers(true, page));
    assert_ne!(
        app.answers(true, page),
        app.answers(true, |own| answer(200, own, &format!("<b>{own}</b>")))
    );
}

fn faces(all: &[(u64, u64)]) -> Faces {
    let mut faces = Faces::default();
    for (face, count) in all {
        for _ in 0..*count {
            faces.add(*face);
        }
    }
    faces
}

#[test]
fn a_strange_page_is_one_between_two_times_of_the_same_page() {
    let rest = faces(&[(1, 20)]);
    let between = faces(&[(1, 50), (2, 3)]);
    assert_eq!(between.strangers(&rest, &rest), 3);
    assert_eq!(between.strangers(&rest, &faces(&[(2, 20)])), 0, "a version");
    assert_eq!(between.strangers(&rest, &faces(&[(1, 9), (3, 9)])), 0);
    assert_eq!(between.strangers(&faces(&[(1, 5)]), &rest), 0, "too few");
    let clock: Vec<_> = (0..100).map(|face| (face, 1)).collect();
    assert_eq!(faces(&clock).strangers(&rest, &rest), 0);
}
