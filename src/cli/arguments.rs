//! The grammar of the command line, with its help texts.

mod app;
mod apps;
mod operations;
mod proof;
mod values;

pub(super) use app::parse;
pub use apps::{AddArgs, ListArgs, RemoveArgs};

pub use operations::{
    ConsoleArgs, DrainArgs, HoldArgs, InitArgs, LogsArgs, RestartArgs, ResumeArgs, RunningArgs,
    ServiceArgs, StartArgs, StopArgs, UndrainArgs,
};

pub use proof::{ExplainArgs, Happening, VerifyArgs};

use super::instance::InstanceName;
use crate::config::{ConfigSource, Overrides};
use crate::release::ReleaseId;
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
  sudo gapless deploy ./myapp      put an app into production; no request is lost
  sudo gapless rollback            back to the release before
  sudo gapless reload              new processes of the app
  gapless status                   is it fine?
  gapless --app shop status        the same of another app; gapless list shows all
  sudo gapless add shop --listen 8081   another app, with its own port and user";

/// Kept equal to `Exit` by a test.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, or healthy
  1  failed, or not healthy
  2  the command line is wrong
  3  not running
  4  not allowed
  5  the configuration is invalid; nothing was started
  6  the new generation or gapless is unhealthy, the old one serves
  7  out of time; gapless status shows what became of it
  8  another deploy is at work; its holder is named

Manuals: gapless(1), gapless-deploy(1) and so on for each command, gapless.toml(5), gapless(7),
gapless.service(8)";

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
    /// The app that is meant, for every command: NAME of gapless@NAME.service
    #[arg(long, global = true, value_name = "NAME", alias = "name")]
    pub app: Option<InstanceName>,
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
    /// Put an app into production: stage it, start it, swap it in when it is healthy
    Deploy(DeployArgs),
    /// Go back to the release before, or to any that is there
    Rollback(RollbackArgs),
    /// What is in the store: which release is current, which ran before, what failed
    Releases(ReleasesArgs),
    /// Replace the app's processes without losing a request, and wait until that is decided
    Reload(ReloadArgs),
    /// Replace gapless itself by its installed binary, without touching the app
    Upgrade(UpgradeArgs),
    /// Start the sockets and the service, as systemctl would
    Start(StartArgs),
    /// Finish the requests under way, then stop the service and its sockets, as systemctl would
    Stop(StopArgs),
    /// Restart the service as systemctl would: no request is lost, idle connections stay
    Restart(RestartArgs),
    /// Let new requests wait, for a migration; returns when none is in flight any more
    Hold(HoldArgs),
    /// Let requests go on: the end of hold
    Resume(ResumeArgs),
    /// Take the service out of load balancers' rotation: /readyz says 503, serving goes on
    Drain(DrainArgs),
    /// Back into rotation: the end of drain
    Undrain(UndrainArgs),
    /// Is it fine? Generations, workers, fronts, lost requests
    Status(StatusArgs),
    /// An instance of its own for one more app: user, addresses, configuration
    Add(AddArgs),
    /// Take an instance away again; its data stays, unless --purge
    Remove(RemoveArgs),
    /// All apps on this machine: health, release, addresses, lost requests
    List(ListArgs),
    /// What gapless and the app say, from the journal
    Logs(LogsArgs),
    /// A console in the running app, as its configuration says
    Console(ConsoleArgs),
    /// Write the smallest gapless.toml for the app in a directory
    Init(InitArgs),
    /// Check a configuration before it hurts
    Check(CheckArgs),
    /// Prove that it loses nothing: load on your app through reload, upgrade, restart and kill
    Verify(VerifyArgs),
    /// What a name means that gapless prints, and what to do
    Explain(ExplainArgs),
    /// Log more, or less, from now until the next reload
    LogLevel(LogLevelArgs),
    /// What a shell completes after `gapless` (the packages install it)
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Write a manual page for each command (the packages install them)
    #[command(hide = true)]
    Manual(ManualArgs),
    /// Serve HTTP for a keeper (started by gapless itself)
    #[command(hide = true)]
    Front,
    /// Say whether this binary could take over (run by the keeper that it is to replace)
    #[command(hide = true)]
    AdoptCheck(AdoptCheckArgs),
    /// Keep everything serving over a restart of the unit (its ExecStop=)
    #[command(hide = true)]
    Handover(HandoverArgs),
    /// Leave nothing behind when the unit really stops (its ExecStopPost=)
    #[command(hide = true)]
    Sweep(SweepArgs),
}

impl Command {
    /// Does nothing but answer: it has failed if the answer cannot be written.
    pub fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Status(_)
                | Self::List(_)
                | Self::Releases(_)
                | Self::Logs(_)
                | Self::Check(_)
                | Self::Explain(_)
                | Self::Completions(_)
                | Self::Manual(_)
        )
    }
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
  gapless run --watch src -- node src/server.js    a new generation at every change below src
  PORT=5000 gapless run --host 0.0.0.0             in a container, command from gapless.toml
  gapless run --port 8890                          a second project beside it, on a port of its own
  gapless --app shop run                           under this name; default: that of the directory")]
pub struct RunArgs {
    /// Address to listen on; 0.0.0.0 or :: for everybody
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", value_parser = values::host)]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", env = "PORT", default_value_t = 8888, value_parser = values::port)]
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
    /// Reload when a file changes: each PATH is a file or a directory; none, the current directory.
    /// Left out are hidden files, what .gitignore names, node_modules, target and __pycache__
    #[arg(long, value_name = "PATH", num_args = 0..)]
    pub watch: Option<Vec<PathBuf>>,
    /// By `--app`: for gapless status, gapless reload and the like.
    #[arg(skip)]
    pub name: Option<InstanceName>,
    /// Program and arguments of the app, instead of the configuration's
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

impl RunArgs {
    /// What `--watch` means; nothing without it.
    pub fn watched(&self) -> Vec<PathBuf> {
        match self.watch.as_deref() {
            Some([]) => vec![PathBuf::from(".")],
            watch => watch.unwrap_or_default().to_vec(),
        }
    }

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
            ..ConfigSource::default()
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
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub timeout: Option<Duration>,
    /// What came of it, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless upgrade`
#[derive(Debug, Args)]
#[command(after_help = "\
The installed binary is asked first whether it can take over; then the running gapless becomes it,
with the same process id. Connections, tunnels and the app go on. Returns when it is decided: 0, it
is in place; 6, it failed, and the old one serves as before.

Examples:
  sudo gapless upgrade
  sudo gapless upgrade shop --check")]
pub struct UpgradeArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Only ask the installed binary whether it can take over
    #[arg(long)]
    pub check: bool,
    /// Stop waiting after this time (30s, 5min); the upgrade goes on, and the exit code is 7
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub timeout: Option<Duration>,
    /// What came of it, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless adopt-check`
#[derive(Debug, Args)]
pub struct AdoptCheckArgs {
    /// The configuration of the instance
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `gapless deploy`
#[derive(Debug, Args)]
#[command(after_help = "\
PATH is a directory, a tar archive (.tar, .tar.gz, .tar.zst), a jar, an ELF program or an executable
script; - is any of them but a directory, on standard input. What to run says, in this order:
[app] command in /etc/gapless/NAME.toml, CMD, gapless.toml in the release, or what is found there:
Procfile (web:), one jar, an Elixir release or bin/server, one ELF program, package.json (bun or npm),
a Python venv with gunicorn or uvicorn, config.ru.

Returns when it is decided: 0, the release is live; 5, nothing was started; 6, the release did not
become live, and the old one serves as before, or, with --bake, serves again; 8, somebody else
deploys.

Examples:
  sudo gapless deploy ./myapp
  sudo gapless --app shop deploy target/app.jar
  sudo gapless deploy . -- bin/server --quiet
  sudo gapless deploy ./myapp --bake 60s
  tar c . | ssh HOST sudo gapless deploy -")]
pub struct DeployArgs {
    /// What to deploy; - reads standard input
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// By `--app`.
    #[arg(skip)]
    pub name: InstanceName,
    /// Name of the release, instead of the date and a number
    #[arg(long, value_name = "ID")]
    pub release: Option<ReleaseId>,
    /// Watch it for so long once it serves (60s, 5min), and go back if it fails more than the one before
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub bake: Option<Duration>,
    /// What came of it as one object, for programs; the steps go to standard error
    #[arg(long)]
    pub json: bool,
    /// Program and arguments, relative to the release
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `gapless rollback`
#[derive(Debug, Args)]
#[command(after_help = "\
The same path as a deploy, from a directory that is there already; same exit codes.

Examples:
  sudo gapless rollback
  sudo gapless --app shop rollback 20261120-3
  sudo gapless rollback --json | jq -r .outcome")]
pub struct RollbackArgs {
    /// The release; the one before the current one
    #[arg(value_name = "ID")]
    pub release: Option<ReleaseId>,
    /// By `--app`.
    #[arg(skip)]
    pub name: InstanceName,
    /// What came of it as one object, for programs; the steps go to standard error
    #[arg(long)]
    pub json: bool,
}

/// `gapless releases`
#[derive(Debug, Args)]
#[command(after_help = "\
Newest first.

Examples:
  gapless releases
  gapless --app shop releases --json | jq -r '.releases[].id'")]
pub struct ReleasesArgs {
    /// By `--app`.
    #[arg(skip)]
    pub name: InstanceName,
    /// Everything, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless status`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0: healthy. 1: degraded or failing. 3: not running. With --watch, as it was last seen.

Examples:
  gapless status
  gapless status -w                      each second; in a pipe, what changes
  gapless status --json | jq .requests.lost")]
pub struct StatusArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Everything, for programs
    #[arg(long)]
    pub json: bool,
    /// Look again each second, until Ctrl-C; in a pipe, a line for each change
    #[arg(short, long)]
    pub watch: bool,
}

/// `gapless check`
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what the file means, or everything that is wrong with it, with the remedies; exit code 5.
With --app NAME, the file is /etc/gapless/NAME.toml. With sudo, it also looks whether the user of the service
can enter the directory and execute the program, and names the part of the path that refuses.

Examples:
  sudo gapless check
  gapless check ./gapless.toml && sudo gapless reload
  gapless check --json | jq -r .settings.app.drain")]
pub struct CheckArgs {
    /// Configuration to check
    #[arg(value_name = "FILE", default_value = "/etc/gapless/gapless.toml")]
    pub file: PathBuf,
    /// What it means, or what is wrong with it, for programs
    #[arg(long)]
    pub json: bool,
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
    /// What came of it, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `gapless manual`
#[derive(Debug, Args)]
pub struct ManualArgs {
    /// Where to: share/man/man1
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
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
