//! Connects to a control socket, and believes only the one who may have it.
//!
//! root asks here what an app's user could have put in its place: a link to the socket of another instance,
//! or a server of its own. So the directory and the socket are opened without following links, the socket must
//! belong to the owner of its directory, and so must the process behind it (SO_PEERCRED, unix(7)). A directory
//! that belongs to root needs no more. In one of the app's user the process must be the main one of its unit.

use super::ClientError;
use crate::cli::instance::{self, Instance};
use crate::systemd::job;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, openat};
use rustix::process::geteuid;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// There with a systemd that runs: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

/// Why a socket is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// A link, a file, a directory.
    #[error("it is no socket, but a {0}")]
    NoSocket(&'static str),
    /// Somebody else put it there.
    #[error("it belongs to the user {socket}, and its directory to {directory}")]
    Strange {
        /// Of the socket.
        socket: u32,
        /// Of the directory.
        directory: u32,
    },
    /// Somebody else answers.
    #[error("a process of the user {peer} answers there, and its directory belongs to {directory}")]
    Peer {
        /// Of the process.
        peer: u32,
        /// Of the directory.
        directory: u32,
    },
    /// Not the keeper.
    #[error("process {peer} answers there, and the main process of {unit} is {main}")]
    NotMain {
        /// Who answers.
        peer: i32,
        /// Whose service it is.
        unit: String,
        /// As systemd says.
        main: i32,
    },
}

/// `what` is for the error: `POST /reload`.
pub(super) async fn connect(
    instance: &Instance,
    what: &str,
    limit: Duration,
) -> Result<UnixStream, ClientError> {
    let instance = &instance.now();
    let failed = |error| refused(instance, error);
    let (socket, directory) = look(&instance.socket).map_err(failed)?;
    check_file(
        instance,
        &fstat(&socket).map_err(io::Error::from).map_err(failed)?,
        &directory,
    )?;
    // By the fd that was looked at: what stands under the name by now is another matter.
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let stream = timeout(limit, UnixStream::connect(path))
        .await
        .map_err(|_| ClientError::TimedOut {
            service: instance.service(),
            what: what.to_owned(),
            limit,
        })?
        .map_err(failed)?;
    let peer = stream.peer_cred().map_err(failed)?;
    check_peer(instance, (peer.uid(), peer.pid()), directory.st_uid)?;
    Ok(stream)
}

/// The socket, not opened for anything, and what is known of its directory.
fn look(socket: &Path) -> io::Result<(OwnedFd, Stat)> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = open(directory, flags | OFlags::DIRECTORY, Mode::empty())?;
    let socket = openat(&directory, name, flags, Mode::empty())?;
    Ok((socket, fstat(&directory)?))
}

fn check_file(instance: &Instance, socket: &Stat, directory: &Stat) -> Result<(), ClientError> {
    let kind = match FileType::from_raw_mode(socket.st_mode) {
        FileType::Socket => None,
        FileType::Symlink => Some("link"),
        FileType::Directory => Some("directory"),
        FileType::RegularFile
        | FileType::Fifo
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Some("file"),
    };
    if let Some(kind) = kind {
        return Err(distrusted(instance, Distrust::NoSocket(kind)));
    }
    // In a directory of root's whoever put it there was root: SocketUser= may say another owner.
    if directory.st_uid != 0 && socket.st_uid != directory.st_uid {
        let why = Distrust::Strange {
            socket: socket.st_uid,
            directory: directory.st_uid,
        };
        return Err(distrusted(instance, why));
    }
    Ok(())
}

fn check_peer(
    instance: &Instance,
    (uid, pid): (u32, Option<i32>),
    directory: u32,
) -> Result<(), ClientError> {
    if uid != directory {
        let why = Distrust::Peer {
            peer: uid,
            directory,
        };
        return Err(distrusted(instance, why));
    }
    if directory == 0 || instance.is_in_foreground() || !is_booted() {
        return Ok(());
    }
    // The keeper bound it itself: who else has that user is the app.
    let unit = instance.name.unit();
    let main = job::property(&unit, "MainPID").ok();
    let main = main.and_then(|pid| pid.parse().ok()).unwrap_or_default();
    let peer = pid.unwrap_or_default();
    // Where no such unit runs, somebody without rights tries out a gapless of their own.
    let is_tried_out = main == 0 && !geteuid().is_root();
    if is_tried_out || peer == main {
        return Ok(());
    }
    Err(distrusted(instance, Distrust::NotMain { peer, unit, main }))
}

/// Whether systemd can be asked about the instance: not where tests play a system.
fn is_booted() -> bool {
    instance::root() == Path::new("/") && Path::new(BOOTED).is_dir()
}

fn distrusted(instance: &Instance, why: Distrust) -> ClientError {
    ClientError::Distrusted {
        socket: instance.socket.clone(),
        unit: instance.name.unit(),
        why,
    }
}

pub(super) fn refused(instance: &Instance, error: io::Error) -> ClientError {
    let Instance { name, socket } = instance.clone();
    if error.kind() == io::ErrorKind::PermissionDenied {
        let unit = name.control_unit();
        ClientError::NotAllowed { socket, unit }
    } else if matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    ) {
        ClientError::NotRunning { name }
    } else {
        ClientError::Connect {
            socket,
            source: error,
        }
    }
}
