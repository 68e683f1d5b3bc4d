//! All settings as text, by section, in the order of the manual.

use super::shown_command;
use crate::config::{
    AppConfig, AsDuration, AsSize, Config, HealthConfig, HttpConfig, LimitsConfig, LogConfig,
    ProxyProtocol, RestartConfig,
};
use std::time::Duration;

/// `[app] boot`, and its value.
pub(super) type Setting = (&'static str, String);

type Settings = Vec<Setting>;

/// But for what the head of the answer says of the app.
pub(super) fn settings(config: &Config) -> Settings {
    let Config {
        app,
        health,
        restart,
        http,
        limits,
        log,
    } = config;
    [
        of_app(app),
        of_health(health),
        of_restart(restart),
        of_http(http),
        of_limits(limits),
        of_log(log),
    ]
    .concat()
}

fn of_app(app: &AppConfig) -> Settings {
    // Names only: values may be secrets, though that is not the place for them.
    let names: Vec<_> = app.env.keys().map(String::as_str).collect();
    let shared: Vec<_> = app
        .shared
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let release_command = app.release_command.as_deref().unwrap_or_default();
    let console = app.console.as_deref().unwrap_or_default();
    vec![
        ("[app] env", or_none(&names.join(", "))),
        ("[app] boot", duration(app.boot)),
        ("[app] settle", duration(app.settle)),
        ("[app] drain", duration(app.drain)),
        ("[app] stop", duration(app.stop)),
        ("[app] kill_mode", app.kill_mode.to_string()),
        ("[app] stop_signal", app.stop_signal.to_string()),
        ("[app] watchdog", limit(app.watchdog.map(AsDuration))),
        ("[app] shared", or_none(&shared.join(", "))),
        (
            "[app] release_command",
            or_none(&shown_command(release_command)),
        ),
        ("[app] console", or_none(&shown_command(console))),
        ("[app] keep", app.keep.to_string()),
        ("[app] landlock", app.landlock.to_string()),
    ]
}

fn of_health(health: &HealthConfig) -> Settings {
    let (lowest, highest) = health.status;
    let path = health.path.as_deref().unwrap_or_default();
    vec![
        ("[health] path", or_none(path)),
        ("[health] host", health.host.clone()),
        ("[health] status", format!("{lowest}-{highest}")),
        ("[health] passes", health.passes.to_string()),
        ("[health] interval", duration(health.interval)),
        ("[health] timeout", duration(health.timeout)),
        ("[health] every", duration(health.every)),
        ("[health] fails", health.fails.to_string()),
    ]
}

fn of_restart(restart: &RestartConfig) -> Settings {
    vec![
        ("[restart] burst", restart.burst.to_string()),
        ("[restart] interval", duration(restart.interval)),
        ("[restart] delay_min", duration(restart.delay_min)),
        ("[restart] delay_max", duration(restart.delay_max)),
    ]
}

fn of_http(http: &HttpConfig) -> Settings {
    let proxies = http.trusted_proxies.iter().map(ToString::to_string);
    let proxies = proxies.collect::<Vec<_>>().join(", ");
    let per_address = limit(http.connections_per_address_max);
    let upgrade_drain = limit(http.upgrade_drain.map(AsDuration));
    let lanes = http.lanes.map(|lanes| lanes.to_string());
    let head_bytes_max = u64::try_from(http.head_bytes_max).unwrap_or(u64::MAX);
    let proxy_protocol = match http.proxy_protocol {
        ProxyProtocol::Off => "off",
        ProxyProtocol::Require => "require",
    };
    let retry_after = Duration::from_secs(http.retry_after_seconds.into());
    vec![
        ("[http] lanes", lanes.unwrap_or("one per core".to_owned())),
        ("[http] hold", duration(http.hold)),
        ("[http] held_max", http.held_max.to_string()),
        ("[http] connections_max", http.connections_max.to_string()),
        ("[http] connections_per_address_max", per_address),
        ("[http] head_timeout", duration(http.head_timeout)),
        ("[http] body_timeout", duration(http.body_timeout)),
        ("[http] write_timeout", duration(http.write_timeout)),
        ("[http] rate_min", size(http.rate_min)),
        ("[http] idle_timeout", duration(http.idle_timeout)),
        ("[http] response_timeout", duration(http.response_timeout)),
        ("[http] tunnels", duration(http.tunnels)),
        ("[http] connect", http.connect.to_string()),
        ("[http] odd_field_names", http.odd_field_names.to_string()),
        ("[http] forwarded", http.forwarded.to_string()),
        ("[http] upgrade_drain", upgrade_drain),
        ("[http] head_bytes_max", size(head_bytes_max)),
        ("[http] headers_max", http.headers_max.to_string()),
        ("[http] body_bytes_max", size(http.body_bytes_max)),
        ("[http] buffer_requests", size(http.buffer_requests)),
        ("[http] buffer_responses", size(http.buffer_responses)),
        ("[http] trusted_proxies", or_none(&proxies)),
        ("[http] proxy_protocol", proxy_protocol.to_owned()),
        ("[http] retry_after", duration(retry_after)),
    ]
}

fn of_limits(limits: &LimitsConfig) -> Settings {
    vec![
        ("[limits] memory", limit(limits.memory.map(AsSize))),
        ("[limits] tasks", limit(limits.tasks)),
        (
            "[limits] cpu",
            limit(limits.cpu.map(|cpu| format!("{cpu}%"))),
        ),
    ]
}

fn of_log(log: &LogConfig) -> Settings {
    let lines_max = log.app_lines_per_second_max.to_string();
    vec![
        ("[log] level", log.level.clone()),
        ("[log] access", log.access.wanted.to_string()),
        ("[log] access_query", log.access.has_query.to_string()),
        ("[log] access_format", log.access.format.to_string()),
        ("[log] app_lines_per_second_max", lines_max),
    ]
}

fn duration(duration: Duration) -> String {
    AsDuration(duration).to_string()
}

fn size(bytes: u64) -> String {
    AsSize(bytes).to_string()
}

fn limit(limit: Option<impl ToString>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

fn or_none(text: &str) -> String {
    limit(Some(text).filter(|text| !text.is_empty()))
}
