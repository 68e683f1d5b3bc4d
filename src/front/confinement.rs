//! What a front gives up before anything of a client reaches it: system calls that it never needs, and
//! that whoever took it over would want. A seccomp filter, seccomp(2), for all its threads and its
//! trustee; it cannot be taken off again.
//!
//! They fail with EPERM, as without permission: a front must not die of a filter.
//!
//! The filter names what is refused, not what is allowed. A list of what serving needs would change with
//! every version of libc, tokio and the kernel, and a call that is missing there costs requests. It is
//! installed before the trustee is cloned and before any thread. Calls whose number alone decides cost
//! nothing: the kernel remembers that they are allowed (Linux 5.11). Only opening a file is looked at each
//! time. Systemd cannot install it: the keeper in the same unit executes and writes.

use nix::libc;
use rustix::fs::OFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

/// Refused whatever their arguments are.
pub const NEVER: &[i64] = &[
    // To become another program.
    libc::SYS_execve,
    libc::SYS_execveat,
    // The memory and the files of others, first of all the keeper's.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Files beyond what is open. The flags of openat2 are in memory, where no filter looks.
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_truncate,
    libc::SYS_mknodat,
    // Another view of the system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // Parts of the kernel that are rarely needed, and often broken.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // What goes through a ring passes every filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// The older forms, which aarch64 does not have.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[libc::SYS_creat, libc::SYS_mknod];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];

/// What opens a file, and which of its arguments has the flags.
#[cfg(target_arch = "x86_64")]
const OPENS: &[(i64, u8)] = &[(libc::SYS_openat, 2), (libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OPENS: &[(i64, u8)] = &[(libc::SYS_openat, 2)];

/// Numbers of x32 have this bit, and only a few differ in the rest: a kernel that has x32 would take
/// the same calls by them.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// execve, ptrace, process_vm_readv, process_vm_writev and execveat.
#[cfg(target_arch = "x86_64")]
const NEVER_BY_X32: &[i64] = &[520, 521, 539, 540, 545];

/// A front without its filter.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// No filter for this machine.
    #[error("no filter of system calls can be made for {}", std::env::consts::ARCH)]
    Filter(#[source] seccompiler::BackendError),
    /// The kernel, or a filter that is there already.
    #[error(
        "the filter of system calls is refused; let SystemCallFilter= of the service allow seccomp"
    )]
    Refused(#[source] seccompiler::Error),
}

/// Confines this thread and all that it starts from now on. Sets no_new_privs, which means nothing to
/// whoever executes nothing.
///
/// # Errors
/// [`ConfinementError`]; nothing is refused then, and the front can serve as well.
pub fn confine() -> Result<(), ConfinementError> {
    let program = program().map_err(ConfinementError::Filter)?;
    seccompiler::apply_filter(&program).map_err(ConfinementError::Refused)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs());
    SeccompFilter::new(rules()?, SeccompAction::Allow, refused, arch)?.try_into()
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let always = NEVER.iter().chain(NEVER_HERE);
    let mut rules: BTreeMap<_, _> = always.map(|call| (*call, Vec::new())).collect();
    for (call, flags) in OPENS {
        rules.insert(*call, beyond_reading(*flags)?);
    }
    #[cfg(target_arch = "x86_64")]
    rules.extend(by_x32(&rules));
    Ok(rules)
}

#[cfg(target_arch = "x86_64")]
fn by_x32(rules: &BTreeMap<i64, Vec<SeccompRule>>) -> BTreeMap<i64, Vec<SeccompRule>> {
    let same = rules
        .iter()
        .map(|(call, rules)| (call | X32, rules.clone()));
    let own = NEVER_BY_X32.iter().map(|call| (call | X32, Vec::new()));
    same.chain(own).collect()
}

/// Flags that let a file be written, made or emptied: O_TRUNC empties one that is opened for reading.
fn beyond_reading(argument: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    // 3 is neither reading nor writing, and allows ioctl(2), open(2).
    let accesses = [OFlags::WRONLY, OFlags::RDWR, OFlags::ACCMODE];
    let accesses = accesses.map(|access| (OFlags::ACCMODE, access));
    let makes = [OFlags::CREATE, OFlags::TRUNC].map(|flag| (flag, flag));
    let rule = |(mask, value): (OFlags, OFlags)| {
        let (mask, value) = (u64::from(mask.bits()), u64::from(value.bits()));
        let is_masked = SeccompCmpOp::MaskedEq(mask);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is_masked, value)?;
        SeccompRule::new(vec![condition])
    };
    accesses.into_iter().chain(makes).map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::fs::{File, OpenOptions};
    use std::io::Read;
    use std::os::fd::{AsFd, OwnedFd};

    /// In a thread of its own: no other test is confined.
    fn confined<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(|| {
            confine().unwrap();
            run()
        });
        thread.join().unwrap()
    }

    fn errno<T>(done: std::io::Result<T>) -> Option<Errno> {
        Errno::from_io_error(&done.err().unwrap())
    }

    #[test]
    fn a_file_can_be_read_and_neither_be_written_nor_made_nor_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let (path, fresh) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&path, "kept").unwrap();
        let is_there = path.clone();
        confined(move || {
            let mut read = String::new();
            File::open(&path)
                .unwrap()
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, "kept");
            let refused = Some(Errno::PERM);
            assert_eq!(errno(OpenOptions::new().write(true).open(&path)), refused);
            assert_eq!(errno(OpenOptions::new().append(true).open(&path)), refused);
            let both = OpenOptions::new().read(true).write(true).open(&path);
            assert_eq!(errno(both), refused);
            assert_eq!(errno(File::create(&fresh)), refused);
            for flags in [OFlags::TRUNC, OFlags::CREATE, OFlags::ACCMODE] {
                let opened = rustix::fs::open(&path, flags, rustix::fs::Mode::RUSR);
                assert_eq!(opened.unwrap_err(), Errno::PERM, "{flags:?}");
            }
            assert!(!fresh.exists());
        });
        assert_eq!(std::fs::read_to_string(is_there).unwrap(), "kept");
    }

    #[test]
    fn a_front_becomes_no_other_program_and_takes_no_file_of_another_process() {
        confined(|| {
            let run = std::process::Command::new("/bin/true").spawn();
            assert_eq!(errno(run), Some(Errno::PERM));
            let me = rustix::process::getpid();
            let pidfd =
                rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).unwrap();
            let none = rustix::process::PidfdGetfdFlags::empty();
            let taken = rustix::process::pidfd_getfd(&pidfd, 0, none);
            assert_eq!(taken.unwrap_err(), Errno::PERM);
        });
    }

    #[test]
    fn what_serving_needs_is_allowed() {
        confined(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let client = std::thread::spawn(move || std::net::TcpStream::connect(address));
            let (served, _) = listener.accept().unwrap();
            client.join().unwrap().unwrap();
            // A long line for the journal travels in one of these.
            let long = rustix::fs::memfd_create("line", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let (one, other) = crate::link::pair().unwrap();
            let passed: [&OwnedFd; 1] = [&long];
            let fds = passed.map(AsFd::as_fd);
            crate::link::seqpacket::send_now(one.as_fd(), b"x", &fds).unwrap();
            let came = crate::link::seqpacket::receive_now(other.as_fd()).unwrap();
            assert_eq!(came.fds.len(), 1);
            drop(served);
        });
    }
}
