//! The live cell of one lane, and the leases on its generations.
//!
//! A lease is claimed in the same step in which its generation and backend are chosen; the lane is
//! one thread, so nothing can come between. This module never waits and never decides what is live.

use super::pool::BackendPool;
use crate::id::{GenerationId, Slot};
use crate::link::{Backend, Cell as CellOrder, Target};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// One generation as this lane sees it.
#[derive(Debug)]
pub(super) struct Generation {
    id: GenerationId,
    leases: Cell<u64>,
    /// How often it was cut: a lease is cut when this grew since its claim.
    cuts: Cell<u64>,
    is_current: Cell<bool>,
    /// None while it is in the cell.
    departure: Cell<Option<Departure>>,
}

/// How and when a generation left the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Another took its place.
    Superseded(Instant),
    /// Nothing did yet.
    Withdrawn(Instant),
}

/// Tells whether what runs on a generation has to end.
#[derive(Debug)]
pub(super) struct CutMark {
    generation: Rc<Generation>,
    cuts: u64,
}

impl CutMark {
    pub(super) fn is_cut(&self) -> bool {
        self.generation.cuts.get() != self.cuts
    }
}

/// A request's claim on a generation and one of its backends.
#[derive(Debug)]
pub(super) struct Lease {
    live: Rc<Live>,
    mark: CutMark,
    pool: Rc<BackendPool>,
}

impl Lease {
    pub(super) fn pool(&self) -> &Rc<BackendPool> {
        &self.pool
    }

    pub(super) fn generation(&self) -> GenerationId {
        self.mark.generation.id
    }

    pub(super) fn is_cut(&self) -> bool {
        self.mark.is_cut()
    }

    /// None while its generation is in the cell.
    pub(super) fn departure(&self) -> Option<Departure> {
        self.mark.generation.departure.get()
    }

    pub(super) fn cut_mark(&self) -> CutMark {
        CutMark {
            generation: Rc::clone(&self.mark.generation),
            cuts: self.mark.cuts,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.leave();
        self.live.release(&self.mark.generation);
    }
}

/// What the cell says to a request.
#[derive(Debug)]
pub(super) enum Claim {
    /// Go there.
    Leased(Lease),
    /// Wait for the cell to change.
    Wait,
    /// Nothing will come soon.
    Refused,
    /// Nothing was ever deployed.
    Bare,
}

/// One life of a worker.
pub(super) type Life = (Slot, u64);

#[derive(Debug)]
enum Aim {
    Live {
        generation: Rc<Generation>,
        pools: Vec<Rc<BackendPool>>,
    },
    Hold,
    Refuse,
    Bare,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Live {
    seq: Cell<u64>,
    /// That was in the cell last; none before the first.
    newest: Cell<Option<GenerationId>>,
    aim: RefCell<Aim>,
    /// The current one, and those that still have leases.
    generations: RefCell<BTreeMap<GenerationId, Rc<Generation>>>,
    /// Where the search for a backend begins: lanes begin at different ones and move on, so that
    /// a lightly loaded app is used evenly.
    turn: Cell<usize>,
    changed: Notify,
    drained: Rc<Notify>,
}

impl Live {
    /// `drained` is notified when a generation that is not in the cell has lost its last lease.
    pub(super) fn new(turn: usize, drained: Rc<Notify>) -> Rc<Self> {
        Rc::new(Self {
            seq: Cell::new(0),
            newest: Cell::new(None),
            aim: RefCell::new(Aim::Hold),
            generations: RefCell::default(),
            turn: Cell::new(turn),
            changed: Notify::new(),
            drained,
        })
    }

    /// [`CellOrder::seq`] of what is served; 0 before the first.
    pub(super) fn seq(&self) -> u64 {
        self.seq.get()
    }

    /// The generation that is in the cell, or was in it last: who cannot be served has it to blame.
    pub(super) fn newest(&self) -> Option<GenerationId> {
        self.newest.get()
    }

    /// Notified at every new cell; get the future before asking for a claim.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// There is something to serve from, if only the word to wait.
    pub(super) async fn first_cell(&self) {
        loop {
            let changed = self.changed();
            if self.seq() > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Leases by generation.
    pub(super) fn leases(&self) -> BTreeMap<GenerationId, u64> {
        let generations = self.generations.borrow();
        let counts = generations
            .iter()
            .map(|(id, generation)| (*id, generation.leases.get()));
        counts.filter(|(_, leases)| *leases > 0).collect()
    }

    /// The swap.
    pub(super) fn serve(&self, cell: &CellOrder) {
        self.seq.set(cell.seq);
        let aim = match &cell.target {
            Target::Live {
                generation,
                backends,
            } => self.aim_at(*generation, backends),
            Target::Hold | Target::Refuse if cell.is_bare => Aim::Bare,
            Target::Hold => Aim::Hold,
            Target::Refuse => Aim::Refuse,
        };
        let old = self.aim.replace(aim);
        self.retire(&old);
        self.changed.notify_waiters();
    }

    fn aim_at(&self, id: GenerationId, backends: &[Backend]) -> Aim {
        self.newest.set(Some(id));
        let generation = self.generation(id);
        let known = self.pools_of(id);
        let pools = backends
            .iter()
            .map(|backend| {
                let same = known.iter().find(|pool| pool.backend() == backend);
                same.map_or_else(|| BackendPool::new(backend.clone()), Rc::clone)
            })
            .collect();
        Aim::Live { generation, pools }
    }

    fn generation(&self, id: GenerationId) -> Rc<Generation> {
        let mut generations = self.generations.borrow_mut();
        let generation = generations.entry(id).or_insert_with(|| {
            Rc::new(Generation {
                id,
                leases: Cell::new(0),
                cuts: Cell::new(0),
                is_current: Cell::new(false),
                departure: Cell::new(None),
            })
        });
        Rc::clone(generation)
    }

    fn pools_of(&self, id: GenerationId) -> Vec<Rc<BackendPool>> {
        match &*self.aim.borrow() {
            Aim::Live { generation, pools } if generation.id == id => pools.clone(),
            Aim::Live { .. } | Aim::Hold | Aim::Refuse | Aim::Bare => Vec::new(),
        }
    }

    /// Ends what the old aim had and the new one has not.
    fn retire(&self, old: &Aim) {
        let aim = self.aim.borrow();
        if let Aim::Live { generation, .. } = old {
            let now = Instant::now();
            generation.is_current.set(false);
            generation.departure.set(Some(match &*aim {
                Aim::Live { .. } => Departure::Superseded(now),
                Aim::Hold | Aim::Refuse | Aim::Bare => Departure::Withdrawn(now),
            }));
        }
        let kept: &[Rc<BackendPool>] = match &*aim {
            Aim::Live { generation, pools } => {
                generation.is_current.set(true);
                generation.departure.set(None);
                pools
            }
            Aim::Hold | Aim::Refuse | Aim::Bare => &[],
        };
        if let Aim::Live { pools, .. } = old {
            let gone = pools
                .iter()
                .filter(|pool| !kept.iter().any(|kept| Rc::ptr_eq(kept, pool)));
            gone.for_each(|pool| pool.retire());
        }
        self.generations
            .borrow_mut()
            .retain(|_, generation| generation.is_current.get() || generation.leases.get() > 0);
    }

    /// Chooses and claims. `avoided` were just tried in vain and are taken only by [`Claim::Wait`]
    /// and another try.
    pub(super) fn claim(self: &Rc<Self>, avoided: &[Life]) -> Claim {
        match &*self.aim.borrow() {
            Aim::Refuse => Claim::Refused,
            Aim::Bare => Claim::Bare,
            Aim::Hold => Claim::Wait,
            Aim::Live { generation, pools } => match self.choose(pools, avoided) {
                None => Claim::Wait,
                Some(pool) => Claim::Leased(self.lease(generation, pool)),
            },
        }
    }

    /// The fewest requests in flight; among equals the next in turn.
    fn choose<'a>(
        &self,
        pools: &'a [Rc<BackendPool>],
        avoided: &[Life],
    ) -> Option<&'a Rc<BackendPool>> {
        let start = self.turn.get().checked_rem(pools.len())?;
        self.turn.set(start.wrapping_add(1));
        let (before, after) = pools.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .filter(|pool| !avoided.contains(&pool.life()))
            .min_by_key(|pool| pool.in_flight())
    }

    fn lease(self: &Rc<Self>, generation: &Rc<Generation>, pool: &Rc<BackendPool>) -> Lease {
        generation
            .leases
            .set(generation.leases.get().saturating_add(1));
        pool.enter();
        Lease {
            live: Rc::clone(self),
            mark: CutMark {
                generation: Rc::clone(generation),
                cuts: generation.cuts.get(),
            },
            pool: Rc::clone(pool),
        }
    }

    fn release(&self, generation: &Generation) {
        let left = generation.leases.get().saturating_sub(1);
        generation.leases.set(left);
        if left == 0 && !generation.is_current.get() {
            self.generations.borrow_mut().remove(&generation.id);
            self.drained.notify_one();
        }
    }

    /// Drops connections to the app that were idle for too long.
    pub(super) fn expire_idle(&self) {
        match &*self.aim.borrow() {
            Aim::Live { pools, .. } => {
                let now = Instant::now();
                for pool in pools {
                    pool.expire(now);
                }
            }
            Aim::Hold | Aim::Refuse | Aim::Bare => {}
        }
    }

    /// Connections to this worker that lie idle go.
    pub(super) fn yields(&self, life: Life) {
        match &*self.aim.borrow() {
            Aim::Live { pools, .. } => {
                let now = Instant::now();
                for pool in pools.iter().filter(|pool| pool.life() == life) {
                    pool.yields(now);
                }
            }
            Aim::Hold | Aim::Refuse | Aim::Bare => {}
        }
    }

    /// Marks every lease on `id` as cut; how many those are. Who holds them has to be woken.
    pub(super) fn cut(&self, id: GenerationId) -> u64 {
        let generations = self.generations.borrow();
        let Some(generation) = generations.get(&id) else {
            return 0;
        };
        generation.cuts.set(generation.cuts.get().wrapping_add(1));
        generation.leases.get()
    }
}

#[cfg(test)]
mod tests;
