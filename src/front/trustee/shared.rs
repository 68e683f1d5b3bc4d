//! What no safe function does: memory that two processes see, and a process that shares the fds of
//! this one.

#![expect(
    unsafe_code,
    reason = "see the module; each block says why it is sound, and nothing here decides anything"
)]

use nix::sched::{CloneFlags, clone};
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::Pid;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

/// For what the trustee does: it packs a parcel, and logs nothing.
const STACK_BYTES: usize = 512 * 1024;

/// Of one message that the trustee reads or writes, at most; see `seqpacket`.
const WORD_BYTES: usize = size_of::<AtomicU64>();

/// Gives a fresh memfd its size for good, and maps it for the rest of this process's life.
///
/// # Errors
/// As ftruncate(2), fcntl(2) and mmap(2).
pub(super) fn map(memfd: impl AsFd, words: usize) -> io::Result<&'static [AtomicU64]> {
    let bytes = words.saturating_mul(WORD_BYTES);
    let length = u64::try_from(bytes).map_err(io::Error::other)?;
    ftruncate(&memfd, length)?;
    fcntl_add_seals(
        &memfd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: the kernel chooses the place, so nothing of ours is there.
    let at = unsafe { mmap(std::ptr::null_mut(), bytes, access, flags, memfd, 0)? };
    // SAFETY: so much is mapped, zeroed and page-aligned, and never unmapped. The seals keep it that
    // long whoever has the memfd. All bits are an AtomicU64, and every process that writes here
    // does so by such.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), words) })
}

/// Starts `run` in a process that shares the table of fds with this one, and nothing else. It never
/// returns from there.
///
/// Only before this process has a second thread.
///
/// # Errors
/// As clone(2).
pub(super) fn beside(run: &dyn Fn()) -> io::Result<Option<Pid>> {
    let mut stack = vec![0; STACK_BYTES];
    let body = Box::new(|| {
        run();
        0
    });
    let signal = nix::libc::SIGCHLD;
    // SAFETY: as fork(2) in a process with one thread: no lock is held by anybody who is not there.
    // Without CLONE_VM the child has its own copy of the stack and of all else; what it needs of
    // the stack is a small part of it. What it returns ends it by _exit(2).
    let pid = unsafe { clone(body, &mut stack, CloneFlags::CLONE_FILES, Some(signal))? };
    Ok(Pid::from_raw(pid.as_raw()))
}
