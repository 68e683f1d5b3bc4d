//! `gapless drain` and `gapless undrain`: what load balancers are told.

use super::arguments::RunningArgs;
use super::client::{self, ANSWER_LIMIT};
use super::output::{printable, say, say_json};
use super::status::minute;
use super::{CliError, Exit, instance};
use crate::api::Rotation;
use hyper::Method;

/// Out of rotation.
pub(super) fn run(args: &RunningArgs) -> Result<Exit, CliError> {
    ask(args, "/drain")
}

/// Back into it.
pub(super) fn undo(args: &RunningArgs) -> Result<Exit, CliError> {
    ask(args, "/undrain")
}

fn ask(args: &RunningArgs, path: &str) -> Result<Exit, CliError> {
    let instance = instance::find(args.name.as_ref())?;
    let answer = client::ask(&instance, Method::POST, path, Some(ANSWER_LIMIT))?;
    let rotation: Rotation = answer.read()?;
    if args.json {
        say_json(&rotation);
    } else {
        say(&render(&rotation, &instance::option(args.name.as_ref())));
    }
    Ok(Exit::Done)
}

/// `app` names it in the next command, where it was named in this one.
fn render(rotation: &Rotation, app: &str) -> String {
    let asked_at: Vec<_> = rotation
        .asked_at
        .iter()
        .map(|address| format!("{}/readyz", printable(address)))
        .collect();
    match (rotation.drained_since_unix_seconds, rotation.has_changed) {
        (Some(_), _) if asked_at.is_empty() => "drained, but nobody is told: no socket has \
            FileDescriptorName=admin, as gapless-admin.socket and run --admin have"
            .to_owned(),
        (Some(_), true) => format!(
            "drained: {} answers 503, requests are served as before; the end: gapless{app} undrain",
            asked_at.join(", ")
        ),
        (Some(since), false) => {
            format!(
                "drained already, since {}; the end: gapless{app} undrain",
                minute(since)
            )
        }
        (None, true) => "back in rotation: /readyz says how it is".to_owned(),
        (None, false) => "not drained; /readyz says how it is".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_who_is_told_what_and_how_it_ends() {
        let rotation = |since, has_changed, asked_at: &[&str]| {
            let rotation = Rotation {
                drained_since_unix_seconds: since,
                has_changed,
                asked_at: asked_at.iter().map(ToString::to_string).collect(),
            };
            render(&rotation, "")
        };
        assert_eq!(
            rotation(Some(1_786_000_000), true, &["127.0.0.1:8889"]),
            "drained: 127.0.0.1:8889/readyz answers 503, requests are served as before; the end: \
             gapless undrain"
        );
        assert_eq!(
            rotation(Some(1_786_000_000), false, &["127.0.0.1:8889"]),
            "drained already, since 2026-08-06 07:06 UTC; the end: gapless undrain"
        );
        assert!(rotation(Some(1), true, &[]).contains("run --admin"));
        assert_eq!(
            rotation(None, false, &[]),
            "not drained; /readyz says how it is"
        );
    }
}
