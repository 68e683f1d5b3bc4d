//! `gapless reload`: asks for a new generation, waits until it is decided, and says what became of it.

use super::client::{self, ANSWER_LIMIT};
use super::instance::{self, Instance};
use super::output::{printable, say, say_json};
use super::{CliError, Exit, ReloadArgs, explain};
use crate::api::{GenerationStatus, ReloadOutcome, Status, Verdict};
use crate::id::GenerationId;
use anstyle::{AnsiColor, Style};
use hyper::Method;
use std::time::Duration;

/// Blocks until the keeper has decided, or `--timeout` is over.
pub(super) fn run(args: &ReloadArgs) -> Result<Exit, CliError> {
    let instance = instance::find(args.name.as_ref())?;
    let answer = client::ask(&instance, Method::POST, "/reload", args.timeout)?;
    let outcome: ReloadOutcome = answer.read()?;
    let superseded = match outcome.verdict {
        Verdict::Live => superseded(&instance, &outcome),
        Verdict::Unhealthy | Verdict::TimedOut | Verdict::ConfigInvalid | Verdict::Stopping => {
            Vec::new()
        }
    };
    if args.json {
        say_json(&outcome);
    } else {
        say(render(&outcome, &superseded, &instance.name.unit()).trim_end());
    }
    Ok(exit(outcome.verdict))
}

pub(super) fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Live => Exit::Done,
        Verdict::Unhealthy => Exit::Unhealthy,
        Verdict::TimedOut => Exit::TimedOut,
        Verdict::ConfigInvalid => Exit::ConfigInvalid,
        Verdict::Stopping => Exit::Failed,
    }
}

/// Those that still finish requests. A courtesy: without an answer, the line is shorter.
fn superseded(instance: &Instance, outcome: &ReloadOutcome) -> Vec<GenerationId> {
    let is_draining =
        |it: &&GenerationStatus| it.state == "draining" && Some(it.id) != outcome.generation;
    client::ask(instance, Method::GET, "/status", Some(ANSWER_LIMIT))
        .and_then(|answer| answer.read::<Status>())
        .map(|status| {
            status
                .generations
                .iter()
                .filter(is_draining)
                .map(|it| it.id)
                .collect()
        })
        .unwrap_or_default()
}

fn render(outcome: &ReloadOutcome, superseded: &[GenerationId], unit: &str) -> String {
    match outcome.verdict {
        Verdict::Live => render_live(outcome, superseded),
        Verdict::Unhealthy | Verdict::TimedOut | Verdict::ConfigInvalid | Verdict::Stopping => {
            render_failed(outcome, unit, "reload")
        }
    }
}

fn render_live(outcome: &ReloadOutcome, superseded: &[GenerationId]) -> String {
    let green = Style::new().fg_color(Some(AnsiColor::Green.into())).bold();
    let generation = named(outcome.generation.or(outcome.live));
    let after = Duration::from_millis(outcome.elapsed_ms).as_secs_f64();
    let names: Vec<_> = superseded.iter().map(ToString::to_string).collect();
    let finishing = match names.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} is finishing its requests"),
        several => format!("; {} are finishing their requests", several.join(" and ")),
    };
    format!("{green}{generation} is live{green:#} after {after:.2} s{finishing}")
}

pub(super) fn render_failed(outcome: &ReloadOutcome, unit: &str, verb: &str) -> String {
    let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
    let generation = named(outcome.generation);
    let cure = outcome.cure.as_deref();
    let (what, advice) = match outcome.verdict {
        Verdict::Live | Verdict::Unhealthy => (
            format!("{generation} did not become live"),
            log_advice(unit, cure.unwrap_or("correct the app"), verb),
        ),
        Verdict::TimedOut => (
            format!("{generation} did not become live"),
            log_advice(
                unit,
                cure.unwrap_or("see why it is slow, or raise boot in [app]"),
                verb,
            ),
        ),
        Verdict::ConfigInvalid => (
            "the configuration is invalid, nothing was started".to_owned(),
            format!("correct the file, ask gapless check, then gapless {verb}"),
        ),
        Verdict::Stopping => (
            "gapless is stopping, nothing was started".to_owned(),
            "wait until it has stopped, then start it again".to_owned(),
        ),
    };
    let mut lines = vec![format!("{red}{what}{red:#}: {}", printable(&outcome.cause))];
    if !outcome.last_lines.is_empty() && outcome.verdict != Verdict::ConfigInvalid {
        lines.push("  its last lines:".to_owned());
    }
    let last_lines = outcome
        .last_lines
        .iter()
        .map(|line| format!("    {}", printable(line)));
    lines.extend(last_lines.map(|line| line.trim_end().to_owned()));
    lines.push(match outcome.live {
        Some(live) => format!("  now:  {live} serves on, as before"),
        None => "  now:  nothing is live: requests wait for a generation, at most [http] hold"
            .to_owned(),
    });
    lines.push(format!("  next: {advice}"));
    lines.extend(explain::more(outcome.code.as_deref()).map(|more| format!("  {more}")));
    lines.join("\n")
}

fn log_advice(unit: &str, first: &str, verb: &str) -> String {
    format!("{first}, then gapless {verb}; all it wrote: journalctl -u {unit}")
}

fn named(generation: Option<GenerationId>) -> String {
    generation.map_or_else(|| "the new generation".to_owned(), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verdict: Verdict) -> ReloadOutcome {
        ReloadOutcome {
            generation: Some(GenerationId(8)),
            verdict,
            cause: "worker w0 exited with status 1 after 0.3 s".to_owned(),
            code: Some("missing-module".to_owned()),
            cure: None,
            last_lines: vec![
                "\u{1b}[31mError: Cannot find module './server'\u{1b}[0m".to_owned(),
                "    at main".to_owned(),
            ],
            elapsed_ms: 420,
            live: Some(GenerationId(7)),
            release: None,
        }
    }

    fn plain(outcome: &ReloadOutcome, superseded: &[GenerationId]) -> String {
        let rendered = render(outcome, superseded, "gapless.service");
        anstream::adapter::strip_str(&rendered).to_string()
    }

    #[test]
    fn success_is_one_line() {
        let rendered = plain(&outcome(Verdict::Live), &[GenerationId(7)]);
        assert_eq!(
            rendered,
            "g8 is live after 0.42 s; g7 is finishing its requests"
        );
        assert_eq!(
            plain(&outcome(Verdict::Live), &[]),
            "g8 is live after 0.42 s"
        );
    }

    #[test]
    fn failure_gives_cause_last_lines_what_serves_and_what_next() {
        let expected = "\
g8 did not become live: worker w0 exited with status 1 after 0.3 s
  its last lines:
    Error: Cannot find module './server'
        at main
  now:  g7 serves on, as before
  next: correct the app, then gapless reload; all it wrote: journalctl -u gapless.service
  more: gapless explain missing-module";
        assert_eq!(plain(&outcome(Verdict::Unhealthy), &[]), expected);
    }

    #[test]
    fn what_is_likely_to_mend_it_comes_first_in_what_to_do_next() {
        let late = ReloadOutcome {
            cure: Some("let it use $PORT".to_owned()),
            ..outcome(Verdict::TimedOut)
        };
        let told = plain(&late, &[]);
        assert!(
            told.starts_with("g8 did not become live: worker w0"),
            "{told}"
        );
        let next = "\n  next: let it use $PORT, then gapless reload; all it wrote: journalctl";
        assert!(told.contains(next), "{told}");
    }

    #[test]
    fn an_invalid_configuration_names_no_generation() {
        let invalid = ReloadOutcome {
            generation: None,
            cause: "/etc/gapless/gapless.toml:7: unknown key \"workres\" in [app]".to_owned(),
            code: Some("config-invalid".to_owned()),
            last_lines: Vec::new(),
            live: None,
            ..outcome(Verdict::ConfigInvalid)
        };
        let expected = "\
the configuration is invalid, nothing was started: /etc/gapless/gapless.toml:7: unknown key \
\"workres\" in [app]
  now:  nothing is live: requests wait for a generation, at most [http] hold
  next: correct the file, ask gapless check, then gapless reload
  more: gapless explain config-invalid";
        assert_eq!(plain(&invalid, &[]), expected);
    }

    #[test]
    fn the_exit_code_is_the_verdict() {
        assert_eq!(exit(Verdict::Live).code(), 0);
        assert_eq!(exit(Verdict::Stopping).code(), 1);
        assert_eq!(exit(Verdict::ConfigInvalid).code(), 5);
        assert_eq!(exit(Verdict::Unhealthy).code(), 6);
        assert_eq!(exit(Verdict::TimedOut).code(), 7);
    }
}
