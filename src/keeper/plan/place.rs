//! One place as the plan sees it, and how well the worker in it is.

use super::Moment;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The worker in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// Not begun.
    Empty,
    /// Started, not ready.
    Booting {
        /// When it was started.
        since: Moment,
        /// Then it is late.
        until: Moment,
    },
    /// It was ready.
    Ready {
        /// When it became ready.
        since: Moment,
        /// How well it has been since.
        #[serde(default)]
        pulse: Pulse,
    },
    /// Hung, and another one serves in its stead, or soon will: it is being ended.
    Leaving {
        /// When it became ready.
        since: Moment,
        /// How far that has come.
        step: Farewell,
        /// Then the next step is due.
        until: Moment,
        /// Between the stop signal and SIGKILL.
        grace: Duration,
    },
    /// Dead, or about to be replaced; a worker is due here.
    Respawn {
        /// When.
        at: Moment,
    },
    /// Dead for good.
    Ended,
}

/// How well a ready worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pulse {
    /// As it should be.
    #[default]
    Well,
    /// Ready after the restart budget was spent: it must stay so for `settle` before it serves.
    Fresh,
    /// It failed a question: nothing is sent to it while another one is well.
    Suspected,
    /// It failed `fails` questions in a row: it is replaced.
    Unwell {
        /// Requests go to it if there is no better one: it answers, only not well; or its
        /// substitute failed too, so what ails it is probably not its own.
        is_used: bool,
    },
    /// Its own watchdog ran out: it is replaced, and nothing is sent to it.
    Silent,
}

/// How far the end of a single worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Farewell {
    /// It has left the cell; the fronts are to acknowledge that.
    Cell,
    /// It was sent SIGTERM.
    Terminated,
    /// It was sent SIGKILL.
    Killed,
}

impl Pulse {
    /// It is replaced.
    pub fn is_hung(self) -> bool {
        matches!(self, Self::Unwell { .. } | Self::Silent)
    }

    /// The word for it, in status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Well => "ready",
            Self::Fresh => "settling",
            Self::Suspected => "suspected",
            Self::Unwell { .. } => "unhealthy",
            Self::Silent => "silent",
        }
    }

    /// What it is after it was found to be `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::Fresh, Self::Well | Self::Suspected) => Self::Fresh,
            (Self::Unwell { is_used: was }, Self::Unwell { is_used }) => Self::Unwell {
                is_used: was || is_used,
            },
            (_, next) => next,
        }
    }
}

impl fmt::Display for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl SlotState {
    /// It was ready, and is not being ended.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// How well it is, if it is ready.
    pub fn pulse(&self) -> Option<Pulse> {
        match self {
            Self::Ready { pulse, .. } => Some(*pulse),
            Self::Empty
            | Self::Booting { .. }
            | Self::Leaving { .. }
            | Self::Respawn { .. }
            | Self::Ended => None,
        }
    }

    /// There is a process to end and to reap.
    pub fn has_process(&self) -> bool {
        matches!(
            self,
            Self::Booting { .. } | Self::Ready { .. } | Self::Leaving { .. }
        )
    }

    /// The fronts are to acknowledge that it has left the cell.
    pub fn awaits_fronts(&self) -> bool {
        matches!(
            self,
            Self::Leaving {
                step: Farewell::Cell,
                ..
            }
        )
    }

    /// Nothing is here and nothing will be.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Ended | Self::Empty)
    }

    pub(super) fn is_hung(&self) -> bool {
        self.pulse().is_some_and(Pulse::is_hung)
    }

    /// On its way to be ready.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self, Self::Booting { .. } | Self::Respawn { .. })
    }

    pub(super) fn ready_since(&self) -> Option<Moment> {
        match self {
            Self::Ready { since, .. } | Self::Leaving { since, .. } => Some(*since),
            Self::Empty | Self::Booting { .. } | Self::Respawn { .. } | Self::Ended => None,
        }
    }

    pub(super) fn is_late(&self, now: Moment) -> bool {
        matches!(self, Self::Booting { until, .. } if *until <= now)
    }

    pub(super) fn ready(&mut self, now: Moment, pulse: Pulse) {
        if matches!(self, Self::Booting { .. }) {
            *self = Self::Ready { since: now, pulse };
        }
    }

    pub(super) fn feel(&mut self, next: Pulse) {
        if let Self::Ready { pulse, .. } = self {
            *pulse = pulse.then(next);
        }
    }

    /// Requests may go to it though it is unwell.
    pub(super) fn is_needed(&mut self) {
        if let Self::Ready {
            pulse: Pulse::Unwell { is_used },
            ..
        } = self
        {
            *is_used = true;
        }
    }

    pub(super) fn extend(&mut self, to: Moment) {
        if let Self::Booting { until, .. } = self {
            *until = (*until).max(to);
        }
    }
}
