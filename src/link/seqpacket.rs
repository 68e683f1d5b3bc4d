//! SOCK_SEQPACKET on tokio: messages of up to [`BYTES_MAX`] bytes and [`FDS_MAX`] fds.
//!
//! What the kernel does not take for now is no dead link ([`is_for_now`]). It counts fds in flight for the
//! user of the app and of gapless together, so the app can use them up. Links, parcels and trustees try
//! again, for a minute.

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest message, in bytes: below the default send buffer (net.core.wmem_default, 208 KiB).
pub const BYTES_MAX: usize = 128 * 1024;

/// Most fds in one message: SCM_MAX_FD of the kernel, unix(7).
pub const FDS_MAX: usize = 253;

/// Nobody tells when [`is_for_now`] is over, so it is tried again after so long.
pub const FLIGHT_DELAY: Duration = Duration::from_millis(20);

/// Of [`FLIGHT_DELAY`]: a minute.
pub const FLIGHT_TRIES: u32 = 3000;

/// A message as it came.
#[derive(Debug)]
pub struct Incoming {
    /// Empty when the other end is gone: no sender of ours sends an empty message.
    pub bytes: Vec<u8>,
    /// Close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// More fds were sent than this process may open; the kernel closed the last ones.
    pub is_cut_off: bool,
}

/// One end of a socketpair.
#[derive(Debug)]
pub struct Seqpacket {
    socket: AsyncFd<OwnedFd>,
}

/// Close-on-exec and non-blocking.
///
/// # Errors
/// When the process is out of fds.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

impl Seqpacket {
    /// Must be called within a tokio runtime with io enabled.
    ///
    /// # Errors
    /// When the fd cannot be polled.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: crate::poll::watch(socket)?,
        })
    }

    /// Waits for room, then sends. Cancel-safe.
    ///
    /// # Errors
    /// As sendmsg(2); EPIPE when the other end is gone.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_by(|socket| send_now(socket, bytes, fds)).await
    }

    /// Sends now or says `WouldBlock`.
    ///
    /// # Errors
    /// As sendmsg(2); EPIPE when the other end is gone.
    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_now(self.socket.as_fd(), bytes, fds)
    }

    /// Tries `send` whenever there may be room, until it does not say `WouldBlock`. Cancel-safe.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_by(
        &self,
        mut send: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let writable = Interest::WRITABLE;
        self.socket.async_io(writable, |fd| send(fd.as_fd())).await
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub async fn receive(&self) -> io::Result<Incoming> {
        self.socket
            .async_io(Interest::READABLE, |fd| receive_now(fd.as_fd()))
            .await
    }
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What was not sent can be sent later: memory is short, or too many fds of this user are in flight, which
/// the kernel counts over all of its processes (unix(7), ETOOMANYREFS), the app's as well.
pub fn is_for_now(error: &io::Error) -> bool {
    let errnos = [Errno::TOOMANYREFS, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| errnos.contains(&errno))
}

/// Sends now or says `WouldBlock`, on a socket that no runtime knows.
///
/// # Errors
/// As sendmsg(2); EPIPE when the other end is gone.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} fds do not fit into one message, {FDS_MAX} do",
                fds.len()
            ),
        ));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}

/// Receives now or says `WouldBlock`, on a socket that no runtime knows.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_now(socket: BorrowedFd<'_>) -> io::Result<Incoming> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; BYTES_MAX];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    )?;
    bytes.truncate(received.bytes);
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            RecvAncillaryMessage::ScmCredentials(_) | _ => None,
        })
        .flatten()
        .collect();
    Ok(Incoming {
        bytes,
        fds,
        is_cut_off: received.flags.contains(ReturnFlags::CTRUNC),
    })
}
