//! What fronts leave behind when they die: settled connections, which the next front gets.
//!
//! The keeper holds no connection. It has the slots of each front, and the end of the socketpair by
//! which the trustee passes the connections on; an heir reads it, never the keeper.
//!
//! The keeper makes memfd and socketpair when it bears a front, and keeps the memfd and the receiving end
//! in the fd store: two fds for each front, none for a connection. When the front dies, it reads the memfd
//! (no mapping): busy slots are requests lost, by cause `front_died`. If anything is settled, the next
//! front inherits the receiving end as it does at a handover. The next front gets it again if the heir dies
//! before the estate was taken, and a keeper that adopts finds it by its name.

use super::{Fronts, RememberedFront, Stage};
use crate::id::FrontId;
use crate::keeper::plan::Moment;
use crate::keeper::stored;
use crate::link::slots::{self, SlotTally};
use crate::link::{self, ToFront};
use crate::steps::{self, Step};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The trustee gives up by itself; one that cannot (stopped, say) is ended.
const TAKEN_WITHIN: Duration = Duration::from_mins(2);

/// By their names in the fd store.
const SLOTS: &str = "slots";
const ESTATE: &str = "estate";

/// What a living front would leave.
#[derive(Debug)]
pub struct Bequest {
    slots: OwnedFd,
    estate: OwnedFd,
}

/// What a dead one left, until it was taken.
#[derive(Debug)]
pub(super) struct Estate {
    socket: OwnedFd,
    /// Told to take it.
    heir: Option<FrontId>,
    since: Moment,
}

impl Bequest {
    /// And the trustee's end.
    ///
    /// # Errors
    /// When the keeper is out of fds.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let slots = slots::create()?;
        let (estate, theirs) = link::pair()?;
        Ok((Self { slots, estate }, theirs))
    }

    pub(super) fn slots(&self) -> &OwnedFd {
        &self.slots
    }

    /// What the previous keeper kept; none of a front of an older gapless.
    pub fn take(id: FrontId, take: &mut dyn FnMut(&str) -> Option<OwnedFd>) -> Option<Self> {
        let slots = take(&stored::of_front(id, SLOTS));
        let estate = take(&stored::of_front(id, ESTATE));
        Some(Self {
            slots: slots?,
            estate: estate?,
        })
    }

    pub(super) fn keep(&self, id: FrontId) {
        stored::keep(&stored::of_front(id, SLOTS), &self.slots);
        stored::keep(&stored::of_front(id, ESTATE), &self.estate);
    }

    /// None where the front never wrote it down.
    pub(super) fn tally(&self, id: FrontId) -> Option<SlotTally> {
        slots::tally(&self.slots).unwrap_or_else(|error| {
            tracing::warn!(front = %id, %error, "cannot read what {id} left, its connections are closed: {error}");
            None
        })
    }
}

/// Of both.
pub(super) fn names(id: FrontId) -> [String; 2] {
    [SLOTS, ESTATE].map(|thing| stored::of_front(id, thing))
}

impl Fronts {
    /// Of a front that is dead: what is settled waits for an heir, unless gapless `stops`. Says what
    /// there was, if that is known.
    pub(super) fn left_behind(
        &mut self,
        id: FrontId,
        bequest: Option<Bequest>,
        stops: bool,
        now: Moment,
    ) -> Option<SlotTally> {
        let Some(bequest) = bequest else {
            // One of both may be there: a keeper died while it had them kept.
            self.left_in_store.extend(names(id));
            return None;
        };
        let tally = bequest.tally(id);
        if stops || !tally.is_some_and(|tally| tally.has_estate()) {
            self.left_in_store.extend(names(id));
            return tally;
        }
        self.left_in_store.push(stored::of_front(id, SLOTS));
        self.add_estate(id, bequest.estate, now);
        self.pass_estates_on();
        tally
    }

    /// Of a front that died while an earlier keeper lived.
    pub fn take_up_estate(
        &mut self,
        id: FrontId,
        take: &mut dyn FnMut(&str) -> Option<OwnedFd>,
        now: Moment,
    ) {
        if let Some(socket) = take(&stored::of_front(id, ESTATE)) {
            self.add_estate(id, socket, now);
        }
    }

    /// Of a front that died while no keeper was watching.
    pub fn take_up_bequest(
        &mut self,
        front: &RememberedFront,
        bequest: Option<Bequest>,
        now: Moment,
    ) {
        let tally = self.left_behind(front.id, bequest, false, now);
        let was_to_end = matches!(front.stage, Stage::Retiring | Stage::Draining);
        let left = tally.unwrap_or_default();
        if !(was_to_end && left == SlotTally::default()) {
            self.totals.front_deaths += 1;
        }
        let lost = left.busy;
        self.totals.bury(&link::Counters::default(), lost);
    }

    fn add_estate(&mut self, id: FrontId, socket: OwnedFd, since: Moment) {
        let estate = Estate {
            socket,
            heir: None,
            since,
        };
        self.estates.insert(id, estate);
    }

    /// To the front that serves, if there is one. An heir that died had perhaps taken only a part: the
    /// next one gets the rest.
    pub(super) fn pass_estates_on(&mut self) {
        let serving = |(_, front): &(&FrontId, &super::Front)| front.stage == Stage::Serving;
        let Some(heir) = self.living.iter().rfind(serving).map(|(id, _)| *id) else {
            return;
        };
        let mut given = Vec::new();
        for (id, estate) in &mut self.estates {
            if estate
                .heir
                .is_some_and(|heir| self.living.contains_key(&heir))
            {
                continue;
            }
            match estate.socket.try_clone() {
                Ok(socket) => {
                    estate.heir = Some(heir);
                    given.push((*id, socket));
                }
                Err(error) => {
                    tracing::warn!(front = %id, %error, "no fd to pass on what {id} left, trying again: {error}");
                }
            }
        }
        for (id, socket) in given {
            tracing::info!(front = %id, to = %heir, "settled connections of {id} move to {heir}");
            self.tell(heir, ToFront::Inherit, vec![socket]);
            steps::reached(Step::EstatePassed);
        }
    }

    /// Estates that were taken, or that nobody took in time; their trustees have no more to do.
    pub fn close_estates(&mut self, now: Moment) -> Vec<FrontId> {
        self.pass_estates_on();
        let is_over =
            |estate: &Estate| now - estate.since > TAKEN_WITHIN || is_taken(&estate.socket);
        let over = self.estates.extract_if(.., |_, estate| is_over(estate));
        let over: Vec<FrontId> = over.map(|(id, _)| id).collect();
        for id in &over {
            stored::forget(&stored::of_front(*id, ESTATE));
            steps::reached(Step::EstateClosed);
        }
        over
    }

    /// Whose connections wait for an heir, or are on their way to one.
    pub fn estates(&self) -> impl Iterator<Item = FrontId> {
        self.estates.keys().copied()
    }

    /// Nobody inherits at a stop: the trustees end.
    pub(super) fn forget_estates(&mut self) {
        for id in std::mem::take(&mut self.estates).into_keys() {
            stored::forget(&stored::of_front(id, ESTATE));
        }
    }
}

/// The trustee has ended, and nothing of it waits to be read.
fn is_taken(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::HUP)];
    let at_once = Timespec::default();
    let is_closed = matches!(poll(&mut fds, Some(&at_once)), Ok(1..));
    is_closed && matches!(ioctl_fionread(socket), Ok(0))
}
