//! A tar archive, entry by entry.

use super::tree::Tree;
use super::{StagingError, Why};
use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use tar::EntryType;

/// Archives end in blocks of zeros, up to a record of 10 KiB, or of a tape.
const PADDING_BYTES_MAX: u64 = 1 << 20;
const BLOCK_BYTES: u64 = 512;
/// Names end at 4 KiB; with all else that is said of a file.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// A reader that counts.
pub(super) struct Counted<R> {
    inner: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Counted<R> {
    pub(super) fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let bytes = Rc::new(Cell::new(0));
        let counted = Self {
            inner,
            bytes: Rc::clone(&bytes),
        };
        (counted, bytes)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let bytes = u64::try_from(read).unwrap_or(u64::MAX);
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        Ok(read)
    }
}

pub(super) fn unpack(from: impl Read, tree: &mut Tree) -> Result<(), StagingError> {
    let (counted, read) = Counted::new(from);
    let mut archive = tar::Archive::new(counted);
    let (mut end, mut extended) = (0, Extended::default());
    // Raw: otherwise the crate reads names of any length into memory.
    for entry in archive.entries().map_err(StagingError::Damaged)?.raw(true) {
        let mut entry = entry.map_err(StagingError::Damaged)?;
        let whole_blocks = entry
            .size()
            .div_ceil(BLOCK_BYTES)
            .saturating_mul(BLOCK_BYTES);
        end = entry.raw_file_position().saturating_add(whole_blocks);
        if !extended.read(&mut entry)? {
            unpack_entry(&mut entry, std::mem::take(&mut extended), tree)?;
        }
    }
    if read.get() <= end {
        // Nothing behind the last entry: whoever sent it was cut off just there.
        return Err(StagingError::Damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    // To the end, where a compressed archive has its checksum.
    let mut rest = archive.into_inner().take(PADDING_BYTES_MAX);
    io::copy(&mut rest, &mut io::sink()).map_err(StagingError::Damaged)?;
    Ok(())
}

/// What an entry says of the next one: names that are too long for its head.
#[derive(Default)]
struct Extended {
    path: Option<PathBuf>,
    target: Option<PathBuf>,
    has_holes: bool,
}

impl Extended {
    /// False: it is an entry of its own.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "kinds of entries may be added"
    )]
    fn read(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, StagingError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(name(&text(entry)?)),
            EntryType::GNULongLink => self.target = Some(name(&text(entry)?)),
            EntryType::XHeader => self.read_pax(entry)?,
            // Of whoever made it, for all entries: comments.
            EntryType::XGlobalHeader => drop(text(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_pax(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), StagingError> {
        let text = text(entry)?;
        for extension in tar::PaxExtensions::new(&text) {
            let extension = extension.map_err(StagingError::Damaged)?;
            match extension.key_bytes() {
                b"path" => self.path = Some(name(extension.value_bytes())),
                b"linkpath" => self.target = Some(name(extension.value_bytes())),
                // More than 8 GiB, which the head cannot say.
                b"size" => return Err(damaged("a file of more than 8 GiB")),
                key => self.has_holes |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

fn text(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, StagingError> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return Err(damaged("a name of more than 64 KiB"));
    }
    let mut text = Vec::new();
    entry
        .read_to_end(&mut text)
        .map_err(StagingError::Damaged)?;
    Ok(text)
}

/// GNU ends it with a NUL.
fn name(bytes: &[u8]) -> PathBuf {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn damaged(what: &'static str) -> StagingError {
    StagingError::Damaged(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not known is refused"
)]
fn unpack_entry(
    entry: &mut tar::Entry<'_, impl Read>,
    extended: Extended,
    tree: &mut Tree,
) -> Result<(), StagingError> {
    let header = entry.header();
    let path = extended.path.unwrap_or_else(|| name(&header.path_bytes()));
    let mode = header.mode().map_err(StagingError::Damaged)?;
    let target = || {
        let short = || header.link_name_bytes().map(|bytes| name(&bytes));
        extended.target.or_else(short).unwrap_or_default()
    };
    let special = |what| Err(StagingError::entry(&path, Why::Special(what)));
    match header.entry_type() {
        _ if extended.has_holes => special("a file with holes"),
        EntryType::Regular | EntryType::Continuous => tree.file(&path, mode, entry),
        EntryType::Directory => tree.directory(&path),
        EntryType::Symlink => tree.symlink(&path, &target()),
        EntryType::Link => tree.hard_link(&path, &target()),
        EntryType::Char | EntryType::Block => special("a device"),
        EntryType::Fifo => special("a fifo"),
        EntryType::GNUSparse => special("a file with holes"),
        _ => special("of a kind that nobody knows"),
    }
}
