//! `gapless upgrade`: asks the keeper to become the installed binary, waits until that is decided,
//! and says what became of it.

use super::client::{self, ANSWER_LIMIT, ClientError};
use super::instance::{self, Instance};
use super::output::{printable, say, say_json};
use super::{CliError, Exit, UpgradeArgs};
use crate::api::{Status, UpgradeOutcome, UpgradeVerdict};
use crate::causes::chain;
use crate::diagnosis::Diagnosis;
use anstyle::{AnsiColor, Style};
use hyper::Method;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two questions. The keeper cannot hold its answer over the change of its image, so it is
/// asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// For a keeper that does not answer: it is between two images, or just being restarted.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Blocks until the keeper has decided, or `--timeout` is over.
pub(super) fn run(args: &UpgradeArgs) -> Result<Exit, CliError> {
    let instance = instance::find(args.name.as_ref())?;
    let outcome = client::runtime()?.block_on(ask(&instance, args))?;
    if args.json {
        say_json(&outcome);
    } else {
        say(&render(&outcome, &instance.log()));
    }
    Ok(exit(outcome.verdict))
}

pub(super) async fn ask(
    instance: &Instance,
    args: &UpgradeArgs,
) -> Result<UpgradeOutcome, ClientError> {
    let path = if args.check {
        "/upgrade/check"
    } else {
        "/upgrade"
    };
    let answer = client::ask_async(instance, Method::POST, path, Some(ANSWER_LIMIT)).await?;
    let asked: UpgradeOutcome = answer.read()?;
    if asked.verdict != UpgradeVerdict::UnderWay {
        return Ok(asked);
    }
    let outcome = wait(instance, &asked);
    let Some(limit) = args.timeout else {
        return outcome.await;
    };
    let late = |_| ClientError::TimedOut {
        service: None,
        what: format!("POST {path}"),
        limit,
    };
    timeout(limit, outcome).await.map_err(late)?
}

async fn wait(instance: &Instance, asked: &UpgradeOutcome) -> Result<UpgradeOutcome, ClientError> {
    let mut heard = Instant::now();
    loop {
        match look(instance).await {
            Ok(Some(last)) if last.number > asked.number => return Ok(lost(asked)),
            Ok(Some(last)) if last.number == asked.number => {
                if last.verdict != UpgradeVerdict::UnderWay {
                    return Ok(last);
                }
                heard = Instant::now();
            }
            Ok(_) => return Ok(lost(asked)),
            Err(error) if heard.elapsed() > SILENCE_MAX => return Ok(silent(asked, &error)),
            Err(_between_two_images) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn look(instance: &Instance) -> Result<Option<UpgradeOutcome>, ClientError> {
    let answer = client::ask_async(instance, Method::GET, "/status", Some(ANSWER_LIMIT)).await?;
    Ok(answer.read::<Status>()?.last_upgrade)
}

/// What was there before runs on, but nobody supervises it.
fn silent(asked: &UpgradeOutcome, error: &ClientError) -> UpgradeOutcome {
    let seconds = SILENCE_MAX.as_secs();
    UpgradeOutcome {
        verdict: UpgradeVerdict::Refused,
        cause: format!(
            "no keeper has answered for {seconds} s ({}); front and app serve on without one",
            chain(error)
        ),
        ..asked.clone()
    }
}

/// A keeper answers that knows nothing of what was asked.
fn lost(asked: &UpgradeOutcome) -> UpgradeOutcome {
    UpgradeOutcome {
        verdict: UpgradeVerdict::Refused,
        cause: "the keeper that was asked is gone, and the one that runs now does not know of it"
            .to_owned(),
        ..asked.clone()
    }
}

fn exit(verdict: UpgradeVerdict) -> Exit {
    match verdict {
        UpgradeVerdict::Fit | UpgradeVerdict::InPlace => Exit::Done,
        UpgradeVerdict::Refused => Exit::Unhealthy,
        UpgradeVerdict::NotNow | UpgradeVerdict::UnderWay => Exit::Failed,
    }
}

fn render(outcome: &UpgradeOutcome, log: &str) -> String {
    let color = |color: AnsiColor| Style::new().fg_color(Some(color.into())).bold();
    let (green, red) = (color(AnsiColor::Green), color(AnsiColor::Red));
    let from = printable(&outcome.from);
    let to = printable(outcome.to.as_deref().unwrap_or("unknown"));
    let cause = printable(&outcome.cause);
    let program = printable(&outcome.program.display().to_string());
    let after = Duration::from_millis(outcome.elapsed_ms).as_secs_f64();
    match outcome.verdict {
        UpgradeVerdict::InPlace => format!(
            "{green}gapless {from} → {to} is in place{green:#} after {after:.2} s; the app was not touched"
        ),
        UpgradeVerdict::Fit => {
            format!("{green}{program} ({to}) can take over{green:#} from gapless {from}")
        }
        UpgradeVerdict::Refused => format!(
            "{red}gapless {from} serves on{red:#}: {program} cannot take over, {cause}\n\
             Install another gapless and ask again; more: {log}, gapless explain {}",
            Diagnosis::UpgradeRefused.code()
        ),
        UpgradeVerdict::NotNow | UpgradeVerdict::UnderWay => {
            format!("{red}no upgrade{red:#}: {cause}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verdict: UpgradeVerdict) -> UpgradeOutcome {
        UpgradeOutcome {
            number: 1,
            verdict,
            from: "0.1.0".into(),
            to: Some("0.2.0".into()),
            program: "/usr/bin/gapless".into(),
            cause: "it exited with status 1".into(),
            elapsed_ms: 123,
        }
    }

    #[test]
    fn an_upgrade_says_what_is_in_place_and_exits_with_0() {
        let done = outcome(UpgradeVerdict::InPlace);
        let text = anstream::adapter::strip_str(&render(&done, "x")).to_string();
        assert_eq!(
            text,
            "gapless 0.1.0 → 0.2.0 is in place after 0.12 s; the app was not touched"
        );
        assert_eq!(exit(done.verdict), Exit::Done);
    }

    #[test]
    fn a_refused_binary_exits_with_6_and_the_reason_is_said() {
        let refused = outcome(UpgradeVerdict::Refused);
        let text = anstream::adapter::strip_str(&render(&refused, "journalctl -u gapless.service"))
            .to_string();
        assert!(text.contains("0.1.0 serves on"), "{text}");
        assert!(text.contains("it exited with status 1"), "{text}");
        assert_eq!(exit(refused.verdict), Exit::Unhealthy);
    }
}
