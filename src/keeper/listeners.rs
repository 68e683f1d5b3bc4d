//! The listening sockets: given by systemd, kept over restarts, or bound by ourselves in the
//! foreground.
//!
//! A copy of every given socket stays in the fd store, so that a restart of the socket unit closes
//! nothing: with `ReusePort=yes` the unit binds a second socket beside the kept one, and a classic
//! BPF program of one instruction sends every new connection to the oldest of the group. Without it
//! the kernel would spread connections over both, and those queued on the one that is closed later
//! would be reset.

use super::stored;
use crate::api::ListenerStatus;
use crate::systemd::given::{self, Given};
use nix::sys::socket::{setsockopt, sockopt};
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

/// Sorts out what systemd gave: sockets to serve on; the rest is closed and reported.
///
/// # Errors
/// [`ListenError::NotGiven`].
pub fn from_given(
    given: Vec<Given>,
    kept: Vec<OwnedFd>,
    unit: &str,
) -> Result<Vec<Listener>, ListenError> {
    let mut seen = BTreeSet::new();
    let mut listeners = Vec::new();
    // The kept ones first: the oldest of a group is the one that gets the connections.
    for fd in kept {
        if let Some(listener) = listener(fd, &mut seen) {
            listeners.push(listener);
        }
    }
    let is_kept = |address: &str, listeners: &[Listener]| {
        listeners.iter().any(|listener| listener.address == address)
    };
    for Given { name, fd } in given {
        if name != HTTP {
            tracing::warn!(
                fd.name = name,
                "socket {name:?} was closed: gapless serves those with FileDescriptorName=http"
            );
            continue;
        }
        let Some(listener) = listener(fd, &mut seen) else {
            continue;
        };
        // One copy per address is enough; a path names the newest socket, an address the oldest.
        if !is_kept(&listener.address, &listeners) || listener.address.starts_with('/') {
            stored::keep(stored::LISTENER, &listener.fd);
        }
        listeners.push(listener);
    }
    if listeners.is_empty() {
        return Err(ListenError::NotGiven { unit: unit.into() });
    }
    Ok(listeners)
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

/// BPF_RET with a constant, linux/bpf_common.h.
const RETURN: u16 = 0x06;

/// `SO_ATTACH_REUSEPORT_CBPF` with "return 0": the first socket of the group. socket(7).
fn prefer_oldest(fd: &OwnedFd, address: &str) {
    let is_shared = nix::sys::socket::getsockopt(fd, sockopt::ReusePort).unwrap_or(false);
    if !is_shared || address.starts_with('/') {
        return;
    }
    let mut program = [nix::libc::sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = nix::libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    if let Err(error) = setsockopt(fd, sockopt::AttachReusePortCbpf, &program) {
        tracing::warn!(address, %error, "{address}: new connections are spread over old and new sockets, a restart of the socket unit may reset some: {error}");
    }
}
