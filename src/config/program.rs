//! What to run, and where: checked against the file system, so that a reload fails before anything
//! is started.
//!
//! Never looks at `$PATH`: the service's is not that of the person who runs `gapless check`.

use super::ConfigSource;
use super::meant::Meaning;
use super::written::AppWritten;
use rustix::fs::{Access, access};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The smallest file that says something.
pub(super) const SMALLEST: &str = "[app]\ncommand = [\"bin/server\", \"--quiet\"]";

/// Why a path is not what it should be; reads on after the path.
#[derive(Debug, Error)]
enum Unfit {
    #[error("does not exist")]
    Missing,
    #[error("is not a directory")]
    NotADirectory,
    #[error("is outside of the release")]
    Outside,
    #[error("is a directory, not a program")]
    Directory,
    #[error("is not executable")]
    NotExecutable,
    #[error("cannot be looked at: {0}")]
    Hidden(#[source] io::Error),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Unfit::Missing
        } else if error.kind() == io::ErrorKind::NotADirectory {
            Unfit::NotADirectory
        } else {
            Unfit::Hidden(error)
        }
    }
}

/// The working directory, absolute and resolved; none after a problem with it.
pub(super) fn directory(
    meaning: &mut Meaning<'_>,
    app: &AppWritten,
    source: &ConfigSource,
) -> Option<PathBuf> {
    if let Some(asked) = &source.overrides.directory {
        return match resolve(asked) {
            Ok(directory) => Some(directory),
            Err(why) => {
                let message = format!("the directory {} {why}", asked.display());
                let remedy = "create it, or start from the directory of the app";
                meaning.report_elsewhere(message, remedy.to_owned());
                None
            }
        };
    }
    let beside = match &source.release {
        Some(release) => &release.directory,
        None => source
            .file
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new("")),
    };
    let Some(placed) = &app.directory else {
        return if app.has_directory {
            None
        } else {
            resolve(beside).ok()
        };
    };
    let directory = beside.join(&placed.value);
    let resolved = resolve(&directory).and_then(|resolved| match &source.release {
        Some(release) if !resolved.starts_with(resolve(&release.directory)?) => Err(Unfit::Outside),
        Some(_) | None => Ok(resolved),
    });
    match resolved {
        Ok(directory) => Some(directory),
        Err(why) => {
            let message = format!("{}: {} {why}", placed.key, directory.display());
            meaning.report(
                placed,
                message,
                None,
                directory_remedy(&placed.value, &why).to_owned(),
            );
            None
        }
    }
}

fn directory_remedy(written: &str, why: &Unfit) -> &'static str {
    if matches!(why, Unfit::Hidden(_)) {
        "let the user of the service read it and what is above it, or put the app below /srv or /opt"
    } else if written.starts_with('~') || written.contains('$') {
        "no shell looks at this: write the path in full"
    } else if Path::new(written).is_absolute() {
        "create it, or write the directory of the app"
    } else {
        "create it; a relative directory is looked for beside the file that names it"
    }
}

/// Through every symlink: workers must not notice when a `current` link moves on.
fn resolve(directory: &Path) -> Result<PathBuf, Unfit> {
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let resolved = std::fs::canonicalize(directory)?;
    if resolved.is_dir() {
        Ok(resolved)
    } else {
        Err(Unfit::NotADirectory)
    }
}

/// Program and arguments; a relative program with a slash becomes absolute, its symlinks kept (a
/// Python finds its venv by the name it is called by). Empty after a problem.
pub(super) fn command(
    meaning: &mut Meaning<'_>,
    app: &AppWritten,
    directory: Option<&Path>,
    source: &ConfigSource,
) -> Vec<String> {
    let deployed = source.release.as_ref().and_then(|it| it.command.as_ref());
    // What was said with the deploy is newer than what lies in the release.
    let deployed = deployed.filter(|_| {
        let written = app.command.as_ref();
        written.is_none_or(|placed| meaning.is_of_release(placed))
    });
    let asked = source.overrides.command.as_ref().or(deployed);
    let place = app.command.as_ref().filter(|_| asked.is_none());
    let Some(command) = asked.or(place.map(|placed| &placed.value)) else {
        if !app.means_command && !source.may_be_bare {
            let message = "there is no command: nothing says what to run".to_owned();
            meaning.report_elsewhere(message, no_command_remedy(source));
        }
        return Vec::new();
    };
    let wrong = match command.split_first() {
        None => Err(("the command is empty".to_owned(), "name the program")),
        Some((program, _)) if program.trim().is_empty() => Err((
            "the program of the command is empty".to_owned(),
            "name the program first",
        )),
        Some(_) if command.iter().any(|part| part.contains('\0')) => Err((
            "the command has a NUL character in it".to_owned(),
            "leave it out",
        )),
        Some((program, arguments)) => fit_program(program, directory).map(|program| {
            std::iter::once(program)
                .chain(arguments.iter().cloned())
                .collect()
        }),
    };
    let (message, remedy) = match wrong {
        Ok(command) => return command,
        Err(wrong) => wrong,
    };
    match place {
        Some(placed) => {
            let message = format!("{}: {message}", placed.key);
            meaning.report(placed, message, None, remedy.to_owned());
        }
        None => meaning.report_elsewhere(message, remedy.to_owned()),
    }
    Vec::new()
}

fn no_command_remedy(source: &ConfigSource) -> String {
    match &source.file {
        Some(file) => format!("write into {}:\n{SMALLEST}", file.display()),
        None => format!("write a file gapless.toml:\n{SMALLEST}\nor: gapless run -- CMD ARG..."),
    }
}

fn fit_program(program: &str, directory: Option<&Path>) -> Result<String, (String, &'static str)> {
    if !program.contains('/') {
        return Ok(program.to_owned());
    }
    // Without a directory there is a problem already, and nowhere to look.
    let Some(path) = directory
        .map(|directory| directory.join(program))
        .or_else(|| {
            Path::new(program)
                .is_absolute()
                .then(|| PathBuf::from(program))
        })
    else {
        return Ok(program.to_owned());
    };
    let shown = path.display();
    match is_program(&path) {
        Ok(()) => Ok(path
            .to_str()
            .map_or_else(|| program.to_owned(), str::to_owned)),
        Err(why @ Unfit::NotExecutable) => Err((
            format!("{shown} {why}"),
            "make it executable: chmod +x, or name its interpreter first",
        )),
        Err(why) => Err((
            format!("{shown} {why}"),
            "correct the path; one without a leading slash is looked for in the directory of the app",
        )),
    }
}

fn is_program(path: &Path) -> Result<(), Unfit> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(Unfit::Directory);
    }
    access(path, Access::EXEC_OK).map_err(|errno| match errno {
        rustix::io::Errno::ACCESS => Unfit::NotExecutable,
        other => Unfit::from(io::Error::from(other)),
    })
}
