//! One generation as the plan sees it.

use super::{Budget, Moment, Pulse, SlotState, budget::backoff};
use crate::id::{GenerationId, Slot};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What the plan needs to know of a release and of the configuration it began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Names the release to whoever carries out the effects.
    pub release: u64,
    /// Number of workers.
    pub workers: u32,
    /// The app insists on this port, so it cannot run twice at a time.
    pub fixed_port: Option<u16>,
    /// Time to become ready.
    pub boot: Duration,
    /// Time to stay ready before the swap.
    pub settle: Duration,
    /// Time for requests to finish once superseded.
    pub drain: Duration,
    /// Between the stop signal and SIGKILL.
    pub stop: Duration,
    /// Respawns of each worker allowed within `interval`.
    pub burst: u32,
    /// See `burst`.
    pub interval: Duration,
    /// First delay of a respawn.
    pub delay_min: Duration,
    /// Longest delay of a respawn.
    pub delay_max: Duration,
    /// It was never live: if it fails while nothing is, it is not tried again, and what it took the
    /// place of is. Absent from what a keeper without it wrote down.
    #[serde(default)]
    pub is_trial: bool,
}

impl Terms {
    pub(super) fn delay(&self, failures: u32, jitter: u64) -> Duration {
        backoff(failures, self.delay_min, self.delay_max, jitter)
    }
}

/// Where a generation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// For its fixed port, or for room.
    Waiting,
    /// Its workers boot.
    Starting,
    /// All are ready; they have to stay so for a moment.
    Settling {
        /// Then it is swapped in.
        until: Moment,
    },
    /// It may be swapped in as soon as one generation less is draining.
    Settled,
    /// In the cell.
    Live,
    /// Superseded; its requests finish.
    Draining {
        /// Then they are cut, or, once cut, the workers end all the same.
        until: Moment,
        /// They were told to end.
        cut: bool,
    },
    /// Its workers were told to end.
    Stopping {
        /// The reason.
        why: Why,
        /// SIGKILL is due.
        kill_at: Moment,
        /// SIGKILL was sent.
        killed: bool,
    },
}

impl Phase {
    /// It is on its way to be live.
    pub fn is_coming(self) -> bool {
        matches!(
            self,
            Self::Waiting | Self::Starting | Self::Settling { .. } | Self::Settled
        )
    }

    /// Its workers are being ended.
    pub fn is_stopping(self) -> bool {
        matches!(self, Self::Stopping { .. })
    }

    /// It was superseded, and all its requests are over, one way or the other.
    pub fn has_drained(self) -> bool {
        let why = match self {
            Self::Stopping { why, .. } => why,
            Self::Waiting
            | Self::Starting
            | Self::Settling { .. }
            | Self::Settled
            | Self::Live
            | Self::Draining { .. } => return false,
        };
        matches!(why, Why::Drained | Why::CutOff)
    }

    /// It finishes requests.
    pub fn is_draining(self) -> bool {
        matches!(self, Self::Draining { .. })
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Superseded, and its last request finished.
    Drained,
    /// Superseded, and requests ran past the drain limit.
    CutOff,
    /// A worker died before the swap.
    StartFailed,
    /// A worker was not ready in time.
    StartTimedOut,
    /// A newer one was begun before it was ready.
    Superseded,
    /// gapless stops.
    Stopped,
    /// All of its workers died while it drained.
    Died,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "drained",
            Self::CutOff => "cut off at the drain limit",
            Self::StartFailed => "start failed",
            Self::StartTimedOut => "not ready in time",
            Self::Superseded => "superseded before it was ready",
            Self::Stopped => "stopped",
            Self::Died => "its workers died",
        })
    }
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub id: GenerationId,
    /// What it was begun with.
    pub terms: Terms,
    /// Where it stands.
    pub phase: Phase,
    /// When it was begun.
    pub began: Moment,
    /// A failed start, tried again by itself.
    #[serde(default)]
    pub is_retry: bool,
    /// Its workers; from the first substitute on, twice as many places as workers.
    pub(super) slots: Vec<SlotState>,
    /// To be begun again if this one fails: it had to stop before this one could start.
    pub(super) fallback: Option<Terms>,
    pub(super) budget: Budget,
    /// Workers that died young in a row.
    pub(super) young_deaths: u32,
    /// The budget is spent, and not all were well for its interval since.
    pub(super) is_spent: bool,
}

impl Generation {
    pub(super) fn new(
        id: GenerationId,
        terms: Terms,
        fallback: Option<Terms>,
        now: Moment,
    ) -> Self {
        let slots = (0..terms.workers).map(|_| SlotState::Empty).collect();
        Self {
            id,
            terms,
            phase: Phase::Waiting,
            began: now,
            is_retry: false,
            slots,
            fallback,
            budget: Budget::default(),
            young_deaths: 0,
            is_spent: false,
        }
    }

    /// The restart budget is spent, and no worker serves.
    pub fn is_spent(&self) -> bool {
        self.is_spent && self.serving().is_empty()
    }

    /// Its places, with what is there.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, &SlotState)> {
        (0..).map(Slot).zip(&self.slots)
    }

    pub(super) fn all_slots(&self) -> Vec<Slot> {
        self.slots().map(|(slot, _)| slot).collect()
    }

    pub(super) fn with(&mut self, slot: Slot, change: impl FnOnce(&mut SlotState)) {
        if let Some(state) = self.slot_mut(slot) {
            change(state);
        }
    }

    pub(super) fn ready(&mut self, slot: Slot, now: Moment) {
        let pulse = if self.is_spent {
            Pulse::Fresh
        } else {
            Pulse::Well
        };
        self.with(slot, |state| state.ready(now, pulse));
    }

    pub(super) fn slot(&self, slot: Slot) -> Option<&SlotState> {
        usize::try_from(slot.0)
            .ok()
            .and_then(|index| self.slots.get(index))
    }

    pub(super) fn slot_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        usize::try_from(slot.0)
            .ok()
            .and_then(|index| self.slots.get_mut(index))
    }

    pub(super) fn boot(&mut self, slot: Slot, now: Moment) {
        let until = now + self.terms.boot;
        if let Some(state) = self.slot_mut(slot) {
            *state = SlotState::Booting { since: now, until };
        }
    }

    pub(super) fn ended(&mut self, slot: Slot) {
        if let Some(state) = self.slot_mut(slot) {
            *state = SlotState::Ended;
        }
    }

    pub(super) fn is_respawn_due(&self, slot: Slot, now: Moment) -> bool {
        matches!(self.slot(slot), Some(SlotState::Respawn { at }) if *at <= now)
    }

    /// A respawned worker that is late is ended once; its exit brings the next respawn.
    pub(super) fn kill_late(&mut self, slot: Slot, now: Moment) -> bool {
        let boot = self.terms.boot;
        match self.slot_mut(slot) {
            Some(SlotState::Booting { until, .. }) if *until <= now => {
                *until = now + boot;
                true
            }
            Some(_) | None => false,
        }
    }

    pub(super) fn give_up_respawns(&mut self) {
        for state in &mut self.slots {
            if matches!(state, SlotState::Respawn { .. } | SlotState::Empty) {
                *state = SlotState::Ended;
            }
        }
    }

    pub(super) fn deadline(&self, is_stopping: bool) -> Option<Moment> {
        match self.phase {
            Phase::Waiting | Phase::Settled => None,
            Phase::Starting => self.respawns_due(),
            Phase::Live if is_stopping => self.farewells_due(),
            Phase::Live => self
                .respawns_due()
                .into_iter()
                .chain(self.farewells_due())
                .min(),
            Phase::Settling { until } => Some(until),
            Phase::Draining { until, .. } => self.farewells_due().into_iter().chain([until]).min(),
            Phase::Stopping {
                kill_at, killed, ..
            } => (!killed).then_some(kill_at),
        }
    }

    /// What to begin again now that this one is gone for this reason.
    pub(super) fn fallback_now(self, why: Why) -> Option<Terms> {
        match why {
            Why::StartFailed | Why::StartTimedOut => self.fallback,
            Why::Drained | Why::CutOff | Why::Superseded | Why::Stopped | Why::Died => None,
        }
    }
}
