//! What is kept between one side that is fast and one that is slow: `[http] buffer_requests` and
//! `buffer_responses`. In memory first, then in a file that has no name.
//!
//! For apps whose workers answer one request at a time: a slow client costs such an app a worker for as long
//! as it sends or takes. Off unless it is asked for, because a body that is collected comes later, and
//! everything is written and read once more.

mod ahead;
mod spool;

pub(super) use ahead::{Ahead, AheadError};
pub use spool::Spool;

use hyper::body::Bytes;
use spool::Region;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most bodies are smaller, and touch no file.
const IN_MEMORY_MAX: u64 = 64 << 10;

/// Bytes, first in, first out.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes_max: u64,
    memory: VecDeque<Bytes>,
    in_memory: u64,
    spool: Arc<Spool>,
    region: Option<Region>,
    /// What no file takes, behind all else; with it the buffer is full.
    rest: VecDeque<Bytes>,
    in_rest: u64,
}

impl Buffer {
    /// Takes about `bytes_max`: the piece that reaches it is taken whole.
    pub(super) fn new(bytes_max: u64, spool: &Arc<Spool>) -> Self {
        Self {
            bytes_max,
            memory: VecDeque::new(),
            in_memory: 0,
            spool: Arc::clone(spool),
            region: None,
            rest: VecDeque::new(),
            in_rest: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.in_memory
            .saturating_add(self.in_file())
            .saturating_add(self.in_rest)
    }

    fn in_file(&self) -> u64 {
        self.region.as_ref().map_or(0, Region::bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Nothing more is to be put in for now.
    pub(super) fn is_full(&self) -> bool {
        !self.rest.is_empty() || self.bytes() >= self.bytes_max
    }

    /// Loses nothing, even if it is full.
    pub(super) fn put(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let in_memory = self.in_memory.saturating_add(length(&bytes));
        if self.in_file() == 0 && self.rest.is_empty() && in_memory <= IN_MEMORY_MAX {
            self.in_memory = in_memory;
            self.memory.push_back(bytes);
        } else if !self.goes_to_the_file(&bytes) {
            self.in_rest = self.in_rest.saturating_add(length(&bytes));
            self.rest.push_back(bytes);
        }
    }

    fn goes_to_the_file(&mut self, bytes: &Bytes) -> bool {
        if !self.rest.is_empty() {
            return false;
        }
        if self.region.is_none() {
            self.region = self.spool.region();
        }
        match self.region.as_mut().map(|region| region.put(bytes)) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::debug!(%error, "a buffer gets no more of its file, going on without");
                false
            }
            None => false,
        }
    }

    /// None: it is empty. An error: the file cannot be read, and what was in it is lost.
    pub(super) fn take(&mut self) -> std::io::Result<Option<Bytes>> {
        if let Some(bytes) = self.memory.pop_front() {
            self.in_memory = self.in_memory.saturating_sub(length(&bytes));
            return Ok(Some(bytes));
        }
        if let Some(region) = self.region.as_mut().filter(|it| it.bytes() > 0) {
            return region.take().map(Some);
        }
        let rest = self.rest.pop_front();
        let taken = rest.as_ref().map_or(0, length);
        self.in_rest = self.in_rest.saturating_sub(taken);
        Ok(rest)
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(number: u8, bytes: usize) -> Bytes {
        Bytes::from(vec![number; bytes])
    }

    fn all_of(buffer: &mut Buffer) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = buffer.take().unwrap() {
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn what_goes_in_comes_out_in_order_through_memory_and_file() {
        let spool = Arc::new(Spool::open(1 << 20).unwrap());
        let mut buffer = Buffer::new(1 << 20, &spool);
        for round in 0..3 {
            let mut expected = Vec::new();
            for number in 0..10 {
                let bytes = piece(number, 20_000 + round);
                expected.extend_from_slice(&bytes);
                buffer.put(bytes);
                if number == 5 {
                    let first = buffer.take().unwrap().unwrap();
                    assert_eq!(first, expected.drain(..first.len()).collect::<Vec<_>>());
                }
            }
            assert_eq!(buffer.bytes(), u64::try_from(expected.len()).unwrap());
            assert!(buffer.region.as_ref().unwrap().bytes() > 0, "in the file");
            assert_eq!(all_of(&mut buffer), expected);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_full_buffer_says_so_and_loses_nothing() {
        let spool = Arc::new(Spool::open(100_000).unwrap());
        let mut buffer = Buffer::new(100_000, &spool);
        buffer.put(piece(1, 90_000));
        assert!(!buffer.is_full());
        buffer.put(piece(2, 90_000));
        assert!(buffer.is_full());
        // Beyond what a region holds.
        buffer.put(piece(3, 3_000_000));
        buffer.put(piece(4, 1));
        assert!(buffer.is_full());
        let all = all_of(&mut buffer);
        assert_eq!(all.len(), 3_180_001);
        assert!(all.is_sorted());
        assert!(!buffer.is_full());
    }

    #[test]
    fn without_a_file_it_is_full_when_memory_is() {
        let mut buffer = Buffer::new(1 << 20, &Arc::default());
        buffer.put(piece(1, 60_000));
        assert!(!buffer.is_full());
        buffer.put(piece(2, 60_000));
        assert!(buffer.is_full());
        assert_eq!(all_of(&mut buffer).len(), 120_000);
    }
}
