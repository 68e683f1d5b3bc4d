//! The grammar of the commands for who operates a service: what it says, whether it runs, whom it
//! serves.

use crate::cli::instance::InstanceName;
use crate::id::GenerationId;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// `gapless logs`
#[derive(Debug, Args)]
#[command(after_help = "\
Becomes journalctl, with the matches of the instance: gapless itself, its fronts, the app, and what
systemd says about the unit. The journal is for root and the group systemd-journal.

Examples:
  gapless logs -f
  gapless logs -g g42                    what one generation said, and what was said of it
  gapless logs shop -n all --json | jq -r .MESSAGE")]
pub struct LogsArgs {
    /// The instance: gapless, or NAME of gapless@NAME.service
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Go on with what is said from now on, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Only of this generation: g42 or 42
    #[arg(short, long, value_name = "N", value_parser = generation)]
    pub generation: Option<GenerationId>,
    /// How many of the newest lines; all is possible
    #[arg(short = 'n', long, value_name = "LINES", default_value = "100", value_parser = lines)]
    pub lines: String,
    /// Every field, a JSON object for each line
    #[arg(long)]
    pub json: bool,
}

/// `gapless console`
#[derive(Debug, Args)]
#[command(after_help = "\
Runs [app] console of the live generation within the unit: with its user and sandbox, in the directory
of the release, with the environment of the first worker, on a terminal of its own. Only root may; in
the foreground, also the user of gapless run. The exit code is that of the console, or 128 and the number
of its signal; 1, nothing is live, or no console is configured.

Examples:
  sudo gapless console
  sudo gapless console shop")]
pub struct ConsoleArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
}

/// `gapless start`
#[derive(Debug, Args)]
#[command(after_help = "\
Runs systemctl start for the socket and the service; at boot they start when they are enabled:
sudo systemctl enable gapless.service. Exit code 1: it did not start, and systemctl says why.

Examples:
  sudo gapless start
  sudo gapless start shop")]
pub struct StartArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// `gapless stop`
#[derive(Debug, Args)]
#[command(after_help = "\
Runs systemctl stop for the service and every socket that would start it again at the next request.
Requests under way are finished, at most for [app] drain; new ones are refused from then on.

Examples:
  sudo gapless stop
  sudo gapless stop shop")]
pub struct StopArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// `gapless restart`
#[derive(Debug, Args)]
#[command(after_help = "\
Runs systemctl restart for the service. The processes that serve live on until the new ones are
ready, so no request is lost, and idle connections move along. New processes of the app alone come
from gapless reload, a new gapless alone from gapless upgrade.

Examples:
  sudo gapless restart
  sudo gapless restart shop")]
pub struct RestartArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// `gapless hold`
#[derive(Debug, Args)]
#[command(after_help = "\
New requests wait, those in flight finish; when none is left, this returns, and a migration can begin.
A request waits as long as it always would for a live generation ([http] hold, 15s by default), then
it gets 503 with Retry-After: a hold shorter than that loses nothing. Tunnels (WebSockets) go on, as
does what runs in the app without a request. Deploys and reloads go on, too: requests wait for what is
live at the end. The hold outlives a crash, a restart and an upgrade of gapless; a stop ends it.

Exit code 0: nothing is in flight. 7: something still was when the time was over; requests go on.

Examples:
  gapless hold && bin/migrate; gapless resume
  gapless hold --for 1min shop")]
pub struct HoldArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub running: RunningArgs,
    /// Requests go on by themselves after this time (30s, 5min), at most 10min
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = super::values::hold_time)]
    pub time: Duration,
}

/// `gapless resume`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0 also when nothing was held.

Examples:
  gapless resume
  gapless resume shop")]
pub struct ResumeArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub running: RunningArgs,
}

/// `gapless init`
#[derive(Debug, Args)]
#[command(after_help = "\
What is there says how it is run, as with gapless deploy: Procfile (web:), one jar, an Elixir release
or bin/server, one ELF program, package.json (bun or npm), a Python venv with gunicorn or uvicorn,
config.ru. A gapless.toml that is there stays as it is. Exit code 5: nothing says how to run it.

Examples:
  gapless init && gapless run
  gapless init ./myapp && sudo gapless deploy ./myapp")]
pub struct InitArgs {
    /// Where the app is
    #[arg(value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
    /// What was found and written, for programs
    #[arg(long)]
    pub json: bool,
}

/// `gapless drain`
#[derive(Debug, Args)]
#[command(after_help = "\
Load balancers that ask /readyz send no more; requests that come all the same are served as before,
and /healthz says how it is. It holds over a crash, a restart and an upgrade of gapless, until gapless
undrain or a stop. Exit code 0 also when it was so before.

Examples:
  gapless drain && sleep 20 && sudo gapless stop
  gapless drain shop")]
pub struct DrainArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub running: RunningArgs,
}

/// `gapless undrain`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gapless undrain
  gapless undrain shop")]
pub struct UndrainArgs {
    /// Which, and how it is told
    #[command(flatten)]
    pub running: RunningArgs,
}

/// One that runs, also in the foreground, and how the answer is printed.
#[derive(Debug, Args)]
pub struct RunningArgs {
    /// The instance; gapless, or the only one that runs in the foreground
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// What came of it, for programs
    #[arg(long)]
    pub json: bool,
}

/// One service, and how the answer is printed.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The instance: gapless, or NAME of gapless@NAME.service
    #[arg(value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// What was run and what came of it, for programs
    #[arg(long)]
    pub json: bool,
}

fn generation(text: &str) -> Result<GenerationId, &'static str> {
    let number = text.strip_prefix('g').unwrap_or(text).parse();
    number
        .map(GenerationId)
        .map_err(|_| "a generation is g and a number: g42")
}

fn lines(text: &str) -> Result<String, &'static str> {
    match text.parse::<u32>() {
        Ok(number) => Ok(number.to_string()),
        Err(_) if text == "all" => Ok(text.to_owned()),
        Err(_) => Err("use a number, or all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_written_with_and_without_its_letter() {
        assert_eq!(generation("g42"), Ok(GenerationId(42)));
        assert_eq!(generation("42"), Ok(GenerationId(42)));
        for wrong in ["", "g", "w1", "-1", "g1 OR", "gg1"] {
            assert!(generation(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_are_a_number_or_all() {
        assert_eq!(lines("007"), Ok("7".to_owned()));
        assert_eq!(lines("all"), Ok("all".to_owned()));
        assert!(lines("-1").is_err() && lines("many").is_err());
    }
}
