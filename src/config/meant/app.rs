//! `[app]`, as meant.

use super::{HOUR, MINUTE, Meaning, SECOND};
use crate::config::program;
use crate::config::quantity::AsDuration;
use crate::config::written::{AppWritten, Maybe, Placed};
use crate::config::{AppConfig, ConfigSource, EndingError, Listen};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Processes of one generation.
const WORKERS: RangeInclusive<u32> = 1..=256;

/// Of the store; two are in use anyway.
const KEEP: RangeInclusive<u32> = 2..=1000;

/// Variables by which gapless and systemd speak to the app; a value from the file would break the
/// way the app is reached or watched.
const OURS: [&str; 7] = [
    "PORT",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

const KILL_MODES: &str = "write \"control-group\" (all processes of a worker get the stop signal) or \"mixed\" \
                          (the main process gets it, and the others SIGKILL when it has ended)";
const STOP_SIGNALS: &str = "write SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 or SIGWINCH; SIGKILL \
                            follows by itself: stop = \"10s\"";

impl Meaning<'_> {
    pub(super) fn app(&mut self, app: AppWritten, source: &ConfigSource) -> AppConfig {
        let directory = program::directory(self, &app, source);
        let command = program::command(self, &app, directory.as_deref(), source);
        let default = AppConfig::new(command, directory.unwrap_or_default());
        let listen = self.listen(app.listen.as_ref());
        let workers = self.workers(app.workers.clone(), source);
        self.fixed_port_has_one_worker(listen, workers, &app);
        AppConfig {
            env: self.env(app.env),
            workers,
            listen,
            boot: self.duration(app.boot, SECOND..=HOUR, default.boot),
            settle: self.duration(app.settle, Duration::ZERO..=5 * MINUTE, default.settle),
            drain: self.duration(app.drain, Duration::ZERO..=HOUR, default.drain),
            stop: self.duration(app.stop, Duration::ZERO..=HOUR, default.stop),
            kill_mode: self.choice(app.kill_mode, KILL_MODES),
            stop_signal: self.choice(app.stop_signal, STOP_SIGNALS),
            watchdog: self.optional(app.watchdog, &(SECOND..=HOUR), AsDuration),
            release: source.release.as_ref().map(|release| release.id.clone()),
            shared: self.shared(app.shared),
            release_command: self.program(
                app.release_command,
                "name program and arguments: release_command = [\"bin/migrate\"]",
            ),
            console: self.program(
                app.console,
                "name program and arguments: console = [\"bin/app\", \"remote\"]",
            ),
            keep: self.number(app.keep, KEEP, AppConfig::keep_by_default()),
            landlock: app.landlock.map_or(default.landlock, |it| it.value),
            ..default
        }
    }

    fn workers(&mut self, written: Maybe<i64>, source: &ConfigSource) -> NonZeroU32 {
        let written = self.positive(written, WORKERS);
        let Some(asked) = source.overrides.workers else {
            return written;
        };
        if !WORKERS.contains(&asked.get()) {
            self.report_elsewhere(
                format!("{asked} workers, asked for on the command line, are out of range"),
                format!("choose from {} to {}", WORKERS.start(), WORKERS.end()),
            );
        }
        asked
    }

    fn listen(&mut self, written: Option<&Placed<String>>) -> Listen {
        let Some(placed) = written else {
            return Listen::Auto;
        };
        let port = placed.value.strip_prefix("port:").map(str::trim);
        match (placed.value.as_str(), port) {
            ("auto", _) => return Listen::Auto,
            ("port", _) => return Listen::Port,
            ("fd", _) => return Listen::Fd,
            ("unix", _) => return Listen::Unix,
            (_, Some(port)) => {
                if let Some(port) = port_number(port) {
                    return Listen::FixedPort(port);
                }
            }
            (_, None) => {}
        }
        let last_word = placed.value.rsplit(':').next().and_then(port_number);
        let hint = last_word.map(|port| format!("did you mean \"port:{port}\"?"));
        let message = format!(
            "{} = \"{}\" is none of its choices",
            placed.key, placed.value
        );
        let remedy = "write \"auto\", \"port\" (a free port in $PORT), \"port:3000\" (the app insists \
                      on that port), \"fd\" (LISTEN_FDS) or \"unix\" (a path in $GAPLESS_SOCKET); \
                      where gapless itself listens is set in its socket unit: systemctl edit \
                      gapless.socket";
        self.report(placed, message, hint, remedy.to_owned());
        Listen::Auto
    }

    fn choice<T: FromStr<Err = EndingError> + Default>(
        &mut self,
        written: Maybe<String>,
        remedy: &str,
    ) -> T {
        let Some(placed) = written else {
            return T::default();
        };
        placed.value.parse().unwrap_or_else(|error| {
            let message = format!("{}: {error}", placed.key);
            self.report(&placed, message, None, remedy.to_owned());
            T::default()
        })
    }

    fn fixed_port_has_one_worker(&mut self, listen: Listen, workers: NonZeroU32, app: &AppWritten) {
        let (Listen::FixedPort(port), Some(placed)) = (listen, &app.listen) else {
            return;
        };
        if workers.get() == 1 {
            return;
        }
        let message = format!("{workers} workers cannot share the port {port}");
        let hint = Some("one worker only".to_owned());
        let remedy = "let the app listen on $PORT and write listen = \"port\", or set workers = 1";
        self.report(placed, message, hint, remedy.to_owned());
    }

    /// Each a place of its own inside the release.
    fn shared(&mut self, written: Maybe<Vec<String>>) -> Vec<PathBuf> {
        let Some(placed) = written else {
            return Vec::new();
        };
        let mut shared: Vec<PathBuf> = Vec::new();
        for name in &placed.value {
            let path: PathBuf = Path::new(name).components().collect();
            let is_inside = path
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            let is_apart = shared
                .iter()
                .all(|other| !path.starts_with(other) && !other.starts_with(&path));
            if is_inside && is_apart && path.file_name().is_some() {
                shared.push(path);
            } else {
                let message = format!("{}: {name:?} cannot be shared", placed.key);
                let remedy = "write relative paths of directories in the release, none inside \
                              another: shared = [\"uploads\", \"var/cache\"]";
                self.report(&placed, message, None, remedy.to_owned());
            }
        }
        shared
    }

    fn program(&mut self, written: Maybe<Vec<String>>, remedy: &str) -> Option<Vec<String>> {
        let placed = written?;
        let is_whole = placed.value.iter().all(|part| !part.contains('\0'));
        if is_whole
            && placed
                .value
                .first()
                .is_some_and(|program| !program.trim().is_empty())
        {
            return Some(placed.value);
        }
        let message = format!("{} names no program", placed.key);
        self.report(&placed, message, None, remedy.to_owned());
        None
    }

    fn env(&mut self, written: BTreeMap<String, Placed<String>>) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for (name, placed) in written {
            if OURS.contains(&name.as_str()) || name.starts_with("GAPLESS_") {
                let message = format!("{}: {name} is set by gapless", placed.key);
                let remedy = match name.as_str() {
                    "PORT" => {
                        "leave it out; where the app insists on a port, write listen = \
                               \"port:3000\" in [app]"
                    }
                    _ => "leave it out",
                };
                self.report(&placed, message, None, remedy.to_owned());
            } else if name.is_empty() || name.contains(['=', '\0']) || placed.value.contains('\0') {
                let message = format!("{}: {name:?} cannot be an environment variable", placed.key);
                let remedy = "a name is not empty and has no =, and neither has a NUL character";
                self.report(&placed, message, None, remedy.to_owned());
            } else {
                env.insert(name, placed.value);
            }
        }
        env
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}
