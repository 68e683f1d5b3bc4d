//! What was counted, phase by phase.

use super::rest::Faces;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Of how many losses the circumstances are told.
const TOLD: usize = 10;
/// Of so many answers of a phase the wait is remembered; the longest of all always is.
const WAITS_MAX: usize = 1_000_000;

/// How a request was lost. The names are topics of `gapless explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// No connection.
    Refused,
    /// The connection was reset under it.
    Reset,
    /// The connection was closed before the answer began.
    ClosedEarly,
    /// The answer ended in the middle.
    Truncated,
    /// What came is no HTTP.
    Malformed,
    /// It was not answered in time.
    Late,
    /// What came belongs to another request, or to none.
    Crossed,
    /// A 5xx that does not occur at rest.
    ServerError,
    /// A status of another class than at rest.
    OtherStatus,
    /// A page that is the same before and after was another one meanwhile.
    OtherBody,
}

impl Lost {
    /// Every way.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::Reset,
        Self::ClosedEarly,
        Self::Truncated,
        Self::Malformed,
        Self::Late,
        Self::Crossed,
        Self::ServerError,
        Self::OtherStatus,
        Self::OtherBody,
    ];

    /// Its name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::ClosedEarly => "closed-early",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Late => "late",
            Self::Crossed => "crossed",
            Self::ServerError => "server-error",
            Self::OtherStatus => "other-status",
            Self::OtherBody => "other-body",
        }
    }
}

/// How a connection was closed without a request on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closed {
    /// While it was idle.
    WhileIdle,
    /// By a reset, while it was idle.
    ResetWhileIdle,
    /// An answer said that it would be.
    Announced,
}

impl Closed {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::WhileIdle, Self::ResetWhileIdle, Self::Announced];

    /// Its name.
    pub fn code(self) -> &'static str {
        match self {
            Self::WhileIdle => "closed-while-idle",
            Self::ResetWhileIdle => "reset-while-idle",
            Self::Announced => "connection-close",
        }
    }
}

/// The circumstances of a loss.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// Since the load began.
    pub at_ms: u64,
    /// In which phase.
    pub phase: String,
    /// How.
    pub kind: Lost,
    /// `GET /`
    pub target: String,
    /// In words.
    pub why: String,
}

/// What happened in one phase, counted when a request ended.
#[derive(Debug, Default)]
pub struct Phase {
    /// What happened to the app meanwhile.
    pub name: String,
    /// Nothing.
    pub is_rest: bool,
    /// How long it took.
    pub took: Duration,
    /// Requests that ended, well or not.
    pub sent: u64,
    /// How many were lost, by how.
    pub lost: BTreeMap<Lost, u64>,
    /// How many connections were closed, by how.
    pub closed: BTreeMap<Closed, u64>,
    /// What the app answers at rest, too, is no loss: how often which 5xx.
    pub failed: BTreeMap<u16, u64>,
    /// POSTs that a killed worker had begun: nobody may send them again, so gapless says 502.
    pub not_repeatable: u64,
    /// To the first byte of the answer, in microseconds, by target.
    waits: Vec<Vec<u32>>,
    /// The longest of them, by target.
    longest: Vec<u32>,
    pub(super) faces: Vec<Faces>,
}

/// How long answers took to begin, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Waits {
    /// Half of them were faster.
    pub p50_ms: f64,
    /// All but one of a hundred.
    pub p99_ms: f64,
    /// All but one of a thousand.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Phase {
    pub(super) fn new(name: &str, is_rest: bool, targets: usize) -> Self {
        Self {
            name: name.to_owned(),
            is_rest,
            waits: vec![Vec::new(); targets],
            longest: vec![0; targets],
            faces: vec![Faces::default(); targets],
            ..Self::default()
        }
    }

    /// Of all kinds.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Of all kinds.
    pub fn closed(&self) -> u64 {
        self.closed.values().sum()
    }

    pub(super) fn waited(&mut self, target: usize, wait: Duration) {
        let wait = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
        if let Some(longest) = self.longest.get_mut(target) {
            *longest = wait.max(*longest);
        }
        if let Some(waits) = self.waits.get_mut(target)
            && waits.len() < WAITS_MAX
        {
            waits.push(wait);
        }
    }

    /// Of all targets together.
    pub fn waits(&self) -> Waits {
        let mut all = self.waits.concat();
        all.sort_unstable();
        let at = |place: usize| milliseconds(all.get(place).copied().unwrap_or(0));
        let behind = |share: usize| all.len().saturating_sub(all.len() / share + 1);
        Waits {
            p50_ms: at(all.len() / 2),
            p99_ms: at(behind(100)),
            p999_ms: at(behind(1000)),
            max_ms: milliseconds(self.longest.iter().copied().max().unwrap_or(0)),
        }
    }

    /// By how much an answer began later than half of those to the same target do at rest.
    pub fn stall(&self, rest: &Self) -> Duration {
        let by_target = self.longest.iter().zip(&rest.waits);
        let over = by_target.map(|(longest, usual)| longest.saturating_sub(median(usual)));
        Duration::from_micros(u64::from(over.max().unwrap_or(0)))
    }
}

fn median(waits: &[u32]) -> u32 {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    waits.get(waits.len() / 2).copied().unwrap_or(0)
}

fn milliseconds(micros: u32) -> f64 {
    f64::from(micros) / 1000.0
}

/// All phases so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) phases: Vec<Phase>,
    pub(super) losses: Vec<Loss>,
}

impl Tally {
    /// The one that runs.
    pub(super) fn now(&mut self) -> Option<&mut Phase> {
        self.phases.last_mut()
    }

    pub(super) fn tell(&mut self, loss: Loss) {
        if self.losses.len() < TOLD {
            self.losses.push(loss);
        }
    }

    /// Looks back, when the phase after is over: answers that looked unlike the page before and after
    /// are lost ones. How many were found in the phase between.
    pub(super) fn look_back(&mut self) -> u64 {
        let [.., before, between, after] = self.phases.as_mut_slice() else {
            return 0;
        };
        if between.is_rest || !before.is_rest || !after.is_rest {
            return 0;
        }
        let pages = before.faces.iter().zip(&between.faces).zip(&after.faces);
        let strangers = pages.map(|((before, faces), after)| faces.strangers(before, after));
        let found = strangers.sum();
        if found > 0 {
            *between.lost.entry(Lost::OtherBody).or_default() += found;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{self, Field};
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_of_loss_and_of_close_has_a_text_and_no_other() {
        let lost = Lost::ALL.into_iter().map(Lost::code);
        let closed = Closed::ALL.into_iter().map(Closed::code);
        let explained = explain::topics().into_iter();
        let explained = explained.filter(|topic| topic.field == Field::Verify);
        assert_eq!(
            explained.map(|topic| topic.code).collect::<BTreeSet<_>>(),
            lost.chain(closed).collect()
        );
    }

    #[test]
    fn a_stall_is_what_an_answer_took_longer_than_at_rest() {
        let mut rest = Phase::new("quiet", true, 2);
        let mut event = Phase::new("reload", false, 2);
        let ms = Duration::from_millis;
        for _ in 0..9 {
            rest.waited(0, ms(10));
            rest.waited(1, ms(500));
        }
        event.waited(1, ms(540));
        event.waited(0, ms(70));
        assert_eq!(event.stall(&rest), ms(60));
        assert_eq!(rest.stall(&rest), Duration::ZERO);
        let waits = event.waits();
        assert_eq!(
            (waits.p50_ms, waits.p999_ms, waits.max_ms),
            (540.0, 540.0, 540.0)
        );
    }
}
