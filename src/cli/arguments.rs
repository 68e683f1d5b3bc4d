//! The grammar of the command line, with its help texts.

use super::instance::InstanceName;
use crate::config::{ConfigSource, Overrides};
use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  gapless run -- bun server.ts     serve an app on http://127.0.0.1:8888, without systemd
  gapless check                    is /etc/gapless/gapless.toml right?
  systemctl start gapless.socket   serve it, from now on and after every reboot
  sudo gapless reload              new processes of the app; no request is lost
  gapless status                   is it fine?";

/// Kept equal to `Exit` by a test.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, or healthy
  1  failed, or not healthy
  2  the command line is wrong
  3  not running
  4  not allowed
  5  the configuration is invalid; nothing was started
  6  the new generation is unhealthy, the old one serves
  7  out of time; gapless status shows what became of it

Manuals: gapless(1), gapless.toml(5)";

/// Serves a web app behind a socket of systemd's, and loses no request while the app, or gapless
/// itself, is replaced.
#[derive(Debug, Parser)]
#[command(
    name = "gapless",
    version,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve, started by systemd (ExecStart= of gapless.service)
    Serve(ServeArgs),
    /// Serve an app in the foreground, without systemd
    Run(RunArgs),
    /// Replace the app's processes without losing a request, and wait until that is decided
    Reload(ReloadArgs),
    /// Is it fine? Generations, workers, fronts, lost requests
    Status(StatusArgs),
    /// Check a configuration before it hurts
    Check(CheckArgs),
    /// Log more, or less, from now until the next reload
    LogLevel(LogLevelArgs),
    /// What a shell completes after `gapless` (the packages install it)
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Serve HTTP for a keeper (started by gapless itself)
    #[command(hide = true)]
    Front,
    /// Keep everything serving over a restart of the unit (its ExecStop=)
    #[command(hide = true)]
    Handover(HandoverArgs),
    /// Leave nothing behind when the unit really stops (its ExecStopPost=)
    #[command(hide = true)]
    Sweep(SweepArgs),
}

/// `gapless serve`
#[derive(Debug, Args)]
#[command(after_help = "\
The configuration is /etc/gapless/NAME.toml. Sockets come from systemd: without one, this refuses
to start and says which unit to look at. To try an app by hand, see gapless run --help.")]
pub struct ServeArgs {
    /// The instance: gapless, or NAME of gapless@NAME.service
    #[arg(value_name = "NAME")]
    pub name: InstanceName,
}

/// `gapless run`
#[derive(Debug, Args)]
#[command(after_help = "\
Without --config, gapless.toml of the current directory is read, if there is one.

Examples:
  gapless run -- bun server.ts                     the app listens on $PORT
  gapless run --workers 4 -- .venv/bin/gunicorn app:app
  PORT=5000 gapless run --host 0.0.0.0             in a container, command from gapless.toml")]
pub struct RunArgs {
    /// Address to listen on; 0.0.0.0 or :: for everybody
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", env = "PORT", default_value_t = 8888)]
    pub port: u16,
    /// Answer /healthz, /readyz and /metrics on another address: 127.0.0.1:8889
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
    /// Processes of the app
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroU32>,
    /// Configuration to read
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name for gapless status and gapless reload
    #[arg(long, value_name = "NAME", default_value = "run")]
    pub name: InstanceName,
    /// Program and arguments of the app, instead of the configuration's
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

impl RunArgs {
    /// Which configuration is meant, seen from the current directory: that is where a command of
    /// the command line runs, while a command of the file runs where the file says.
    pub fn config_source(&self, current_directory: &Path) -> ConfigSource {
        let beside = current_directory.join("gapless.toml");
        let found = || beside.is_file().then_some(beside);
        let command = (!self.command.is_empty()).then(|| self.command.clone());
        let directory = command.is_some().then(|| current_directory.to_owned());
        ConfigSource {
            file: self.config.clone().or_else(found),
            overrides: Overrides {
                command,
                workers: self.workers,
                directory,
            },
        }
    }
}

/// `gapless reload`
#[derive(Debug, Args)]
#[command(after_help = "\
Returns when it is decided: 0, the new generation is live; 5 or 6, it is not, and the old one
serves as before.

Examples:
  sudo gapless reload
  sudo gapless reload shop --timeout 30s")]
pub struct ReloadArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Stop waiting after this time (30s, 5min); the reload goes on, and the exit code is 7
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub timeout: Option<Duration>,
}

/// `gapless status`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0: healthy. 1: not healthy. 3: not running.

Examples:
  gapless status
  gapless status --json | jq .requests.lost")]
pub struct StatusArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Everything, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless check`
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what the file means, or everything that is wrong with it, with the remedies; exit code 5.

Examples:
  gapless check
  gapless check ./gapless.toml && sudo gapless reload")]
pub struct CheckArgs {
    /// Configuration to check
    #[arg(value_name = "FILE", default_value = "/etc/gapless/gapless.toml")]
    pub file: PathBuf,
}

/// `gapless log-level`
#[derive(Debug, Args)]
#[command(after_help = "\
Holds until the next reload or restart, which read [log] level again. Nothing is restarted.

Examples:
  sudo gapless log-level debug
  sudo gapless log-level info,gapless::front=debug shop")]
pub struct LogLevelArgs {
    /// off, error, warn, info, debug, trace, or a list with parts: info,gapless::front=debug
    #[arg(value_name = "LEVEL", value_parser = crate::config::parse_level)]
    pub level: String,
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
}

/// `gapless completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `gapless handover`
#[derive(Debug, Args)]
pub struct HandoverArgs {
    /// The unit that stops: %n
    #[arg(value_name = "UNIT")]
    pub unit: String,
    /// The instance
    #[arg(value_name = "NAME")]
    pub name: InstanceName,
}

/// `gapless sweep`
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The unit that has stopped: %n
    #[arg(value_name = "UNIT")]
    pub unit: String,
}
