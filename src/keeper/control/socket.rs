//! The control socket: made by systemd in a directory that belongs to root, or, where nobody passes one, by the
//! keeper itself.
//!
//! The keeper makes it in the foreground, and under units that know no socket named `control`: those of 0.1.0.
//!
//! # Who may command
//!
//! systemd makes the socket in `/run/gapless-control`, which is root's; the keeper takes it by its name,
//! `control`. Its unit is required by the service and ends with it (`StopWhenUnneeded=`). So a question to
//! a stopped app does not start the app, and a question during a restart waits in the socket. `ExecReload=`
//! has a "+", because the app's user may not command.
//!
//! Both ends look at who is there. Commands open the socket by directory fds, without following links, and
//! connect by the fd they looked at (`cli/client/connect.rs`); the socket and the process behind it must be
//! the directory owner's. The keeper refuses the app's user here. Every text that a keeper says loses its
//! control characters in one place, where JSON is read (`cli/client.rs`). Where nobody answers,
//! `cli/absence.rs` turns the states of the units into what is the case and what to do, for all commands
//! and `list`.
//!
//! # After an upgrade from 0.1.0
//!
//! An in-place upgrade from 0.1.0 goes on with the old socket, in the app's directory, and root then
//! believes only the main process of the unit. The next process that systemd starts gets the new socket. It
//! leaves a link at the old place, by which the commands of 0.1.0 find it after a downgrade; ours never
//! follow it.

use crate::systemd::given::{self, Given};
use axum::serve::Listener;
use rustix::process::geteuid;
use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// File name of the socket that the keeper makes in its runtime directory.
pub const SOCKET: &str = "control.sock";

/// `FileDescriptorName=` of the one that systemd makes.
pub const GIVEN: &str = "control";

/// Nobody could reload or stop without it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The file could not be made.
    #[error("cannot listen on {}; is the runtime directory writable, and is its path below 108 bytes?", path.display())]
    Bind {
        /// Where it was to be.
        path: PathBuf,
        /// What bind(2) or rename(2) said.
        #[source]
        source: io::Error,
    },
    /// Somebody answers there.
    #[error("another gapless of this name answers on {}; stop it, or choose another --app", path.display())]
    Taken {
        /// Its socket.
        path: PathBuf,
    },
}

/// What a socket that is there already means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// A previous keeper left it; systemd sees to it that there is only one of us.
    Replaced,
    /// If somebody answers, the name is taken.
    Respected,
}

/// Listens on a socket of the keeper's own.
///
/// # Errors
/// [`ControlError`].
pub fn listen(runtime_directory: &Path, present: Present) -> Result<OwnedFd, ControlError> {
    let path = runtime_directory.join(SOCKET);
    if present == Present::Respected && Blocking::connect(&path).is_ok() {
        return Err(ControlError::Taken { path });
    }
    bind(&path).map_err(|source| ControlError::Bind { path, source })
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    replace(path, |fresh| {
        let listener = std::os::unix::net::UnixListener::bind(fresh)?;
        std::fs::set_permissions(fresh, Permissions::from_mode(0o660))?;
        Ok(listener.into())
    })
}

/// Made under another name and renamed, so that there is no moment without a socket.
fn replace<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let done = make(&fresh)?;
    std::fs::rename(&fresh, path)?;
    Ok(done)
}

/// Sets what systemd made apart from the other sockets that it passed. Whatever is no unix socket is closed: an
/// address on the network would let everybody command.
pub fn from_given(given: Vec<Given>) -> (Vec<OwnedFd>, Vec<Given>) {
    let (control, rest): (Vec<_>, Vec<_>) = given.into_iter().partition(|it| it.name == GIVEN);
    let usable = control.into_iter().filter_map(|Given { fd, .. }| {
        let is_path = given::socket_address(&fd).is_ok_and(|address| address.starts_with('/'));
        if is_path && given::is_listening_stream(&fd) {
            return Some(fd);
        }
        tracing::warn!(
            "a socket named \"control\" is no listening unix socket and was closed; name a path in \
             ListenStream= of the socket unit"
        );
        None
    });
    (usable.collect(), rest)
}

/// Whoever looks for the socket where a gapless of version 0.1.0 has it finds that of systemd: a downgrade asks
/// the keeper there. No command of this version follows the link, since the directory belongs to the app's user.
///
/// # Errors
/// As symlink(2) and rename(2): only such a downgrade is then a restart.
pub fn leave_link(runtime_directory: &Path, control: &OwnedFd) -> io::Result<()> {
    let target = given::socket_address(control)?;
    replace(&runtime_directory.join(SOCKET), |fresh| {
        symlink(&target, fresh)
    })
}

/// Takes connections, but none of the app's user where the socket is not that user's own.
pub struct Door {
    listener: UnixListener,
    /// May not command.
    refused: Option<u32>,
}

impl Door {
    /// Of a listening socket.
    ///
    /// # Errors
    /// When the runtime does not take it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let owner = owner(&fd);
        let ours = geteuid().as_raw();
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            refused: (ours != 0 && owner != Some(ours)).then_some(ours),
        })
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        // None: it has left already.
        let peer = stream.peer_cred().ok();
        peer.is_some_and(|peer| Some(peer.uid()) != self.refused)
    }
}

/// Who owns the directory of the socket, and so the socket; none when it cannot be seen. The file itself may have
/// been renamed since it was bound.
fn owner(fd: &OwnedFd) -> Option<u32> {
    let path = PathBuf::from(given::socket_address(fd).ok()?);
    Some(std::fs::symlink_metadata(path.parent()?).ok()?.uid())
}

impl Listener for Door {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            // The one of axum, which bears with an accept(2) that fails.
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if self.admits(&stream) {
                return (stream, address);
            }
            tracing::warn!(
                "the app's user may not command: its connection to the control socket was closed"
            );
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
