//! What the next process must know, in a memfd that is kept: of the keeper, and of an app (`app`).
//!
//! Never the only truth: what runs is found by its fds and processes, the state says what they are.
//! So whatever is wrong with it is an error value with which the keeper starts clean.

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{pread, pwrite};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Of the body. The header is the same for all versions, so that each can tell what it sees.
const VERSION: u8 = 1;

const MAGIC: [u8; 8] = *b"gapless\0";

/// Magic 8, version 1 and padding 7, sequence 8, length 8, checksum 8; little endian.
const HEADER_BYTES: usize = 40;

/// Room for each half. A memfd is sparse: only what is written takes memory.
const HALF_BYTES: u64 = 16 * 1024 * 1024;

/// Where the halves begin.
const OFFSETS: [u64; 2] = [0, HALF_BYTES];

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Neither half is whole.
    #[error("the kept state is damaged (neither copy is whole)")]
    Damaged,
    /// Written by another gapless.
    #[error("the kept state has version {0}, this gapless understands {VERSION}")]
    Version(u8),
    /// Whole, but not what this gapless calls a state.
    #[error("the kept state cannot be understood")]
    Malformed(#[source] serde_json::Error),
    /// More than one half can hold.
    #[error("the state has {bytes} bytes, more than {HALF_BYTES} cannot be kept")]
    TooLarge {
        /// With its header.
        bytes: usize,
    },
    /// The memfd failed.
    #[error("the kept state cannot be read or written")]
    File(#[from] io::Error),
}

/// Two checksummed halves in a memfd. The older one is written, so that who dies while writing
/// leaves the other one whole.
#[derive(Debug)]
pub struct StateFile {
    file: OwnedFd,
}

#[derive(Debug)]
struct Half {
    version: u8,
    seq: u64,
    body: Vec<u8>,
}

impl Half {
    /// In the circle of numbers: whatever the last one was, the next save is newer.
    fn is_newer(&self, other: &Self) -> bool {
        let ahead = self.seq.wrapping_sub(other.seq);
        ahead != 0 && ahead <= u64::MAX / 2
    }
}

impl StateFile {
    /// An empty one; `name` shows in /proc/PID/fd.
    ///
    /// # Errors
    /// As memfd_create(2).
    pub fn create(name: &str) -> Result<Self, StateError> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
        Ok(Self { file })
    }

    /// One that an earlier process made. What it holds shows at [`StateFile::load`].
    pub fn from_fd(file: OwnedFd) -> Self {
        Self { file }
    }

    /// Replaces the state.
    ///
    /// # Errors
    /// [`StateError`]; what was saved before is still there.
    pub fn save<T: Serialize>(&self, state: &T) -> Result<(), StateError> {
        let body = serde_json::to_vec(state).map_err(StateError::Malformed)?;
        let [first, second] = OFFSETS.map(|offset| self.half(offset).ok().flatten());
        let [first_offset, second_offset] = OFFSETS;
        let (offset, newest) = match (first, second) {
            (Some(first), Some(second)) if first.is_newer(&second) => (second_offset, first.seq),
            (Some(first), None) => (second_offset, first.seq),
            (_, Some(second)) => (first_offset, second.seq),
            (None, None) => (first_offset, 0),
        };
        let bytes = encode(VERSION, newest.wrapping_add(1), &body);
        if u64::try_from(bytes.len()).map_or(true, |length| length > HALF_BYTES) {
            return Err(StateError::TooLarge { bytes: bytes.len() });
        }
        Ok(write_all(self.file.as_fd(), &bytes, offset)?)
    }

    /// The last state that was saved whole; none when nothing was ever saved.
    ///
    /// # Errors
    /// [`StateError`]; the caller logs it and starts clean.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        if rustix::fs::fstat(&self.file)
            .map_err(io::Error::from)?
            .st_size
            == 0
        {
            return Ok(None);
        }
        let mut newest: Option<Half> = None;
        for offset in OFFSETS {
            if let Some(half) = self.half(offset)?
                && newest.as_ref().is_none_or(|known| half.is_newer(known))
            {
                newest = Some(half);
            }
        }
        let half = newest.ok_or(StateError::Damaged)?;
        if half.version != VERSION {
            return Err(StateError::Version(half.version));
        }
        serde_json::from_slice(&half.body)
            .map(Some)
            .map_err(StateError::Malformed)
    }

    /// None when it is not whole.
    fn half(&self, offset: u64) -> io::Result<Option<Half>> {
        let header = read_up_to(self.file.as_fd(), HEADER_BYTES, offset)?;
        let Some((version, seq, length, checksum)) = decode(&header) else {
            return Ok(None);
        };
        let body_offset = offset.saturating_add(HEADER_BYTES.try_into().unwrap_or(u64::MAX));
        let body = read_up_to(self.file.as_fd(), length, body_offset)?;
        let whole = body.len() == length && sum(version, seq, &body) == checksum;
        Ok(whole.then_some(Half { version, seq, body }))
    }
}

impl AsFd for StateFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn encode(version: u8, seq: u64, body: &[u8]) -> Vec<u8> {
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
    bytes.extend(MAGIC);
    bytes.extend([version, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(seq.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(sum(version, seq, body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Version, sequence, length of the body, checksum; none for what is no header.
fn decode(header: &[u8]) -> Option<(u8, u64, usize, u64)> {
    let rest = header.strip_prefix(&MAGIC)?;
    let (&[version, ..], rest) = rest.split_first_chunk::<8>()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, _) = rest.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let fits = length <= HALF_BYTES;
    let length = usize::try_from(length).ok().filter(|_| fits)?;
    let seq = u64::from_le_bytes(*seq);
    Some((version, seq, length, u64::from_le_bytes(*checksum)))
}

/// FNV-1a: against torn writes and stray bytes, not against an enemy (who would have to be us).
fn sum(version: u8, seq: u64, body: &[u8]) -> u64 {
    let seq = seq.to_le_bytes();
    let all = [version].into_iter().chain(seq).chain(body.iter().copied());
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn read_up_to(file: BorrowedFd<'_>, length: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match pread(file, rest, at)? {
            0 => break,
            read => done = done.saturating_add(read),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

fn write_all(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match pwrite(file, rest, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => done = done.saturating_add(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn saved(states: &[&str]) -> StateFile {
        let file = StateFile::create("gapless-test").unwrap();
        for state in states {
            file.save(&state.to_string()).unwrap();
        }
        file
    }

    fn loaded(file: &StateFile) -> Result<Option<String>, StateError> {
        file.load()
    }

    #[test]
    fn the_last_state_is_loaded_also_by_the_next_keeper() {
        assert_eq!(loaded(&saved(&[])).unwrap(), None);
        let file = saved(&["one", "a longer two", "3"]);
        assert_eq!(loaded(&file).unwrap().unwrap(), "3");
        let next = StateFile::from_fd(file.as_fd().try_clone_to_owned().unwrap());
        next.save(&"four").unwrap();
        assert_eq!(loaded(&file).unwrap().unwrap(), "four");
    }

    #[test]
    fn a_write_cut_off_leaves_the_state_before_it() {
        // "two" is in the second half.
        let file = saved(&["one", "two"]);
        rustix::fs::ftruncate(&file, HALF_BYTES + 41).unwrap();
        assert_eq!(loaded(&file).unwrap().unwrap(), "one");
        file.save(&"three").unwrap();
        assert_eq!(loaded(&file).unwrap().unwrap(), "three");
    }

    #[test]
    fn a_later_version_is_named_and_not_guessed_at() {
        let file = saved(&["one"]);
        write_all(file.as_fd(), &encode(9, 5, b"{}"), HALF_BYTES).unwrap();
        assert!(matches!(loaded(&file), Err(StateError::Version(9))));
    }

    #[test]
    fn damage_in_both_halves_is_an_error_and_saving_heals_it() {
        let file = saved(&["one", "two"]);
        for offset in OFFSETS {
            write_all(file.as_fd(), b"xx", offset + 41).unwrap();
        }
        assert!(matches!(loaded(&file), Err(StateError::Damaged)));
        file.save(&"three").unwrap();
        assert_eq!(loaded(&file).unwrap().unwrap(), "three");
    }

    #[test]
    fn another_shape_is_an_error_value() {
        let file = saved(&["one"]);
        assert!(matches!(file.load::<u8>(), Err(StateError::Malformed(_))));
    }

    #[test]
    fn a_state_too_large_is_refused_and_the_last_one_stays() {
        let file = saved(&["one"]);
        let large = "x".repeat(17 * 1024 * 1024);
        assert!(matches!(
            file.save(&large),
            Err(StateError::TooLarge { .. })
        ));
        assert_eq!(loaded(&file).unwrap().unwrap(), "one");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), second in any::<bool>(), cut in 0_u64..400,
        ) {
            let file = saved(&["one", "two"]);
            let at = if second { HALF_BYTES } else { 0 };
            write_all(file.as_fd(), &bytes, at).unwrap();
            rustix::fs::ftruncate(&file, at + cut).unwrap();
            if let Ok(Some(state)) = loaded(&file) {
                prop_assert!(state == "one" || state == "two");
            }
        }
    }
}
