//! What an app tells us: the receiving end of its NOTIFY_SOCKET, sd_notify(3).
//!
//! One socket per worker, so that the socket says who speaks: the sender's pid may be a child's, or
//! gone. Nothing that comes is trusted: it is bounded, cleaned, and passed fds are closed as soon as
//! they are dealt with, for a barrier of the app waits until nobody holds its pipe.

use super::deposits::PER_WORKER_MAX;
use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Of one datagram; systemd takes 4 KiB. A longer one is ignored whole.
const DATAGRAM_BYTES_MAX: usize = 8 * 1024;

/// Of a STATUS=.
pub(super) const STATUS_CHARS_MAX: usize = 256;

/// sun_path with its final zero, unix(7).
const PATH_BYTES_MAX: usize = 107;

/// Most fds in one datagram: SCM_MAX_FD, unix(7).
const FDS_MAX: usize = 253;

/// Last words that are heard; net.unix.max_dgram_qlen lets far fewer wait.
const PENDING_MAX: usize = 1024;

/// The app runs as the user of the service, and nobody else has to say anything.
const MODE: u32 = 0o660;

/// One thing an app said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// READY=1: the start, or a reload, is finished.
    Ready,
    /// RELOADING=1: not ready for a while, by its own will.
    Reloading,
    /// STOPPING=1: it is about to end.
    Stopping,
    /// STATUS=…, at most 256 characters, none of them a control character.
    Status(String),
    /// WATCHDOG=1: alive.
    Watchdog,
    /// WATCHDOG=trigger: it knows itself that it is broken.
    WatchdogTrigger,
    /// EXTEND_TIMEOUT_USEC=…: the start or stop under way needs so much more time from now on.
    ExtendTimeout(Duration),
}

/// What an app wants of the fd store, sd_pid_notify_with_fds(3).
#[derive(Debug)]
pub enum Keeping {
    /// FDSTORE=1, with FDNAME= (`stored` without it).
    Store {
        /// As it was said; not yet looked at.
        name: String,
        /// Not with FDPOLL=0.
        is_polled: bool,
        /// What came along.
        fds: Vec<OwnedFd>,
    },
    /// FDSTOREREMOVE=1 with FDNAME=.
    Remove {
        /// Of all that are to go.
        name: String,
    },
}

/// One datagram.
#[derive(Debug, Default)]
pub struct Said {
    /// In its order; perhaps nothing that we know.
    pub notices: Vec<Notice>,
    /// What to keep or to forget.
    pub keeping: Option<Keeping>,
    /// Came along with BARRIER=1: whoever sent it waits until it is closed, which is when all that
    /// was said before has been dealt with.
    pub barrier: Option<OwnedFd>,
}

/// An app cannot be given a NOTIFY_SOCKET.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// The kernel's limit for socket paths.
    #[error(
        "cannot listen for notices at {}: the path has {} bytes, a socket path at most \
         {PATH_BYTES_MAX}; use a shorter name for the app or a shorter runtime directory",
        path.display(), path.as_os_str().len()
    )]
    PathTooLong {
        /// Where the socket was to be.
        path: PathBuf,
    },
    /// The socket could not be made there.
    #[error(
        "cannot listen for notices at {}; check that the directory exists and is writable for the \
         service (RuntimeDirectory=)",
        path.display()
    )]
    Bind {
        /// Where the socket was to be.
        path: PathBuf,
        /// What bind(2) said.
        #[source]
        source: io::Error,
    },
    /// The fd cannot be used.
    #[error("cannot listen for notices on a kept socket")]
    Adopt(#[source] io::Error),
}

/// Where one worker's notices arrive.
#[derive(Debug)]
pub struct NoticeSocket {
    socket: AsyncFd<OwnedFd>,
}

impl NoticeSocket {
    /// Binds `path`, replacing what an earlier worker left there. Within a tokio runtime.
    ///
    /// # Errors
    /// [`NoticeError`]; the worker cannot be started then.
    pub fn bind(path: &Path) -> Result<Self, NoticeError> {
        if path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
            return Err(NoticeError::PathTooLong {
                path: path.to_owned(),
            });
        }
        let failed = |source| NoticeError::Bind {
            path: path.to_owned(),
            source,
        };
        let socket = bind(path).map_err(failed)?;
        Self::from_fd(socket.into())
    }

    /// Goes on with a socket that an earlier keeper bound. Within a tokio runtime.
    ///
    /// # Errors
    /// [`NoticeError::Adopt`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NoticeError> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(|error| NoticeError::Adopt(error.into()))?;
        let socket = crate::poll::watch(fd).map_err(NoticeError::Adopt)?;
        Ok(Self { socket })
    }

    /// What the next datagram says. Cancel-safe.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub async fn receive(&self) -> io::Result<Said> {
        self.socket
            .async_io(Interest::READABLE, |fd| receive_now(fd.as_fd()))
            .await
    }

    /// What is there already: the last words of a worker that ended.
    pub fn pending(&self) -> Vec<Said> {
        let next = || receive_now(self.as_fd()).ok();
        std::iter::from_fn(next).take(PENDING_MAX).collect()
    }
}

impl AsFd for NoticeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(MODE))?;
    Ok(socket)
}

/// Nothing for a datagram that is too long.
fn receive_now(socket: BorrowedFd<'_>) -> io::Result<Said> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, flags)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    let whole = !received.flags.contains(ReturnFlags::TRUNC);
    bytes.truncate(if whole { received.bytes } else { 0 });
    Ok(parse(&bytes, fds))
}

pub(super) fn parse(datagram: &[u8], mut fds: Vec<OwnedFd>) -> Said {
    let text = String::from_utf8_lossy(datagram);
    let notices = text.lines().filter_map(parse_line).collect();
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find_map(|(name, value)| (name == key).then_some(value))
    };
    let name = value("FDNAME").map(str::to_owned);
    let mut said = Said {
        notices,
        ..Said::default()
    };
    if value("FDSTORE") == Some("1") {
        // One more than is kept is enough to be told so.
        fds.truncate(PER_WORKER_MAX.saturating_add(1));
        said.keeping = (!fds.is_empty()).then(|| Keeping::Store {
            name: name.unwrap_or_else(|| "stored".to_owned()),
            is_polled: value("FDPOLL") != Some("0"),
            fds,
        });
    } else if value("FDSTOREREMOVE") == Some("1") {
        said.keeping = name.map(|name| Keeping::Remove { name });
    } else if value("BARRIER") == Some("1") {
        said.barrier = fds.pop();
    }
    said
}

/// Unknown assignments (MAINPID, ERRNO, X_…) are no error: an app may say them to systemd.
fn parse_line(line: &str) -> Option<Notice> {
    match line.split_once('=')? {
        ("READY", "1") => Some(Notice::Ready),
        ("RELOADING", "1") => Some(Notice::Reloading),
        ("STOPPING", "1") => Some(Notice::Stopping),
        ("WATCHDOG", "1") => Some(Notice::Watchdog),
        ("WATCHDOG", "trigger") => Some(Notice::WatchdogTrigger),
        ("STATUS", text) => Some(Notice::Status(clean(text))),
        ("EXTEND_TIMEOUT_USEC", micros) => {
            let micros = micros.parse().ok()?;
            Some(Notice::ExtendTimeout(Duration::from_micros(micros)))
        }
        (_, _) => None,
    }
}

/// An app must not paint on the terminal of whoever reads its status.
fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(STATUS_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    const LIMIT: Duration = Duration::from_secs(10);

    fn bound(name: &str) -> (PathBuf, NoticeSocket) {
        let name = format!("gapless-notice-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let socket = NoticeSocket::bind(&path).unwrap();
        (path, socket)
    }

    async fn next(socket: &NoticeSocket) -> Vec<Notice> {
        hear(socket).await.notices
    }

    async fn hear(socket: &NoticeSocket) -> Said {
        tokio::time::timeout(LIMIT, socket.receive())
            .await
            .unwrap()
            .unwrap()
    }

    /// From an app, with an fd.
    fn send(path: &Path, text: &[u8], fd: impl AsFd) {
        let app = UnixDatagram::unbound().unwrap();
        app.connect(path).unwrap();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let text = [io::IoSlice::new(text)];
        sendmsg(&app, &text, &mut ancillary, SendFlags::empty()).unwrap();
    }

    #[test]
    fn each_assignment_is_read_and_unknown_ones_are_passed_over() {
        let said = b"READY=1\nSTATUS=up \x1b[31mred\nX_FOO=1\nWATCHDOG=1\nWATCHDOG=trigger\n\
            EXTEND_TIMEOUT_USEC=1500000\nRELOADING=1\nSTOPPING=1\nREADY=2\nnonsense\nMAINPID=1";
        let expected = [
            Notice::Ready,
            Notice::Status("up [31mred".into()),
            Notice::Watchdog,
            Notice::WatchdogTrigger,
            Notice::ExtendTimeout(Duration::from_millis(1500)),
            Notice::Reloading,
            Notice::Stopping,
        ];
        assert_eq!(parse(said, Vec::new()).notices, expected);
    }

    #[tokio::test]
    async fn notices_arrive_and_a_too_long_datagram_is_ignored_whole() {
        let (path, socket) = bound("arrive");
        let app = UnixDatagram::unbound().unwrap();
        app.connect(&path).unwrap();
        app.send(b"READY=1\n").unwrap();
        app.send(&[b"READY=1\n".to_vec(), vec![b'x'; DATAGRAM_BYTES_MAX]].concat())
            .unwrap();
        app.send(b"STOPPING=1").unwrap();
        assert_eq!(next(&socket).await, [Notice::Ready]);
        assert_eq!(next(&socket).await, []);
        assert_eq!(next(&socket).await, [Notice::Stopping]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn the_barrier_of_an_app_ends_when_what_it_said_is_dealt_with() {
        let (path, socket) = bound("barrier");
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        send(&path, b"BARRIER=1", &theirs);
        drop(theirs);
        let said = hear(&socket).await;
        assert_eq!(said.notices, []);
        let hangs_up = || {
            let mut fds = [PollFd::new(&ours, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
        };
        assert!(!hangs_up());
        drop(said);
        assert!(hangs_up());
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn fds_are_kept_under_the_name_that_was_said_and_only_when_told() {
        let (path, socket) = bound("keeping");
        let file = std::fs::File::open("/dev/null").unwrap();
        for (text, expected) in [
            ("FDSTORE=1\nFDNAME=state\nREADY=1", Some(("state", true))),
            ("FDNAME=b\nFDSTORE=1\nFDPOLL=0", Some(("b", false))),
            ("FDSTORE=1", Some(("stored", true))),
            ("FDNAME=state", None),
            ("FDSTORE=0\nFDNAME=state", None),
        ] {
            send(&path, text.as_bytes(), &file);
            let said = hear(&socket).await;
            match (said.keeping, expected) {
                (
                    Some(Keeping::Store {
                        name,
                        is_polled,
                        fds,
                    }),
                    Some(expected),
                ) => {
                    assert_eq!((name.as_str(), is_polled), expected, "{text}");
                    assert_eq!(fds.len(), 1, "{text}");
                }
                (None, None) => {}
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
        let removed = parse(b"FDSTOREREMOVE=1\nFDNAME=x", Vec::new()).keeping;
        assert!(matches!(removed, Some(Keeping::Remove { name }) if name == "x"));
        let without = parse(b"FDSTOREREMOVE=1\n", Vec::new()).keeping;
        assert!(without.is_none());
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn the_last_words_are_all_heard() {
        let (path, socket) = bound("last");
        let app = UnixDatagram::unbound().unwrap();
        for _ in 0..3 {
            app.send_to(b"STOPPING=1", &path).unwrap();
        }
        assert_eq!(socket.pending().len(), 3);
        assert_eq!(socket.pending().len(), 0);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn a_kept_socket_goes_on_where_it_was() {
        let (path, socket) = bound("kept");
        let kept = socket.as_fd().try_clone_to_owned().unwrap();
        drop(socket);
        let app = UnixDatagram::unbound().unwrap();
        app.send_to(b"WATCHDOG=1", &path).unwrap();
        let adopted = NoticeSocket::from_fd(kept).unwrap();
        assert_eq!(next(&adopted).await, [Notice::Watchdog]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_path_too_long_for_a_socket_says_so() {
        let path = PathBuf::from(format!("/run/{}", "x".repeat(120)));
        let error = NoticeSocket::bind(&path).unwrap_err();
        assert!(error.to_string().contains("has 125 bytes"));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for notice in parse(&bytes, Vec::new()).notices {
                if let Notice::Status(text) = notice {
                    prop_assert!(text.chars().count() <= STATUS_CHARS_MAX);
                    prop_assert!(!text.contains(char::is_control));
                }
            }
        }
    }
}
