//! `gapless init`: the smallest gapless.toml for the app that is found in a directory.

use super::output::{printable, say, say_json};
use super::{CliError, Exit, InitArgs};
use crate::release::detection::{self, DetectionError};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Nothing was written.
#[derive(Debug, Error)]
pub enum InitError {
    /// Nobody knows how to run it.
    #[error("cannot tell how to run what is in {}", directory.display())]
    Detection {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: DetectionError,
    },
    /// No directory.
    #[error("{} is no directory; gapless init wants the one that the app is in", .0.display())]
    NoDirectory(PathBuf),
    /// It was written by somebody.
    #[error("{file} is there already and stays as it is; what it means: gapless check {file}", file = .0.display())]
    Exists(PathBuf),
    /// The file system said no.
    #[error("cannot write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl InitError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Detection { .. } => Exit::ConfigInvalid,
            Self::NoDirectory(_) => Exit::Usage,
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotAllowed
            }
            Self::Exists(_) | Self::Write { .. } => Exit::Failed,
        }
    }
}

/// The answer for programs.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    by: &'a str,
    command: &'a [String],
}

/// Never overwrites.
pub(super) fn run(args: &InitArgs) -> Result<Exit, CliError> {
    let directory = &args.directory;
    if !directory.is_dir() {
        return Err(InitError::NoDirectory(directory.clone()).into());
    }
    let file = directory.join("gapless.toml");
    if file.symlink_metadata().is_ok() {
        return Err(InitError::Exists(file).into());
    }
    let found = detection::detect(directory).map_err(|source| InitError::Detection {
        directory: directory.clone(),
        source,
    })?;
    write(&file, &text(&found.command, found.by))?;
    if args.json {
        say_json(&Written {
            file: &file,
            by: found.by,
            command: &found.command,
        });
    } else {
        let command = printable(&found.command.join(" "));
        let shown = printable(&directory.display().to_string());
        say(&format!(
            "wrote {}, by {}: {command}\n  next: gapless run there, or sudo gapless deploy {shown}",
            printable(&file.display().to_string()),
            found.by
        ));
    }
    Ok(Exit::Done)
}

/// Who was quicker keeps what he wrote.
fn write(file: &Path, text: &str) -> Result<(), InitError> {
    std::fs::File::create_new(file)
        .and_then(|mut created| created.write_all(text.as_bytes()))
        .map_err(|source| {
            let path = file.to_owned();
            if source.kind() == io::ErrorKind::AlreadyExists {
                InitError::Exists(path)
            } else {
                InitError::Write { path, source }
            }
        })
}

fn text(command: &[String], by: &str) -> String {
    let command: Vec<_> = command.iter().map(|word| quoted(word)).collect();
    format!(
        "# Found by {by}. All keys: man gapless.toml\n[app]\ncommand = [{}]\n",
        command.join(", ")
    )
}

/// A basic string of TOML.
fn quoted(word: &str) -> String {
    let escaped = word.chars().map(|c| match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_command_is_read_as_it_was_found(words in proptest::collection::vec(any::<String>(), 1..4)) {
            let written = text(&words, "the jar");
            let read: toml::Value = toml::from_str(&written).unwrap();
            let command: Vec<_> = read["app"]["command"].as_array().unwrap().iter()
                .map(|word| word.as_str().unwrap().to_owned()).collect();
            prop_assert_eq!(command, words);
        }
    }
}
