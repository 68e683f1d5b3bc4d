//! `/metrics`, as a test reads it: by name and labels, each claim about one series.
//!
//! `tests/metrics.rs` proves that every documented metric is claimed somewhere, and finds these calls
//! by their text. So names and labels are written out where they are claimed.

use super::service::{SOON, Service};
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::time::{Duration, Instant};

/// Of a series, in any order.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// One answer.
pub struct Scrape(pub String);

/// One line of the text format: name, labels, value.
pub fn sample(line: &str) -> (&str, Vec<(&str, &str)>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let pairs = labels.split(',').filter(|it| !it.is_empty()).map(|it| {
        let (key, value) = it.split_once('=').unwrap();
        let value = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        (key, value.expect("a quoted value"))
    });
    (name, pairs.collect(), value.parse().unwrap())
}

impl Scrape {
    /// Of the series with exactly these labels; `gapless_` is not written.
    pub fn value(&self, name: &str, labels: Labels<'_>) -> Option<f64> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.map(sample).find_map(|(found, pairs, value)| {
            let is_it = found.strip_prefix("gapless_") == Some(name)
                && pairs.len() == labels.len()
                && labels.iter().all(|pair| pairs.contains(pair));
            is_it.then_some(value)
        })
    }

    #[track_caller]
    pub fn expect(&self, name: &str, labels: Labels<'_>, wanted: f64) {
        let found = self.value(name, labels);
        assert_eq!(found, Some(wanted), "{name} {labels:?} in\n{}", self.0);
    }

    #[track_caller]
    pub fn expect_within(
        &self,
        name: &str,
        labels: Labels<'_>,
        wanted: impl RangeBounds<f64> + Debug,
    ) {
        let found = self.value(name, labels);
        assert!(
            found.is_some_and(|found| wanted.contains(&found)),
            "{name} {labels:?} is {found:?}, not within {wanted:?}, in\n{}",
            self.0
        );
    }
}

impl Service {
    pub fn scrape(&self) -> Scrape {
        Scrape(self.metrics())
    }

    /// What the fronts report is as old as their last report, so it is asked for until it is so.
    #[track_caller]
    pub fn until(&self, name: &str, labels: Labels<'_>, wanted: f64) -> Scrape {
        let end = Instant::now() + SOON;
        loop {
            let scrape = self.scrape();
            let found = scrape.value(name, labels);
            if found == Some(wanted) {
                return scrape;
            }
            let text = &scrape.0;
            assert!(
                Instant::now() < end,
                "{name} {labels:?} is {found:?}, not {wanted}, in\n{text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
