//! `gapless reload`: asks for a new generation, waits until it is decided, and says what became of it.

use super::client::{self, ANSWER_LIMIT};
use super::instance::{self, Instance};
use super::output::{printable, say, say_json};
use super::{CliError, Exit, ReloadArgs, explain};
use crate::api::{GenerationStatus, LOCKED, ReloadOutcome, Status, Verdict};
use crate::id::GenerationId;
use anstyle::{AnsiColor, Style};
use hyper::Method;
use std::time::Duration;

/// What is wrong where there is nothing to run yet.
const NOTHING_DEPLOYED: &str = "nothing_deployed";

const NOW_BARE: &str = "  now:  requests are answered with what to do next";

/// Of whom something was asked that failed, for what to do next.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub instance: &'a Instance,
    /// ` --app NAME`, where it was named.
    pub app: &'a str,
    /// `deploy`, `rollback`, `reload`
    pub verb: &'a str,
    /// Nothing was ever live.
    pub is_bare: bool,
}

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
        let asked = Asked {
            instance: &instance,
            app: &instance::option(args.name.as_ref()),
            verb: "reload",
            is_bare: false,
        };
        say(render(&outcome, &superseded, &asked).trim_end());
    }
    Ok(if outcome.code.as_deref() == Some(LOCKED) {
        Exit::Locked
    } else {
        exit(outcome.verdict)
    })
}

pub(super) fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Live => Exit::Done,
        // That it was not ready in time is decided, too: 7 is for who stopped waiting.
        Verdict::Unhealthy | Verdict::TimedOut => Exit::Unhealthy,
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

fn render(outcome: &ReloadOutcome, superseded: &[GenerationId], asked: &Asked<'_>) -> String {
    match outcome.verdict {
        Verdict::Live => render_live(outcome, superseded),
        Verdict::Unhealthy | Verdict::TimedOut | Verdict::ConfigInvalid | Verdict::Stopping => {
            render_failed(outcome, asked)
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

pub(super) fn render_failed(outcome: &ReloadOutcome, asked: &Asked<'_>) -> String {
    let Asked {
        instance,
        app,
        verb,
        is_bare,
    } = *asked;
    if outcome.code.as_deref() == Some(NOTHING_DEPLOYED) {
        return render_bare(outcome);
    }
    if outcome.code.as_deref() == Some(LOCKED) {
        return render_locked(outcome);
    }
    let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
    let generation = named(outcome.generation);
    let cure = outcome.cure.as_deref();
    let again = format!("then gapless{app} {verb}");
    let log_advice = |first: &str| format!("{first}, {again}; all it wrote: {}", instance.log());
    let (what, advice) = match outcome.verdict {
        Verdict::Live | Verdict::Unhealthy => (
            format!("{generation} did not become live"),
            log_advice(cure.unwrap_or("correct the app")),
        ),
        Verdict::TimedOut => (
            format!("{generation} did not become live"),
            log_advice(cure.unwrap_or("see why it is slow, or raise boot in [app]")),
        ),
        Verdict::ConfigInvalid if instance.is_in_foreground() => (
            "the configuration is invalid, nothing was started".to_owned(),
            format!("correct it, {again}"),
        ),
        Verdict::ConfigInvalid => (
            "the configuration is invalid, nothing was started".to_owned(),
            format!("correct it, ask gapless{app} check, {again}"),
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
    lines.push(render_now(outcome, is_bare));
    lines.push(format!("  next: {advice}"));
    lines.extend(explain::more(outcome.code.as_deref()).map(|more| format!("  {more}")));
    lines.join("\n")
}

fn render_now(outcome: &ReloadOutcome, is_bare: bool) -> String {
    match outcome.live {
        Some(live) => format!("  now:  {live} serves on, as before"),
        None if is_bare => NOW_BARE.to_owned(),
        None => "  now:  nothing is live: requests wait for a generation, at most [http] hold"
            .to_owned(),
    }
}

/// Somebody else is at work: nothing is wrong with the app.
fn render_locked(outcome: &ReloadOutcome) -> String {
    let first = format!("nothing was started: {}", printable(&outcome.cause));
    let more = explain::more(Some(LOCKED)).map(|more| format!("  {more}"));
    let lines = [first, render_now(outcome, false)];
    lines.into_iter().chain(more).collect::<Vec<_>>().join("\n")
}

/// Nothing is wrong with anything: the cause says what comes next.
fn render_bare(outcome: &ReloadOutcome) -> String {
    let cause = printable(&outcome.cause);
    let (what, next) = cause.split_once("; next: ").unwrap_or((&cause, ""));
    let mut lines = vec![format!("nothing was started: {what}"), NOW_BARE.to_owned()];
    lines.extend((!next.is_empty()).then(|| format!("  next: {next}")));
    lines.extend(explain::more(outcome.code.as_deref()).map(|more| format!("  {more}")));
    lines.join("\n")
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

    fn instance(name: &str, socket: &str) -> Instance {
        Instance {
            name: name.parse().unwrap(),
            socket: socket.into(),
        }
    }

    fn asked<'a>(instance: &'a Instance, app: &'a str) -> Asked<'a> {
        Asked {
            instance,
            app,
            verb: "reload",
            is_bare: false,
        }
    }

    fn plain(outcome: &ReloadOutcome, superseded: &[GenerationId]) -> String {
        let instance = instance("gapless", "/run/gapless/control.sock");
        let rendered = render(outcome, superseded, &asked(&instance, ""));
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
  next: correct it, ask gapless check, then gapless reload
  more: gapless explain config-invalid";
        assert_eq!(plain(&invalid, &[]), expected);
    }

    #[test]
    fn what_is_next_names_the_app_that_was_named_and_where_its_log_is() {
        let told = |verdict, instance: &Instance, app: &str| {
            let told = render(&outcome(verdict), &[], &asked(instance, app));
            let next = told.lines().find_map(|line| line.strip_prefix("  next: "));
            next.unwrap().to_owned()
        };
        let shop = instance("shop", "/run/gapless@shop/control.sock");
        assert_eq!(
            told(Verdict::Unhealthy, &shop, " --app shop"),
            "correct the app, then gapless --app shop reload; all it wrote: journalctl -u \
             gapless@shop.service"
        );
        assert_eq!(
            told(Verdict::ConfigInvalid, &shop, " --app shop"),
            "correct it, ask gapless --app shop check, then gapless --app shop reload"
        );
        let foreground = instance("run", "/run/user/1000/gapless@run/control.sock");
        assert_eq!(
            told(Verdict::Unhealthy, &foreground, ""),
            "correct the app, then gapless reload; all it wrote: in its terminal"
        );
        assert_eq!(
            told(Verdict::ConfigInvalid, &foreground, ""),
            "correct it, then gapless reload"
        );
    }

    #[test]
    fn a_first_deploy_that_fails_leaves_the_greeting() {
        let failed = ReloadOutcome {
            live: None,
            ..outcome(Verdict::Unhealthy)
        };
        let gapless = instance("gapless", "/run/gapless/control.sock");
        let first = Asked {
            verb: "deploy",
            is_bare: true,
            ..asked(&gapless, "")
        };
        let told = render_failed(&failed, &first);
        assert!(told.contains(&format!("\n{NOW_BARE}\n")), "{told}");
        assert!(told.contains("then gapless deploy; "), "{told}");
    }

    #[test]
    fn where_nothing_is_deployed_there_is_nothing_to_correct() {
        let bare = ReloadOutcome {
            generation: None,
            cause: "nothing is deployed yet; next: sudo gapless deploy ./myapp".to_owned(),
            code: Some(NOTHING_DEPLOYED.to_owned()),
            last_lines: Vec::new(),
            live: None,
            ..outcome(Verdict::ConfigInvalid)
        };
        let expected = "\
nothing was started: nothing is deployed yet
  now:  requests are answered with what to do next
  next: sudo gapless deploy ./myapp
  more: gapless explain nothing_deployed";
        assert_eq!(plain(&bare, &[]), expected);
    }

    #[test]
    fn the_exit_code_is_the_verdict() {
        assert_eq!(exit(Verdict::Live).code(), 0);
        assert_eq!(exit(Verdict::Stopping).code(), 1);
        assert_eq!(exit(Verdict::ConfigInvalid).code(), 5);
        assert_eq!(exit(Verdict::Unhealthy).code(), 6);
        assert_eq!(exit(Verdict::TimedOut).code(), 6);
    }
}
