//! `gapless status --watch`: looks again each second. A screen is drawn over; a pipe gets a line for
//! each change, or one of JSON for each look.

use super::client::{self, ANSWER_LIMIT};
use super::hold::clock;
use super::instance::Instance;
use super::output::{is_screen, printable, redraw, try_say};
use super::progress::unix_seconds;
use super::status::{exit, grouped, listening, on_hold, render};
use super::{CliError, ClientError, Exit};
use crate::api::Status;
use hyper::Method;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const EVERY: Duration = Duration::from_secs(1);

/// What does not change by itself from one look to the next, by what it is about.
type Facts = BTreeMap<String, String>;

/// Until Ctrl-C, or until nobody reads any more.
pub(super) fn run(instance: &Instance, app: &str, as_json: bool) -> Result<Exit, CliError> {
    client::runtime()?.block_on(watch(instance, app, as_json))
}

async fn watch(instance: &Instance, app: &str, as_json: bool) -> Result<Exit, CliError> {
    let internal = |source| CliError::Internal {
        what: "wait for Ctrl-C",
        source,
    };
    let mut watcher = Watcher {
        app: app.to_owned(),
        units: listening::units_of(instance),
        as_json,
        is_screen: !as_json && is_screen(),
        facts: None,
        last: Exit::Done,
    };
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let look = async {
            tick.tick().await;
            client::ask_async(instance, Method::GET, "/status", Some(ANSWER_LIMIT)).await
        };
        let seen = tokio::select! {
            biased;
            heard = &mut interrupted => return heard.map(|()| watcher.last).map_err(internal),
            seen = look => seen,
        };
        let seen = seen.and_then(|answer| {
            let status = answer.read::<Status>()?;
            Ok((status, answer.text()))
        });
        if watcher.take(seen)?.is_err() {
            return Ok(watcher.last);
        }
    }
}

struct Watcher {
    /// For the next commands.
    app: String,
    /// By the addresses where they listen.
    units: BTreeMap<String, String>,
    as_json: bool,
    is_screen: bool,
    /// As last told; none before the first look.
    facts: Option<Facts>,
    last: Exit,
}

impl Watcher {
    /// An instance that is gone after the first look may come back; one that was never there is
    /// told as by `status`. Inside: nobody reads any more.
    fn take(
        &mut self,
        seen: Result<(Status, String), ClientError>,
    ) -> Result<io::Result<()>, ClientError> {
        match seen {
            Ok((status, json)) => {
                self.last = exit(&status);
                Ok(self.show(&status, &json))
            }
            Err(error) if self.facts.is_none() => Err(error),
            Err(error) => {
                self.last = error.exit();
                Ok(self.miss(&printable(&crate::causes::chain(&error))))
            }
        }
    }

    fn show(&mut self, status: &Status, json: &str) -> io::Result<()> {
        let facts = facts(status, &self.app);
        let before = self.facts.replace(facts.clone());
        if self.as_json {
            return try_say(json);
        }
        if self.is_screen {
            return redraw(&format!(
                "{}\n\n{}",
                render(status, &self.app, &self.units),
                footer()
            ));
        }
        match before {
            None => try_say(&render(status, &self.app, &self.units)),
            Some(before) => tell(&changes(&before, &facts)),
        }
    }

    fn miss(&mut self, why: &str) -> io::Result<()> {
        let facts = Facts::from([("gapless".to_owned(), why.to_owned())]);
        let before = self.facts.replace(facts.clone()).unwrap_or_default();
        if self.as_json {
            return try_say(&serde_json::json!({ "error": why }).to_string());
        }
        if self.is_screen {
            return redraw(&format!("{why}\n\n{}", footer()));
        }
        // Only that is known: not that all the rest is gone.
        let is_news = before.get("gapless") != facts.get("gapless");
        tell(&if is_news {
            vec![format!("gapless: {why}")]
        } else {
            Vec::new()
        })
    }
}

fn footer() -> String {
    format!("  {}, each second; Ctrl-C ends this", clock(unix_seconds()))
}

fn tell(lines: &[String]) -> io::Result<()> {
    let now = clock(unix_seconds());
    lines
        .iter()
        .try_for_each(|line| try_say(&format!("{now}  {line}")))
}

fn facts(status: &Status, app: &str) -> Facts {
    let mut facts = Facts::new();
    let mut add = |about: String, what: String| drop(facts.insert(about, what));
    let state = status.app_state().word();
    let health = if status.healthy {
        state.to_owned()
    } else {
        format!("{state}: {}", printable(status.reason()))
    };
    add("gapless".to_owned(), health);
    let lost = grouped(status.requests.lost);
    add("requests".to_owned(), format!("{lost} lost"));
    let version = printable(&status.gapless_version);
    add(
        "keeper".to_owned(),
        format!("pid {}, gapless {version}", status.pid),
    );
    if let Some(hold) = &status.hold {
        add("on hold".to_owned(), on_hold(hold, app));
    }
    if status.drained_since_unix_seconds.is_some() {
        add("drained".to_owned(), "/readyz says 503".to_owned());
    }
    for front in &status.fronts {
        let state = printable(&front.state);
        add(front.id.to_string(), format!("{state}, pid {}", front.pid));
    }
    for generation in &status.generations {
        let (state, release) = (printable(&generation.state), printable(&generation.release));
        add(
            generation.id.to_string(),
            format!("{state}, release {release}"),
        );
        for worker in &generation.workers {
            let pid = worker
                .pid
                .map_or_else(String::new, |pid| format!(", pid {pid}"));
            let about = format!("{} {}", generation.id, worker.slot);
            add(about, format!("{}{pid}", printable(&worker.state)));
        }
    }
    facts
}

fn changes(before: &Facts, now: &Facts) -> Vec<String> {
    let gone = before.keys().filter(|about| !now.contains_key(*about));
    let gone = gone.map(|about| format!("{about}: no longer"));
    let changed = now
        .iter()
        .filter(|(about, what)| before.get(*about) != Some(what));
    let changed = changed.map(|(about, what)| format!("{about}: {what}"));
    changed.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(facts: &[(&str, &str)]) -> Facts {
        let owned = facts
            .iter()
            .map(|(about, what)| ((*about).into(), (*what).into()));
        owned.collect()
    }

    #[test]
    fn only_what_changed_is_told_and_what_is_gone() {
        let before = known(&[("g1", "live"), ("g1 w0", "ready"), ("keeper", "pid 1")]);
        let now = known(&[("g1", "draining"), ("g2", "live"), ("keeper", "pid 1")]);
        assert_eq!(
            changes(&before, &now),
            ["g1: draining", "g2: live", "g1 w0: no longer"]
        );
        assert!(changes(&now, &now).is_empty());
    }
}
