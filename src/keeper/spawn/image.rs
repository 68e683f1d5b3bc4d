//! What fronts and loaders are executed from: an image of ours that they cannot read.
//!
//! execve(2) makes a process dumpable, and until it says otherwise other processes of its user, the app among
//! them, may open its memory and keep it open. A process is born non-dumpable only where its executable is not
//! readable for it (would_dump in fs/exec.c of Linux). The installed binary is readable for everybody, so the keeper
//! makes a copy of its own image in memory, which may be executed and not read. Nobody can open it by another way:
//! it has no name, and the processes that have it are non-dumpable.
//!
//! root reads everything, so for a keeper of root's there is no copy, and no app that is less than it.

use super::SpawnError;
use crate::causes::chain;
use crate::exec::OWN_IMAGE;
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fchmod, fcntl_add_seals, memfd_create, open,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// For its user nothing but to execute.
const MODE: Mode = Mode::XUSR.union(Mode::XGRP).union(Mode::XOTH);

/// ELF64: where the program headers are, how large one is, how many there are. elf(5).
const PROGRAM_HEADERS: usize = 0x20;
const HEADER_BYTES: usize = 0x36;
const HEADER_COUNT: usize = 0x38;
/// Of ELF64: where the section headers are; how many, and which has their names.
const SECTION_HEADERS: u64 = 0x28;
const SECTION_COUNT: u64 = 0x3c;
/// Of a program header: kind, offset in the file, bytes in the file.
const KIND: usize = 0;
const OFFSET: usize = 0x08;
const FILE_BYTES: usize = 0x20;
/// PT_LOAD.
const LOADED: u32 = 1;
/// More are none of a linker's.
const HEADERS_MAX: u16 = 64;

/// Made once, by the first who is spawned. Of the process: its image does not change.
static IMAGE: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// What to execute, and what must be open until it is.
#[derive(Debug)]
pub struct Image {
    /// In the child.
    pub path: PathBuf,
    /// Close-on-exec; open until the child has it.
    held: Option<OwnedFd>,
}

/// The system does not execute it.
static IS_REFUSED: AtomicBool = AtomicBool::new(false);

impl Image {
    /// And not the installed one.
    pub fn is_copy(&self) -> bool {
        self.held.is_some()
    }
}

/// From here on children are executed from the installed image. Said once.
pub fn give_up(error: &SpawnError) {
    if !IS_REFUSED.swap(true, Ordering::Relaxed) {
        let error = chain(error);
        tracing::warn!(%error, "fronts are born readable for the app's user, for a moment: the image in memory is not executed: {error}");
    }
}

/// The image for a child whose fds below `end` are spoken for.
///
/// # Errors
/// When the process is out of fds.
pub fn for_child(end: RawFd) -> io::Result<Image> {
    let image = IMAGE.get_or_init(make).as_ref();
    let Some(image) = image.filter(|_| !IS_REFUSED.load(Ordering::Relaxed)) else {
        return Ok(Image {
            path: PathBuf::from(OWN_IMAGE),
            held: None,
        });
    };
    let open = fcntl_dupfd_cloexec(image, end)?;
    Ok(Image {
        path: PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())),
        held: Some(open),
    })
}

/// None: there is no need of it, or it cannot be had.
fn make() -> Option<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let own = match File::open(OWN_IMAGE) {
        // It is unreadable already: what is born of it is as it should be.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        opened => opened,
    };
    match own.and_then(copy) {
        Ok(image) => Some(image),
        Err(error) => {
            tracing::warn!(%error, "fronts are born readable for the app's user, for a moment: no image of gapless in memory: {error}");
            None
        }
    }
}

fn copy(mut own: File) -> io::Result<OwnedFd> {
    let mut copy = File::from(create()?);
    let whole = own.metadata()?.len();
    let loaded = loaded_bytes(&own).map_or(whole, |loaded| loaded.min(whole));
    own.seek(SeekFrom::Start(0))?;
    io::copy(&mut own.take(loaded), &mut copy)?;
    if loaded < whole {
        forget_sections(&copy)?;
    }
    copy.flush()?;
    // What is open for writing cannot be executed (ETXTBSY).
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let image = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fchmod(&image, MODE)?;
    fcntl_add_seals(&copy, seals)?;
    Ok(image)
}

/// MFD_EXEC is younger than the oldest kernel that can run this.
fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("gapless", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => Ok(memfd_create("gapless", flags)?),
        made => Ok(made?),
    }
}

/// How much of an ELF file is loaded: what comes behind it are symbols, which are larger than all the rest.
/// None: it is nothing that we can tell it of.
fn loaded_bytes(image: &File) -> Option<u64> {
    let mut head = [0; 64];
    image.read_exact_at(&mut head, 0).ok()?;
    let is_elf64 = head.starts_with(b"\x7fELF\x02\x01");
    let (at, size) = (
        u64_at(&head, PROGRAM_HEADERS)?,
        u16_at(&head, HEADER_BYTES)?,
    );
    let count = u16_at(&head, HEADER_COUNT)?;
    if !is_elf64 || usize::from(size) < FILE_BYTES + 8 || count > HEADERS_MAX {
        return None;
    }
    let mut table = vec![0; usize::from(size) * usize::from(count)];
    image.read_exact_at(&mut table, at).ok()?;
    let mut end = at.checked_add(u64::try_from(table.len()).ok()?)?;
    for header in table.chunks_exact(usize::from(size)) {
        if u32_at(header, KIND)? == LOADED {
            end = end.max(u64_at(header, OFFSET)?.checked_add(u64_at(header, FILE_BYTES)?)?);
        }
    }
    Some(end)
}

/// Nothing looks for what was not copied.
fn forget_sections(image: &File) -> io::Result<()> {
    image.write_all_at(&[0; 8], SECTION_HEADERS)?;
    image.write_all_at(&[0; 4], SECTION_COUNT)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes_at(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes_at(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes_at(bytes, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    /// As root, who reads everything, only what the kernel is told can be seen.
    #[test]
    fn the_copy_runs_and_nobody_may_read_or_write_it() {
        let copy = copy(File::open(OWN_IMAGE).unwrap()).unwrap();
        let metadata = File::from(copy.try_clone().unwrap()).metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o111);
        assert!(metadata.len() <= std::fs::metadata(OWN_IMAGE).unwrap().len());
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert!(
            File::options()
                .write(true)
                .open(&path)
                .and_then(|mut it| it.write_all(b"x"))
                .is_err()
        );
        let listed = Command::new(path).arg("--list").output().unwrap();
        assert!(listed.status.success());
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(text.contains("the_copy_runs_and_nobody_may_read_or_write_it"));
    }

    #[test]
    fn what_is_no_elf_file_has_no_loaded_part() {
        let path = std::env::temp_dir().join(format!("gl-image-{}", std::process::id()));
        let headers = |count: u8, size: u8| {
            let mut head = [0_u8; 64];
            head[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (head[0x20], head[0x36], head[0x38]) = (64, size, count);
            head.to_vec()
        };
        let endless = [headers(1, 56), vec![1, 0, 0, 0, 0, 0, 0, 0], vec![0xff; 48]].concat();
        for bytes in [
            b"".to_vec(),
            b"#!/bin/sh\n".to_vec(),
            headers(1, 56),
            headers(65, 56),
            headers(1, 8),
            endless,
        ] {
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(loaded_bytes(&File::open(&path).unwrap()), None, "{bytes:?}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
