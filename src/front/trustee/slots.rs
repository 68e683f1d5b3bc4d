//! The slots as a front writes them and its trustee reads them.

use super::shared;
use crate::front::introduction::Introduced;
use crate::link::slots::{BUSY, HIGHEST, INHERITING, SETTLED, VACANT, VERSION, WORDS_OF_A_SLOT};
use rustix::process::{Resource, getrlimit};
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// More fds than any front has; a connection with a higher number never settles.
const FDS_MAX: u64 = 1 << 20;

/// Words of a slot.
const STATE: usize = 0;
const INTRODUCTION: usize = 1;
const ADDRESS: [usize; 2] = [2, 3];

/// Values of [`INTRODUCTION`].
const NOT_INTRODUCED: u64 = 0;
const AS_NOBODY: u64 = 1;
const AS_V4: u64 = 2;
const AS_V6: u64 = 3;

/// All of a front; also without a memfd, when nothing is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::front) struct Slots {
    words: &'static [AtomicU64],
}

impl Slots {
    /// As many as this process may ever have fds.
    ///
    /// # Errors
    /// When the memfd cannot be mapped.
    pub(super) fn map(memfd: impl AsFd) -> io::Result<Self> {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(FDS_MAX);
        let slots = usize::try_from(limit.min(FDS_MAX)).unwrap_or(0).max(1);
        let words = shared::map(memfd, slots.saturating_mul(WORDS_OF_A_SLOT))?;
        if let Some(version) = words.first() {
            version.store(VERSION, Ordering::Release);
        }
        Ok(Self { words })
    }

    /// The slot of a connection, busy until said otherwise. It must be dropped before the fd is
    /// closed or given away. `settled` counts those that are.
    pub(in crate::front) fn take(
        self,
        fd: impl AsFd,
        introduced: Option<Introduced>,
        settled: &Rc<Cell<u64>>,
    ) -> Slot {
        Slot {
            state: self.occupy(fd.as_fd().as_raw_fd(), introduced, BUSY),
            is_settled: false,
            settled: Rc::clone(settled),
        }
    }

    /// That of a connection from another front, until a lane takes one. Where bytes came with it,
    /// only this process knows them.
    pub(in crate::front) fn berth(
        self,
        fd: impl AsFd,
        introduced: Option<Introduced>,
        has_bytes: bool,
    ) -> Berth {
        let value = if has_bytes { BUSY } else { SETTLED };
        let state = self.occupy(fd.as_fd().as_raw_fd(), introduced, value);
        Berth { state, value }
    }

    /// That of the socket by which a parcel comes.
    pub(in crate::front) fn inherit(self, fd: impl AsFd) -> Berth {
        let state = self.occupy(fd.as_fd().as_raw_fd(), None, INHERITING);
        Berth {
            state,
            value: INHERITING,
        }
    }

    fn occupy(
        self,
        number: RawFd,
        introduced: Option<Introduced>,
        value: u64,
    ) -> Option<&'static AtomicU64> {
        let [state, introduction, high, low, ..] = self.of(number) else {
            return None;
        };
        let (kind, address) = written(introduced);
        introduction.store(kind, Ordering::Relaxed);
        high.store(address[0], Ordering::Relaxed);
        low.store(address[1], Ordering::Relaxed);
        // First: beyond it nobody looks.
        if let Some(highest) = self.words.get(HIGHEST) {
            highest.fetch_max(u64::try_from(number).unwrap_or(0), Ordering::Release);
        }
        state.store(value, Ordering::Release);
        Some(state)
    }

    /// What the dead front said of an fd.
    pub(super) fn left(self, fd: RawFd) -> Left {
        let words = self.of(fd);
        let word = |number: usize| words.get(number).map(|word| word.load(Ordering::Acquire));
        match word(STATE) {
            Some(BUSY) => Left::Busy,
            Some(SETTLED) => {
                let kind = word(INTRODUCTION).unwrap_or(NOT_INTRODUCED);
                let address = ADDRESS.map(|number| word(number).unwrap_or(0));
                Left::Settled(read(kind, address))
            }
            Some(INHERITING) => Left::Inheriting,
            Some(_) | None => Left::Vacant,
        }
    }

    fn of(self, fd: RawFd) -> &'static [AtomicU64] {
        let slot = usize::try_from(fd).unwrap_or(0);
        let first = slot.saturating_mul(WORDS_OF_A_SLOT);
        let range = first..first.saturating_add(WORDS_OF_A_SLOT);
        // Slot 0 is the head.
        if slot == 0 {
            return &[];
        }
        self.words.get(range).unwrap_or_default()
    }
}

/// What became of an fd with its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Vacant,
    Busy,
    Settled(Option<Introduced>),
    /// A parcel was coming in.
    Inheriting,
}

/// What is said of one connection, until it is dropped.
#[derive(Debug)]
pub(in crate::front) struct Slot {
    /// None: it cannot settle.
    state: Option<&'static AtomicU64>,
    is_settled: bool,
    settled: Rc<Cell<u64>>,
}

impl Slot {
    pub(in crate::front) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Before any byte is read. The store comes before the system call that reads, and whoever looks
    /// does so after the end of this process: no stronger order is needed.
    pub(in crate::front) fn be_busy(&mut self) {
        self.put(BUSY);
        self.unsettle();
    }

    pub(in crate::front) fn settle(&mut self) {
        if self.state.is_some() && !self.is_settled {
            self.put(SETTLED);
            self.is_settled = true;
            self.settled.set(self.settled.get().saturating_add(1));
        }
    }

    /// For its way to another front. What was read, `has_bytes`, is known to this process only.
    pub(in crate::front) fn into_berth(mut self, has_bytes: bool) -> Berth {
        let is_settled = self.is_settled && !has_bytes;
        self.unsettle();
        let berth = Berth {
            state: self.state.take(),
            value: if is_settled { SETTLED } else { BUSY },
        };
        berth.stay();
        berth
    }

    fn unsettle(&mut self) {
        if std::mem::take(&mut self.is_settled) {
            self.settled.set(self.settled.get().saturating_sub(1));
        }
    }

    fn put(&self, value: u64) {
        put(self.state, value);
    }
}

fn put(state: Option<&AtomicU64>, value: u64) {
    if let Some(state) = state {
        state.store(value, Ordering::Release);
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }
}

/// What is said of a connection while it is between lanes and fronts, or of a parcel; until it is
/// dropped, which must be before the fd is closed.
#[derive(Debug, Default)]
pub(in crate::front) struct Berth {
    /// None: nothing is.
    state: Option<&'static AtomicU64>,
    value: u64,
}

impl Berth {
    /// Before the connection is sent: two that have it would share its bytes.
    pub(in crate::front) fn leave(&self) {
        put(self.state, VACANT);
    }

    /// To the slot that the connection has by now.
    pub(in crate::front) fn cede(mut self) {
        self.state = None;
    }

    /// It was not.
    pub(in crate::front) fn stay(&self) {
        put(self.state, self.value);
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.put(VACANT);
        self.unsettle();
    }
}

fn written(introduced: Option<Introduced>) -> (u64, [u64; 2]) {
    let (kind, bits) = match introduced {
        None => (NOT_INTRODUCED, 0),
        Some(Introduced::AsNobody) => (AS_NOBODY, 0),
        Some(Introduced::As(IpAddr::V4(ip))) => (AS_V4, ip.to_ipv6_mapped().to_bits()),
        Some(Introduced::As(IpAddr::V6(ip))) => (AS_V6, ip.to_bits()),
    };
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    (kind, [half(bits >> 64), half(bits)])
}

fn read(kind: u64, [high, low]: [u64; 2]) -> Option<Introduced> {
    let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    match kind {
        NOT_INTRODUCED => None,
        AS_V4 => Some(
            ip.to_ipv4_mapped()
                .map_or(Introduced::AsNobody, |ip| Introduced::As(IpAddr::V4(ip))),
        ),
        AS_V6 => Some(Introduced::As(IpAddr::V6(ip))),
        // Nothing that it says is believed.
        _ => Some(Introduced::AsNobody),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::slots;
    use proptest::prelude::*;
    use std::os::fd::OwnedFd;

    fn mapped() -> (OwnedFd, Slots) {
        let memfd = slots::create().unwrap();
        let slots = Slots::map(&memfd).unwrap();
        (memfd, slots)
    }

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    fn counted(memfd: &OwnedFd) -> (u64, u64) {
        let tally = slots::tally(memfd).unwrap().unwrap();
        (tally.busy, tally.settled)
    }

    #[test]
    fn a_slot_is_busy_settled_and_vacant_again_as_the_keeper_reads_it() {
        let (memfd, slots) = mapped();
        let (one, other) = (socket(), socket());
        let count = Rc::default();
        let mut slot = slots.take(&one, None, &count);
        let also = slots.take(&other, Some(Introduced::AsNobody), &count);
        assert_eq!(counted(&memfd), (2, 0));
        slot.settle();
        assert!(slot.is_settled());
        assert_eq!((counted(&memfd), count.get()), ((1, 1), 1));
        assert_eq!(slots.left(one.as_raw_fd()), Left::Settled(None));
        assert_eq!(slots.left(other.as_raw_fd()), Left::Busy);
        slot.be_busy();
        assert_eq!((counted(&memfd), slot.is_settled()), ((2, 0), false));
        slot.settle();
        drop((slot, also));
        assert_eq!((counted(&memfd), count.get()), ((0, 0), 0));
        assert_eq!(slots.left(one.as_raw_fd()), Left::Vacant);
    }

    #[test]
    fn the_next_connection_with_the_same_number_inherits_nothing() {
        let (_memfd, slots) = mapped();
        let fd = socket();
        let ip = "192.0.2.1".parse().unwrap();
        let mut first = slots.take(&fd, Some(Introduced::As(ip)), &Rc::default());
        first.settle();
        drop(first);
        let mut next = slots.take(&fd, None, &Rc::default());
        assert_eq!(slots.left(fd.as_raw_fd()), Left::Busy);
        next.settle();
        assert_eq!(slots.left(fd.as_raw_fd()), Left::Settled(None));
    }

    #[test]
    fn a_connection_on_its_way_is_as_it_was_until_it_is_sent() {
        let (memfd, slots) = mapped();
        let (fd, parcel) = (socket(), socket());
        let count = Rc::default();
        let mut slot = slots.take(&fd, Some(Introduced::AsNobody), &count);
        slot.settle();
        let berth = slot.into_berth(false);
        assert_eq!((counted(&memfd), count.get()), ((0, 1), 0));
        berth.leave();
        assert_eq!(slots.left(fd.as_raw_fd()), Left::Vacant);
        berth.stay();
        let settled = Left::Settled(Some(Introduced::AsNobody));
        assert_eq!(slots.left(fd.as_raw_fd()), settled);
        drop(berth);
        assert_eq!(slots.left(fd.as_raw_fd()), Left::Vacant);
        for (has_bytes, expected) in [(true, Left::Busy), (false, Left::Settled(None))] {
            let _berth = slots.berth(&fd, None, has_bytes);
            assert_eq!(slots.left(fd.as_raw_fd()), expected);
        }
        let _berth = slots.inherit(&parcel);
        assert_eq!(slots.left(parcel.as_raw_fd()), Left::Inheriting);
        assert!(slots::tally(&memfd).unwrap().unwrap().has_estate());
    }

    #[test]
    fn a_connection_that_was_read_in_part_is_busy_on_its_way() {
        let (_memfd, slots) = mapped();
        let fd = socket();
        let mut slot = slots.take(&fd, None, &Rc::default());
        let berth = slots.take(&fd, None, &Rc::default()).into_berth(false);
        assert_eq!(slots.left(fd.as_raw_fd()), Left::Busy, "it had not settled");
        slot.settle();
        let other = slot.into_berth(true);
        assert_eq!(slots.left(fd.as_raw_fd()), Left::Busy, "it has bytes");
        drop((berth, other));
    }

    #[test]
    fn without_slots_nothing_settles() {
        let mut slot = Slots::default().take(socket(), None, &Rc::default());
        slot.settle();
        slot.be_busy();
        assert!(!slot.is_settled());
        assert_eq!(Slots::default().left(5), Left::Vacant);
        let (_memfd, slots) = mapped();
        assert_eq!(slots.left(0), Left::Vacant, "that is the head");
        assert_eq!(slots.left(-1), Left::Vacant);
        assert_eq!(slots.left(RawFd::MAX), Left::Vacant);
    }

    proptest! {
        #[test]
        fn an_introduction_is_read_as_it_was_written(
            ip in any::<Option<IpAddr>>(), is_introduced in any::<bool>()
        ) {
            let introduced = is_introduced
                .then(|| ip.map_or(Introduced::AsNobody, Introduced::As));
            let (kind, address) = written(introduced);
            prop_assert_eq!(read(kind, address), introduced);
        }
    }
}
