//! Deposits: fds that a worker stores over its NOTIFY_SOCKET (FDSTORE=1, sd_pid_notify_with_fds(3))
//! and that the next worker of its number gets in LISTEN_FDS, by name, whatever became of the one
//! before, of its generation, or of gapless: a memfd with state, a listening socket of the app's own.
//!
//! They are handed up into systemd's store under names of ours, which say what must be known of them.
//! A generation that never was live changes nothing for another: until it is, only its own workers
//! get what it stores, and what it removes is only marked. One that another superseded is not heard.
//!
//! # Names, and how long a deposit lives
//!
//! A deposit is passed up into systemd's store as `gapless-app-GENERATION-WORKER-NUMBER-p-NAME`, so it also
//! comes back when the keeper was killed. A stop ends it, as for systemd. The same holds for the directory
//! `$RUNTIME_DIRECTORY` (`app` in ours, on tmpfs).
//!
//! One file is kept once for each worker, because systemd would silently not keep it twice. A deposit for a
//! number that no worker has any more waits for a worker that has the number again.
//!
//! # Whose word counts
//!
//! What was live decides. What a new generation stored or removed counts when it becomes live, and is
//! undone when it fails: so a bad version takes nothing from the one that serves. What a superseded
//! generation says is refused, with a line in the log, because its successor has begun with what there was.
//! (With a fixed port it has not, and the last words of the old one count.)
//!
//! The generation is in the stored name; the newest live one and the marks are in the state. So the next
//! keeper decides the same. Without a state, all that is in the store counts. A gapless that knows no
//! deposits (0.1.0 and before) loses them: a downgrade to it costs the deposits.

mod refusals;

use super::happening::WorkerLife;
use super::notice::Keeping;
use super::stored;
use crate::id::GenerationId;
use refusals::Refusals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use tokio::time::Instant;

/// A worker may keep so many fds; as FDSTORE it knows.
pub const PER_WORKER_MAX: usize = 64;
/// All workers together: FileDescriptorStoreMax= of the units leaves room for what is ours.
const MAX: usize = 256;
/// Of a name: with what we write before it, it fits into the 255 of FDNAME=.
const NAME_BYTES_MAX: usize = 180;
/// Of our names in systemd's store: `gapless-app-GENERATION-WORKER-NUMBER-p-NAME`, without p for
/// FDPOLL=0.
const PREFIX: &str = "gapless-app-";

/// What an app wants of its deposits is not done.
#[derive(Debug, thiserror::Error)]
pub enum DepositError {
    /// Nobody could find it again.
    #[error(
        "FDNAME={0:?} is no name: 1 to {NAME_BYTES_MAX} printable ASCII characters without a colon"
    )]
    Name(String),
    /// One worker has enough.
    #[error("it keeps {PER_WORKER_MAX} fds already; remove some with FDSTOREREMOVE=1")]
    Worker,
    /// All have enough.
    #[error("all workers together keep {MAX} fds already; remove some with FDSTOREREMOVE=1")]
    Full,
    /// systemd would not keep it a second time, so it could be lost.
    #[error("the same file is kept already, as {0:?}; store the fds of one file under one name")]
    Twice(String),
    /// It must not change what the live one has.
    #[error("{0} was live since; store what the next one is to get before that")]
    Superseded(GenerationId),
}

/// Whose: all workers of one number, over all generations, have the same deposits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The one that speaks.
    pub generation: GenerationId,
    /// As GAPLESS_WORKER.
    pub worker: u32,
}

/// What the next keeper must know beside the fds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RememberedDeposits {
    live: GenerationId,
    /// What a generation on its way to be live removes then, by number.
    removals: BTreeMap<u64, GenerationId>,
}

#[derive(Debug)]
struct Deposit {
    owner: Owner,
    number: u64,
    name: String,
    /// Dropped when its other end hangs up; not with FDPOLL=0.
    is_polled: bool,
    /// When this generation is live, it goes.
    removed_by: Option<GenerationId>,
    fd: OwnedFd,
}

impl Deposit {
    /// In systemd's store.
    fn stored_name(&self) -> String {
        let Owner { generation, worker } = self.owner;
        let (number, name) = (self.number, &self.name);
        let polled = if self.is_polled { "p-" } else { "-" };
        format!("{PREFIX}{generation}-{worker}-{number}-{polled}{name}")
    }

    fn parse(stored_name: &str, fd: OwnedFd) -> Option<Self> {
        let mut parts = stored_name.strip_prefix(PREFIX)?.splitn(5, '-');
        let generation = parts.next()?.strip_prefix('g')?.parse().ok()?;
        let owner = Owner {
            generation: GenerationId(generation),
            worker: parts.next()?.parse().ok()?,
        };
        let number = parts.next()?.parse().ok()?;
        let is_polled = match parts.next()? {
            "p" => true,
            "" => false,
            _ => return None,
        };
        let name = parts.next()?.to_owned();
        is_name(&name).then_some(Self {
            owner,
            number,
            name,
            is_polled,
            removed_by: None,
            fd,
        })
    }

    /// EPOLLHUP or EPOLLERR, as for systemd.
    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        self.is_polled && poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Deposits {
    all: RefCell<Vec<Deposit>>,
    /// The newest generation that was live.
    live: Cell<GenerationId>,
    refusals: RefCell<Refusals>,
}

impl Deposits {
    /// Does what a worker of this number said, and logs what is refused, within
    /// bounds: it hears no answer.
    pub fn heed(&self, who: WorkerLife, worker: u32, keeping: Keeping) {
        let (id, slot) = (who.generation, who.slot);
        let owner = Owner {
            generation: id,
            worker,
        };
        let done = match keeping {
            Keeping::Remove { name } => self.remove(owner, &name).map_err(|error| (name, error)),
            Keeping::Store {
                name,
                is_polled,
                mut fds,
            } => fds
                .drain(..)
                .try_for_each(|fd| self.put(owner, &name, is_polled, fd))
                .map_err(|error| (name, error)),
        };
        if let Err((name, error)) = done
            && let Some(line) = self.refusals.borrow_mut().count(worker, Instant::now())
        {
            let note = line.note();
            tracing::warn!(generation = %id, worker = %slot, fd.name = name.escape_debug().to_string(), unsaid = line.unsaid, %error, "{id} {slot} asks for what is not done with the fds that it keeps: {error}{note}");
        }
    }

    /// Keeps an fd for the next worker of this number. The same file under the same name is kept
    /// once, as in systemd's store.
    ///
    /// # Errors
    /// [`DepositError`]; the fd is closed then.
    pub fn put(
        &self,
        owner: Owner,
        name: &str,
        is_polled: bool,
        fd: OwnedFd,
    ) -> Result<(), DepositError> {
        if !is_name(name) {
            return Err(DepositError::Name(name.to_owned()));
        }
        self.refuse_superseded(owner)?;
        self.sweep();
        let mut all = self.all.borrow_mut();
        let of_worker = |it: &&mut Deposit| it.owner.worker == owner.worker;
        let mut same = all.iter_mut().filter(of_worker);
        if let Some(same) = same.find(|it| is_same_file(&it.fd, &fd)) {
            if same.name != name {
                return Err(DepositError::Twice(same.name.clone()));
            }
            same.removed_by.take_if(|by| *by == owner.generation);
            return Ok(());
        }
        if all.iter().filter(|it| self.is_for(owner, it)).count() >= PER_WORKER_MAX {
            return Err(DepositError::Worker);
        }
        if all.len() >= MAX {
            return Err(DepositError::Full);
        }
        let last = all.iter().map(|deposit| deposit.number).max();
        let deposit = Deposit {
            owner,
            number: last.map_or(1, |last| last.saturating_add(1)),
            name: name.to_owned(),
            is_polled,
            removed_by: None,
            fd,
        };
        stored::keep(&deposit.stored_name(), &deposit.fd);
        all.push(deposit);
        Ok(())
    }

    /// FDSTOREREMOVE=1: all of this name.
    ///
    /// # Errors
    /// [`DepositError::Superseded`].
    pub fn remove(&self, owner: Owner, name: &str) -> Result<(), DepositError> {
        self.refuse_superseded(owner)?;
        for deposit in self.all.borrow_mut().iter_mut() {
            if deposit.name == name && self.is_for(owner, deposit) {
                deposit.removed_by = Some(owner.generation);
            }
        }
        self.retain(|it| {
            it.removed_by != Some(owner.generation)
                || (owner.generation > self.live.get() && it.owner.generation != owner.generation)
        });
        Ok(())
    }

    /// What the next worker of this number gets, oldest first.
    ///
    /// # Errors
    /// Out of fds; the worker must not be started without what it relies on.
    pub fn of(&self, owner: Owner) -> io::Result<Vec<(String, OwnedFd)>> {
        self.sweep();
        let all = self.all.borrow();
        let of_owner = all.iter().filter(|deposit| self.is_for(owner, deposit));
        of_owner
            .map(|deposit| Ok((deposit.name.clone(), deposit.fd.try_clone()?)))
            .collect()
    }

    /// Names, for the status.
    pub fn names(&self, owner: Owner) -> Vec<String> {
        let all = self.all.borrow();
        let of_owner = all.iter().filter(|deposit| self.is_for(owner, deposit));
        of_owner.map(|deposit| deposit.name.clone()).collect()
    }

    /// This generation is live: what it stored counts, what it removed is gone. What began between
    /// the one before and this one failed, though it may not be gone yet.
    pub fn settle(&self, live: GenerationId) {
        let before = self.live.replace(live);
        let has_failed = |id: GenerationId| before < id && id < live;
        self.retain(|it| it.removed_by != Some(live) && !has_failed(it.owner.generation));
        for deposit in self.all.borrow_mut().iter_mut() {
            deposit.removed_by.take_if(|by| has_failed(*by));
        }
    }

    /// This generation is gone; if it never was live, nothing of what it said counts.
    pub fn abandon(&self, gone: GenerationId) {
        if gone <= self.live.get() {
            return;
        }
        for deposit in self.all.borrow_mut().iter_mut() {
            deposit.removed_by.take_if(|by| *by == gone);
        }
        self.retain(|it| it.owner.generation != gone);
    }

    /// For the state.
    pub fn remember(&self) -> RememberedDeposits {
        let all = self.all.borrow();
        let removal = |it: &Deposit| Some((it.number, it.removed_by?));
        RememberedDeposits {
            live: self.live.get(),
            removals: all.iter().filter_map(removal).collect(),
        }
    }

    /// Takes over what an earlier keeper kept. Where it left no state, all of it counts.
    pub fn adopt(&self, kept: Vec<(String, OwnedFd)>, remembered: Option<&RememberedDeposits>) {
        let mut all = self.all.borrow_mut();
        for (stored_name, fd) in kept {
            let Some(mut deposit) = Deposit::parse(&stored_name, fd) else {
                stored::forget(&stored_name);
                continue;
            };
            if let Some(was) = remembered {
                deposit.removed_by = was.removals.get(&deposit.number).copied();
            } else {
                deposit.owner.generation = GenerationId::default();
                stored::forget(&stored_name);
                stored::keep(&deposit.stored_name(), &deposit.fd);
            }
            all.push(deposit);
        }
        all.sort_by_key(|deposit| deposit.number);
        self.live
            .set(remembered.map_or_else(GenerationId::default, |was| was.live));
    }

    /// Those of generations that ended without having been live while no keeper was watching.
    pub fn abandon_unknown(&self, is_known: impl Fn(GenerationId) -> bool) {
        let all = self.all.borrow();
        let speakers = all
            .iter()
            .flat_map(|it| it.removed_by.into_iter().chain([it.owner.generation]));
        let unknown: Vec<GenerationId> = speakers.filter(|id| !is_known(*id)).collect();
        drop(all);
        for id in unknown {
            self.abandon(id);
        }
    }

    /// Takes everything out of systemd's store, for a real stop.
    pub fn forget(&self) {
        self.retain(|_| false);
    }

    fn is_for(&self, owner: Owner, deposit: &Deposit) -> bool {
        let Owner { generation, worker } = deposit.owner;
        worker == owner.worker
            && (generation == owner.generation || generation <= self.live.get())
            && deposit.removed_by != Some(owner.generation)
    }

    fn refuse_superseded(&self, owner: Owner) -> Result<(), DepositError> {
        let live = self.live.get();
        if owner.generation < live {
            return Err(DepositError::Superseded(live));
        }
        Ok(())
    }

    fn sweep(&self) {
        self.retain(|deposit| !deposit.has_hung_up());
    }

    fn retain(&self, is_kept: impl Fn(&Deposit) -> bool) {
        self.all.borrow_mut().retain(|deposit| {
            let is_kept = is_kept(deposit);
            if !is_kept {
                stored::forget(&deposit.stored_name());
            }
            is_kept
        });
    }
}

/// Whether a kept fd is one of the app's.
pub fn is_of_the_app(stored_name: &str) -> bool {
    stored_name.starts_with(PREFIX)
}

fn is_name(name: &str) -> bool {
    let is_printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_printable)
}

/// At least what systemd takes for the same; two fds of the one anonymous inode never are.
fn is_same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).ok()?;
        Some((stat.st_dev, stat.st_ino, stat.st_mode))
    };
    let link = format!("/proc/self/fd/{}", one.as_fd().as_raw_fd());
    let target = std::fs::read_link(link).unwrap_or_default();
    let is_anonymous = target.to_string_lossy().starts_with("anon_inode:");
    !is_anonymous
        && identity(one).is_some_and(|identity_of_one| Some(identity_of_one) == identity(other))
}

#[cfg(test)]
mod tests;
