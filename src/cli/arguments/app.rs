//! `--app NAME`: one way to say which instance is meant, for every command, beside the positional
//! NAME that many have.

use super::{Cli, Command};
use crate::cli::instance::{InstanceName, config_file};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, Error, FromArgMatches};
use std::ffi::OsString;
use std::path::PathBuf;

/// The command line, with `--app` put where each command looks for its instance.
pub(in crate::cli) fn parse(arguments: Vec<OsString>) -> Result<Cli, Error> {
    let mut grammar = Cli::command();
    let matches = grammar.try_get_matches_from_mut(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    match cli.app.clone() {
        None => Ok(cli),
        Some(app) => match settle(&mut cli.command, &app, &matches) {
            Ok(()) => Ok(cli),
            Err(conflict) => Err(grammar.error(ErrorKind::ArgumentConflict, conflict)),
        },
    }
}

/// Where a command has its instance.
enum Place<'a> {
    /// Only `--app` says it.
    Option(&'a mut InstanceName),
    /// A NAME that may be there.
    Name(&'a mut Option<InstanceName>),
    /// A NAME that is there.
    Given(&'a InstanceName),
    /// The file of an instance.
    File(&'a mut PathBuf),
    /// The command has no instance.
    Nowhere,
}

fn settle(command: &mut Command, app: &InstanceName, matches: &ArgMatches) -> Result<(), String> {
    let differs = |given: String| {
        Err(format!(
            "--app says {app}, but {given} is named as well; leave out one of them"
        ))
    };
    match place(command) {
        Place::Option(name) => *name = app.clone(),
        Place::Name(Some(name)) if name == app => {}
        Place::Name(Some(name)) => return differs(name.to_string()),
        Place::Name(name) => *name = Some(app.clone()),
        Place::Given(name) if name == app => {}
        Place::Given(name) => return differs(name.to_string()),
        Place::File(file) => {
            let wanted = config_file(app);
            if is_typed(matches, "file") && *file != wanted {
                return differs(file.display().to_string());
            }
            *file = wanted;
        }
        Place::Nowhere => {
            let command = matches.subcommand_name().unwrap_or_default();
            return Err(format!(
                "gapless {command} is not about one app; leave out --app {app}"
            ));
        }
    }
    Ok(())
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    let source = matches.subcommand().map(|(_, it)| it.value_source(id));
    source.flatten() == Some(ValueSource::CommandLine)
}

fn place(command: &mut Command) -> Place<'_> {
    match command {
        Command::Run(args) => Place::Name(&mut args.name),
        Command::Deploy(args) => Place::Option(&mut args.name),
        Command::Rollback(args) => Place::Option(&mut args.name),
        Command::Releases(args) => Place::Option(&mut args.name),
        Command::Reload(args) => Place::Name(&mut args.name),
        Command::Upgrade(args) => Place::Name(&mut args.name),
        Command::Start(args) => Place::Name(&mut args.service.name),
        Command::Stop(args) => Place::Name(&mut args.service.name),
        Command::Restart(args) => Place::Name(&mut args.service.name),
        Command::Hold(args) => Place::Name(&mut args.running.name),
        Command::Resume(args) => Place::Name(&mut args.running.name),
        Command::Drain(args) => Place::Name(&mut args.running.name),
        Command::Undrain(args) => Place::Name(&mut args.running.name),
        Command::Status(args) => Place::Name(&mut args.name),
        Command::Logs(args) => Place::Name(&mut args.name),
        Command::Console(args) => Place::Name(&mut args.name),
        Command::Verify(args) => Place::Name(&mut args.name),
        Command::LogLevel(args) => Place::Name(&mut args.name),
        Command::Add(args) => Place::Name(&mut args.name),
        Command::Remove(args) => Place::Name(&mut args.name),
        Command::Serve(args) => Place::Given(&args.name),
        Command::Handover(args) => Place::Given(&args.name),
        Command::Check(args) => Place::File(&mut args.file),
        Command::List(_)
        | Command::Init(_)
        | Command::Completions(_)
        | Command::Manual(_)
        | Command::Front
        | Command::AdoptCheck(_)
        | Command::Explain(_)
        | Command::Sweep(_) => Place::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words = line.split_whitespace().map(OsString::from);
        parse(words.collect())
            .map(|cli| cli.command)
            .map_err(|error| error.to_string())
    }

    fn name_of(line: &str) -> String {
        let mut command = parsed(line).unwrap();
        match place(&mut command) {
            Place::Option(name) => name.to_string(),
            Place::Name(name) => name.clone().unwrap_or_default().to_string(),
            Place::Given(name) => name.to_string(),
            Place::File(file) => file.display().to_string(),
            Place::Nowhere => String::new(),
        }
    }

    #[test]
    fn app_stands_before_or_behind_the_command_and_says_the_instance() {
        for line in [
            "gapless --app blog deploy ./x",
            "gapless deploy ./x --app blog",
            "gapless --app blog rollback",
            "gapless --app blog releases",
            "gapless --app blog status",
            "gapless status --app blog",
            "gapless status blog",
            "gapless --app blog status blog",
            "gapless --app blog hold --for 1min",
            "gapless --app blog stop",
            "gapless --app blog logs -f",
            "gapless --app blog log-level debug",
            "gapless --app blog run",
            "gapless --app blog add --listen 80",
            "gapless --app blog remove --purge",
            "gapless run --name blog",
        ] {
            assert_eq!(name_of(line), "blog", "{line}");
        }
        assert_eq!(
            name_of("gapless --app blog check"),
            "/etc/gapless/blog.toml"
        );
        assert_eq!(name_of("gapless check x.toml"), "x.toml");
        assert_eq!(name_of("gapless deploy ./x"), "gapless");
    }

    #[test]
    fn two_names_that_differ_are_both_named_and_refused() {
        for (line, given) in [
            ("gapless --app blog status shop", "shop"),
            ("gapless --app blog restart shop", "shop"),
            ("gapless --app blog check ./gapless.toml", "./gapless.toml"),
            ("gapless --app blog serve shop", "shop"),
        ] {
            let error = parsed(line).unwrap_err();
            let expected = format!("--app says blog, but {given} is named as well");
            assert!(error.contains(&expected), "{line}: {error}");
        }
        let error = parsed("gapless --app blog init").unwrap_err();
        assert!(
            error.contains("gapless init is not about one app"),
            "{error}"
        );
    }
}
