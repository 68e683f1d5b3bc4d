//! `gapless list`: every app on this machine, a line each, and what to do where something is wrong.

use super::Exit;
use super::absence::Absence;
use super::arguments::ListArgs;
use super::client::{self, ClientError};
use super::footprint::{self, Footprint};
use super::instance::{self, Instance, InstanceName};
use super::output::{printable, say, say_json};
use super::status::grouped;
use crate::api::{AppState, RequestTotals, Status};
use crate::causes::chain;
use crate::systemd::unit::{self, UnitState};
use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use hyper::Method;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// For each that runs; one that hangs must not hide the others.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// The answer for programs.
#[derive(Serialize)]
struct Listed {
    apps: Vec<App>,
}

/// How it is with one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    /// As the first line of its status says.
    Healthy,
    /// Likewise.
    Degraded,
    /// Likewise; or it should run, and does not answer.
    Failing,
    /// Nothing was deployed.
    WaitsForAnApp,
    /// The socket is open, the service not started.
    WaitsForARequest,
    /// It runs, and is not for the caller to ask.
    Runs,
    /// Its units are there, and down.
    Stopped,
    /// systemd could not start it.
    Failed,
    /// Only configuration or data is left.
    Removed,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::WaitsForAnApp => "waits for an app",
            Self::WaitsForARequest => "waits for a request",
            Self::Runs => "runs",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }

    fn mark(self) -> String {
        let (color, mark) = match self {
            Self::Healthy => (AnsiColor::Green, "●"),
            Self::Degraded => (AnsiColor::Yellow, "●"),
            Self::Failing | Self::Failed => (AnsiColor::Red, "●"),
            Self::WaitsForAnApp | Self::WaitsForARequest | Self::Runs => (AnsiColor::Yellow, "○"),
            Self::Stopped | Self::Removed => return "○".to_owned(),
        };
        let style = Style::new().fg_color(Some(color.into())).bold();
        format!("{style}{mark}{style:#}")
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct App {
    name: String,
    /// None: it runs in the foreground.
    unit: Option<String>,
    state: Health,
    /// None: that is not known.
    healthy: Option<bool>,
    release: Option<String>,
    addresses: Vec<String>,
    requests: Option<RequestTotals>,
    /// What is wrong.
    because: Option<String>,
    /// What to type.
    next: Option<String>,
}

/// Whoever asks, something can be said.
pub(super) fn run(args: &ListArgs) -> Exit {
    let names = footprint::all();
    let units: Vec<_> = names
        .iter()
        .flat_map(|name| [name.unit(), name.socket_unit()])
        .collect();
    // Without systemd, none of them is up.
    let states = if units.is_empty() {
        BTreeMap::new()
    } else {
        unit::states(&units).unwrap_or_default()
    };
    let apps = std::thread::scope(|threads| {
        let services = names.iter().map(|name| service(name, &states));
        let foreground = instance::foreground();
        let asked: Vec<_> = services
            .map(|it| Asked::Service(Box::new(it)))
            .chain(foreground.into_iter().map(Asked::Foreground))
            .map(|asked| threads.spawn(move || asked.app()))
            .collect();
        let answered = asked.into_iter().filter_map(|it| it.join().ok());
        answered.collect::<Vec<_>>()
    });
    if args.json {
        say_json(&Listed { apps });
    } else if apps.is_empty() {
        say("no app on this machine; next: gapless run -- CMD, or sudo gapless deploy ./myapp");
    } else {
        say(&render(&apps));
    }
    Exit::Done
}

/// A service with what systemd knows of it.
struct Service {
    footprint: Footprint,
    itself: UnitState,
    socket: UnitState,
}

fn service(name: &InstanceName, states: &BTreeMap<String, UnitState>) -> Service {
    let state = |unit: String| states.get(&unit).cloned().unwrap_or_default();
    Service {
        footprint: Footprint::of(name),
        itself: state(name.unit()),
        socket: state(name.socket_unit()),
    }
}

enum Asked {
    Service(Box<Service>),
    Foreground(Instance),
}

impl Asked {
    fn app(self) -> App {
        match self {
            Self::Service(service) => service.app(),
            Self::Foreground(instance) => {
                let mut app = App::new(&instance.name, None);
                match ask(&instance) {
                    Ok(status) => app.running(status, ""),
                    Err(error) => app.silent(&error),
                }
                app
            }
        }
    }
}

fn ask(instance: &Instance) -> Result<Status, ClientError> {
    let answer = client::ask(instance, Method::GET, "/status", Some(ANSWER_LIMIT));
    answer.and_then(|answer| answer.read())
}

impl Service {
    fn app(self) -> App {
        let footprint = &self.footprint;
        let name = &footprint.name;
        let mut app = App::new(name, Some(name.unit()));
        app.addresses = footprint.addresses();
        let current = footprint.store().current().unwrap_or(None);
        app.release = current.map(|id| id.to_string());
        let instance = instance::of_service(name);
        match ask(&instance) {
            Ok(status) => app.running(status, &name.option()),
            Err(ClientError::NotAllowed { .. }) => {
                app.state = Health::Runs;
                app.next = Some("sudo gapless list".to_owned());
                app.because = Some("you may not ask it".to_owned());
            }
            Err(ClientError::NotRunning { .. }) => self.down(&mut app),
            // systemd's socket takes the connection also while there is no keeper.
            Err(ClientError::TimedOut { .. }) if self.itself.active != "active" => {
                self.down(&mut app);
            }
            Err(error) => app.silent(&error),
        }
        app
    }

    /// Nobody listens at the control socket.
    fn down(&self, app: &mut App) {
        let absence = Absence::of(&self.footprint, &self.itself, &self.socket);
        app.state = match absence {
            Absence::Unknown { .. } | Absence::Removed => Health::Removed,
            Absence::Stopped => Health::Stopped,
            Absence::WaitsForAnApp => Health::WaitsForAnApp,
            Absence::WaitsForARequest => Health::WaitsForARequest,
            Absence::Changing(_) | Absence::Failing(_) | Absence::Mute => Health::Failing,
            Absence::Failed { .. } | Absence::Unloaded { .. } => Health::Failed,
        };
        app.because = Some(absence.to_string()).filter(|it| !it.is_empty());
        app.next = self.next(app.state);
    }

    fn next(&self, state: Health) -> Option<String> {
        let name = &self.footprint.name;
        match state {
            Health::Failing => Some(format!("gapless logs {name}")),
            Health::WaitsForAnApp => Some(format!("sudo gapless{} deploy ./myapp", name.option())),
            Health::Failed => Some(format!(
                "systemctl status {} {}",
                name.socket_unit(),
                name.unit()
            )),
            Health::Stopped => Some(format!("sudo gapless start {name}")),
            Health::Removed if *name != InstanceName::default() => Some(format!(
                "sudo gapless add {name} --listen ADDRESS, or sudo gapless remove {name} --purge"
            )),
            Health::Removed
            | Health::Healthy
            | Health::Degraded
            | Health::WaitsForARequest
            | Health::Runs => None,
        }
    }
}

impl App {
    fn new(name: &InstanceName, unit: Option<String>) -> Self {
        Self {
            name: name.to_string(),
            unit,
            state: Health::Failing,
            healthy: None,
            release: None,
            addresses: Vec::new(),
            requests: None,
            because: None,
            next: None,
        }
    }

    /// `option` is how commands mean it.
    fn running(&mut self, status: Status, option: &str) {
        let is_bare = status.is_bare() && self.release.is_none();
        self.healthy = Some(status.healthy);
        self.state = match status.app_state() {
            AppState::Healthy => Health::Healthy,
            AppState::Degraded | AppState::Failing if is_bare => Health::WaitsForAnApp,
            AppState::Degraded => Health::Degraded,
            AppState::Failing => Health::Failing,
        };
        if self.state == Health::WaitsForAnApp {
            self.next = Some(format!("sudo gapless{option} deploy ./myapp"));
        } else if !status.healthy {
            self.because = Some(printable(status.reason()));
            self.next = Some(format!("gapless{option} status"));
        }
        let live = status.generations.into_iter().find(|it| it.state == "live");
        self.release = live.map(|it| it.release).or(self.release.take());
        let for_clients = status.listeners.into_iter().filter(|it| it.name != "admin");
        self.addresses = for_clients.map(|it| it.address).collect();
        self.requests = Some(status.requests);
    }

    fn silent(&mut self, error: &ClientError) {
        self.because = Some(printable(&chain(error)));
        self.next = Some(format!("gapless logs {}", self.name));
    }
}

fn render(apps: &[App]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "APP",
        "HEALTH",
        "RELEASE",
        "LISTENS ON",
        "REQUESTS LOST",
    ]);
    for app in apps {
        let foreground = if app.unit.is_none() {
            " (foreground)"
        } else {
            ""
        };
        let lost = app.requests.as_ref().map_or_else(
            || "-".to_owned(),
            |it| format!("{} of {}", grouped(it.lost), grouped(it.total)),
        );
        let addresses: Vec<_> = app.addresses.iter().map(|it| printable(it)).collect();
        table.add_row([
            format!("{}{foreground}", app.name),
            app.state.word().to_owned(),
            printable(app.release.as_deref().unwrap_or("-")),
            or_dash(addresses.join(", ")),
            lost,
        ]);
    }
    let marks = std::iter::once(" ".to_owned()).chain(apps.iter().map(|app| app.state.mark()));
    let lines = table.lines().zip(marks);
    let mut lines: Vec<_> = lines
        .map(|(line, mark)| format!("{mark}{}", line.trim_end()))
        .collect();
    for app in apps {
        let next = app.next.as_ref().map(|next| format!("next: {next}"));
        let told: Vec<_> = app.because.clone().into_iter().chain(next).collect();
        if !told.is_empty() {
            lines.push(format!("  {}: {}", app.name, told.join("; ")));
        }
    }
    lines.join("\n")
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, state: Health) -> App {
        let name: InstanceName = name.parse().unwrap();
        App {
            state,
            addresses: vec!["[::]:8081".to_owned()],
            ..App::new(&name, Some(name.unit()))
        }
    }

    #[test]
    fn a_line_for_each_and_below_it_what_to_do() {
        let healthy = App {
            healthy: Some(true),
            release: Some("20261121-1".to_owned()),
            requests: Some(RequestTotals {
                total: 12_345,
                lost: 1,
                retries: 0,
                held: 0,
                since_unix_seconds: 0,
            }),
            ..app("gapless", Health::Healthy)
        };
        let waits = App {
            next: Some("sudo gapless --app blog deploy ./myapp".to_owned()),
            ..app("blog", Health::WaitsForAnApp)
        };
        let foreground = App {
            unit: None,
            because: Some("g2 failed".to_owned()),
            next: Some("gapless status".to_owned()),
            ..app("run", Health::Failing)
        };
        let rendered = render(&[healthy, waits, foreground]);
        let expected = "  \
  APP               HEALTH            RELEASE     LISTENS ON  REQUESTS LOST
● gapless           healthy           20261121-1  [::]:8081   1 of 12,345
○ blog              waits for an app  -           [::]:8081   -
● run (foreground)  failing           -           [::]:8081   -
  blog: next: sudo gapless --app blog deploy ./myapp
  run: g2 failed; next: gapless status";
        let plain = anstream::adapter::strip_str(&rendered).to_string();
        assert_eq!(plain.trim_start(), expected.trim_start());
    }
}
