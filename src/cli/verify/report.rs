//! What `gapless verify` prints: a line for each phase when it is over, and one sentence at the end.

use super::happen::Outcome;
use crate::cli::Exit;
use crate::cli::arguments::{Happening, VerifyArgs};
use crate::cli::output::{printable, say, say_json};
use crate::cli::progress::plural;
use crate::cli::status::{grouped, memory};
use crate::verify::{Closed, Load, Loss, Lost, Phase, Waits, Wanted};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// What did not happen, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Undone {
    what: &'static str,
    why: String,
}

impl Undone {
    pub(super) fn new(what: Happening, why: String) -> Self {
        let what = what.word();
        Self { what, why }
    }
}

/// Who is told.
pub(super) struct Teller {
    is_json: bool,
    first: String,
    /// Of the phase that runs: when it began, what came of what happened.
    now: RefCell<Option<(Instant, String)>>,
    /// Of the phases that are over.
    notes: RefCell<Vec<String>>,
}

/// The answer for programs.
#[derive(Serialize)]
struct Report<'a> {
    sent: u64,
    lost: u64,
    closed: u64,
    not_repeatable: u64,
    stall_ms: f64,
    stall_in: Option<&'a str>,
    memory_peak_bytes: Option<u64>,
    phases: Vec<PhaseReport<'a>>,
    /// The first few.
    losses: &'a [Loss],
    skipped: &'a [Undone],
    failed: &'a [Undone],
}

#[derive(Serialize)]
struct PhaseReport<'a> {
    name: &'a str,
    note: &'a str,
    seconds: f64,
    sent: u64,
    lost: BTreeMap<&'static str, u64>,
    closed: BTreeMap<&'static str, u64>,
    failed_as_at_rest: &'a BTreeMap<u16, u64>,
    not_repeatable: u64,
    stall_ms: f64,
    #[serde(flatten)]
    waits: Waits,
}

/// What all phases come to.
#[derive(Debug, Default, PartialEq)]
struct Sum<'a> {
    sent: u64,
    lost: u64,
    closed: u64,
    not_repeatable: u64,
    stall: Duration,
    stall_in: Option<&'a str>,
}

impl<'a> Sum<'a> {
    fn of(phases: &'a [Phase]) -> Self {
        let mut sum = Self::default();
        for phase in phases {
            sum.sent += phase.sent;
            sum.lost += phase.lost();
            sum.closed += phase.closed();
            sum.not_repeatable += phase.not_repeatable;
            let stall = phases.first().map(|rest| phase.stall(rest));
            let stall = stall.unwrap_or_default();
            if stall > sum.stall {
                sum.stall = stall;
                sum.stall_in = Some(&phase.name);
            }
        }
        sum
    }

    fn sentence(&self, memory_peak: Option<u64>) -> String {
        let color = if self.lost + self.closed == 0 {
            AnsiColor::Green
        } else {
            AnsiColor::Red
        };
        let style = Style::new().fg_color(Some(color.into())).bold();
        let (lost, sent) = (grouped(self.lost), plural(self.sent, "request"));
        let closed = plural(self.closed, "connection");
        let stall = self
            .stall_in
            .map_or_else(String::new, |phase| format!(" ({phase})"));
        let repeatable = match self.not_repeatable {
            0 => String::new(),
            some => format!(", {} not repeatable", plural(some, "POST")),
        };
        let memory = memory_peak.map_or_else(String::new, |peak| {
            format!("; memory {} at most", memory(peak))
        });
        format!(
            "{style}{lost} of {sent} lost{style:#}{repeatable}, {closed} closed; longest stall \
             {:.0} ms{stall}{memory}.",
            milliseconds(self.stall)
        )
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl Teller {
    pub(super) fn new(args: &VerifyArgs, wanted: &Wanted) -> Self {
        let clients = plural(args.connections, "connection");
        let mut asked = vec![format!("GET {}", wanted.gets.join(", "))];
        asked.extend(wanted.post.iter().map(|path| format!("POST {path}")));
        Self {
            is_json: args.json,
            first: format!("{clients} to {}: {}", wanted.address.0, asked.join("; ")),
            now: RefCell::new(None),
            notes: RefCell::new(Vec::new()),
        }
    }

    fn say(&self, text: &str) {
        if !self.is_json {
            say(text);
        }
    }

    pub(super) fn begins(&self, skipped: &[Undone]) {
        self.say(&printable(&self.first));
        for Undone { what, why } in skipped {
            self.say(&format!("  {what:<8} not done: {}", printable(why)));
        }
    }

    pub(super) fn enters(&self) {
        *self.now.borrow_mut() = Some((Instant::now(), String::new()));
    }

    pub(super) fn note(&self, outcome: &Outcome) {
        let note = match outcome {
            Outcome::Done(what) => what.clone(),
            Outcome::Skipped(why) => format!("not done: {why}"),
            Outcome::Failed(why) => format!("failed: {why}"),
        };
        if let Some((_, now)) = &mut *self.now.borrow_mut() {
            *now = printable(&note);
        }
    }

    /// Of the phase that ran, if one did.
    pub(super) fn leaves(&self, load: &Load) {
        let Some((began, note)) = self.now.borrow_mut().take() else {
            return;
        };
        let strangers = load.look_back();
        load.phases(|phases| {
            if let Some(last) = phases.last_mut() {
                last.took = began.elapsed();
            }
            let (Some(last), Some(rest)) = (phases.last(), phases.first()) else {
                return;
            };
            self.say(&line(last, last.stall(rest), &note));
            for detail in details(last) {
                self.say(&format!("           {detail}"));
            }
        });
        if strangers > 0 {
            let answers = plural(strangers, "answer");
            self.say(&format!(
                "           lost before: {strangers} other-body ({answers} unlike the page at rest)"
            ));
        }
        self.notes.borrow_mut().push(note);
    }

    pub(super) fn ends(
        &self,
        load: &Load,
        skipped: &[Undone],
        failed: &[Undone],
        memory_peak: Option<u64>,
    ) -> Exit {
        let losses = load.losses();
        load.phases(|phases| {
            let sum = Sum::of(phases);
            if self.is_json {
                say_json(&self.report(phases, &sum, (&losses, skipped, failed), memory_peak));
            } else {
                for loss in &losses {
                    say(&told(loss));
                }
                say(&sum.sentence(memory_peak));
                say_undone("was not done", skipped);
                say_undone("failed", failed);
                if let Some(loss) = losses.first() {
                    say(&format!("more: gapless explain {}", loss.kind.code()));
                }
            }
            if sum.lost + sum.closed == 0 && failed.is_empty() {
                Exit::Done
            } else {
                Exit::Failed
            }
        })
    }

    fn report<'a>(
        &self,
        phases: &'a [Phase],
        sum: &Sum<'a>,
        (losses, skipped, failed): (&'a [Loss], &'a [Undone], &'a [Undone]),
        memory_peak_bytes: Option<u64>,
    ) -> serde_json::Value {
        let notes = self.notes.borrow();
        let notes = notes
            .iter()
            .map(String::as_str)
            .chain(std::iter::repeat(""));
        let phases: Vec<_> = phases
            .iter()
            .zip(notes)
            .map(|(phase, note)| PhaseReport {
                name: &phase.name,
                note,
                seconds: phase.took.as_secs_f64(),
                sent: phase.sent,
                lost: named(&phase.lost, Lost::code),
                closed: named(&phase.closed, Closed::code),
                failed_as_at_rest: &phase.failed,
                not_repeatable: phase.not_repeatable,
                stall_ms: phases
                    .first()
                    .map_or(0.0, |rest| milliseconds(phase.stall(rest))),
                waits: phase.waits(),
            })
            .collect();
        let report = Report {
            sent: sum.sent,
            lost: sum.lost,
            closed: sum.closed,
            not_repeatable: sum.not_repeatable,
            stall_ms: milliseconds(sum.stall),
            stall_in: sum.stall_in,
            memory_peak_bytes,
            phases,
            losses,
            skipped,
            failed,
        };
        serde_json::to_value(report).unwrap_or_default()
    }
}

fn named<K: Copy + Ord>(
    counts: &BTreeMap<K, u64>,
    name: impl Fn(K) -> &'static str,
) -> BTreeMap<&'static str, u64> {
    let named = counts.iter().map(|(kind, count)| (name(*kind), *count));
    named.collect()
}

fn say_undone(how: &str, undone: &[Undone]) {
    for Undone { what, why } in undone {
        say(&format!("{what} {how}: {}", printable(why)));
    }
}

/// `  reload     3.4 s      512 sent    0 lost    0 closed  longest stall    4 ms  p99.9    9 ms`
fn line(phase: &Phase, stall: Duration, note: &str) -> String {
    let note = if note.is_empty() {
        String::new()
    } else {
        format!("  {note}")
    };
    format!(
        "  {:<8} {:>6.1} s {:>9} sent {:>5} lost {:>4} closed  longest stall {:>5.0} ms  p99.9 \
         {:>5.0} ms{note}",
        phase.name,
        phase.took.as_secs_f64(),
        grouped(phase.sent),
        grouped(phase.lost()),
        grouped(phase.closed()),
        milliseconds(stall),
        phase.waits().p999_ms,
    )
}

/// What a phase had that a good one has not.
fn details(phase: &Phase) -> Vec<String> {
    let list = |counts: BTreeMap<&'static str, u64>| {
        let all: Vec<_> = counts
            .into_iter()
            .map(|(kind, count)| format!("{} {kind}", grouped(count)))
            .collect();
        all.join(", ")
    };
    let mut details = Vec::new();
    if !phase.lost.is_empty() {
        let kinds = list(named(&phase.lost, Lost::code));
        details.push(format!("lost: {kinds}"));
    }
    if !phase.closed.is_empty() {
        let kinds = list(named(&phase.closed, Closed::code));
        details.push(format!("closed: {kinds}"));
    }
    if phase.not_repeatable > 0 {
        let posts = plural(phase.not_repeatable, "POST");
        details.push(format!(
            "not repeatable: {posts} that the killed worker had begun"
        ));
    }
    details.extend(phase.failed.iter().map(|(status, count)| {
        format!(
            "no loss: {} times {status} by the app, as at rest",
            grouped(*count)
        )
    }));
    details
}

fn told(loss: &Loss) -> String {
    let seconds = Duration::from_millis(loss.at_ms).as_secs_f64();
    format!(
        "  at {seconds:.3} s, {}: {} {}: {}",
        loss.phase,
        loss.kind.code(),
        printable(&loss.target),
        printable(&loss.why)
    )
}
