//! The slots of a front: what each of its connections is doing, in a memfd that outlives it.
//!
//! The front writes them through a mapping, its trustee reads them there, and the keeper reads them
//! as a file, when the front is dead. Words of 64 bits in the order of the machine, a cache line for
//! each number of an fd. No client has fd 0, so its line is the head.

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::pread;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// In the first word of the head. With another one, nothing in it is understood.
pub const VERSION: u64 = 1;
/// A cache line: lanes do not share one.
pub const WORDS_OF_A_SLOT: usize = 8;
/// In the head: no higher number was ever used.
pub const HIGHEST: usize = 1;

/// In the first word of a slot: no connection, or one that has no part in this.
pub const VACANT: u64 = 0;
/// A request is being read, served or answered.
pub const BUSY: u64 = 1;
/// Nothing is: the connection can be served by whoever has its fd.
pub const SETTLED: u64 = 2;
/// No connection: a parcel comes in here.
pub const INHERITING: u64 = 3;

const SLOT_BYTES: usize = WORDS_OF_A_SLOT * 8;

/// Slots that are read at once.
const SLOTS_AT_ONCE: usize = 1024;

/// What a front had when it died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotTally {
    /// They are lost.
    pub busy: u64,
    /// They live on.
    pub settled: u64,
    /// Parcels on their way to it, with nobody knows how many of both.
    pub parcels: u64,
}

impl SlotTally {
    /// Somebody may want what the front left.
    pub fn has_estate(&self) -> bool {
        self.settled > 0 || self.parcels > 0
    }
}

/// Empty; the front gives it its size.
///
/// # Errors
/// As memfd_create(2).
pub fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create("gapless-slots", flags)?)
}

/// None where the front has written none, or by another version.
///
/// # Errors
/// As pread(2).
pub fn tally(slots: impl AsFd) -> io::Result<Option<SlotTally>> {
    let head = read(&slots, 0, 1)?;
    if word(&head, 0) != Some(VERSION) {
        return Ok(None);
    }
    let highest = word(&head, HIGHEST).and_then(|highest| usize::try_from(highest).ok());
    let highest = highest.unwrap_or(0);
    let mut tally = SlotTally::default();
    let mut next = 1_usize;
    while next <= highest {
        let count = SLOTS_AT_ONCE.min(highest.saturating_sub(next).saturating_add(1));
        let bytes = read(&slots, next, count)?;
        if bytes.is_empty() {
            break;
        }
        for slot in bytes.chunks_exact(SLOT_BYTES) {
            match word(slot, 0) {
                Some(BUSY) => tally.busy = tally.busy.saturating_add(1),
                Some(SETTLED) => tally.settled = tally.settled.saturating_add(1),
                Some(INHERITING) => tally.parcels = tally.parcels.saturating_add(1),
                Some(_) | None => {}
            }
        }
        next = next.saturating_add(count);
    }
    Ok(Some(tally))
}

fn read(slots: impl AsFd, first: usize, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count.saturating_mul(SLOT_BYTES)];
    let offset = u64::try_from(first.saturating_mul(SLOT_BYTES)).unwrap_or(u64::MAX);
    let read = pread(slots, &mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn word(bytes: &[u8], number: usize) -> Option<u64> {
    let at = number.saturating_mul(8);
    let bytes = bytes.get(at..at.saturating_add(8))?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn put(slots: &File, slot: u64, number: u64, value: u64) {
        let at = slot * 64 + number * 8;
        slots.write_all_at(&value.to_ne_bytes(), at).unwrap();
    }

    #[test]
    fn busy_and_settled_slots_are_counted_up_to_the_highest() {
        let slots = File::from(create().unwrap());
        assert_eq!(tally(&slots).unwrap(), None, "nobody wrote it");
        put(&slots, 0, 0, VERSION);
        put(&slots, 0, 1, 3000);
        let slots_of = [BUSY, SETTLED, INHERITING, SETTLED, BUSY];
        for (slot, state) in [4, 5, 6, 2999, 3000].into_iter().zip(slots_of) {
            put(&slots, slot, 0, state);
        }
        put(&slots, 3001, 0, BUSY);
        let expected = SlotTally {
            busy: 2,
            settled: 2,
            parcels: 1,
        };
        assert_eq!(tally(&slots).unwrap(), Some(expected));
        put(&slots, 0, 0, VERSION + 1);
        assert_eq!(tally(&slots).unwrap(), None, "of another version");
    }
}
