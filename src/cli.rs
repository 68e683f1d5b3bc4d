//! The command line: one file per command below; each talks to the control socket as any client
//! would, or becomes one of the processes.
//!
//! A command returns an [`Exit`] or a [`CliError`]; only [`main`] turns them into messages and the
//! exit code, and only `output` writes.

mod absence;
mod add;
mod address;
mod adopt_check;
mod arguments;
mod bake;
mod boot;
mod check;
mod client;
mod completions;
mod console;
mod deeds;
mod deploy;
mod drain;
mod exec;
mod exit;
mod explain;
mod footprint;
mod front;
mod handover;
mod hold;
mod init;
mod instance;
mod list;
mod log_level;
mod logs;
mod manual;
mod output;
mod progress;
mod releases;
mod reload;
mod remove;
mod rollback;
mod run;
mod serve;
mod status;
mod sweep;
mod telling;
mod units;
mod upgrade;
mod verify;
mod watch;

pub use absence::Absent;
pub use add::AddError;
pub use address::{Address, AddressError, TakenError};
pub use arguments::{
    AddArgs, AdoptCheckArgs, CheckArgs, Cli, Command, CompletionsArgs, ConsoleArgs, DeployArgs,
    DrainArgs, ExplainArgs, HandoverArgs, HoldArgs, InitArgs, ListArgs, LogLevelArgs, LogsArgs,
    ManualArgs, ReleasesArgs, ReloadArgs, RemoveArgs, RestartArgs, ResumeArgs, RollbackArgs,
    RunArgs, ServeArgs, StartArgs, StatusArgs, StopArgs, SweepArgs, UndrainArgs, UpgradeArgs,
    VerifyArgs,
};
pub use client::ClientError;
pub use console::ConsoleError;
pub use deploy::DeployError;
pub use exit::Exit;
pub use explain::ExplainError;
pub use footprint::FootprintError;
pub use init::InitError;
pub use instance::{FindError, InstanceName, NameError, config_file, system_directory};
pub use logs::LogsError;
pub use remove::RemoveError;
pub use units::UnitsError;
pub use verify::VerifyError;

use crate::config::ConfigError;
use crate::exec::relay;
use crate::front::FrontError;
use crate::keeper::KeeperError;
use crate::state::StateError;
use crate::systemd::given::GivenError;
use crate::systemd::job::JobError;
use crate::systemd::journal::JournalError;
use crate::systemd::scope::ScopeError;
use clap::CommandFactory;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// Why a command did not do what it was asked for.
#[derive(Debug, Error)]
pub enum CliError {
    /// Only gapless itself runs this.
    #[error("gapless {0} is started by gapless only, not by hand")]
    NotByHand(&'static str),
    /// The keeper cannot begin.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The front cannot begin.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The fds that were passed cannot be used.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// There is no log.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// systemd does not say what it is doing.
    #[error(transparent)]
    Job(#[from] JobError),
    /// systemd does not take the survivors of a restart.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// Nothing can be written where sockets are to be.
    #[error(
        "the directory {} is read-only; set XDG_RUNTIME_DIR to one that can be written, such as a tmpfs \
         that is mounted for it",
        path.display()
    )]
    ReadOnly {
        /// Which.
        path: PathBuf,
    },
    /// A directory cannot be used.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something between processes of gapless went wrong.
    #[error("cannot {what}")]
    Internal {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The state of another gapless cannot be taken over.
    #[error(transparent)]
    State(StateError),
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No instance to talk to.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The instance does not answer as it should.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nobody answers for the app.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// Nothing was deployed.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// No configuration was written.
    #[error(transparent)]
    Init(#[from] InitError),
    /// No console was opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// There is nothing to read in the journal.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// systemctl did not do it.
    #[error(transparent)]
    Units(#[from] UnitsError),
    /// Nothing could be proved.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Nothing is called so.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// No instance was added.
    #[error(transparent)]
    Add(#[from] AddError),
    /// An instance was not removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

impl CliError {
    /// The exit code that tells scripts what happened.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::NotByHand(_) | CliError::Explain(_) => Exit::Usage,
            CliError::Keeper(_)
            | CliError::Front(_)
            | CliError::Given(_)
            | CliError::Journal(_)
            | CliError::Job(_)
            | CliError::Scope(_)
            | CliError::State(_)
            | CliError::ReadOnly { .. }
            | CliError::Directory { .. }
            | CliError::Internal { .. } => Exit::Failed,
            CliError::Config(_) => Exit::ConfigInvalid,
            CliError::Find(error) => error.exit(),
            CliError::Client(error) => error.exit(),
            CliError::Absent(_) => Exit::NotRunning,
            CliError::Deploy(error) => error.exit(),
            CliError::Init(error) => error.exit(),
            CliError::Console(error) => error.exit(),
            CliError::Logs(error) => error.exit(),
            CliError::Units(error) => error.exit(),
            CliError::Verify(error) => error.exit(),
            CliError::Add(error) => error.exit(),
            CliError::Remove(error) => error.exit(),
        }
    }
}

/// The grammar of the command line, for manuals and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The grammar without what only units and gapless itself call: nobody should be offered that.
fn visible() -> clap::Command {
    let whole = command();
    let subcommands = whole.get_subcommands().filter(|it| !it.is_hide_set());
    clap::Command::new("gapless")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(whole.get_arguments().filter(|it| it.is_global_set()))
        .subcommands(subcommands.cloned())
}

/// Parses the arguments, runs the command, and says the truth in the exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // The chain loader's arguments are its own, to the letter: they end in the app's command.
    match arguments.as_slice() {
        [_, verb, rest @ ..] if verb == "exec" => exec::run(rest.to_vec()),
        [_, verb, rest @ ..] if verb == relay::VERB => relay::main(rest),
        _ => main_of(arguments).into(),
    }
}

fn main_of(arguments: Vec<OsString>) -> Exit {
    match arguments::parse(arguments) {
        Ok(cli) => {
            let is_question = cli.command.is_question();
            let exit = concluded(dispatch(cli.command));
            if exit == Exit::Done && is_question && output::is_lost() {
                return Exit::Failed;
            }
            exit
        }
        Err(error) => {
            // Help and version are "errors" too, for standard output and exit code 0.
            if error.use_stderr() {
                output::tolerate(error.print());
                return Exit::Usage;
            }
            output::said(error.print());
            if output::is_lost() {
                Exit::Failed
            } else {
                Exit::Done
            }
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Deploy(args) => deploy::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Releases(args) => releases::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Start(args) => units::start(&args.service),
        Command::Stop(args) => units::stop(&args.service),
        Command::Restart(args) => units::restart(&args.service),
        Command::Drain(args) => drain::run(&args.running),
        Command::Undrain(args) => drain::undo(&args.running),
        Command::Hold(args) => hold::run(args.running.name.as_ref(), args.time, args.running.json),
        Command::Resume(args) => hold::resume(&args.running),
        Command::Console(args) => console::run(args.name.as_ref()),
        Command::Logs(args) => logs::run(&args),
        Command::Add(args) => add::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::List(args) => Ok(list::run(&args)),
        Command::Init(args) => init::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Explain(args) => Ok(explain::run(&args)?),
        Command::LogLevel(args) => log_level::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::AdoptCheck(args) => adopt_check::run(&args),
        Command::Completions(args) => Ok(completions::run(&args)),
        Command::Manual(args) => manual::run(&args),
        Command::Front => front::run(),
        Command::Handover(args) => handover::run(&args),
        Command::Sweep(args) => sweep::run(&args),
    }
}

fn concluded(result: Result<Exit, CliError>) -> Exit {
    let error = match result {
        Ok(exit) => return exit,
        Err(error) => absence::explained(error),
    };
    if let CliError::Config(invalid) | CliError::Deploy(DeployError::Config(invalid)) = &error {
        output::complain(invalid.render(output::look()).trim_end());
    } else {
        output::complain(&format!("gapless: {}", crate::causes::chain(&error)));
        if let CliError::Deploy(error) = &error
            && let Some(more) = explain::more(error.code())
        {
            output::complain(&format!("  {more}"));
        }
    }
    error.exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(arguments: &[&str]) -> Exit {
        main_of(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        assert_eq!(exit_of(&["gapless", "relaod"]), Exit::Usage);
        assert_eq!(exit_of(&["gapless"]), Exit::Usage);
        assert_eq!(exit_of(&["gapless", "serve", "../evil"]), Exit::Usage);
    }

    #[test]
    fn the_version_is_no_failure() {
        assert_eq!(exit_of(&["gapless", "--version"]), Exit::Done);
    }

    #[test]
    fn an_invalid_configuration_exits_with_5() {
        assert_eq!(
            exit_of(&["gapless", "check", "/nonexistent.toml"]),
            Exit::ConfigInvalid
        );
    }

    #[test]
    fn every_exit_code_is_in_the_long_help() {
        let help = command().render_long_help().to_string();
        for exit in Exit::ALL {
            let line = format!("  {}  {}", exit.code(), exit.meaning());
            assert!(help.contains(&line), "{line:?} is not in\n{help}");
        }
    }

    #[test]
    fn the_command_of_run_stands_after_two_dashes() {
        let line = ["gapless", "run", "--port", "0", "--", "bun", "--watch"];
        let cli = arguments::parse(line.map(OsString::from).to_vec());
        let Command::Run(args) = cli.unwrap().command else {
            panic!("not run")
        };
        assert_eq!(args.command, ["bun", "--watch"]);
        assert_eq!(args.port, 0);
    }
}
