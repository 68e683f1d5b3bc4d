//! As meant: ranges, defaults, and what depends on other keys or on the file system.
//!
//! Goes on after every problem, with the default in its place, so that all problems are found at once.

use super::level::{CHOICES, parse_level};
use super::problem::{Place, Problem};
use super::program;
use super::quantity::{AsDuration, AsSize};
use super::written::{
    AppWritten, HealthWritten, HttpWritten, Key, LimitsWritten, LogWritten, Maybe, Placed,
    RestartWritten, Written,
};
use super::{
    AccessConfig, AccessFormat, AccessWanted, AppConfig, Config, ConfigSource, HealthConfig,
    HttpConfig, LimitsConfig, Listen, LogConfig, ProxyProtocol, RestartConfig,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const WEEK: Duration = Duration::from_hours(168);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const TEN_MILLIS: Duration = Duration::from_millis(10);

/// Processes of one generation.
const WORKERS: RangeInclusive<u32> = 1..=256;

/// Of the store; two are in use anyway.
const KEEP: RangeInclusive<u32> = 2..=1000;

/// Of one CPU: below, the kernel takes no quota; above, no machine has so many.
const CPU_PERCENT: RangeInclusive<u32> = 1..=100_000;

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

/// Gives what was written its meaning.
pub fn mean(
    text: &str,
    split: usize,
    written: Written,
    source: &ConfigSource,
) -> (Config, Vec<Problem>) {
    let mut meaning = Meaning {
        text,
        split,
        problems: Vec::new(),
    };
    let has_path = written.health.path.clone();
    let passes = written.health.passes.clone();
    let config = Config {
        app: meaning.app(written.app, source),
        health: meaning.health(written.health),
        restart: meaning.restart(written.restart),
        http: meaning.http(written.http),
        limits: meaning.limits(written.limits),
        log: meaning.log(written.log),
    };
    meaning.passes_within_boot(&config, has_path.is_some(), passes.as_ref());
    (config, meaning.problems)
}

/// What is being found out.
pub(super) struct Meaning<'t> {
    text: &'t str,
    /// From here on it is the file of the release.
    split: usize,
    problems: Vec<Problem>,
}

impl Meaning<'_> {
    /// It stands in the file of the release.
    pub(super) fn is_of_release<T>(&self, placed: &Placed<T>) -> bool {
        placed.span.start >= self.split
    }

    pub(super) fn report<T>(
        &mut self,
        placed: &Placed<T>,
        message: String,
        hint: Option<String>,
        remedy: String,
    ) {
        let place = Some(Place::new(self.text, placed.span.clone()));
        self.problems.push(Problem {
            message,
            hint,
            remedy,
            place,
        });
    }

    pub(super) fn report_elsewhere(&mut self, message: String, remedy: String) {
        self.problems.push(Problem {
            message,
            hint: None,
            remedy,
            place: None,
        });
    }

    fn out_of_range<T>(&mut self, placed: &Placed<T>, lowest: &str, highest: &str, default: &str) {
        let Key { name, .. } = placed.key;
        let value = self.text.get(placed.span.clone()).unwrap_or_default();
        let message = format!("{} = {value} is out of range", placed.key);
        let hint = format!("from {lowest} to {highest}");
        let default = match default {
            "" => String::new(),
            default => format!("; it is {default} when nothing is written"),
        };
        self.report(
            placed,
            message,
            Some(hint),
            format!("choose {name} from that range{default}"),
        );
    }

    fn in_range<T: PartialOrd + Copy, S: Display>(
        &mut self,
        written: Maybe<T>,
        range: &RangeInclusive<T>,
        default: T,
        show: impl Fn(T) -> S,
    ) -> T {
        match written {
            None => default,
            Some(placed) if range.contains(&placed.value) => placed.value,
            Some(placed) => {
                let [lowest, highest, default_shown] =
                    [*range.start(), *range.end(), default].map(|value| show(value).to_string());
                self.out_of_range(&placed, &lowest, &highest, &default_shown);
                default
            }
        }
    }

    fn duration(
        &mut self,
        written: Maybe<Duration>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        self.in_range(written, &range, default, AsDuration)
    }

    fn size(&mut self, written: Maybe<u64>, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.in_range(written, &range, default, AsSize)
    }

    fn number(&mut self, written: Maybe<i64>, range: RangeInclusive<u32>, default: u32) -> u32 {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        let number = self.in_range(written, &range, i64::from(default), |number| number);
        u32::try_from(number).unwrap_or(default)
    }

    fn positive(&mut self, written: Maybe<i64>, range: RangeInclusive<u32>) -> NonZeroU32 {
        NonZeroU32::new(self.number(written, range, 1)).unwrap_or(NonZeroU32::MIN)
    }

    /// A key whose absence has a meaning of its own.
    fn optional<T: PartialOrd + Copy, S: Display>(
        &mut self,
        written: Maybe<T>,
        range: &RangeInclusive<T>,
        show: impl Fn(T) -> S,
    ) -> Option<T> {
        let placed = written?;
        if range.contains(&placed.value) {
            return Some(placed.value);
        }
        let (lowest, highest) = (show(*range.start()), show(*range.end()));
        self.out_of_range(&placed, &lowest.to_string(), &highest.to_string(), "");
        None
    }

    fn app(&mut self, app: AppWritten, source: &ConfigSource) -> AppConfig {
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

    fn health(&mut self, health: HealthWritten) -> HealthConfig {
        let default = HealthConfig::default();
        HealthConfig {
            path: self.health_path(health.path),
            status: self
                .status_range(health.status.as_ref())
                .unwrap_or(default.status),
            passes: self.positive(health.passes, 1..=100),
            interval: self.duration(health.interval, TEN_MILLIS..=MINUTE, default.interval),
            timeout: self.duration(health.timeout, TEN_MILLIS..=MINUTE, default.timeout),
            every: self.duration(health.every, SECOND..=HOUR, default.every),
            fails: NonZeroU32::new(self.number(health.fails, 1..=100, default.fails.get()))
                .unwrap_or(default.fails),
        }
    }

    fn health_path(&mut self, written: Maybe<String>) -> Option<String> {
        let placed = written?;
        let path = placed.value.as_str();
        if path.starts_with('/') && path.parse::<hyper::http::uri::PathAndQuery>().is_ok() {
            return Some(placed.value);
        }
        let message = format!("{} = {path:?} is not a path", placed.key);
        let remedy = "write the path of the URL alone, it begins with a slash: path = \"/health\"";
        self.report(&placed, message, None, remedy.to_owned());
        None
    }

    /// `"200-299"`, `"200"`
    fn status_range(&mut self, written: Option<&Placed<String>>) -> Option<(u16, u16)> {
        let placed = written?;
        let (lowest, highest) = placed
            .value
            .split_once('-')
            .unwrap_or((&placed.value, &placed.value));
        let status = |text: &str| text.trim().parse().ok().filter(|s| (100..=599).contains(s));
        match (status(lowest), status(highest)) {
            (Some(lowest), Some(highest)) if lowest <= highest => Some((lowest, highest)),
            _ => {
                let value = &placed.value;
                let message = format!("{} = {value:?} is no range of HTTP statuses", placed.key);
                let remedy = "write the lowest and the highest, from 100 to 599: status = \
                              \"200-299\", or one: status = 200";
                self.report(placed, message, None, remedy.to_owned());
                None
            }
        }
    }

    fn passes_within_boot(
        &mut self,
        config: &Config,
        has_path: bool,
        passes: Option<&Placed<i64>>,
    ) {
        let (health, boot) = (&config.health, config.app.boot);
        let shortest = health
            .interval
            .saturating_mul(health.passes.get().saturating_sub(1));
        if let Some(placed) = passes.filter(|_| has_path && shortest >= boot) {
            let message = format!(
                "{} good answers, one every {}, cannot come within boot = {}",
                health.passes,
                AsDuration(health.interval),
                AsDuration(boot),
            );
            let remedy = "lower passes or interval in [health], or raise boot in [app]".to_owned();
            self.report(placed, message, None, remedy);
        }
    }

    fn restart(&mut self, restart: RestartWritten) -> RestartConfig {
        let default = RestartConfig::default();
        let which = restart
            .delay_max
            .clone()
            .or_else(|| restart.delay_min.clone());
        let meant = RestartConfig {
            burst: self.number(restart.burst, 0..=1000, default.burst),
            interval: self.duration(restart.interval, SECOND..=HOUR, default.interval),
            delay_min: self.duration(restart.delay_min, TEN_MILLIS..=HOUR, default.delay_min),
            delay_max: self.duration(restart.delay_max, TEN_MILLIS..=HOUR, default.delay_max),
        };
        if let Some(placed) = which.filter(|_| meant.delay_min > meant.delay_max) {
            let (min, max) = (AsDuration(meant.delay_min), AsDuration(meant.delay_max));
            let message = format!("delay_min = {min} is longer than delay_max = {max}");
            let remedy = "raise delay_max or lower delay_min in [restart]".to_owned();
            self.report(&placed, message, None, remedy);
        }
        meant
    }

    fn http(&mut self, http: HttpWritten) -> HttpConfig {
        let default = HttpConfig::default();
        let head_bytes_max = u64::try_from(default.head_bytes_max).unwrap_or(u64::MAX);
        let head_bytes_max = self.size(http.head_bytes_max, 8 << 10..=1 << 20, head_bytes_max);
        let headers_max = self.number(http.headers_max, 10..=10_000, 100);
        let lanes = self.optional(http.lanes, &(1..=256), |lanes| lanes);
        let lanes = lanes
            .and_then(|lanes| u32::try_from(lanes).ok())
            .and_then(NonZeroU32::new);
        let trusted_proxies = self.networks(http.trusted_proxies);
        HttpConfig {
            lanes,
            hold: self.duration(http.hold, Duration::ZERO..=10 * MINUTE, default.hold),
            held_max: self.number(http.held_max, 0..=1_000_000, default.held_max),
            connections_max: self.number(
                http.connections_max,
                1..=1_000_000,
                default.connections_max,
            ),
            connections_per_address_max: self
                .optional(http.connections_per_address_max, &(1..=1_000_000), |max| {
                    max
                })
                .and_then(|max| u32::try_from(max).ok())
                .and_then(NonZeroU32::new),
            head_timeout: self.duration(http.head_timeout, SECOND..=HOUR, default.head_timeout),
            body_timeout: self.duration(http.body_timeout, SECOND..=HOUR, default.body_timeout),
            write_timeout: self.duration(http.write_timeout, SECOND..=HOUR, default.write_timeout),
            rate_min: self.size(http.rate_min, 0..=1 << 20, default.rate_min),
            idle_timeout: self.duration(http.idle_timeout, SECOND..=DAY, default.idle_timeout),
            response_timeout: self.duration(
                http.response_timeout,
                SECOND..=DAY,
                default.response_timeout,
            ),
            tunnels: self.duration(http.tunnels, Duration::ZERO..=DAY, default.tunnels),
            connect: http.connect.map_or(default.connect, |it| it.value),
            upgrade_drain: self.optional(http.upgrade_drain, &(SECOND..=WEEK), AsDuration),
            head_bytes_max: usize::try_from(head_bytes_max).unwrap_or(default.head_bytes_max),
            headers_max: usize::try_from(headers_max).unwrap_or(default.headers_max),
            body_bytes_max: self.size(http.body_bytes_max, 0..=1 << 40, default.body_bytes_max),
            proxy_protocol: self.proxy_protocol(http.proxy_protocol, &trusted_proxies),
            trusted_proxies,
            retry_after_seconds: self.whole_seconds(http.retry_after, default.retry_after_seconds),
        }
    }

    /// Networks, and addresses, which are networks of one.
    fn networks(&mut self, written: Maybe<Vec<String>>) -> Vec<IpNet> {
        let Some(placed) = written else {
            return Vec::new();
        };
        let mut networks = Vec::new();
        for text in &placed.value {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            if let Ok(network) = text.parse::<IpNet>().or(address) {
                networks.push(network);
                continue;
            }
            let message = format!("{}: {text:?} is no address or network", placed.key);
            let remedy = "write addresses or networks, no names: trusted_proxies = \
                          [\"127.0.0.1\", \"10.0.0.0/8\", \"fd00::/8\"]";
            self.report(&placed, message, None, remedy.to_owned());
        }
        networks
    }

    /// A PROXY header is believed from whom we trust; with nobody to trust, nobody could connect.
    fn proxy_protocol(&mut self, written: Maybe<String>, trusted: &[IpNet]) -> ProxyProtocol {
        let Some(placed) = written else {
            return ProxyProtocol::Off;
        };
        match placed.value.as_str() {
            "off" => ProxyProtocol::Off,
            "require" if trusted.is_empty() => {
                let message = format!("{} = \"require\" without trusted_proxies", placed.key);
                let hint = Some("who may send PROXY headers?".to_owned());
                let remedy = "name the load balancers: trusted_proxies = [\"10.0.0.5\"]; over a unix \
                              socket any header is taken, and \"127.0.0.1\" is as good as any";
                self.report(&placed, message, hint, remedy.to_owned());
                ProxyProtocol::Require
            }
            "require" => ProxyProtocol::Require,
            other => {
                let message = format!("{} = {other:?} is none of its choices", placed.key);
                let remedy = "write \"off\" (connections begin with HTTP) or \"require\" (each begins \
                              with a PROXY header of a trusted proxy)";
                self.report(&placed, message, None, remedy.to_owned());
                ProxyProtocol::Off
            }
        }
    }

    /// Retry-After has no fractions: RFC 9110, section 10.2.3.
    fn whole_seconds(&mut self, written: Maybe<Duration>, default: u32) -> u32 {
        let whole = written.filter(|placed| {
            let is_whole = placed.value.subsec_nanos() == 0;
            if !is_whole {
                let message = format!("{} is not in whole seconds", placed.key);
                let remedy = "HTTP has no parts of a second here: retry_after = \"1s\"".to_owned();
                self.report(placed, message, None, remedy);
            }
            is_whole
        });
        let default_duration = Duration::from_secs(u64::from(default));
        let seconds = self
            .duration(whole, SECOND..=HOUR, default_duration)
            .as_secs();
        u32::try_from(seconds).unwrap_or(default)
    }

    fn limits(&mut self, limits: LimitsWritten) -> LimitsConfig {
        let tasks = self.optional(limits.tasks, &(1..=4_194_304), |tasks| tasks);
        LimitsConfig {
            memory: self.optional(limits.memory, &((1 << 20)..=(1 << 50)), AsSize),
            tasks: tasks.and_then(|tasks| u32::try_from(tasks).ok()),
            cpu: limits.cpu.and_then(|placed| self.percent(&placed)),
        }
    }

    fn percent(&mut self, placed: &Placed<String>) -> Option<u32> {
        let digits = placed.value.strip_suffix('%').map(str::trim_end);
        let percent = digits.and_then(|digits| digits.parse().ok());
        let percent = percent.filter(|percent| CPU_PERCENT.contains(percent));
        if percent.is_none() {
            let message = format!("{} = {:?} is no share of a CPU", placed.key, placed.value);
            let remedy = "write percent of one CPU, from 1% to 100000%: cpu = \"150%\" is one and a \
                          half";
            self.report(placed, message, None, remedy.to_owned());
        }
        percent
    }

    fn log(&mut self, log: LogWritten) -> LogConfig {
        let default = LogConfig::default();
        let wanted = log.access.and_then(|placed| self.access_wanted(&placed));
        let format = log
            .access_format
            .and_then(|placed| self.access_format(&placed));
        LogConfig {
            access: AccessConfig {
                wanted: wanted.unwrap_or(default.access.wanted),
                has_query: log
                    .access_query
                    .map_or(default.access.has_query, |it| it.value),
                format: format.unwrap_or(default.access.format),
            },
            level: self.level(log.level).unwrap_or(default.level),
            app_lines_per_second_max: self.number(
                log.app_lines_per_second_max,
                1..=1_000_000,
                default.app_lines_per_second_max,
            ),
        }
    }

    fn access_wanted(&mut self, placed: &Placed<String>) -> Option<AccessWanted> {
        let wanted = AccessWanted::parse(&placed.value);
        if wanted.is_none() {
            let message = format!("{} = {:?} is none of its choices", placed.key, placed.value);
            let remedy = "write \"off\", \"errors\", \"all\", or the share of the requests that \
                          is logged, with up to four decimals: \"1%\", \"0.5%\"";
            self.report(placed, message, None, remedy.to_owned());
        }
        wanted
    }

    fn access_format(&mut self, placed: &Placed<String>) -> Option<AccessFormat> {
        let format = AccessFormat::parse(&placed.value);
        if format.is_none() {
            let message = format!("{} = {:?} is none of its choices", placed.key, placed.value);
            let remedy = "write \"common\", \"combined\" or \"json\"";
            self.report(placed, message, None, remedy.to_owned());
        }
        format
    }

    fn level(&mut self, written: Maybe<String>) -> Option<String> {
        let placed = written?;
        let error = match parse_level(&placed.value) {
            Ok(level) => return Some(level),
            Err(error) => error,
        };
        let hint = error
            .proposal()
            .map(|level| format!("did you mean \"{level}\"?"));
        let message = format!("{} = {:?}: {}", placed.key, placed.value, error.why());
        let remedy = format!("{CHOICES}: level = \"info,gapless::front=debug\"");
        self.report(&placed, message, hint, remedy);
        None
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}
