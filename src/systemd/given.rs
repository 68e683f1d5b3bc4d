//! The fds we are given at start: sockets of the socket unit, what we kept in the fd store, and
//! what our own exec loader or our own exec in place passes on. All come as LISTEN_FDS.
//!
//! Never goes by position: after a restart or a daemon-reexec systemd passes the same fds in another
//! order. Names, and what the fd itself says (address, cookie, pid), are the only identity.

use libsystemd::activation;
use listenfd::ListenFd;
use rustix::io::{dup, fcntl_dupfd_cloexec};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, getsockname, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// More fds than any limit of ours lets us keep; a larger LISTEN_FDS is a mistake of somebody.
const FDS_MAX: usize = 65_536;

/// The first of them, SD_LISTEN_FDS_START.
const FIRST_FD: RawFd = 3;

/// The name that systemd itself uses for an fd without one, sd_listen_fds_with_names(3).
const NAMELESS: &str = "unknown";

/// One fd and the name it was given under.
#[derive(Debug)]
pub struct Given {
    /// FileDescriptorName= of the socket unit, or FDNAME= in the fd store. Not unique.
    pub name: String,
    /// Close-on-exec.
    pub fd: OwnedFd,
}

/// The fds cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// LISTEN_FDS is no sensible number.
    #[error(
        "cannot take the fds given at start: LISTEN_FDS is {value:?}, not a number up to {FDS_MAX}; \
         start gapless from its unit, or without LISTEN_FDS in the environment"
    )]
    Count {
        /// As it stands in the environment.
        value: String,
    },
    /// One of the promised fds is not open.
    #[error(
        "cannot take the fds given at start: {count} are announced by LISTEN_FDS, but not all are \
         open; start gapless from its unit, or without LISTEN_FDS in the environment"
    )]
    NotOpen {
        /// LISTEN_FDS.
        count: usize,
        /// What libsystemd found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Takes all fds that were given to this very process, and marks each close-on-exec first.
///
/// To be called once, first thing in `main`, before any thread and any fd of our own: it ends with
/// LISTEN_PID and LISTEN_FDS removed from the environment (by `listenfd`), so that a second call
/// returns nothing. Without LISTEN_PID, or with that of another process, nothing was given.
///
/// # Errors
/// When the environment announces what is not there; the caller refuses to start.
pub fn take() -> Result<Vec<Given>, GivenError> {
    let Some(count) = announced()? else {
        return Ok(Vec::new());
    };
    let names = names_of(count)?;
    let mut listen = ListenFd::from_env();
    let taken = names.into_iter().enumerate().filter_map(|(index, name)| {
        let fd = listen.take_raw_fd(index).ok().flatten()?;
        Some(Given { name, fd: own(fd) })
    });
    Ok(taken.collect())
}

/// How many fds are meant for this process.
fn announced() -> Result<Option<usize>, GivenError> {
    let pid = std::env::var("LISTEN_PID").unwrap_or_default();
    let Ok(value) = std::env::var("LISTEN_FDS") else {
        return Ok(None);
    };
    if pid.parse() != Ok(std::process::id()) {
        return Ok(None);
    }
    match value.parse() {
        Ok(count) if count <= FDS_MAX => Ok(Some(count)),
        Ok(_) | Err(_) => Err(GivenError::Count { value }),
    }
}

/// One name per fd. libsystemd also sets close-on-exec on every fd and by that proves it open.
fn names_of(count: usize) -> Result<Vec<String>, GivenError> {
    activation::receive_descriptors(false).map_err(|source| GivenError::NotOpen {
        count,
        source: Box::new(source),
    })?;
    let found = activation::receive_descriptors_with_names(false).unwrap_or_default();
    let mut names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    names.resize(count, NAMELESS.to_owned());
    Ok(names)
}

/// Closes every fd from `first` on: what a careless ancestor left open without close-on-exec, and
/// nobody below may inherit.
///
/// Only for the chain loader, first thing in `main`, before any thread and any fd of its own.
pub(crate) fn close_strays(first: RawFd) {
    close_open(|fd| fd >= first);
}

/// Makes the fds with these numbers, in this order, the fds 3, 4, …, not close-on-exec, and closes
/// whatever stood there. They stay where they are as long as the answer lives.
///
/// Only for the relay, first thing in `main`, before any thread and any fd of its own.
///
/// # Errors
/// When one of them is not open, or the process is out of fds.
pub(crate) fn place(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let count = RawFd::try_from(numbers.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let end = FIRST_FD.saturating_add(count);
    let out_of_the_way = |number: &RawFd| {
        if *number < FIRST_FD || !is_open(*number) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(fcntl_dupfd_cloexec(own(*number), end)?)
    };
    let moved: Vec<OwnedFd> = numbers
        .iter()
        .map(out_of_the_way)
        .collect::<Result<_, _>>()?;
    close_open(|fd| (FIRST_FD..end).contains(&fd));
    // Now each is the lowest free number in its turn.
    let placed: Vec<OwnedFd> = moved.iter().map(dup).collect::<Result<_, _>>()?;
    let is_in_order = (FIRST_FD..end).eq(placed.iter().map(AsRawFd::as_raw_fd));
    is_in_order
        .then_some(placed)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Every open fd from 3 on, by its number.
///
/// Only where the table of fds has become this process's own by the end of the process that it
/// shared it with, and none of them is owned here yet.
pub(crate) fn take_over() -> BTreeMap<RawFd, OwnedFd> {
    let open = open_numbers(|fd| fd >= FIRST_FD).into_iter();
    open.filter(|fd| is_open(*fd))
        .map(|fd| (fd, own(fd)))
        .collect()
}

fn is_open(fd: RawFd) -> bool {
    let path = std::path::Path::new("/proc/self/fd").join(fd.to_string());
    path.symlink_metadata().is_ok()
}

fn close_open(which: impl Fn(RawFd) -> bool) {
    for fd in open_numbers(which) {
        if is_open(fd) {
            drop(own(fd));
        }
    }
}

/// To the end before the first is used: the directory being read has an fd, too.
fn open_numbers(which: impl Fn(RawFd) -> bool) -> Vec<RawFd> {
    let place = std::path::Path::new("/proc/self/fd");
    let Ok(entries) = place.read_dir() else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| which(*fd))
        .collect()
}

#[expect(
    unsafe_code,
    reason = "a number becomes an owner here and nowhere else"
)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the fd is open (in `take` libsystemd has just set a flag on it, in `close_open` and
    // `place` it has just been seen in /proc), and nobody else owns it: it was opened before this
    // process began (in `place`, those of our own are numbered past what is closed), and each
    // function runs before this process opens an fd of its own, `take_over` when whoever opened
    // them is gone; `listenfd`
    // hands out each number once and removes LISTEN_FDS.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Where a socket is bound, for people: `127.0.0.1:8080`, `/run/x.sock`, `@abstract`. Empty when it
/// is not bound.
///
/// # Errors
/// When the fd is not a socket.
pub fn socket_address(fd: impl AsFd) -> io::Result<String> {
    let address = getsockname(fd)?;
    if let Ok(inet) = SocketAddr::try_from(address.clone()) {
        return Ok(inet.to_string());
    }
    Ok(unix_address(address).unwrap_or_default())
}

fn unix_address(address: SocketAddrAny) -> Option<String> {
    let unix = SocketAddrUnix::try_from(address).ok()?;
    if let Some(name) = unix.abstract_name().filter(|name| !name.is_empty()) {
        return Some(format!("@{}", String::from_utf8_lossy(name)));
    }
    Some(unix.path()?.to_string_lossy().into_owned())
}

/// Whether connections can be accepted from this fd. False for anything that is not a socket.
pub fn is_listening_stream(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let stream = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM);
    stream && sockopt::socket_acceptconn(fd).unwrap_or(false)
}

/// The identity of a socket: the same in every process and for every duplicate, SO_COOKIE.
///
/// # Errors
/// When the fd is not a socket.
pub fn socket_cookie(fd: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(fd)?)
}

/// The process behind a pidfd, as seen from our pid namespace; none when it has ended and is reaped,
/// or when the fd is no pidfd.
pub fn pid_of_pidfd(fd: impl AsFd) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    pid_line(&std::fs::read_to_string(path).ok()?)
}

/// The `Pid:` line, proc_pid_fdinfo(5): -1 once reaped, 0 in another pid namespace.
fn pid_line(fdinfo: &str) -> Option<u32> {
    let value = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim();
    value.parse().ok().filter(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    fn nothing_is_taken_when_nothing_was_given() {
        assert!(take().unwrap().is_empty());
    }

    #[test]
    fn a_listener_is_known_by_address_state_and_cookie() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(socket_address(&listener).unwrap(), address);
        assert!(is_listening_stream(&listener));
        let copy = listener.try_clone().unwrap();
        assert_eq!(
            socket_cookie(&listener).unwrap(),
            socket_cookie(&copy).unwrap()
        );
    }

    #[test]
    fn a_unix_listener_is_named_by_its_path() {
        let path = std::env::temp_dir().join(format!("gapless-given-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(socket_address(&listener).unwrap(), path.to_string_lossy());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_does_not_listen_is_told_from_what_does() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_listening_stream(&file));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_listening_stream(&one));
        assert_eq!(socket_address(&one).unwrap(), "");
    }

    #[test]
    fn a_pidfd_names_its_process_until_it_is_reaped() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!(pid_of_pidfd(&pidfd), Some(child.id()));
        child.wait().unwrap();
        assert_eq!(pid_of_pidfd(&pidfd), None);
    }

    #[test]
    fn a_pid_line_is_read_only_when_it_names_a_process() {
        assert_eq!(pid_line("pos:\t0\nPid:\t42\nNSpid:\t42\n"), Some(42));
        assert_eq!(pid_line("pos:\t0\nPid:\t-1\n"), None);
        assert_eq!(pid_line("pos:\t0\n"), None);
    }
}
