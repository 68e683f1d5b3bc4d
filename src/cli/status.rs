//! `gapless status`: answers "is it fine?" in its first line, and the rest below.

pub(super) mod listening;

use super::client::{self, ANSWER_LIMIT};
use super::hold::clock;
use super::output::{printable, say};
use super::progress::plural;
use super::{CliError, Exit, StatusArgs, instance, watch};
use crate::api::{
    AppState, FrontStatus, GenerationStatus, HoldStatus, ReloadOutcome, Status, Verdict,
    WorkerStatus,
};
use crate::exec::cage::Cage;
use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use hyper::Method;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Asks once.
pub(super) fn run(args: &StatusArgs) -> Result<Exit, CliError> {
    let instance = instance::find(args.name.as_ref())?;
    if args.watch {
        let app = instance::option(args.name.as_ref());
        return watch::run(&instance, &app, args.json);
    }
    let answer = client::ask(&instance, Method::GET, "/status", Some(ANSWER_LIMIT))?;
    let status: Status = answer.read()?;
    if args.json {
        say(&answer.text());
    } else {
        let units = listening::units_of(&instance);
        say(&render(
            &status,
            &instance::option(args.name.as_ref()),
            &units,
        ));
    }
    Ok(exit(&status))
}

pub(super) fn exit(status: &Status) -> Exit {
    if status.healthy {
        Exit::Done
    } else {
        Exit::Failed
    }
}

/// What of the cage of the app is not there.
fn missing_of(cage: Cage) -> Option<&'static str> {
    match cage {
        Cage::Whole => None,
        Cage::Memory => Some("the app can signal gapless; Linux 6.12 holds that back"),
        Cage::None => Some(
            "not in force: the app can signal gapless, and read its memory while it starts; needs Linux 5.19 with \
             Landlock, and NoNewPrivileges= and SystemCallFilter= of the unit as they were shipped",
        ),
        Cage::Off => Some("off, as [app] landlock says"),
    }
}

/// `app` names it in the next commands, where it was named in this one. `units`: see
/// [`listening::units_of`].
pub(super) fn render(status: &Status, app: &str, units: &BTreeMap<String, String>) -> String {
    let mut lines = vec![headline(status)];
    if !status.healthy && !status.reason().is_empty() {
        lines.push(field("because", &printable(status.reason())));
    }
    if let Some(why) = &status.limits_not_in_force {
        lines.push(field(
            "limits",
            &format!("not in force: {}", printable(why)),
        ));
    }
    if let Some(why) = status.landlock.and_then(missing_of) {
        lines.push(field("landlock", why));
    }
    if let Some(hold) = &status.hold {
        lines.push(field("on hold", &on_hold(hold, app)));
    }
    if let Some(since) = status.drained_since_unix_seconds {
        let since = minute(since);
        lines.push(field(
            "drained",
            &format!(
                "since {since}: /readyz says 503, serving goes on; the end: gapless{app} undrain"
            ),
        ));
    }
    if !status.listeners.is_empty() {
        lines.push(field(
            "listening",
            &listening::shown(&status.listeners, units),
        ));
    }
    lines.push(field("keeper", &keeper(status)));
    lines.extend(status.fronts.iter().map(|it| field("front", &front(it))));
    lines.push(field("requests", &requests(status)));
    if let Some(outcome) = status
        .last_outcome
        .as_ref()
        .filter(|it| it.verdict != Verdict::Live)
    {
        lines.push(field("last", &failed_outcome(outcome)));
    }
    if !status.generations.is_empty() {
        lines.push(String::new());
        lines.extend(generations(&status.generations));
    }
    let remarks = remarks(&status.generations);
    if !remarks.is_empty() {
        lines.push(String::new());
        lines.extend(remarks);
    }
    lines.join("\n")
}

fn headline(status: &Status) -> String {
    let state = status.app_state();
    let color = match state {
        AppState::Healthy => AnsiColor::Green,
        AppState::Degraded => AnsiColor::Yellow,
        AppState::Failing => AnsiColor::Red,
    };
    let health = if status.is_bare() {
        "waits for an app"
    } else {
        state.word()
    };
    let style = Style::new().fg_color(Some(color.into())).bold();
    let live = status
        .generations
        .iter()
        .find(|generation| generation.state == "live");
    let live = live.map_or_else(
        || "nothing live".to_owned(),
        |generation| {
            let workers = generation.workers.len();
            let plural = if workers == 1 { "" } else { "s" };
            format!("{} live, {workers} worker{plural}", generation.id)
        },
    );
    let totals = &status.requests;
    let (lost, total) = (grouped(totals.lost), grouped(totals.total));
    let since = minute(totals.since_unix_seconds);
    let name = printable(&status.name);
    let name = if name == "gapless" {
        name
    } else {
        format!("gapless {name}")
    };
    format!(
        "{style}●{style:#} {name}: {style}{health}{style:#} — {live}, {lost} of {total} requests \
         lost since {since}"
    )
}

fn field(name: &str, value: &str) -> String {
    format!("  {name:<9}  {value}")
}

pub(super) fn on_hold(hold: &HoldStatus, app: &str) -> String {
    let (since, until) = (
        clock(hold.since_unix_seconds),
        clock(hold.until_unix_seconds),
    );
    let quiet = if hold.is_quiet {
        "nothing is in flight"
    } else {
        "some are still in flight"
    };
    format!(
        "new requests wait since {since}, until {until} at most; {quiet}; the end: \
         gapless{app} resume"
    )
}

fn keeper(status: &Status) -> String {
    let Status {
        pid,
        gapless_version,
        uptime_seconds,
        ..
    } = status;
    format!(
        "pid {pid}, gapless {}, up {}",
        printable(gapless_version),
        span(*uptime_seconds)
    )
}

fn front(front: &FrontStatus) -> String {
    let usage = front.usage.map_or_else(String::new, |usage| {
        let cpu = usage.cpu.as_secs_f64();
        format!("; CPU {cpu:.1} s, memory {}", memory(usage.memory_bytes))
    });
    format!(
        "{}, pid {}, {}: {}, {}, {} in flight, {} held{usage}",
        front.id,
        front.pid,
        printable(&front.state),
        plural(front.connections, "connection"),
        plural(front.tunnels, "tunnel"),
        grouped(front.in_flight),
        grouped(front.held),
    )
}

fn requests(status: &Status) -> String {
    let totals = &status.requests;
    let (held, retries) = (grouped(totals.held), grouped(totals.retries));
    format!("{held} had to wait for a live generation, {retries} were sent twice")
}

fn failed_outcome(outcome: &ReloadOutcome) -> String {
    let what = outcome
        .generation
        .map_or_else(|| "reload".to_owned(), |id| id.to_string());
    format!("{what} failed: {}", printable(&outcome.cause))
}

/// One row per worker; what belongs to the generation stands in its first row.
fn generations(generations: &[GenerationStatus]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "GEN",
        "RELEASE",
        "STATE",
        "IN FLIGHT",
        "WORKER",
        "PID",
        "",
        "AGE",
        "CPU",
        "MEMORY",
        "RESPAWNS",
    ]);
    for generation in generations {
        let own = [
            generation.id.to_string(),
            printable(&generation.release),
            printable(&generation.state),
            grouped(generation.leases),
        ];
        let mut own = Some(own);
        for worker in &generation.workers {
            let first = own.take().unwrap_or_default();
            table.add_row(first.into_iter().chain(worker_cells(worker)));
        }
        if let Some(own) = own {
            let age = [
                String::new(),
                String::new(),
                String::new(),
                span(generation.age_seconds),
            ];
            table.add_row(own.into_iter().chain(age));
        }
    }
    for index in [3, 5, 7, 8, 9, 10] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| format!(" {}", line.trim_end()))
        .collect()
}

fn worker_cells(worker: &WorkerStatus) -> [String; 7] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        worker.slot.to_string(),
        or_dash(worker.pid.map(|pid| pid.to_string())),
        printable(&worker.state),
        span(worker.age_seconds),
        or_dash(worker.cpu_seconds.map(|seconds| format!("{seconds:.1} s"))),
        or_dash(worker.memory_bytes.map(memory)),
        grouped(worker.respawns),
    ]
}

/// What somebody said about a state.
fn remarks(generations: &[GenerationStatus]) -> Vec<String> {
    let mut remarks = Vec::new();
    for generation in generations {
        let id = generation.id;
        remarks.extend(
            generation
                .why
                .iter()
                .map(|why| format!("  {id}: {}", printable(why))),
        );
        for worker in &generation.workers {
            let said = worker.said.iter();
            remarks.extend(
                said.map(|said| format!("  {id} {} says: {}", worker.slot, printable(said))),
            );
            let kept = printable(&worker.kept.join(", "));
            remarks.extend(
                (!kept.is_empty()).then(|| format!("  {id} {} keeps: {kept}", worker.slot)),
            );
        }
    }
    remarks
}

/// `12,345`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The two largest units: `45 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        (_, _, _) => format!("{days} d {} h", hours % 24),
    }
}

/// `310 MiB`, `1.5 GiB`
pub(super) fn memory(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    if bytes >= GIB {
        format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}

/// `2026-11-20 14:02 UTC`: the same on every machine that looks.
pub(super) fn minute(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "?".to_owned(),
            |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ListenerStatus;
    use crate::api::RequestTotals;
    use crate::id::{FrontId, GenerationId, Slot};
    use crate::usage::Usage;
    use std::time::Duration;

    fn worker(slot: u32, pid: Option<u32>) -> WorkerStatus {
        WorkerStatus {
            slot: Slot(slot),
            pid,
            state: if pid.is_some() {
                "ready"
            } else {
                "waiting to respawn"
            }
            .to_owned(),
            said: None,
            endpoint: Some("127.0.0.1:4711".to_owned()),
            age_seconds: 7500,
            respawns: u64::from(slot),
            memory_bytes: pid.map(|_| 310 << 20),
            cpu_seconds: pid.map(|_| 12.34),
            threads: Some(4),
            fds: Some(12),
            kept: Vec::new(),
        }
    }

    fn generation(id: u64, state: &str, workers: Vec<WorkerStatus>) -> GenerationStatus {
        GenerationStatus {
            id: GenerationId(id),
            state: state.to_owned(),
            why: None,
            age_seconds: 7500,
            leases: 3,
            release: "shop-2".to_owned(),
            directory: "/srv/shop".into(),
            command: vec!["bin/server".to_owned()],
            console: Vec::new(),
            workers,
        }
    }

    fn status() -> Status {
        Status {
            name: "gapless".to_owned(),
            gapless_version: "0.1.0".to_owned(),
            pid: 4242,
            uptime_seconds: 273_600,
            healthy: true,
            state: Some(AppState::Healthy),
            because: None,
            summary: "g7 is live".to_owned(),
            listeners: vec![ListenerStatus {
                name: "http".to_owned(),
                address: "[::]:80".to_owned(),
            }],
            generations: vec![
                generation(6, "draining", Vec::new()),
                generation(7, "live", vec![worker(0, Some(91_833)), worker(1, None)]),
            ],
            fronts: vec![FrontStatus {
                id: FrontId(3),
                pid: 4300,
                state: "serving".to_owned(),
                connections: 1200,
                settled: 1194,
                tunnels: 3,
                in_flight: 6,
                held: 0,
                usage: Some(Usage {
                    memory_bytes: 21 << 20,
                    cpu: Duration::from_millis(3210),
                    threads: 3,
                    fds: Some(1230),
                }),
            }],
            requests: RequestTotals {
                total: 12_345,
                lost: 0,
                retries: 2,
                held: 17,
                since_unix_seconds: 1_795_183_320,
            },
            last_outcome: None,
            limits_obstacle: None,
            limits_not_in_force: None,
            landlock: None,
            last_upgrade: None,
            drained_since_unix_seconds: None,
            served_live: None,
            served_before: None,
            hold: None,
            state_directory: None,
        }
    }

    fn plain(status: &Status) -> String {
        let name = status.name.parse::<instance::InstanceName>().unwrap();
        anstream::adapter::strip_str(&render(status, &name.option(), &BTreeMap::new())).to_string()
    }

    #[test]
    fn the_first_line_answers_and_the_table_wastes_no_width() {
        let expected = "\
● gapless: healthy — g7 live, 2 workers, 0 of 12,345 requests lost since 2026-11-20 14:02 UTC
  listening  [::]:80 (http)
  keeper     pid 4242, gapless 0.1.0, up 3 d 4 h
  front      f3, pid 4300, serving: 1,200 connections, 3 tunnels, 6 in flight, 0 held; CPU 3.2 s, memory 21 MiB
  requests   17 had to wait for a live generation, 2 were sent twice

  GEN  RELEASE  STATE     IN FLIGHT  WORKER    PID                            AGE     CPU   MEMORY  RESPAWNS
  g6   shop-2   draining          3                                     2 h 5 min
  g7   shop-2   live              3  w0      91833  ready               2 h 5 min  12.3 s  310 MiB         0
                                     w1          -  waiting to respawn  2 h 5 min       -        -         1";
        assert_eq!(plain(&status()), expected);
    }

    #[test]
    fn what_is_wrong_stands_below_the_first_line() {
        let mut status = status();
        status.name = "shop".to_owned();
        status.drained_since_unix_seconds = Some(1_786_000_000);
        status.hold = Some(HoldStatus {
            since_unix_seconds: 1_786_000_000,
            until_unix_seconds: 1_786_000_010,
            is_quiet: true,
        });
        status.limits_not_in_force = Some("no group".to_owned());
        status.healthy = false;
        status.state = Some(AppState::Failing);
        status.summary = "g8 failed, nothing is live".to_owned();
        status.generations = vec![generation(8, "starting", vec![worker(0, None)])];
        status.generations[0].why = Some("waiting for GET /health".to_owned());
        status.generations[0].workers[0].said = Some("migrating\u{1b}[2J".to_owned());
        status.generations[0].workers[0].kept = vec!["state".to_owned(), "door".to_owned()];
        status.last_outcome = Some(ReloadOutcome {
            generation: None,
            verdict: Verdict::ConfigInvalid,
            cause: "no command".to_owned(),
            code: None,
            cure: None,
            last_lines: Vec::new(),
            elapsed_ms: 1,
            live: None,
            release: None,
        });
        let expected = "\
● gapless shop: failing — nothing live, 0 of 12,345 requests lost since 2026-11-20 14:02 UTC
  because    g8 failed, nothing is live
  limits     not in force: no group
  on hold    new requests wait since 07:06:40 UTC, until 07:06:50 UTC at most; nothing is in flight; the end: gapless --app shop resume
  drained    since 2026-08-06 07:06 UTC: /readyz says 503, serving goes on; the end: gapless --app shop undrain
  listening  [::]:80 (http)
  keeper     pid 4242, gapless 0.1.0, up 3 d 4 h
  front      f3, pid 4300, serving: 1,200 connections, 3 tunnels, 6 in flight, 0 held; CPU 3.2 s, memory 21 MiB
  requests   17 had to wait for a live generation, 2 were sent twice
  last       reload failed: no command

  GEN  RELEASE  STATE     IN FLIGHT  WORKER  PID                            AGE  CPU  MEMORY  RESPAWNS
  g8   shop-2   starting          3  w0        -  waiting to respawn  2 h 5 min    -       -         0

  g8: waiting for GET /health
  g8 w0 says: migrating
  g8 w0 keeps: state, door";
        assert_eq!(plain(&status), expected);
    }

    #[test]
    fn where_nothing_was_deployed_an_app_is_waited_for() {
        let mut status = status();
        status.healthy = false;
        status.state = Some(AppState::Degraded);
        status.generations = Vec::new();
        let said = plain(&status);
        assert!(
            said.starts_with("● gapless: waits for an app — nothing live"),
            "{said}"
        );
    }

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(41_208_113), "41,208,113");
        assert_eq!(span(45), "45 s");
        assert_eq!(span(185), "3 min 5 s");
        assert_eq!(span(90_000), "1 d 1 h");
        assert_eq!(memory(310 << 20), "310 MiB");
        assert_eq!(memory(3 << 29), "1.5 GiB");
    }
}
