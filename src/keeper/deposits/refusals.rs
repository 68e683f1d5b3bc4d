//! What is said of deposits that are refused: an app that goes on asking does not fill the journal.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Lines for a worker within [`WINDOW`]; what is over is counted, and the count is in the next line.
pub(super) const LINES_MAX: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// By number of worker: a crash loop gets no more lines than one life.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<u32, Recent>);

#[derive(Debug)]
struct Recent {
    since: Instant,
    lines: u32,
    unsaid: u64,
}

/// One refusal that is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// So many before it were not.
    pub(super) unsaid: u64,
    /// Those that follow are not, for a while.
    pub(super) is_last: bool,
}

impl Refusals {
    /// One more; none if it is only counted.
    pub(super) fn count(&mut self, worker: u32, now: Instant) -> Option<Line> {
        let recent = self.0.entry(worker).or_insert(Recent {
            since: now,
            lines: 0,
            unsaid: 0,
        });
        if now.saturating_duration_since(recent.since) >= WINDOW {
            (recent.since, recent.lines) = (now, 0);
        }
        if recent.lines >= LINES_MAX {
            recent.unsaid = recent.unsaid.saturating_add(1);
            return None;
        }
        recent.lines = recent.lines.saturating_add(1);
        Some(Line {
            unsaid: std::mem::take(&mut recent.unsaid),
            is_last: recent.lines == LINES_MAX,
        })
    }
}

impl Line {
    /// Behind what is said of the one.
    pub(super) fn note(&self) -> String {
        let before = match self.unsaid {
            0 => String::new(),
            unsaid => format!(" ({unsaid} more were refused since the last line)"),
        };
        let after = if self.is_last {
            " (the next ones are only counted)"
        } else {
            ""
        };
        format!("{before}{after}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_refusals_becomes_a_few_lines_and_a_count() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let storm: Vec<_> = (0..1000).filter_map(|_| refusals.count(0, start)).collect();
        let notes: Vec<_> = storm.iter().map(Line::note).collect();
        assert_eq!(notes, ["", "", "", "", " (the next ones are only counted)"]);
        assert_eq!(refusals.count(0, start + WINDOW / 2), None);
        let later = refusals.count(0, start + WINDOW).unwrap();
        assert_eq!(later.note(), " (996 more were refused since the last line)");
        assert_eq!(refusals.count(0, start + WINDOW).unwrap().note(), "");
    }

    #[test]
    fn each_worker_has_lines_of_its_own() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        while refusals.count(0, now).is_some() {}
        assert_eq!(refusals.count(1, now).unwrap().unsaid, 0);
    }
}
