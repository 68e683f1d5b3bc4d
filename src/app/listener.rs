//! Where the app listens.

use crate::systemd::given::Given;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Nowhere to listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// $PORT is no port.
    #[error("cannot listen: PORT is {0:?}, not a number from 0 to 65535")]
    Port(String),
    /// bind(2) refused.
    #[error(
        "cannot listen on {address}; is another program there (ss -ltnp), or is the address wrong?"
    )]
    Bind {
        /// As it was said.
        address: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It was given, and cannot be used.
    #[error("cannot accept on the socket that was given")]
    Given(#[source] io::Error),
}

/// A listening socket, TCP or unix.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// The first listening socket among `given`, taken out; else $PORT; else `address`.
    pub(super) fn choose(given: &mut Vec<Given>, address: &str) -> Result<Self, ListenError> {
        if let Some(index) = given.iter().position(|given| is_listening(&given.fd)) {
            return Self::of(given.remove(index).fd).map_err(ListenError::Given);
        }
        let Ok(port) = std::env::var("PORT") else {
            return Self::bind(address);
        };
        match port.parse::<u16>() {
            Ok(number) => Self::bind(&format!("{}:{number}", Ipv4Addr::LOCALHOST)),
            Err(_) => Err(ListenError::Port(port)),
        }
    }

    /// Where it is bound; none for a unix socket.
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    fn bind(address: &str) -> Result<Self, ListenError> {
        let bound = StdTcpListener::bind(address).and_then(|socket| Self::of(socket.into()));
        bound.map_err(|source| ListenError::Bind {
            address: address.to_owned(),
            source,
        })
    }

    fn of(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let kind = if sockopt::socket_domain(&fd)? == AddressFamily::UNIX {
            Kind::Unix(UnixListener::from_std(StdUnixListener::from(fd))?)
        } else {
            Kind::Tcp(TcpListener::from_std(StdTcpListener::from(fd))?)
        };
        Ok(Self(kind))
    }

    /// Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Head and body of an answer may leave in two writes.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Kind::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

fn is_listening(fd: &OwnedFd) -> bool {
    sockopt::socket_type(fd) == Ok(SocketType::STREAM) && sockopt::socket_acceptconn(fd) == Ok(true)
}

/// One connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! of_either {
    ($stream:expr, $method:ident, $context:expr $(, $argument:expr)?) => {
        match $stream.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$method($context $(, $argument)?),
            Stream::Unix(stream) => Pin::new(stream).$method($context $(, $argument)?),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        of_either!(self, poll_read, context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        of_either!(self, poll_write, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, poll_flush, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, poll_shutdown, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, fd: impl Into<OwnedFd>) -> Given {
        Given {
            name: name.into(),
            fd: fd.into(),
        }
    }

    #[tokio::test]
    async fn the_socket_that_was_given_counts_and_other_fds_are_left() {
        let socket = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let expected = socket.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(expected).unwrap();
        let memory = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut all = vec![
            given("memory", memory),
            given("connection", connected),
            given("http", socket),
        ];
        let listener = Listener::choose(&mut all, "nowhere").unwrap();
        assert_eq!(listener.local_addr(), Some(expected));
        assert_eq!(all.len(), 2);
        listener.accept().await.unwrap();
        let other = Listener::choose(&mut all, "127.0.0.1:0").unwrap();
        assert_ne!(other.local_addr(), Some(expected));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = Listener::choose(&mut Vec::new(), &address).unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }
}
