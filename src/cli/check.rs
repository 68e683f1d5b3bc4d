//! `gapless check`: what a configuration means, or everything that is wrong with it.

mod json;
mod reach;
mod settings;

use super::client::{self, ANSWER_LIMIT};
use super::deploy::{self, DeployError};
use super::instance::{self, InstanceName};
use super::output::{printable, say, say_json};
use super::{CheckArgs, CliError, Exit};
use crate::api::Status;
use crate::config::{
    self, AppConfig, Config, ConfigError, ConfigSource, HealthConfig, HttpConfig, LimitsConfig,
    Listen, LogConfig, RestartConfig,
};
use crate::keeper::limits;
use anstyle::{AnsiColor, Style};
use hyper::Method;
use reach::Login;
use rustix::process::geteuid;
use settings::{Setting, settings};
use std::path::Path;

/// Starts nothing; asks a running keeper, if there are limits, whether its unit lets them be.
pub(super) fn run(args: &CheckArgs) -> Result<Exit, CliError> {
    let loaded =
        config::load(&source(&args.file)?).and_then(|config| startable(&args.file, config));
    let understood = loaded.as_ref().ok();
    let limits_doubt = understood.and_then(|config| doubt(&args.file, &config.limits));
    let program_doubt = understood.and_then(reach::unfound);
    if args.json {
        let doubts = (limits_doubt, program_doubt);
        say_json(&json::Checked::of(&args.file, &loaded, doubts));
        loaded?;
        return Ok(Exit::Done);
    }
    say(&render(&args.file, &loaded?));
    let absence = (!args.file.exists()).then(|| absence(&args.file));
    let yellow = Style::new().fg_color(Some(AnsiColor::Yellow.into())).bold();
    for (about, doubt) in [
        ("[limits]", limits_doubt),
        ("[app] command", program_doubt),
        ("no file", absence),
    ] {
        if let Some(doubt) = doubt {
            say(&format!("{yellow}{about}{yellow:#} {}", printable(&doubt)));
        }
    }
    Ok(Exit::Done)
}

/// The file of a service need not be there; who works in a project may have meant another.
fn absence(file: &Path) -> String {
    let beside = Path::new("gapless.toml");
    let other = if beside.exists() {
        "; to check the one in this directory: gapless check gapless.toml"
    } else {
        ""
    };
    format!("at {}, so all is as by default{other}", file.display())
}

/// With the rights of the service, which only root can try, and only for the file of a service.
fn startable(file: &Path, config: Config) -> Result<Config, ConfigError> {
    let service = instance_of(file).filter(|_| geteuid().is_root());
    let login = service.and_then(|name| Login::of_unit(&name.unit()));
    let problems = login.map(|login| reach::problems(&config, &login));
    match problems.filter(|problems| !problems.is_empty()) {
        None => Ok(config),
        Some(problems) => Err(ConfigError {
            file: Some(file.to_owned()),
            text: String::new(),
            problems,
            beside: None,
        }),
    }
}

/// Whose configuration it is.
fn instance_of(file: &Path) -> Option<InstanceName> {
    let name = file.file_stem()?.to_str()?.parse().ok()?;
    (deploy::configuration(&name) == file).then_some(name)
}

/// Whether what is limited here will be, as far as can be told from outside.
fn doubt(file: &Path, limits: &LimitsConfig) -> Option<String> {
    if *limits == LimitsConfig::default() {
        return None;
    }
    if let Err(error) = limits::on_this_machine(limits) {
        return Some(format!("will not be in force: {error}"));
    }
    let name: InstanceName = file.file_stem()?.to_str()?.parse().ok()?;
    let Some(status) = status_of(&name) else {
        let unit = name.unit();
        return Some(format!(
            "need DelegateSubgroup=keeper under [Service] of {unit} (systemd 254); it cannot be \
             asked now, gapless status will say whether they are in force"
        ));
    };
    let why = status.limits_obstacle?;
    Some(format!("will not be in force: {why}"))
}

/// None when it does not run, or is not for us to ask.
fn status_of(name: &InstanceName) -> Option<Status> {
    let instance = instance::find(Some(name)).ok()?;
    let answer = client::ask(&instance, Method::GET, "/status", Some(ANSWER_LIMIT)).ok()?;
    answer.read().ok()
}

/// The file of an instance counts together with what is deployed there.
fn source(file: &Path) -> Result<ConfigSource, DeployError> {
    let store = instance_of(file).map(|name| instance::store(&name));
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
        let name: Option<InstanceName> = file.file_stem().and_then(|it| it.to_str()?.parse().ok());
        let app = instance::option(name.as_ref());
        format!("none yet; next: sudo gapless{app} deploy ./myapp")
    } else {
        shown_command(&app.command)
    };
    let mut lines = vec![
        format!("{green}OK{green:#}  {}", file.display()),
        format!("  command    {command}"),
    ];
    // Without a release there is none.
    let directory = Some(app.directory.display().to_string()).filter(|it| !it.is_empty());
    lines.extend(directory.map(|directory| format!("  directory  {directory}")));
    lines.push(format!("  listen     {}", shown_listen(app.listen)));
    lines.push(format!("  workers    {}", app.workers));
    let changed = changed(config);
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

/// Settings that are not as by default, each beside the default.
fn changed(config: &Config) -> Vec<(Setting, Setting)> {
    let default = Config {
        app: AppConfig::new(Vec::new(), config.app.directory.clone()),
        health: HealthConfig::default(),
        restart: RestartConfig::default(),
        http: HttpConfig::default(),
        limits: LimitsConfig::default(),
        log: LogConfig::default(),
    };
    let both = settings(config).into_iter().zip(settings(&default));
    both.filter(|((_, value), (_, default))| value != default)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

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
    fn without_a_release_the_next_command_is_shown_and_no_directory() {
        let mut config = config();
        config.app = AppConfig::new(Vec::new(), "".into());
        let rendered = render(Path::new("/etc/gapless/blog.toml"), &config);
        let rendered = anstream::adapter::strip_str(&rendered).to_string();
        let lines: Vec<_> = rendered.lines().take(3).collect();
        assert_eq!(
            lines[1],
            "  command    none yet; next: sudo gapless --app blog deploy ./myapp"
        );
        assert!(lines[2].starts_with("  listen     auto"), "{rendered}");
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
