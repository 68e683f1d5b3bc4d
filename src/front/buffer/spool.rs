//! The file of no name in which a front keeps what does not fit into memory.
//!
//! One for all buffers, opened before the front gives up opening files for writing (`confinement.rs`). Each
//! buffer has a region of it. The file is sparse: a region takes room on the disk only for what is in it, and
//! gives that back.
//!
//! Writing goes to the page cache and blocks no longer than a line of a log does, so the lanes write
//! themselves.

use hyper::body::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// More than the pieces that hyper reads, so that the one which fills a buffer fits, too.
const SLACK: u64 = 1 << 20;

/// Read from the file at once.
const PIECE: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Spool {
    file: Option<File>,
    region_bytes: u64,
    regions: Mutex<Regions>,
}

#[derive(Debug, Default)]
struct Regions {
    free: Vec<u64>,
    ever: u64,
}

impl Spool {
    /// In the directory for temporary files (`TMPDIR`, else `/tmp`). 0 bytes: nothing is buffered, and there is
    /// no file.
    ///
    /// # Errors
    /// No file can be made there. [`Spool::default`] does without: buffers hold what fits into memory.
    pub fn open(buffer_bytes_max: u64) -> io::Result<Self> {
        let file = (buffer_bytes_max > 0).then(tempfile::tempfile);
        Ok(Self {
            file: file.transpose()?,
            region_bytes: buffer_bytes_max.saturating_add(SLACK),
            regions: Mutex::default(),
        })
    }

    /// None: there is no file.
    pub(super) fn region(self: &Arc<Self>) -> Option<Region> {
        self.file.as_ref()?;
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let number = regions.free.pop().unwrap_or_else(|| {
            let number = regions.ever;
            regions.ever = number.saturating_add(1);
            number
        });
        Some(Region {
            begin: number.saturating_mul(self.region_bytes),
            spool: Arc::clone(self),
            number,
            read: 0,
            written: 0,
            peak: 0,
        })
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }
}

/// The part of the file that one buffer has.
#[derive(Debug)]
pub(super) struct Region {
    spool: Arc<Spool>,
    number: u64,
    begin: u64,
    read: u64,
    written: u64,
    /// The most that was ever written.
    peak: u64,
}

impl Region {
    pub(super) fn bytes(&self) -> u64 {
        self.written.saturating_sub(self.read)
    }

    /// An error: none of it is in the file.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let written = self.written.saturating_add(length);
        if written > self.spool.region_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let at = self.begin.saturating_add(self.written);
        self.peak = self.peak.max(written);
        self.spool.file()?.write_all_at(bytes, at)?;
        self.written = written;
        Ok(())
    }

    pub(super) fn take(&mut self) -> io::Result<Bytes> {
        let length = self.bytes().min(PIECE);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let at = self.begin.saturating_add(self.read);
        self.spool.file()?.read_exact_at(&mut bytes, at)?;
        self.read = self.read.saturating_add(length);
        if self.read == self.written {
            (self.read, self.written) = (0, 0);
        }
        Ok(bytes.into())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        use rustix::fs::{FallocateFlags, fallocate};
        let gone = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let (Ok(file), 1..) = (self.spool.file(), self.peak)
            && let Err(error) = fallocate(file, gone, self.begin, self.peak)
        {
            tracing::debug!(%error, "a file system that makes no holes keeps what was buffered until it is overwritten");
        }
        let regions = self.spool.regions.lock();
        let mut regions = regions.unwrap_or_else(PoisonError::into_inner);
        regions.free.push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_a_region_took_on_the_disk_is_given_back() {
        let spool = Arc::new(Spool::open(8 << 20).unwrap());
        let mut first = spool.region().unwrap();
        let mut second = spool.region().unwrap();
        first.put(&vec![1; 4 << 20]).unwrap();
        second.put(&[2; 100]).unwrap();
        let blocks = || spool.file().unwrap().metadata().unwrap().blocks();
        let full = blocks();
        drop(first);
        assert!(blocks() < full, "{} and {full}", blocks());
        assert_eq!(second.take().unwrap(), vec![2; 100]);
        // The number is used again, for a region of its own.
        let mut third = spool.region().unwrap();
        third.put(&[3; 100]).unwrap();
        second.put(&[4; 100]).unwrap();
        assert_eq!(third.take().unwrap(), vec![3; 100]);
        assert_eq!(second.take().unwrap(), vec![4; 100]);
    }
}
