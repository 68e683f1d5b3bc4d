//! To start is to adopt what runs.

use super::{Keeper, now};
use crate::id::GenerationId;
use crate::id::Slot;
use crate::keeper::adoption::{Kept, Owned, Remembered};
use crate::keeper::console;
use crate::keeper::crew::Crew;
use crate::keeper::fronts::{Bequest, FrontFds, RememberedFront};
use crate::keeper::plan::Event;
use crate::keeper::stored;
use crate::steps::{self, Step};
use crate::systemd::given;
use std::collections::BTreeSet;

impl Keeper {
    /// Takes over what the previous keeper left, and ends what it cannot know. Says whether this is
    /// a restart of the unit, which begins a new generation and a new front.
    pub(super) fn adopt(&mut self, remembered: Option<Remembered>, mut kept: Kept) -> bool {
        steps::reached(Step::StateRead);
        let deposits = remembered.as_ref().map(|was| &was.owned.deposits);
        self.yard.deposits.adopt(kept.deposits(), deposits);
        if let Some(remembered) = remembered {
            self.take_up(remembered, &mut kept);
        }
        // It was told to the keeper before, which has ended by now.
        let was_released = self.memory.released.take().is_some();
        let is_known = |id| self.memory.plan.generation(id).is_some();
        self.yard.deposits.abandon_unknown(is_known);
        steps::reached(Step::Adopted);
        kept.forget_rest();
        self.end_strangers();
        self.remove_strange_sockets();
        steps::reached(Step::StrangersEnded);
        was_released
    }

    fn take_up(&mut self, remembered: Remembered, kept: &mut Kept) {
        let Remembered {
            memory,
            owned: remembered,
        } = remembered;
        self.memory = memory;
        self.fronts.resume(remembered.next_front, remembered.cell);
        self.fronts.totals = remembered.totals;
        let dropped = self.fronts.totals.counters.access_dropped;
        self.rounds.was_told_of_dropped(dropped);
        for front in remembered.fronts {
            self.take_up_front(front, kept);
        }
        for id in remembered.estates {
            let mut take = |name: &str| kept.take(name);
            self.fronts.take_up_estate(id, &mut take, now());
        }
        self.fronts.retire_again(now());
        for crew in remembered.crews {
            let id = crew.id;
            let (crew, dead) = Crew::adopt(crew, &self.yard, &mut |name| kept.take(name));
            self.crews.insert(id, crew);
            self.events
                .extend(dead.into_iter().map(|slot| Event::WorkerExited(id, slot)));
        }
        self.bury_missing();
        self.was_coming = self.memory.plan.coming().map(|coming| coming.id);
    }

    fn take_up_front(&mut self, front: RememberedFront, kept: &mut Kept) {
        let id = front.id();
        let (pidfd, link) = (
            kept.take(&stored::of_front(id, "pidfd")),
            kept.take(&stored::of_front(id, "link")),
        );
        let bequest = Bequest::take(id, &mut |name| kept.take(name));
        let alive = pidfd.and_then(|pidfd| Some((given::pid_of_pidfd(&pidfd)?, pidfd)));
        let (Some((pid, pidfd)), Some(link)) = (alive, link) else {
            tracing::warn!(front = %id, "{id} ended while no keeper was watching");
            stored::forget(&stored::of_front(id, "pidfd"));
            stored::forget(&stored::of_front(id, "link"));
            self.fronts.take_up_bequest(&front, bequest, now());
            return;
        };
        let fds = FrontFds {
            pidfd,
            link,
            bequest,
        };
        if let Err(error) = self.fronts.adopt(front, pid, fds) {
            tracing::error!(front = %id, %error, "{id} not adopted: {error}");
        }
    }

    /// Workers of which the plan knows but of which nothing was kept: killed between the decision
    /// and the fd store.
    fn bury_missing(&mut self) {
        let expected: Vec<(GenerationId, Slot)> = self
            .memory
            .plan
            .generations()
            .flat_map(|generation| {
                let slots = generation.slots();
                slots
                    .filter(|(_, state)| state.has_process())
                    .map(|(slot, _)| (generation.id, slot))
            })
            .collect();
        for (id, slot) in expected {
            let is_there = self
                .crews
                .get(&id)
                .is_some_and(|crew| crew.has_worker(slot));
            let event = Event::WorkerExited(id, slot);
            if !is_there && !self.events.contains(&event) {
                self.events.push_back(event);
            }
        }
    }

    /// A worker of what was on its way to be live when the last keeper ended is gone, perhaps only
    /// because of that end: whoever asked for it gets it, by one more try.
    pub(super) fn begin_again(&mut self, event: &Event) -> Option<Event> {
        let Event::WorkerExited(of, _) = *event else {
            return None;
        };
        let coming = self.memory.plan.coming().filter(|coming| coming.id == of)?;
        self.was_coming.take_if(|id| *id == of)?;
        tracing::info!(generation = %of, "{of} is begun again: a worker of it was lost with the keeper");
        Some(Event::Begin(coming.terms.clone()))
    }

    /// No process is unknown to the keeper: whatever runs in a control group of ours that nobody
    /// remembers was started by a keeper that died before it could write it down.
    fn end_strangers(&self) {
        let Some(group) = &self.group else { return };
        // The trustee of a dead front is in the group of it.
        let estates = self.fronts.estates().map(|id| id.to_string());
        let known: BTreeSet<String> = self.known().into_iter().chain(estates).collect();
        for name in group.children() {
            if !known.contains(&name) {
                tracing::warn!(
                    group = name,
                    "processes of {name} are ended: no keeper remembers them"
                );
                group.discard(&name);
            }
        }
        for name in console::groups() {
            group.discard(&name);
        }
    }

    /// Nor is a socket of theirs left, nor of who ended while no keeper was watching.
    fn remove_strange_sockets(&self) {
        let known = self.known();
        let directory = &self.yard.runtime_directory;
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                return tracing::warn!(%error, "cannot look for sockets that were left: {error}");
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str());
            let is_left = name
                .and_then(owner)
                .is_some_and(|owner| !known.contains(owner));
            if is_left && let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "{} stays behind: {error}", path.display());
            }
        }
    }

    /// Generations and fronts, as their control groups and sockets are named.
    fn known(&self) -> BTreeSet<String> {
        let crews = self.crews.keys().map(ToString::to_string);
        let fronts = self.fronts.status().into_iter();
        crews
            .chain(fronts.map(|front| front.id.to_string()))
            .collect()
    }

    /// All that the next keeper must know.
    pub(super) fn remember(&self) -> Remembered {
        let owned = Owned {
            cell: self.fronts.cell().clone(),
            next_front: self.fronts.next(),
            crews: self.crews.values().map(Crew::remember).collect(),
            fronts: self.fronts.remember(),
            estates: self.fronts.estates().collect(),
            totals: self.fronts.totals.clone(),
            deposits: self.yard.deposits.remember(),
        };
        Remembered {
            memory: self.memory.clone(),
            owned,
        }
    }
}

/// `g7` of `g7-w0.sock`, `f3` of what is a front's; none for what has another name.
fn owner(file: &str) -> Option<&str> {
    let (owner, _) = file.split_once('-')?;
    let number = owner.strip_prefix(['g', 'f'])?;
    number.parse::<u64>().is_ok().then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_generations_and_fronts_have_an_owner() {
        assert_eq!(owner("g7-w0.sock"), Some("g7"));
        assert_eq!(owner("f3-lane0"), Some("f3"));
        for other in ["control.sock", "gapless-x", "g-1", "f3", "h3-1", ""] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
