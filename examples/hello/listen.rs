//! Where an app is told to listen: the socket it was given (LISTEN_FDS), a unix socket path
//! (`$GAPLESS_SOCKET`), or a port (`$PORT`). Any of them is enough for an app behind gapless.

use listenfd::ListenFd;
use std::io;
use std::net::Ipv4Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// One listening socket, of either kind.
pub enum Listener {
    /// TCP
    Tcp(TcpListener),
    /// Unix
    Unix(UnixListener),
}

/// A connection, of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The socket we were given, if any: fd 3, where LISTEN_PID says that it is meant for us.
pub fn given() -> io::Result<Option<Listener>> {
    let mut given = ListenFd::from_env();
    if given.len() == 0 {
        return Ok(None);
    }
    if let Ok(Some(listener)) = given.take_unix_listener(0) {
        listener.set_nonblocking(true)?;
        return UnixListener::from_std(listener)
            .map(Listener::Unix)
            .map(Some);
    }
    let Some(listener) = given.take_tcp_listener(0)? else {
        return Ok(None);
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Listener::Tcp).map(Some)
}

/// Binds `$GAPLESS_SOCKET`, if it is set.
pub fn unix() -> io::Result<Option<Listener>> {
    let Some(path) = std::env::var_os("GAPLESS_SOCKET") else {
        return Ok(None);
    };
    UnixListener::bind(path).map(Listener::Unix).map(Some)
}

/// Binds `$PORT` on the loopback interface, if it is set.
pub async fn port() -> io::Result<Option<Listener>> {
    let Ok(port) = std::env::var("PORT") else {
        return Ok(None);
    };
    let port: u16 = port.parse().map_err(io::Error::other)?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map(Listener::Tcp)
        .map(Some)
}

impl Listener {
    /// The next connection.
    pub async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}
