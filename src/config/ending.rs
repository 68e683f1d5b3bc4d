//! How a worker is told to end: by which signal, and which of its processes get it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `[app] kill_mode`: which processes of a worker get the signal. The words and their meaning are those
/// of systemd.kill(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// All of them; each has the time of `stop` to end.
    #[default]
    ControlGroup,
    /// The main process. The others are killed as soon as it has ended.
    Mixed,
}

/// `[app] stop_signal`: one that an app can handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM
    #[default]
    SigTerm,
    /// SIGINT
    SigInt,
    /// SIGQUIT
    SigQuit,
    /// SIGHUP
    SigHup,
    /// SIGUSR1
    SigUsr1,
    /// SIGUSR2
    SigUsr2,
    /// SIGWINCH
    SigWinch,
}

/// Text that is none of the choices.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of its choices")]
pub struct EndingError(String);

impl fmt::Display for KillMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlGroup => "control-group",
            Self::Mixed => "mixed",
        })
    }
}

impl FromStr for KillMode {
    type Err = EndingError;

    fn from_str(text: &str) -> Result<Self, EndingError> {
        [Self::ControlGroup, Self::Mixed]
            .into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or_else(|| EndingError(text.to_owned()))
    }
}

impl StopSignal {
    /// Each.
    pub const ALL: [Self; 7] = [
        Self::SigTerm,
        Self::SigInt,
        Self::SigQuit,
        Self::SigHup,
        Self::SigUsr1,
        Self::SigUsr2,
        Self::SigWinch,
    ];
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SigTerm => "SIGTERM",
            Self::SigInt => "SIGINT",
            Self::SigQuit => "SIGQUIT",
            Self::SigHup => "SIGHUP",
            Self::SigUsr1 => "SIGUSR1",
            Self::SigUsr2 => "SIGUSR2",
            Self::SigWinch => "SIGWINCH",
        })
    }
}

impl FromStr for StopSignal {
    type Err = EndingError;

    /// With or without `SIG`, as systemd takes them.
    fn from_str(text: &str) -> Result<Self, EndingError> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        Self::ALL
            .into_iter()
            .find(|signal| signal.to_string().strip_prefix("SIG") == Some(name))
            .ok_or_else(|| EndingError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_named_with_or_without_sig() {
        for signal in StopSignal::ALL {
            let name = signal.to_string();
            assert_eq!(name.parse::<StopSignal>().unwrap(), signal);
            let short = name.trim_start_matches("SIG");
            assert_eq!(short.parse::<StopSignal>().unwrap(), signal);
            let written = serde_json::to_string(&signal).unwrap();
            assert_eq!(written, format!("\"{name}\""));
        }
        for wrong in ["", "SIG", "SIGSIGTERM", "sigterm", "SIGKILL", "15"] {
            assert!(wrong.parse::<StopSignal>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_systemds_words() {
        for mode in [KillMode::ControlGroup, KillMode::Mixed] {
            assert_eq!(mode.to_string().parse::<KillMode>().unwrap(), mode);
            let written = serde_json::to_string(&mode).unwrap();
            assert_eq!(written, format!("\"{mode}\""));
        }
        for wrong in ["", "process", "none", "ControlGroup"] {
            assert!(wrong.parse::<KillMode>().is_err(), "{wrong}");
        }
    }
}
