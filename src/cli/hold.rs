//! `gapless hold` and `gapless resume`: new requests wait while something is changed under the app.

use super::arguments::RunningArgs;
use super::client::{self, ANSWER_LIMIT, Answer};
use super::instance::{self, Instance, InstanceName};
use super::output::{say, say_json};
use super::status::grouped;
use super::{CliError, ClientError, Exit};
use crate::api::{HoldOutcome, HoldVerdict};
use crate::config::AsDuration;
use hyper::Method;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// Blocks until nothing is in flight, or the time is over.
pub(super) fn run(
    name: Option<&InstanceName>,
    time: Duration,
    as_json: bool,
) -> Result<Exit, CliError> {
    let instance = instance::find(name)?;
    let began = Instant::now();
    let answer = match ask(&instance, time) {
        // It holds on over the end of a keeper; only the next one can tell when it is quiet.
        Err(ClientError::Broken { .. }) => {
            client::wait_until_back(&instance)?;
            let left = time.saturating_sub(began.elapsed());
            ask(&instance, left.max(Duration::from_millis(1)))?
        }
        answered => answered?,
    };
    let outcome: HoldOutcome = answer.read()?;
    if as_json {
        say_json(&outcome);
    } else {
        say(&render(&outcome, time, &instance::option(name)));
    }
    Ok(exit(outcome.verdict))
}

fn ask(instance: &Instance, time: Duration) -> Result<Answer, ClientError> {
    // What a path holds has whole milliseconds.
    let path = format!("/hold/{}ms", time.as_millis());
    client::ask(instance, Method::POST, &path, Some(time + ANSWER_LIMIT))
}

/// Requests go on.
pub(super) fn resume(args: &RunningArgs) -> Result<Exit, CliError> {
    let instance = instance::find(args.name.as_ref())?;
    let answer = client::ask(&instance, Method::POST, "/resume", Some(ANSWER_LIMIT))?;
    let outcome: HoldOutcome = answer.read()?;
    if args.json {
        say_json(&outcome);
    } else if outcome.verdict == HoldVerdict::NotHeld {
        say("nothing was held; requests go on as before");
    } else {
        say(&format!(
            "resumed: requests go on after {:.1} s",
            seconds(&outcome)
        ));
    }
    Ok(Exit::Done)
}

fn exit(verdict: HoldVerdict) -> Exit {
    match verdict {
        HoldVerdict::Quiet => Exit::Done,
        HoldVerdict::TimedOut => Exit::TimedOut,
        HoldVerdict::Resumed | HoldVerdict::NotHeld | HoldVerdict::Stopping => Exit::Failed,
    }
}

/// `app` names it in the next command, where it was named in this one.
fn render(outcome: &HoldOutcome, time: Duration, app: &str) -> String {
    let in_flight = match outcome.in_flight {
        1 => "1 request was".to_owned(),
        many => format!("{} requests were", grouped(many)),
    };
    match outcome.verdict {
        HoldVerdict::Quiet => held(outcome, time, app),
        HoldVerdict::TimedOut => format!(
            "not held: {in_flight} still in flight after {:.1} s; requests go on. \
             With more time: gapless{app} hold --for TIME",
            seconds(outcome)
        ),
        HoldVerdict::Resumed | HoldVerdict::NotHeld => format!(
            "not held: somebody resumed after {:.1} s, when {in_flight} still in flight",
            seconds(outcome)
        ),
        HoldVerdict::Stopping => "not held: gapless is stopping".to_owned(),
    }
}

fn held(outcome: &HoldOutcome, time: Duration, app: &str) -> String {
    let until = outcome.hold.map_or_else(String::new, |hold| {
        format!(" ({})", clock(hold.until_unix_seconds))
    });
    let mut lines = vec![format!(
        "held: nothing is in flight after {:.1} s; new requests wait until gapless{app} resume, \
         at most {}{until}",
        seconds(outcome),
        AsDuration(time)
    )];
    if outcome.tunnels > 0 {
        let tunnels = grouped(outcome.tunnels);
        let plural = if outcome.tunnels == 1 { "" } else { "s" };
        lines.push(format!(
            "  {tunnels} tunnel{plural} (WebSockets and the like) go on"
        ));
    }
    let patience = Duration::from_millis(outcome.patience_ms);
    if time > patience {
        let patience = AsDuration(patience);
        lines.push(format!(
            "  one that waits longer than {patience} ([http] hold) gets 503"
        ));
    }
    lines.join("\n")
}

fn seconds(outcome: &HoldOutcome) -> f64 {
    Duration::from_millis(outcome.elapsed_ms).as_secs_f64()
}

/// `14:02:31 UTC`
pub(super) fn clock(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "?".to_owned(),
            |time| time.strftime("%H:%M:%S UTC").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HoldStatus;

    fn outcome(verdict: HoldVerdict) -> HoldOutcome {
        HoldOutcome {
            verdict,
            elapsed_ms: 312,
            in_flight: 3,
            tunnels: 0,
            patience_ms: 15_000,
            hold: Some(HoldStatus {
                since_unix_seconds: 1_786_000_000,
                until_unix_seconds: 1_786_000_010,
                is_quiet: true,
            }),
        }
    }

    #[test]
    fn a_hold_says_how_long_and_who_is_not_served() {
        let quiet = outcome(HoldVerdict::Quiet);
        let expected = "held: nothing is in flight after 0.3 s; new requests wait until gapless \
                        resume, at most 10s (07:06:50 UTC)";
        assert_eq!(render(&quiet, Duration::from_secs(10), ""), expected);
        let of_shop = render(&quiet, Duration::from_secs(10), " --app shop");
        assert!(
            of_shop.contains("until gapless --app shop resume, at most"),
            "{of_shop}"
        );
        let with_tunnels = HoldOutcome {
            tunnels: 2,
            ..quiet
        };
        let long = render(&with_tunnels, Duration::from_mins(1), "");
        assert!(long.contains("at most 1min"), "{long}");
        assert!(long.contains("\n  2 tunnels (WebSockets"), "{long}");
        assert!(
            long.contains("longer than 15s ([http] hold) gets 503"),
            "{long}"
        );
    }

    #[test]
    fn what_is_not_held_says_why_and_exits_with_it() {
        let late = outcome(HoldVerdict::TimedOut);
        let said = render(&late, Duration::from_secs(1), "");
        assert!(said.starts_with("not held: 3 requests were still in flight after 0.3 s; "));
        assert_eq!(exit(HoldVerdict::TimedOut).code(), 7);
        let resumed = render(&outcome(HoldVerdict::Resumed), Duration::from_secs(1), "");
        assert!(resumed.contains("somebody resumed"), "{resumed}");
        assert_eq!(exit(HoldVerdict::Resumed).code(), 1);
        assert_eq!(exit(HoldVerdict::Quiet).code(), 0);
    }
}
