//! Why a worker that was wanted is gone, in one word: for the metric of respawns.

use super::plan::Pulse;
use super::reaper::Ending;

/// The end of one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It exited by itself.
    Exit,
    /// Somebody or something sent it a signal.
    Signal,
    /// The kernel, for want of memory.
    Oom,
    /// Its watchdog fell silent, so we ended it.
    Watchdog,
    /// It failed its health check, so we ended it.
    Health,
    /// It was not ready in time, so we ended it.
    Boot,
    /// Nobody saw how: it could not be started, or no keeper was there.
    Unknown,
}

impl Death {
    /// All of them, in the order of the manual.
    pub const ALL: [Self; 7] = [
        Self::Exit,
        Self::Signal,
        Self::Oom,
        Self::Watchdog,
        Self::Health,
        Self::Boot,
        Self::Unknown,
    ];

    /// Of a worker that is replaced because it is like this.
    pub fn of_hung(pulse: Pulse) -> Self {
        match pulse {
            Pulse::Silent => Self::Watchdog,
            Pulse::Well | Pulse::Fresh | Pulse::Suspected | Pulse::Unwell { .. } => Self::Health,
        }
    }

    /// The value of the label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Watchdog => "watchdog",
            Self::Health => "health",
            Self::Boot => "boot",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Ending> for Death {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Exited(_) => Self::Exit,
            Ending::Signaled { .. } => Self::Signal,
            Ending::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain;

    #[test]
    fn every_word_has_a_text() {
        for death in Death::ALL {
            assert!(explain::find(death.word()).is_some(), "{}", death.word());
        }
    }
}
