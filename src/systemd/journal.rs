//! Our log and the app's lines, as fields in the journal; or as text on stderr, where no journal
//! listens.
//!
//! Never a file of our own, and never both: a line that systemd already gets from our stderr is not
//! sent a second time.
//!
//! Messages say in words what their fields say. `journalctl -f` shows only the message, and a person at
//! night needs "g7 w0 was killed by SIGSEGV after 0.7 s" there. The fields are for machines.

mod marked;

use crate::id::{GenerationId, Slot};
use libsystemd::logging::{Priority, connected_to_journal, journal_send};
use marked::Marked;
use std::io::{self, IsTerminal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

/// Logging cannot begin or change.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The level is none.
    #[error(
        "cannot log at level {level:?}; set `level` in the [log] section to error, warn, info, \
         debug or trace, or to a list like \"info,gapless=debug\""
    )]
    Level {
        /// As configured.
        level: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// `init` was called twice.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// The handle outlived the log.
    #[error("the log level cannot be changed any more")]
    Gone(#[source] reload::Error),
    /// A line did not arrive.
    #[error("cannot send a line to the journal")]
    Send(#[source] libsystemd::errors::SdError),
}

/// Changes the level while we run.
#[derive(Clone, Debug)]
pub struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl Level {
    /// From now on log at `level`, written as in RUST_LOG.
    ///
    /// # Errors
    /// [`JournalError`]; the old level stays.
    pub fn set(&self, level: &str) -> Result<(), JournalError> {
        self.handle
            .reload(filter(level)?)
            .map_err(JournalError::Gone)
    }
}

/// Sets up the log of this process: to the journal when stdout or stderr is connected to it, else to
/// stderr, for people. `name` is the app's, and comes with every entry as GAPLESS_NAME.
///
/// # Errors
/// [`JournalError`].
pub fn init(level: &str, name: &str) -> Result<Level, JournalError> {
    let filter = filter(level)?;
    let wants_detail = filter.max_level_hint() > Some(LevelFilter::INFO);
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let output = to_journal(name).unwrap_or_else(|| to_stderr(wants_detail));
    registry
        .with(output)
        .try_init()
        .map_err(JournalError::Twice)?;
    Ok(Level { handle })
}

/// Whether stdout or stderr of this process is a stream to the journal.
pub fn is_connected() -> bool {
    connected_to_journal()
}

fn filter(level: &str) -> Result<EnvFilter, JournalError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| JournalError::Level {
            level: level.to_owned(),
            source,
        })
}

/// None when the journal does not listen on its own socket; systemd still gets our stderr then.
fn to_journal<S>(name: &str) -> Option<Box<dyn Layer<S> + Send + Sync>>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    if !connected_to_journal() {
        return None;
    }
    Some(Box::new(Marked::new(name).ok()?))
}

/// Without the time on a terminal, where somebody is looking on. Messages say in words what their
/// fields say to machines, so the fields are shown only to those who debug.
fn to_stderr<S>(wants_detail: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let is_terminal = io::stderr().is_terminal();
    let fields = fmt::format::debug_fn(move |writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if wants_detail => write!(writer, " {name}={value:?}"),
        _ => Ok(()),
    });
    let layer = fmt::layer()
        .compact()
        .with_target(false)
        .with_writer(io::stderr)
        .fmt_fields(fields)
        .with_ansi(is_terminal);
    if is_terminal {
        Box::new(layer.without_time())
    } else {
        Box::new(layer)
    }
}

/// One line of an app's output.
#[derive(Clone, Copy, Debug)]
pub struct AppLine<'a> {
    /// Of the app: the instance name of our unit.
    pub name: &'a str,
    /// Which run.
    pub generation: GenerationId,
    /// Which worker.
    pub slot: Slot,
    /// Label of the release.
    pub release: &'a str,
    /// 0 (emergency) to 7 (debug), sd-daemon(3); more counts as debug.
    pub priority: u8,
    /// Without its line break.
    pub text: &'a str,
}

/// Sends a line to the journal, under the app's name: `journalctl -t NAME GAPLESS_GENERATION=g7`.
/// May block while the journal is busy.
///
/// # Errors
/// [`JournalError::Send`].
pub fn send_app_line(line: &AppLine<'_>) -> Result<(), JournalError> {
    let generation = line.generation.to_string();
    let worker = line.slot.to_string();
    let fields = [
        ("SYSLOG_IDENTIFIER", line.name),
        ("GAPLESS_NAME", line.name),
        ("GAPLESS_GENERATION", &generation),
        ("GAPLESS_RELEASE", line.release),
        ("GAPLESS_WORKER", &worker),
    ];
    journal_send(priority(line.priority), line.text, fields.into_iter()).map_err(JournalError::Send)
}

fn priority(number: u8) -> Priority {
    match number {
        0 => Priority::Emergency,
        1 => Priority::Alert,
        2 => Priority::Critical,
        3 => Priority::Error,
        4 => Priority::Warning,
        5 => Priority::Notice,
        6 => Priority::Info,
        _ => Priority::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_says_what_would_be_one() {
        let error = filter("gapless=loud").unwrap_err();
        assert!(error.to_string().contains("info,gapless=debug"));
        filter("info,gapless=debug").unwrap();
    }

    #[test]
    fn the_level_can_be_changed_while_it_is_in_use() {
        let (layer, handle) = reload::Layer::new(filter("error").unwrap());
        let level = Level { handle };
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::INFO));
            level.set("info").unwrap();
            assert!(tracing::enabled!(tracing::Level::INFO));
            assert!(level.set("=").is_err());
        });
        assert!(matches!(level.set("info"), Err(JournalError::Gone(_))));
    }

    #[test]
    fn a_priority_beyond_the_last_is_debug() {
        assert_eq!(u8::from(priority(3)), 3);
        assert_eq!(u8::from(priority(200)), 7);
    }
}
