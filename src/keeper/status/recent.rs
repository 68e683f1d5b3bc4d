//! How the live generation did in the last minute, from counters that only grow.

use crate::api::AppState;
use crate::id::GenerationId;
use crate::keeper::plan::Moment;
use crate::keeper::totals::Totals;
use std::collections::VecDeque;
use std::time::Duration;

const WINDOW: Duration = Duration::from_mins(1);

/// Between two samples, so that a minute takes a dozen of them.
const APART: Duration = Duration::from_secs(5);

/// One worker may die by an accident, and the one in its place, too.
const DEATHS_MAX: u64 = 2;

/// Of fewer answers nothing is concluded.
const ANSWERS_MIN: u64 = 5;

/// What a generation did until some moment, or within some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    answers: u64,
    /// Those of `answers` that were 5xx, or not whole.
    errors: u64,
    /// Workers that were started again.
    deaths: u64,
}

impl Counted {
    pub(super) fn of(totals: &Totals, live: GenerationId) -> Self {
        let served = totals.served_by(live);
        Self {
            answers: served.requests,
            errors: served.failed,
            deaths: totals.respawns,
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            answers: self.answers.saturating_sub(earlier.answers),
            errors: self.errors.saturating_sub(earlier.errors),
            deaths: self.deaths.saturating_sub(earlier.deaths),
        }
    }

    /// What is wrong if this is all that it did in a minute.
    fn trouble(self) -> Option<(AppState, String)> {
        let Self {
            answers,
            errors,
            deaths,
        } = self;
        let has_enough = answers >= ANSWERS_MIN;
        if has_enough && errors == answers {
            let said = format!("all {answers} answers of the last minute were errors (5xx)");
            Some((AppState::Failing, said))
        } else if deaths > DEATHS_MAX {
            let said = format!("workers died {deaths} times in the last minute");
            Some((AppState::Degraded, said))
        } else if has_enough && errors >= answers.div_ceil(2) {
            let said =
                format!("{errors} of {answers} answers of the last minute were errors (5xx)");
            Some((AppState::Degraded, said))
        } else {
            None
        }
    }
}

/// Samples of the last minute and one before it. They begin anew with each live generation and each keeper.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Recent {
    of: Option<GenerationId>,
    samples: VecDeque<(Moment, Counted)>,
}

impl Recent {
    /// Cheap unless a sample is due.
    pub(super) fn look(
        &mut self,
        now: Moment,
        live: Option<GenerationId>,
        count: impl FnOnce(GenerationId) -> Counted,
    ) {
        if self.of != live {
            self.of = live;
            self.samples.clear();
        }
        let is_due = self.samples.back().is_none_or(|(at, _)| now - *at >= APART);
        let Some(live) = live.filter(|_| is_due) else {
            return;
        };
        self.samples.push_back((now, count(live)));
        while self
            .samples
            .get(1)
            .is_some_and(|(at, _)| now - *at >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// What is wrong with it. `counted` is as of now.
    pub(super) fn trouble(&self, now: Moment, counted: Counted) -> Option<(AppState, String)> {
        let is_before = |(at, _): &&(Moment, Counted)| now - *at >= WINDOW;
        let base = self.samples.iter().rfind(is_before);
        let (_, base) = base.or_else(|| self.samples.front())?;
        counted.since(*base).trouble()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Option<GenerationId> = Some(GenerationId(1));

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    fn counted(answers: u64, errors: u64, deaths: u64) -> Counted {
        Counted {
            answers,
            errors,
            deaths,
        }
    }

    fn state(answers: u64, errors: u64, deaths: u64) -> Option<AppState> {
        counted(answers, errors, deaths)
            .trouble()
            .map(|(state, _)| state)
    }

    #[test]
    fn a_few_errors_and_an_accident_are_no_trouble() {
        assert_eq!(state(0, 0, 0), None);
        assert_eq!(state(4, 4, 2), None);
        assert_eq!(state(100, 49, 2), None);
        assert_eq!(state(100, 50, 0), Some(AppState::Degraded));
        assert_eq!(state(1000, 0, 3), Some(AppState::Degraded));
        assert_eq!(state(5, 5, 3), Some(AppState::Failing));
    }

    #[test]
    fn only_the_last_minute_counts() {
        let mut recent = Recent::default();
        for second in 0..200 {
            // A worker dies each second of the first minute.
            recent.look(at(second), LIVE, |_| counted(0, 0, second.min(60)));
        }
        assert!(recent.samples.len() <= 14, "{recent:?}");
        assert_eq!(recent.trouble(at(200), counted(0, 0, 60)), None);
        let (_, said) = recent.trouble(at(200), counted(0, 0, 63)).unwrap();
        assert_eq!(said, "workers died 3 times in the last minute");
    }

    #[test]
    fn samples_may_be_rare() {
        let mut recent = Recent::default();
        recent.look(at(0), LIVE, |_| counted(10, 10, 0));
        // What came since may have come at any time of it.
        assert!(recent.trouble(at(500), counted(20, 20, 0)).is_some());
        recent.look(at(500), LIVE, |_| counted(20, 20, 0));
        assert!(recent.trouble(at(530), counted(20, 20, 0)).is_some());
        assert_eq!(recent.trouble(at(560), counted(20, 20, 0)), None);
    }

    #[test]
    fn a_new_generation_is_not_charged_with_the_old_one() {
        let mut recent = Recent::default();
        recent.look(at(0), LIVE, |_| counted(0, 0, 0));
        assert!(recent.trouble(at(1), counted(9, 9, 9)).is_some());
        recent.look(at(1), Some(GenerationId(2)), |_| counted(0, 0, 9));
        assert_eq!(recent.trouble(at(2), counted(0, 0, 9)), None);
        recent.look(at(3), None, |_| unreachable!("nothing is live"));
        assert_eq!(recent.trouble(at(3), counted(9, 9, 99)), None);
    }
}
