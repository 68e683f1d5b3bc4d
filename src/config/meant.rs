//! As meant: ranges, defaults, and what depends on other keys or on the file system.
//!
//! Goes on after every problem, with the default in its place, so that all problems are found at once.

mod app;
mod http;

use super::level::{CHOICES, parse_level};
use super::problem::{Place, Problem};
use super::quantity::{AsDuration, AsSize};
use super::written::{
    HealthWritten, Key, LimitsWritten, LogWritten, Maybe, Placed, RestartWritten, Written,
};
use super::{
    AccessConfig, AccessFormat, AccessWanted, Config, ConfigSource, HealthConfig, LimitsConfig,
    LogConfig, RestartConfig,
};
use hyper::http::uri::Authority;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const WEEK: Duration = Duration::from_hours(168);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const TEN_MILLIS: Duration = Duration::from_millis(10);

/// Of one CPU: below, the kernel takes no quota; above, no machine has so many.
const CPU_PERCENT: RangeInclusive<u32> = 1..=100_000;

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

    fn health(&mut self, health: HealthWritten) -> HealthConfig {
        let default = HealthConfig::default();
        HealthConfig {
            path: self.health_path(health.path),
            host: self.health_host(health.host).unwrap_or(default.host),
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

    /// `shop.example`, with its port or without
    fn health_host(&mut self, written: Maybe<String>) -> Option<String> {
        let placed = written?;
        let host = placed.value.as_str();
        if host.parse::<Authority>().is_ok() && !host.contains('@') {
            return Some(placed.value);
        }
        let message = format!("{} = {host:?} is not a host", placed.key);
        let remedy =
            "write the name that the app is asked by, without https://: host = \"shop.example\"";
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
