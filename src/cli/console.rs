//! `gapless console`: the console of the running release, on a terminal of its own.
//!
//! The keeper runs it, within the unit. Nothing that the keeper says is run here: this passes bytes on.

mod pty;
mod relay;

use super::client::{self, ANSWER_LIMIT, ClientError, Heard, Lines};
use super::instance::{self, Instance};
use super::output::printable;
use super::{CliError, Exit, InstanceName};
use crate::api::{ConsoleRefusal, ConsoleStep, is_term};
use hyper::StatusCode;
use pty::{Pty, Raw};
use relay::Dry;
use rustix::process::geteuid;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What the console wrote last may still be on its way for so long.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// No console was opened.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// No app to talk to.
    #[error(
        "nothing is live: no worker runs that a console could talk to; gapless status says why"
    )]
    NothingLive,
    /// Nobody said what to run.
    #[error(
        "the running release has no console; say in its gapless.toml, or in /etc/gapless, what \
         connects to it: [app] console = [\"bin/app\", \"remote\"], then gapless reload"
    )]
    NotConfigured,
    /// There is an end to it.
    #[error("{0} consoles are open, and there may be no more; close one")]
    TooMany(String),
    /// Of another user.
    #[error(
        "only root may open the console of a service, and of a gapless run the user who started it; try sudo gapless console"
    )]
    NotAllowed,
    /// Whose console it is cannot be seen.
    #[error("cannot see who runs the app: {}", directory.display())]
    Owner {
        /// That of the app's user.
        directory: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No terminal to be had.
    #[error("cannot open a terminal for the console; is /dev/pts mounted, and is there room?")]
    Terminal(#[source] io::Error),
    /// The keeper could not start it.
    #[error("the console was not started: {0}")]
    NotStarted(String),
    /// It knows no such question.
    #[error(
        "the gapless that runs is older than this one and opens no console; upgrade it: \
         gapless upgrade, or systemctl restart {0}"
    )]
    Old(String),
    /// As the keeper did, by a restart, an upgrade or a crash.
    #[error("the console ended with the gapless that ran it; see gapless status")]
    Cut,
    /// Not what a keeper says.
    #[error("the answer to {what} was not understood: {said}")]
    Strange {
        /// `POST /console/7`
        what: String,
        /// The beginning of what was said.
        said: String,
    },
}

impl ConsoleError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotAllowed => Exit::NotAllowed,
            Self::NothingLive
            | Self::NotConfigured
            | Self::TooMany(_)
            | Self::Owner { .. }
            | Self::Terminal(_)
            | Self::NotStarted(_)
            | Self::Old(_)
            | Self::Cut
            | Self::Strange { .. } => Exit::Failed,
        }
    }
}

/// With the exit code of the console.
pub(super) fn run(name: Option<&InstanceName>) -> Result<Exit, CliError> {
    let instance = instance::find(name)?;
    let user = user(&instance)?;
    let pty = Pty::open(user).map_err(ConsoleError::Terminal)?;
    let path = path(pty.number, std::env::var("TERM").ok());
    let mut console = Console {
        lines: client::follow(&instance, &path).map_err(|error| too_old(error, &instance))?,
        what: format!("POST {path}"),
        pty,
    };
    let first = console.first()?;
    if first == ConsoleStep::Began {
        return console.sit();
    }
    Ok(ended(first)?)
}

/// Who must own the terminal; none: it is we. That is who owns the directory that systemd made for it, in one of
/// root's; what the keeper says does not count.
fn user(instance: &Instance) -> Result<Option<u32>, ConsoleError> {
    let ours = geteuid().as_raw();
    if instance.is_in_foreground() {
        return Ok(None);
    }
    let directory = instance::system_directory(&instance.name);
    let owner = std::fs::symlink_metadata(&directory)
        .map_err(|source| ConsoleError::Owner { directory, source })?
        .uid();
    match (owner == ours, ours == 0) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(owner)),
        (false, false) => Err(ConsoleError::NotAllowed),
    }
}

fn path(terminal: u32, term: Option<String>) -> String {
    match term.filter(|term| is_term(term)) {
        Some(term) => format!("/console/{terminal}?term={term}"),
        None => format!("/console/{terminal}"),
    }
}

fn too_old(error: ClientError, instance: &Instance) -> CliError {
    if let ClientError::Refused { status, .. } = &error
        && *status == StatusCode::NOT_FOUND
    {
        return ConsoleError::Old(instance.name.unit()).into();
    }
    error.into()
}

fn ended(step: ConsoleStep) -> Result<Exit, ConsoleError> {
    match step {
        // As shells say it: who calls us sees 8 bits.
        ConsoleStep::Exited { code } => Ok(Exit::Command(u8::try_from(code & 0xff).unwrap_or(1))),
        ConsoleStep::Killed { signal } => Ok(by_signal(signal)),
        ConsoleStep::Began | ConsoleStep::Lost => Err(ConsoleError::Cut),
        ConsoleStep::Refused { reason, detail } => Err(match reason {
            ConsoleRefusal::NothingLive => ConsoleError::NothingLive,
            ConsoleRefusal::NotConfigured => ConsoleError::NotConfigured,
            ConsoleRefusal::TooMany => ConsoleError::TooMany(detail),
            ConsoleRefusal::Terminal | ConsoleRefusal::Failed => ConsoleError::NotStarted(detail),
        }),
    }
}

fn by_signal(signal: i32) -> Exit {
    Exit::Command(u8::try_from(signal & 0x7f).unwrap_or(0) | 0x80)
}

/// One that the keeper was asked for.
struct Console {
    what: String,
    lines: Lines,
    pty: Pty,
}

impl Console {
    /// What the keeper says within the time that it has for an answer.
    fn first(&mut self) -> Result<ConsoleStep, CliError> {
        let late = async { tokio::time::sleep(ANSWER_LIMIT).await };
        match self.lines.next_unless(late)? {
            Heard::Line(line) => Ok(self.understand(&line)?),
            Heard::End => Err(ConsoleError::Strange {
                what: self.what.clone(),
                said: "no line".to_owned(),
            }
            .into()),
            Heard::Stop(()) => Err(ClientError::TimedOut {
                service: None,
                what: self.what.clone(),
                limit: ANSWER_LIMIT,
            }
            .into()),
        }
    }

    fn understand(&self, line: &str) -> Result<ConsoleStep, ConsoleError> {
        client::understand(line.as_bytes()).map_err(|_| ConsoleError::Strange {
            what: self.what.clone(),
            said: printable(&line.chars().take(300).collect::<String>()),
        })
    }

    /// Until it has ended, or we are told to.
    fn sit(mut self) -> Result<Exit, CliError> {
        let signals = self.lines.run(async { Signals::new() });
        let mut signals = signals.map_err(ConsoleError::Terminal)?;
        let raw = Raw::enter().map_err(ConsoleError::Terminal)?;
        let mut told = relay::begin(&self.pty).map_err(ConsoleError::Terminal)?;
        let stop = stop(&mut signals, &self.pty, &mut told);
        let heard = self.lines.next_unless(stop);
        if let Ok(Heard::Line(_)) = heard {
            let rest = async { tokio::time::timeout(LAST_OUTPUT, told.recv()).await };
            // Too late, or all was shown: it has ended in any case.
            drop(self.lines.run(rest));
        }
        drop(raw);
        match heard {
            Ok(Heard::Line(line)) => Ok(ended(self.understand(&line)?)?),
            Ok(Heard::Stop(exit)) => Ok(exit),
            Ok(Heard::End) | Err(_) => Err(ConsoleError::Cut.into()),
        }
    }
}

/// What ends us, and what our terminal tells.
struct Signals {
    resized: Signal,
    ends: [(SignalKind, Signal); 4],
}

impl Signals {
    fn new() -> io::Result<Self> {
        let end = |kind| Ok::<_, io::Error>((kind, signal(kind)?));
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            ends: [
                end(SignalKind::hangup())?,
                end(SignalKind::interrupt())?,
                end(SignalKind::quit())?,
                end(SignalKind::terminate())?,
            ],
        })
    }

    /// Which one came.
    async fn end(ends: &mut [(SignalKind, Signal); 4]) -> SignalKind {
        std::future::poll_fn(|cx| {
            let mut ends = ends.iter_mut();
            let came = ends.find_map(|(kind, it)| it.poll_recv(cx).is_ready().then_some(*kind));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Why the console has to end before it ends by itself.
async fn stop(signals: &mut Signals, pty: &Pty, told: &mut mpsc::Receiver<Dry>) -> Exit {
    let Signals { resized, ends } = signals;
    let mut is_dry = false;
    loop {
        tokio::select! {
            kind = Signals::end(ends) => return by_signal(kind.as_raw_value()),
            _ = resized.recv() => pty.follow_size(),
            dry = told.recv(), if !is_dry => match dry {
                Some(Dry::Unread) => return by_signal(rustix::process::Signal::PIPE.as_raw()),
                Some(Dry::Ended) | None => is_dry = true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_ends_as_a_shell_says_it() {
        let codes = [0, 3, 255].map(|code| ended(ConsoleStep::Exited { code }).unwrap().code());
        assert_eq!(codes, [0, 3, 255]);
        let killed = ConsoleStep::Killed { signal: 9 };
        assert_eq!(ended(killed).unwrap().code(), 137);
        for step in [ConsoleStep::Began, ConsoleStep::Lost] {
            assert!(matches!(ended(step), Err(ConsoleError::Cut)));
        }
    }

    #[test]
    fn a_term_that_is_no_plain_word_is_not_passed_on() {
        assert_eq!(path(7, Some("xterm".into())), "/console/7?term=xterm");
        for term in [None, Some("a b".to_owned()), Some("x HTTP/1.1\r\n".into())] {
            assert_eq!(path(7, term), "/console/7");
        }
    }
}
