//! What an app answers at rest, which is all that can be expected of it later.
//!
//! A request carries a token of its own. An app that shows it (or a path that holds it) proves by that
//! whose answer it is; where the app does not, a page that is the same at rest, before and after what
//! happened, has to be the same meanwhile.
//!
//! * Every request has a token. Where the app showed each request its own, in the head or in the body, an
//!   answer that shows another one's is crossed. Where it did not, it may come from a cache.
//! * A 5xx is lost, unless the app itself answered it in the first rest. One that gapless made (known by
//!   its text) is always lost.
//! * A page of which 20 answers before and 20 after are equal, but for the token, is expected meanwhile.
//!   Another page after means another version or a clock, and nothing is concluded. That is decided when
//!   the next rest is over, as nobody can know before what the new version answers.
//! * In the phase in which `gapless verify` kills a worker itself, a POST answered 502 is not lost: HTTP
//!   forbids to send it again. In any other phase it is lost.

use super::connection::{Answer, Broken};
use super::tally::Lost;
use crate::front;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

/// Fewer answers do not show that a page is always the same.
const SAME_MIN: u64 = 20;
/// A page with more faces than this has no face.
const FACES_MAX: usize = 64;
/// Digits of a token.
const DIGITS: usize = 10;

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// May be sent twice, by anybody.
    Get,
    /// Must not.
    Post,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub method: Method,
    /// `/search?q={id}`; the token takes the place of `{id}`.
    pub path: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let method = match self.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        write!(f, "{method} {}", self.path)
    }
}

impl Target {
    /// The whole request.
    pub(super) fn request(&self, host: &str, token: &str) -> String {
        let path = self.path.replace("{id}", token);
        let (method, body) = match self.method {
            Method::Get => ("GET", String::new()),
            Method::Post => ("POST", format!("gapless verify {token}\n")),
        };
        let length = if body.is_empty() {
            String::new()
        } else {
            format!(
                "Content-Type: text/plain\r\nContent-Length: {}\r\n",
                body.len()
            )
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gapless-verify/{}\r\n\
             Accept: */*\r\nX-Request-Id: {token}\r\nX-Gapless-Verify: {token}\r\n{length}\r\n{body}",
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// The tokens of one run, all of the same length: `gv-0badcafe-0000000042`.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    prefix: String,
    last: u64,
}

impl Tokens {
    pub(super) fn new(run: u32) -> Self {
        Self {
            prefix: format!("gv-{run:08x}-"),
            last: 0,
        }
    }

    pub(super) fn next(&mut self) -> String {
        self.last += 1;
        format!("{}{:0DIGITS$}", self.prefix, self.last)
    }

    /// Whose tokens a text shows: that of the request, others of this run.
    fn shown(&self, text: &[u8], own: &str) -> Shown {
        let mut shown = Shown::default();
        let marks = text.windows(self.prefix.len()).enumerate();
        for (at, _) in marks.filter(|(_, window)| *window == self.prefix.as_bytes()) {
            match text.get(at..at + own.len()) {
                Some(token) if token == own.as_bytes() => shown.own = true,
                Some(token) if is_number(token.get(self.prefix.len()..)) => shown.other = true,
                Some(_) | None => {}
            }
        }
        shown
    }
}

fn is_number(text: Option<&[u8]>) -> bool {
    text.is_some_and(|text| text.iter().all(u8::is_ascii_digit))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    own: bool,
    other: bool,
}

impl Shown {
    fn is_of_another(self) -> bool {
        self.other && !self.own
    }
}

/// One target at rest.
#[derive(Debug, Default)]
struct Habit {
    /// 2, 3, 4 or 5 for each class that was seen.
    classes: BTreeSet<u16>,
    /// Those of the app's failures that were seen.
    failures: BTreeSet<u16>,
    shows_in_head: bool,
    shows_in_body: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rest {
    habits: Vec<Habit>,
}

/// A whole answer, judged as far as it can be alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// As at rest; and what it looked like, if a look can be compared.
    Good(Option<u64>),
    /// A failure of the app's own that it has at rest, too.
    Failed(u16),
    /// Lost.
    Bad(Lost, String),
}

impl Rest {
    pub(super) fn new(targets: usize) -> Self {
        Self {
            habits: (0..targets).map(|_| Habit::default()).collect(),
        }
    }

    /// Judges an answer to the request with this token. `is_rest`: nothing happens, so what the app
    /// says is its habit.
    pub(super) fn judge(
        &mut self,
        target: usize,
        answer: &Answer,
        (tokens, own): (&Tokens, &str),
        is_rest: bool,
    ) -> Judged {
        let status = answer.head.status;
        let Some(habit) = self.habits.get_mut(target) else {
            return Judged::Good(None);
        };
        if let Some(cause) = cause(answer) {
            return Judged::Bad(Lost::ServerError, format!("{status} by gapless: {cause}"));
        }
        let head = answer
            .head
            .values()
            .map(|value| tokens.shown(value.as_bytes(), own));
        let head = head.fold(Shown::default(), |sum, one| Shown {
            own: sum.own || one.own,
            other: sum.other || one.other,
        });
        let body = tokens.shown(&answer.body, own);
        // A page that comes from a cache may show the token of whoever asked first; so it counts
        // only where the app has shown each its own.
        if (habit.shows_in_head && head.is_of_another())
            || (habit.shows_in_body && body.is_of_another())
        {
            let why = "the answer to another request".to_owned();
            return Judged::Bad(Lost::Crossed, why);
        }
        habit.shows_in_head |= head.own;
        habit.shows_in_body |= body.own;
        if is_rest {
            habit.learn(status);
        }
        habit.expect(answer, own)
    }
}

impl Habit {
    fn learn(&mut self, status: u16) {
        if status >= 500 {
            self.failures.insert(status);
        } else {
            self.classes.insert(status / 100);
        }
    }

    fn expect(&self, answer: &Answer, own: &str) -> Judged {
        let status = answer.head.status;
        if status >= 500 {
            if self.failures.contains(&status) {
                return Judged::Failed(status);
            }
            let why = format!("{status}, which it did not answer at rest");
            return Judged::Bad(Lost::ServerError, why);
        }
        if !self.classes.contains(&(status / 100)) {
            let why = format!("{status}, at rest it answered otherwise");
            return Judged::Bad(Lost::OtherStatus, why);
        }
        Judged::Good(Some(face(answer, own)))
    }
}

/// Why gapless itself answered so, if it did.
fn cause(answer: &Answer) -> Option<&'static str> {
    let text = std::str::from_utf8(&answer.body).ok()?;
    let cause = front::cause_of(answer.head.status, text)?;
    (answer.head.status >= 500).then_some(cause)
}

/// What an answer looks like, but for its token.
fn face(answer: &Answer, own: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u16(answer.head.status);
    let is_whole = u64::try_from(answer.body.len()) == Ok(answer.bytes);
    if !is_whole {
        hasher.write_u64(answer.digest);
        return hasher.finish();
    }
    let mut rest = answer.body.as_slice();
    while let Some(at) = rest
        .windows(own.len())
        .position(|window| window == own.as_bytes())
    {
        hasher.write(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + own.len()..).unwrap_or_default();
    }
    hasher.write(rest);
    hasher.finish()
}

/// What a target looked like in one phase, and how often; none when it always looks different.
#[derive(Clone, Debug)]
pub(super) struct Faces(Option<BTreeMap<u64, u64>>);

impl Default for Faces {
    fn default() -> Self {
        Self(Some(BTreeMap::new()))
    }
}

impl Faces {
    pub(super) fn add(&mut self, face: u64) {
        if let Some(faces) = &mut self.0 {
            *faces.entry(face).or_default() += 1;
            if faces.len() > FACES_MAX {
                self.0 = None;
            }
        }
    }

    /// The only one, seen often enough to mean something.
    fn only(&self) -> Option<u64> {
        let mut faces = self.0.as_ref()?.iter();
        let (face, count) = faces.next()?;
        (faces.next().is_none() && *count >= SAME_MIN).then_some(*face)
    }

    /// How many answers looked unlike the page that was the same `before` and is the same `after`.
    /// Another page after is another version, and says nothing.
    pub(super) fn strangers(&self, before: &Self, after: &Self) -> u64 {
        match (&self.0, before.only(), after.only()) {
            (Some(faces), Some(one), Some(other)) if one == other => {
                let strange = faces.iter().filter(|(face, _)| **face != one);
                strange.map(|(_, count)| count).sum()
            }
            (Some(_) | None, Some(_) | None, Some(_) | None) => 0,
        }
    }
}

/// How a request was lost that had no whole answer, after so many bytes of one.
pub(super) fn lost(broken: &Broken, bytes_seen: usize) -> Lost {
    match broken {
        Broken::Connect(_) => Lost::Refused,
        Broken::Eof(_) | Broken::Socket { .. } if bytes_seen > 0 => Lost::Truncated,
        Broken::Eof(_) => Lost::ClosedEarly,
        Broken::Socket { .. } => Lost::Reset,
        Broken::TimedOut(_) => Lost::Late,
        Broken::Malformed(_) => Lost::Malformed,
        Broken::Status { .. } | Broken::Wrong(_) => Lost::Crossed,
    }
}

#[cfg(test)]
mod tests;
