//! `gapless deploy --bake TIME`: watches what became live, and goes back by itself if it fails more
//! than what it superseded did while that was live.

use super::client;
use super::deploy::DeployError;
use super::progress::{self, Back, Site, make_room, plural, status};
use super::status::grouped;
use super::telling::{Outcome, Telling};
use super::{CliError, Exit, explain};
use crate::api::Status;
use crate::diagnosis::Diagnosis;
use crate::release::{Lock, ReleaseId};
use crate::steps::{Step, reached};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Fewer failures say nothing.
const FAILED_MIN: u64 = 3;

/// So much more than twice the share of before is too much, in thousandths: where nothing failed
/// before, one request in a hundred may.
const SLACK_PERMILLE: u64 = 10;

/// What was seen of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    requests: u64,
    failed: u64,
    /// Workers that had to be started again.
    crashes: u64,
    seconds: u64,
}

impl Seen {
    /// Of the live generation, since it became live.
    fn of(status: &Status) -> Self {
        let served = status.served_live;
        let live = status.generations.iter().find(|it| it.state == "live");
        let respawns = live.map(|it| it.workers.iter().map(|worker| worker.respawns).sum());
        Self {
            requests: served.map_or(0, |it| it.requests),
            failed: served.map_or(0, |it| it.failed),
            crashes: respawns.unwrap_or(0),
            seconds: live.map_or(0, |it| it.age_seconds),
        }
    }

    /// Without the requests of `start`, which another generation may have had. Crashes are its own
    /// from the beginning.
    fn since(self, start: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(start.requests),
            failed: self.failed.saturating_sub(start.failed),
            ..self
        }
    }

    fn failed_permille(self) -> u64 {
        let failed = self.failed.saturating_mul(1000);
        failed.checked_div(self.requests).unwrap_or(0)
    }

    /// Crashes that one would have seen in this time.
    fn crashes_in(self, seconds: u64) -> u64 {
        let crashes = self.crashes.saturating_mul(seconds.max(1));
        crashes.div_ceil(self.seconds.max(1))
    }

    fn is_worse_than(self, before: Self) -> bool {
        let allowed = before
            .failed_permille()
            .saturating_mul(2)
            .saturating_add(SLACK_PERMILLE);
        let fails = self.failed >= FAILED_MIN && self.failed_permille() > allowed;
        fails || self.crashes > before.crashes_in(self.seconds)
    }

    fn words(self) -> String {
        let share = self.failed_permille();
        format!(
            "{} of {} failed ({}.{} %), {}",
            self.failed,
            plural(self.requests, "request"),
            share / 10,
            share % 10,
            match self.crashes {
                1 => "1 crash".to_owned(),
                crashes => format!("{} crashes", grouped(crashes)),
            }
        )
    }
}

/// Blocks for so long, or until it is worse. The lock stays ours: nobody deploys meanwhile.
pub(super) fn watch(
    site: &Site,
    id: &ReleaseId,
    time: Duration,
    lock: Lock,
    telling: &Telling,
) -> Result<Exit, CliError> {
    let before = Seen::of(&site.before);
    let began = Instant::now();
    telling.await_step("baking");
    // What it superseded has finished: from here on, all is its own.
    let mut start: Option<Seen> = None;
    let mut seen = Seen::default();
    let runtime = client::runtime()?;
    while began.elapsed() < time {
        // Nobody tells when something fails: it is counted.
        let next = Instant::now() + EVERY.min(time.saturating_sub(began.elapsed()));
        runtime.block_on(async { tokio::time::sleep_until(next).await });
        // A keeper that was replaced answers again at one of the next looks.
        let Ok(status) = status(&site.instance) else {
            continue;
        };
        expect_live(&status, id)?;
        let now = Seen::of(&status);
        // After a reload meanwhile, another generation of it counts from zero.
        let start = start.get_or_insert(now);
        if now.requests < start.requests {
            *start = now;
        }
        seen = now.since(*start);
        if seen.is_worse_than(before) {
            telling.step("failing", &seen.words(), began.elapsed());
            telling.line(&format!("            before: {}", before.words()));
            reached(Step::FailureSeen);
            return go_back(site, id, lock, &seen.words(), telling);
        }
    }
    telling.step("baked", &seen.words(), began.elapsed());
    make_room(site, id, telling);
    Ok(Exit::Done)
}

/// A restart or a reload may have begun another generation of it; what is not it is not watched.
fn expect_live(status: &Status, id: &ReleaseId) -> Result<(), DeployError> {
    let live = status.generations.iter().find(|it| it.state == "live");
    match live {
        Some(live) if live.release != id.as_str() => {
            Err(DeployError::Superseded(live.release.clone()))
        }
        Some(_) | None => Ok(()),
    }
}

fn go_back(
    site: &Site,
    id: &ReleaseId,
    lock: Lock,
    why: &str,
    telling: &Telling,
) -> Result<Exit, CliError> {
    let good = site.store.previous().map_err(DeployError::from)?;
    let Some(good) = good.filter(|good| good != id) else {
        telling.line("  it serves on: there is no release to go back to");
        telling.note(|report| report.cause = Some(why.to_owned()));
        return Ok(Exit::Failed);
    };
    telling.line(&format!("  going back to {good}"));
    let back = Site {
        instance: site.instance.clone(),
        store: site.store.clone(),
        verb: "rollback",
        keep: u32::MAX,
        bake: None,
        back: Some(Back {
            from: id.clone(),
            previous: site.previous.clone(),
            why: why.to_owned(),
        }),
        // What is lost is counted from the beginning of all this.
        before: site.before.clone(),
        previous: None,
    };
    let exit = progress::bring_live(&back, &good, lock, telling)?;
    if exit != Exit::Done {
        return Ok(exit);
    }
    telling.line(&format!("{id} was taken back: {why}"));
    if let Some(more) = explain::more(Some(Diagnosis::BakedWorse.code())) {
        telling.line(&format!("  {more}"));
    }
    telling.note(|report| {
        report.outcome = Outcome::TakenBack;
        report.cause = Some(why.to_owned());
    });
    Ok(Exit::Unhealthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(requests: u64, failed: u64, crashes: u64, seconds: u64) -> Seen {
        Seen {
            requests,
            failed,
            crashes,
            seconds,
        }
    }

    #[test]
    fn it_is_worse_when_clearly_more_fails_than_before() {
        let clean = seen(100_000, 0, 0, 3600);
        assert!(!seen(100, 2, 0, 10).is_worse_than(clean), "two say nothing");
        assert!(seen(100, 3, 0, 10).is_worse_than(clean));
        assert!(
            !seen(10_000, 90, 0, 10).is_worse_than(clean),
            "below one in a hundred"
        );
        let ailing = seen(1000, 100, 0, 3600);
        assert!(
            !seen(100, 20, 0, 10).is_worse_than(ailing),
            "it was no better before"
        );
        assert!(seen(100, 22, 0, 10).is_worse_than(ailing));
        assert!(!seen(0, 0, 0, 10).is_worse_than(Seen::default()));
    }

    #[test]
    fn it_is_worse_when_it_crashes_more_often_than_before() {
        let steady = seen(10, 0, 0, 3600);
        assert!(seen(10, 0, 1, 10).is_worse_than(steady));
        let shaky = seen(10, 0, 6, 60);
        assert!(
            !seen(10, 0, 1, 10).is_worse_than(shaky),
            "one in ten seconds as before"
        );
        assert!(seen(10, 0, 2, 10).is_worse_than(shaky));
    }

    #[test]
    fn what_was_seen_is_said_in_words() {
        assert_eq!(
            seen(1200, 3, 1, 9).words(),
            "3 of 1,200 requests failed (0.2 %), 1 crash"
        );
        assert_eq!(
            seen(1, 1, 2, 9).words(),
            "1 of 1 request failed (100.0 %), 2 crashes"
        );
    }
}
