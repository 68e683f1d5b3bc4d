//! From a file and the command line to a [`Config`], or to everything that is wrong with them.

use super::problem::{Place, Problem};
use super::{Config, ConfigError, meant, written};
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// A file larger than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a configuration comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// The file; it must exist. None: the command line alone says what to run.
    pub file: Option<PathBuf>,
    /// What the command line says.
    pub overrides: Overrides,
    /// The release that is to run where the file names no directory: what the file leaves out comes
    /// from there.
    pub release: Option<ReleaseSource>,
    /// It is no mistake that nothing is there to run yet, nor that there is no file.
    pub may_be_bare: bool,
}

/// A release in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseSource {
    /// Its name.
    pub id: String,
    /// Its files, a `gapless.toml` perhaps among them.
    pub directory: PathBuf,
    /// What it was deployed to run, unless the file says something else.
    pub command: Option<Vec<String>>,
}

/// What the command line says; stronger than the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `[app] command`
    pub command: Option<Vec<String>>,
    /// `[app] workers`
    pub workers: Option<NonZeroU32>,
    /// `[app] directory`; a relative one is looked for in the current directory.
    pub directory: Option<PathBuf>,
}

/// Reads the file again, checks everything, and fills in the defaults.
///
/// # Errors
/// All problems at once, each with its place and its remedy. Nothing was started or changed.
pub fn load(source: &ConfigSource) -> Result<Config, ConfigError> {
    let may_be_missing = source.may_be_bare || source.release.is_some();
    let text = match &source.file {
        Some(file) if may_be_missing && is_missing(file) => String::new(),
        Some(file) => read(file)?,
        None => String::new(),
    };
    parse(&text, source)
}

/// What a file says that a release could say, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// `[app] directory`: then no release counts.
    pub directory: bool,
    /// `[app] command`
    pub command: bool,
}

/// Looks only for these two; a file that is not there says neither.
pub fn fixed(file: &Path) -> Fixed {
    let text = if is_missing(file) {
        String::new()
    } else {
        read(file).unwrap_or_default()
    };
    Fixed {
        directory: written::names(&text, "directory"),
        command: written::names(&text, "command"),
    }
}

fn is_missing(file: &Path) -> bool {
    matches!(file.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

pub(super) fn parse(text: &str, source: &ConfigSource) -> Result<Config, ConfigError> {
    let Some(release) = &source.release else {
        return parse_both(text, None, source);
    };
    if written::names(text, "directory") {
        let source = ConfigSource {
            release: None,
            ..source.clone()
        };
        return parse_both(text, None, &source);
    }
    let file = release.directory.join("gapless.toml");
    if is_missing(&file) {
        return parse_both(text, None, source);
    }
    let both = format!("{text}\n{}", read(&file)?);
    parse_both(&both, Some(&(file, text.len() + 1)), source)
}

/// `beside`: the file of the release, and where in the text it begins.
fn parse_both(
    text: &str,
    beside: Option<&(PathBuf, usize)>,
    source: &ConfigSource,
) -> Result<Config, ConfigError> {
    let split = beside.map_or(text.len(), |(_, split)| *split);
    let failed = |problems| {
        let error = ConfigError::new(source.file.as_deref(), text, problems);
        ConfigError {
            beside: beside.cloned(),
            ..error
        }
    };
    let (written, mut problems) = written::read(text, split).map_err(failed)?;
    let (config, more) = meant::mean(text, split, written, source);
    problems.extend(more);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(failed(problems))
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(unreadable(file, &error));
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        let message = "it is larger than 1MiB, which is no configuration".to_owned();
        return Err(whole_file(file, message, "name the right file".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(file, &error))
}

fn unreadable(file: &Path, error: &io::Error) -> ConfigError {
    let message = format!("cannot read it: {error}");
    let remedy = if error.kind() == io::ErrorKind::NotFound {
        format!("write {}:\n{}", file.display(), super::program::SMALLEST)
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "run this with sudo, or let the user of the service read it".to_owned()
    } else {
        "name a file that can be read".to_owned()
    };
    whole_file(file, message, remedy)
}

fn whole_file(file: &Path, message: String, remedy: String) -> ConfigError {
    let problem = Problem {
        message,
        hint: None,
        remedy,
        place: None,
    };
    ConfigError::new(Some(file), "", vec![problem])
}

fn not_utf8(file: &Path, error: &std::string::FromUtf8Error) -> ConfigError {
    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
    // Up to here the text is what the bytes are, so the place is the same in both.
    let start = error.utf8_error().valid_up_to();
    let problem = Problem {
        message: "not UTF-8, as TOML must be".to_owned(),
        hint: Some("here".to_owned()),
        remedy: "save the file as UTF-8".to_owned(),
        place: Some(Place::new(&text, start..start + 1)),
    };
    ConfigError::new(Some(file), &text, vec![problem])
}

#[cfg(test)]
mod tests;
