//! The listening sockets: given by systemd, kept over restarts, or bound by ourselves in the
//! foreground.
//!
//! A copy of every given socket stays in the fd store, so that a restart of the socket unit closes
//! nothing: with `ReusePort=yes` the unit binds a second socket beside the kept one, and a classic
//! BPF program of one instruction sends every new connection to the oldest of the group. Without it
//! the kernel would spread connections over both, and those queued on the one that is closed later
//! would be reset.
//!
//! What no socket unit names any more takes no new connection; who is in its queue is served, and then
//! it is closed, see [`closing`].

mod closing;
mod filter;

use super::stored;
use crate::api::ListenerStatus;
use crate::systemd::given::{self, Given};
use nix::sys::socket::sockopt;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;

/// `FileDescriptorName=` of sockets that serve HTTP.
pub const HTTP: &str = "http";

/// `FileDescriptorName=` of those for load balancers and Prometheus.
pub const ADMIN: &str = "admin";

/// Sets those for load balancers apart from the rest. They are not kept: systemd has them.
pub fn admin(given: Vec<Given>) -> (Vec<Listener>, Vec<Given>) {
    let (admin, rest): (Vec<_>, Vec<_>) = given.into_iter().partition(|it| it.name == ADMIN);
    let usable = admin.into_iter().filter_map(|Given { name, fd }| {
        let address = given::socket_address(&fd).unwrap_or_default();
        if given::is_listening_stream(&fd) && address.parse::<SocketAddr>().is_ok() {
            return Some(Listener { name, address, fd });
        }
        tracing::warn!("a socket named \"admin\" is not a listening TCP socket and was closed");
        None
    });
    (usable.collect(), rest)
}

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    /// `http` or `admin`.
    pub name: String,
    /// `127.0.0.1:8888`, `[::]:80`, `/run/x.sock`.
    pub address: String,
    /// Close-on-exec.
    pub fd: OwnedFd,
}

impl Listener {
    /// The same socket, with an fd of its own.
    ///
    /// # Errors
    /// As fcntl(2): the process is out of fds.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            address: self.address.clone(),
            fd: self.fd.try_clone()?,
        })
    }
}

/// No socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// systemd gave none that can be used.
    #[error(
        "systemd passed no listening socket named \"http\"; start {unit}.socket (it must be \
         enabled and set FileDescriptorName=http), then {unit}.service. gapless never binds an \
         address by itself under systemd"
    )]
    NotGiven {
        /// Without suffix.
        unit: String,
    },
    /// The address is taken or not allowed.
    #[error("cannot listen on {address}; choose another with --host and --port")]
    Bind {
        /// As asked for.
        address: String,
        /// What bind(2) said.
        #[source]
        source: io::Error,
    },
    /// The same for the admin socket.
    #[error("cannot answer load balancers on {address}; choose another with --admin")]
    BindAdmin {
        /// As asked for.
        address: SocketAddr,
        /// What bind(2) said.
        #[source]
        source: io::Error,
    },
}

/// What clients connect to.
#[derive(Debug, Default)]
pub struct Listeners {
    /// To serve on.
    pub open: Vec<Listener>,
    /// To empty and close: no socket unit names them any more.
    pub closing: Vec<Listener>,
}

/// Sorts out what systemd gave: sockets to serve on; the rest is closed and reported. `other`: given by
/// another name than "http".
///
/// # Errors
/// [`ListenError::NotGiven`].
pub fn from_given(
    given: Vec<Given>,
    kept: Vec<OwnedFd>,
    other: &[Listener],
    unit: &str,
) -> Result<Listeners, ListenError> {
    let mut seen = BTreeSet::new();
    // The kept ones first: the oldest of a group is the one that gets the connections.
    let kept = kept.into_iter().filter_map(|fd| listener(fd, &mut seen));
    let kept = kept.collect();
    let given = of_clients(given);
    let Listeners { mut open, closing } = closing::apart(kept, &given, other);
    let is_kept = |address: &str, listeners: &[Listener]| {
        listeners.iter().any(|listener| listener.address == address)
    };
    for fd in given {
        let Some(listener) = listener(fd, &mut seen) else {
            continue;
        };
        // One copy per address is enough; a path names the newest socket, an address the oldest.
        if !is_kept(&listener.address, &open) || listener.address.starts_with('/') {
            stored::keep(stored::LISTENER, &listener.fd);
        }
        open.push(listener);
    }
    if open.is_empty() {
        return Err(ListenError::NotGiven { unit: unit.into() });
    }
    Ok(Listeners { open, closing })
}

/// By their name; the others are closed.
fn of_clients(given: Vec<Given>) -> Vec<OwnedFd> {
    let mut of_clients = Vec::new();
    for Given { name, fd } in given {
        if name == HTTP {
            of_clients.push(fd);
        } else {
            tracing::warn!(
                fd.name = name,
                "socket {name:?} was closed: gapless serves those with FileDescriptorName=http"
            );
        }
    }
    of_clients
}

/// In the store are those that are open, and nothing else. The name is that of all: for a moment none is
/// there, and what systemd itself has no copy of would be lost with a keeper that dies in it.
pub fn keep_open_only(open: &[Listener]) {
    stored::forget(stored::LISTENER);
    let mut known = BTreeSet::new();
    for listener in open {
        if known.insert(&listener.address) || listener.address.starts_with('/') {
            stored::keep(stored::LISTENER, &listener.fd);
        }
    }
}

/// Binds for `gapless run`.
///
/// # Errors
/// [`ListenError::Bind`].
pub fn bind(host: &str, port: u16) -> Result<Vec<Listener>, ListenError> {
    let failed = |source| ListenError::Bind {
        address: format!("{host}:{port}"),
        source,
    };
    let addresses: Vec<_> = (host, port).to_socket_addrs().map_err(failed)?.collect();
    let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?.to_string();
    stored::keep(stored::LISTENER, &listener);
    Ok(vec![Listener {
        name: HTTP.into(),
        address,
        fd: listener.into(),
    }])
}

/// Binds for `gapless run --admin`.
///
/// # Errors
/// [`ListenError::BindAdmin`].
pub fn bind_admin(address: SocketAddr) -> Result<Listener, ListenError> {
    let bound = TcpListener::bind(address).and_then(|bound| Ok((bound.local_addr()?, bound)));
    let (bound_to, listener) =
        bound.map_err(|source| ListenError::BindAdmin { address, source })?;
    Ok(Listener {
        name: ADMIN.into(),
        address: bound_to.to_string(),
        fd: listener.into(),
    })
}

/// For the status.
pub fn status(listeners: &[Listener]) -> Vec<ListenerStatus> {
    let mut status: Vec<_> = listeners
        .iter()
        .map(|listener| ListenerStatus {
            name: listener.name.clone(),
            address: listener.address.clone(),
        })
        .collect();
    status.dedup();
    status
}

fn listener(fd: OwnedFd, seen: &mut BTreeSet<u64>) -> Option<Listener> {
    if !given::is_listening_stream(&fd) {
        tracing::warn!(
            "a socket named \"http\" is not a listening stream socket and was closed; use ListenStream= in the socket unit"
        );
        return None;
    }
    // The same socket comes twice when the unit gives it and the store kept it.
    let cookie = given::socket_cookie(&fd).unwrap_or_default();
    if cookie != 0 && !seen.insert(cookie) {
        return None;
    }
    let address = given::socket_address(&fd).unwrap_or_else(|_| "unknown".into());
    prefer_oldest(&fd, &address);
    Some(Listener {
        name: HTTP.into(),
        address,
        fd,
    })
}

fn prefer_oldest(fd: &OwnedFd, address: &str) {
    let is_shared = nix::sys::socket::getsockopt(fd, sockopt::ReusePort).unwrap_or(false);
    if !is_shared || address.starts_with('/') {
        return;
    }
    if let Err(error) = filter::prefer_oldest(fd) {
        tracing::warn!(address, %error, "{address}: new connections are spread over old and new sockets, a restart of the socket unit may reset some: {error}");
    }
}
