//! `gapless check`: what a configuration means, or everything that is wrong with it.

use super::deploy::{self, DeployError};
use super::output::say;
use super::{CheckArgs, CliError, Exit, instance};
use crate::config::{
    self, AppConfig, AsDuration, AsSize, Config, ConfigSource, HealthConfig, HttpConfig,
    LimitsConfig, Listen, LogConfig, ProxyProtocol, RestartConfig,
};
use anstyle::{AnsiColor, Style};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Starts nothing and asks nobody.
pub(super) fn run(args: &CheckArgs) -> Result<Exit, CliError> {
    let config = config::load(&source(&args.file)?)?;
    say(&render(&args.file, &config));
    Ok(Exit::Done)
}

/// The file of an instance counts together with what is deployed there.
fn source(file: &Path) -> Result<ConfigSource, DeployError> {
    let name = file
        .file_stem()
        .and_then(|name| name.to_str()?.parse().ok());
    let name = name.filter(|name| deploy::configuration(name) == file);
    let store = name.map(|name| instance::store(&name));
    let release = match &store {
        Some(store) => store.current()?.map(|id| store.source(&id)).transpose()?,
        None => None,
    };
    Ok(ConfigSource {
        file: Some(file.to_owned()),
        may_be_bare: store.is_some() && release.is_none(),
        release,
        ..ConfigSource::default()
    })
}

fn render(file: &Path, config: &Config) -> String {
    let green = Style::new().fg_color(Some(AnsiColor::Green.into())).bold();
    let app = &config.app;
    let command = if app.command.is_empty() {
        "none yet; next: sudo gapless deploy ./myapp".to_owned()
    } else {
        shown_command(&app.command)
    };
    let mut lines = vec![
        format!("{green}OK{green:#}  {}", file.display()),
        format!("  command    {command}"),
        format!("  directory  {}", app.directory.display()),
        format!("  listen     {}", shown_listen(app.listen)),
        format!("  workers    {}", app.workers),
    ];
    let default = Config {
        app: AppConfig::new(Vec::new(), app.directory.clone()),
        health: HealthConfig::default(),
        restart: RestartConfig::default(),
        http: HttpConfig::default(),
        limits: LimitsConfig::default(),
        log: LogConfig::default(),
    };
    let changed: Vec<_> = settings(config)
        .into_iter()
        .zip(settings(&default))
        .filter(|((_, value), (_, default))| value != default)
        .collect();
    let width = changed
        .iter()
        .map(|((key, _), _)| key.len())
        .max()
        .unwrap_or(0);
    if !changed.is_empty() {
        lines.push("  not as by default:".to_owned());
    }
    for ((key, value), (_, default)) in changed {
        lines.push(format!("    {key:width$}  {value}  (default {default})"));
    }
    lines.join("\n")
}

/// As a shell would need it, so that it can be tried by hand.
fn shown_command(command: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = |part: &String| {
        if !part.is_empty() && part.chars().all(is_plain) {
            part.clone()
        } else {
            format!("'{}'", part.replace('\'', r"'\''"))
        }
    };
    command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn shown_listen(listen: Listen) -> String {
    match listen {
        Listen::Auto => "auto: $PORT, LISTEN_FDS or $GAPLESS_SOCKET, as the app likes".to_owned(),
        Listen::Port => "a free port in $PORT".to_owned(),
        Listen::FixedPort(port) => {
            format!("port {port}, always: the old worker stops before the new one starts")
        }
        Listen::Fd => "a socket by LISTEN_FDS".to_owned(),
        Listen::Unix => "a unix socket at $GAPLESS_SOCKET".to_owned(),
    }
}

/// Every other setting, in the order of the manual.
#[expect(clippy::too_many_lines, reason = "a table")]
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let Config {
        app,
        health,
        restart,
        http,
        limits,
        log,
    } = config;
    let duration = |duration: Duration| AsDuration(duration).to_string();
    let size = |bytes: u64| AsSize(bytes).to_string();
    let names: Vec<_> = app.env.keys().map(String::as_str).collect();
    let proxies: Vec<_> = http
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    let head_bytes_max = u64::try_from(http.head_bytes_max).unwrap_or(u64::MAX);
    let lanes = http
        .lanes
        .map_or_else(|| "one per core".to_owned(), |lanes| lanes.to_string());
    let (lowest, highest) = health.status;
    vec![
        // Names only: values may be secrets, though that is not the place for them.
        ("[app] env", or_none(&names.join(", "))),
        ("[app] boot", duration(app.boot)),
        ("[app] settle", duration(app.settle)),
        ("[app] drain", duration(app.drain)),
        ("[app] stop", duration(app.stop)),
        (
            "[app] watchdog",
            app.watchdog.map_or_else(|| "none".to_owned(), duration),
        ),
        ("[app] shared", or_none(&names_of(&app.shared))),
        (
            "[app] release_command",
            or_none(&shown_command(
                app.release_command.as_deref().unwrap_or_default(),
            )),
        ),
        ("[app] keep", app.keep.to_string()),
        (
            "[health] path",
            or_none(health.path.as_deref().unwrap_or_default()),
        ),
        ("[health] status", format!("{lowest}-{highest}")),
        ("[health] passes", health.passes.to_string()),
        ("[health] interval", duration(health.interval)),
        ("[health] timeout", duration(health.timeout)),
        ("[health] every", duration(health.every)),
        ("[health] fails", health.fails.to_string()),
        ("[restart] burst", restart.burst.to_string()),
        ("[restart] interval", duration(restart.interval)),
        ("[restart] delay_min", duration(restart.delay_min)),
        ("[restart] delay_max", duration(restart.delay_max)),
        ("[http] lanes", lanes),
        ("[http] hold", duration(http.hold)),
        ("[http] held_max", http.held_max.to_string()),
        ("[http] connections_max", http.connections_max.to_string()),
        (
            "[http] connections_per_address_max",
            http.connections_per_address_max
                .map_or_else(|| "none".to_owned(), |max| max.to_string()),
        ),
        ("[http] head_timeout", duration(http.head_timeout)),
        ("[http] body_timeout", duration(http.body_timeout)),
        ("[http] write_timeout", duration(http.write_timeout)),
        ("[http] rate_min", size(http.rate_min)),
        ("[http] idle_timeout", duration(http.idle_timeout)),
        ("[http] response_timeout", duration(http.response_timeout)),
        ("[http] tunnels", duration(http.tunnels)),
        ("[http] head_bytes_max", size(head_bytes_max)),
        ("[http] headers_max", http.headers_max.to_string()),
        ("[http] body_bytes_max", size(http.body_bytes_max)),
        ("[http] trusted_proxies", or_none(&proxies.join(", "))),
        (
            "[http] proxy_protocol",
            match http.proxy_protocol {
                ProxyProtocol::Off => "off".to_owned(),
                ProxyProtocol::Require => "require".to_owned(),
            },
        ),
        (
            "[http] retry_after",
            duration(Duration::from_secs(http.retry_after_seconds.into())),
        ),
        (
            "[limits] memory",
            or_none(&limits.memory.map(size).unwrap_or_default()),
        ),
        (
            "[limits] tasks",
            or_none(&limits.tasks.map(|max| max.to_string()).unwrap_or_default()),
        ),
        (
            "[limits] cpu",
            or_none(&limits.cpu.map(|cpu| format!("{cpu}%")).unwrap_or_default()),
        ),
        ("[log] level", log.level.clone()),
        ("[log] access", log.access.wanted.to_string()),
        ("[log] access_query", log.access.has_query.to_string()),
        ("[log] access_format", log.access.format.to_string()),
        (
            "[log] app_lines_per_second_max",
            log.app_lines_per_second_max.to_string(),
        ),
    ]
}

fn names_of(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn config() -> Config {
        let command = ["/srv/shop/bin/server", "--greeting", "it's me"].map(String::from);
        Config {
            app: AppConfig::new(command.to_vec(), "/srv/shop".into()),
            health: HealthConfig::default(),
            restart: RestartConfig::default(),
            http: HttpConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
        }
    }

    fn plain(config: &Config) -> String {
        let rendered = render(Path::new("gapless.toml"), config);
        anstream::adapter::strip_str(&rendered).to_string()
    }

    #[test]
    fn defaults_are_not_repeated() {
        let expected = r"OK  gapless.toml
  command    /srv/shop/bin/server --greeting 'it'\''s me'
  directory  /srv/shop
  listen     auto: $PORT, LISTEN_FDS or $GAPLESS_SOCKET, as the app likes
  workers    1";
        assert_eq!(plain(&config()), expected);
    }

    #[test]
    fn what_differs_is_shown_with_its_default_and_without_secrets() {
        let mut config = config();
        config.app.workers = NonZeroU32::new(2).unwrap();
        config.app.listen = Listen::FixedPort(3000);
        config.app.drain = Duration::from_secs(30);
        config
            .app
            .env
            .insert("TOKEN".to_owned(), "secret".to_owned());
        config.http.body_bytes_max = 64_000_000;
        let expected = r"OK  gapless.toml
  command    /srv/shop/bin/server --greeting 'it'\''s me'
  directory  /srv/shop
  listen     port 3000, always: the old worker stops before the new one starts
  workers    2
  not as by default:
    [app] env              TOKEN  (default none)
    [app] drain            30s  (default 15s)
    [http] body_bytes_max  64MB  (default 1GiB)";
        assert_eq!(plain(&config), expected);
    }

    #[test]
    fn every_key_can_be_shown() {
        let shown_above = ["command", "directory", "workers", "listen"];
        let shown = settings(&config());
        for table in config::known_tables() {
            for key in table.keys.iter().filter(|key| !shown_above.contains(key)) {
                let name = format!("[{}] {key}", table.name);
                assert!(shown.iter().any(|(shown, _)| *shown == name), "{name}");
            }
        }
    }
}
