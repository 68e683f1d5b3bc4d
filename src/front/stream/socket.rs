//! Stream sockets of both families.

use rustix::net::{AddressFamily, RecvFlags, getsockname};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) enum Peer {
    /// Over TCP.
    Ip(IpAddr),
    /// Over a unix socket: a process of this machine.
    Local,
}

/// A connected stream socket.
#[derive(Debug)]
pub(in crate::front) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// # Errors
    /// When it is no stream socket of a family we serve, or cannot be polled.
    pub(in crate::front) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        match getsockname(&fd)?.address_family() {
            AddressFamily::UNIX => Ok(Self::Unix(UnixStream::from_std(fd.into())?)),
            AddressFamily::INET | AddressFamily::INET6 => {
                rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
                Ok(Self::Tcp(TcpStream::from_std(fd.into())?))
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("address family {other:?} is neither IP nor unix"),
            )),
        }
    }

    /// # Errors
    /// When the runtime cannot let go of it.
    pub(in crate::front) fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(stream) => stream.into_std()?.into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        })
    }

    /// # Errors
    /// When the connection is gone already.
    pub(in crate::front) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Unix(_) => Ok(Peer::Local),
            Self::Tcp(stream) => Ok(Peer::Ip(stream.peer_addr()?.ip().to_canonical())),
        }
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// How many bytes could be read, of one. Asks the kernel only where it may have something to tell.
    pub(super) fn peek(&self) -> io::Result<usize> {
        let look = || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (_, length) = rustix::net::recv(self, &mut [0_u8; 1], flags)?;
            Ok(length)
        };
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, look),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, look),
        }
    }

    /// Makes the coming close a reset, so that a peer who reads to the end sees that this is none.
    pub(in crate::front) fn reset_on_close(&self) -> io::Result<()> {
        let at_once = Some(std::time::Duration::ZERO);
        Ok(rustix::net::sockopt::set_socket_linger(self, at_once)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A head and a small body are written as one piece: to copy them costs less than what writev(2) does
/// beyond send(2).
const JOINED_BYTES_MAX: usize = 1024;

struct Joined {
    buffer: [u8; JOINED_BYTES_MAX],
    length: usize,
}

impl Default for Joined {
    fn default() -> Self {
        Self {
            buffer: [0; JOINED_BYTES_MAX],
            length: 0,
        }
    }
}

impl Joined {
    /// No more than fits.
    fn push(&mut self, slice: &[u8]) {
        let end = self.length.saturating_add(slice.len());
        if let Some(place) = self.buffer.get_mut(self.length..end) {
            place.copy_from_slice(slice);
            self.length = end;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        let bytes = slices
            .iter()
            .fold(0, |sum: usize, slice| sum.saturating_add(slice.len()));
        if bytes <= JOINED_BYTES_MAX {
            let mut joined = Joined::default();
            for slice in slices {
                joined.push(slice);
            }
            return self.poll_write(cx, joined.bytes());
        }
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
