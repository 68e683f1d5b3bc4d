//! `gapless deploy --bake TIME`: watches what became live, and goes back by itself if it fails more
//! than what it superseded did while that was live.
//!
//! The command keeps the lock and compares: what failed since the swap, and crashed workers, with the same
//! of what was live before, since that became live (`served_live` in the status; the fronts count by
//! generation, `Counters::served`). A release that failed every request is never kept. To go back is a
//! rollback, but `previous` names again what it named before, and the manifest says why the release was
//! taken back: a plain rollback does not go to it. Room is made only when the watch is over.

use super::client;
use super::deploy::DeployError;
use super::progress::{self, Back, Site, make_room, plural, status};
use super::status::grouped;
use super::telling::{Outcome, Telling};
use super::{CliError, Exit, explain};
use crate::api::{ServedLive, Status};
use crate::diagnosis::Diagnosis;
use crate::id::GenerationId;
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
    /// Of the live generation.
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

    fn of_requests(self, served: ServedLive) -> Self {
        Self {
            requests: served.requests,
            failed: served.failed,
            ..self
        }
    }

    /// With what an earlier generation of the same release served.
    fn and(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(earlier.requests),
            failed: self.failed.saturating_add(earlier.failed),
            crashes: self.crashes.saturating_add(earlier.crashes),
            seconds: self.seconds.saturating_add(earlier.seconds),
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
        let share_is_worse = self.failed_permille() > allowed || self.fails_all();
        let fails = self.failed >= FAILED_MIN && share_is_worse;
        fails || self.crashes > before.crashes_in(self.seconds)
    }

    /// Nothing works. That is no success, however bad the one before was.
    fn fails_all(self) -> bool {
        self.requests > 0 && self.failed == self.requests
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
    let mut before = Seen::of(&site.before);
    let (mut watched, mut is_known) = (Watched::default(), true);
    let began = Instant::now();
    telling.await_step("baking");
    let runtime = client::runtime()?;
    while began.elapsed() < time && !watched.seen().is_worse_than(before) {
        // Nobody tells when something fails: it is counted.
        let next = Instant::now() + EVERY.min(time.saturating_sub(began.elapsed()));
        runtime.block_on(async { tokio::time::sleep_until(next).await });
        // A keeper that was replaced answers again at one of the next looks.
        let answer = status(&site.instance);
        is_known = answer.is_ok();
        if let Ok(status) = answer {
            expect_live(&status, id)?;
            // What it served is known when it has finished.
            if let (None, Some(served)) = (watched.generation, status.served_before) {
                before = before.of_requests(served);
            }
            watched.look(&status);
        }
    }
    if !is_known {
        return Err(DeployError::Undecided.into());
    }
    let seen = watched.seen();
    // At the end, less says enough: one request of one.
    let is_worse = seen.is_worse_than(before) || seen.fails_all();
    let step = if is_worse { "failing" } else { "baked" };
    telling.step(step, &seen.words(), began.elapsed());
    telling.line(&format!("            before: {}", before.words()));
    if is_worse {
        reached(Step::FailureSeen);
        let why = format!("{}; before: {}", seen.words(), before.words());
        return go_back(site, id, lock, &why, telling);
    }
    make_room(site, id, telling);
    Ok(Exit::Done)
}

/// The generations of the release that is watched: a reload or a restart begins another one, which counts
/// from zero.
#[derive(Debug, Default)]
struct Watched {
    earlier: Seen,
    now: Seen,
    generation: Option<GenerationId>,
}

impl Watched {
    fn look(&mut self, status: &Status) {
        let live = status.generations.iter().find(|it| it.state == "live");
        let Some(live) = live.map(|live| live.id) else {
            return;
        };
        if self.generation.replace(live) != Some(live) {
            self.earlier = self.seen();
        }
        self.now = Seen::of(status);
    }

    fn seen(&self) -> Seen {
        self.now.and(self.earlier)
    }
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
        is_first: false,
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
        let broken = seen(1000, 1000, 0, 3600);
        assert!(
            seen(3, 3, 0, 10).is_worse_than(broken),
            "nothing works, as before, and is no success"
        );
        assert!(!seen(100, 99, 0, 10).is_worse_than(broken));
        assert!(seen(1, 1, 0, 10).fails_all() && !seen(0, 0, 0, 10).fails_all());
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
