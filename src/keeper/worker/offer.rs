//! What a worker is offered: environment, sockets, a place in the runtime directory.

use crate::config::Listen;
use crate::id::{GenerationId, Slot};
use crate::keeper::deposits;
use crate::keeper::plan::Moment;
use crate::keeper::release::Release;
use crate::keeper::spawn::Environment;
use crate::keeper::yard::Yard;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Connections that may wait for a worker to accept them; the kernel's limit is
/// net.core.somaxconn, 4096 by default.
pub(super) const BACKLOG: i32 = 4096;

/// What a worker is started from.
pub struct Offer<'a> {
    /// Of this generation.
    pub generation: GenerationId,
    /// In this place.
    pub slot: Slot,
    /// Running this.
    pub release: &'a Release,
    /// In this control group, if there is one.
    pub cgroup: Option<&'a Path>,
    /// With what all share.
    pub yard: &'a Yard,
    /// Now.
    pub now: Moment,
}

pub(super) fn environment(
    offer: &Offer<'_>,
    port: Option<u16>,
    socket: &Path,
    notify: &Path,
) -> Environment {
    let mut env = environment_beside(offer, port, socket);
    let mut set = |key: &str, value: OsString| env.insert(key.into(), value);
    if let Some(watchdog) = offer.release.app.watchdog {
        set("WATCHDOG_USEC", watchdog.as_micros().to_string().into());
    }
    set("NOTIFY_SOCKET", notify.into());
    set("FDSTORE", deposits::PER_WORKER_MAX.to_string().into());
    env
}

/// What a process gets that has to find the worker: all but what is said to the worker alone.
pub(super) fn environment_beside(
    offer: &Offer<'_>,
    port: Option<u16>,
    socket: &Path,
) -> Environment {
    let mut env = environment_of_app(offer.yard, offer.release);
    let mut set = |key: &str, value: OsString| env.insert(key.into(), value);
    if let Some(port) = port {
        set("PORT", port.to_string().into());
    }
    if matches!(offer.release.app.listen, Listen::Auto | Listen::Unix) {
        set("GAPLESS_SOCKET", socket.into());
    }
    set("GAPLESS_GENERATION", offer.generation.0.to_string().into());
    let number = offer.release.worker_number(offer.slot);
    set("GAPLESS_WORKER", number.to_string().into());
    env
}

/// What every process of a release gets.
pub fn environment_of_app(yard: &Yard, release: &Release) -> Environment {
    let mut env = (*yard.env).clone();
    env.insert("RUNTIME_DIRECTORY".into(), yard.app_directory().into());
    let written = release.app.env.iter();
    env.extend(written.map(|(key, value)| (key.into(), value.into())));
    env.insert("GAPLESS_NAME".into(), yard.name.clone().into());
    env.insert("GAPLESS_RELEASE".into(), release.label.clone().into());
    env
}

pub(super) fn socket_path(yard: &Yard, generation: GenerationId, slot: Slot) -> PathBuf {
    yard.runtime_directory
        .join(format!("{generation}-{slot}.sock"))
}

pub(super) fn notify_path(yard: &Yard, generation: GenerationId, slot: Slot) -> PathBuf {
    yard.runtime_directory
        .join(format!("{generation}-{slot}.notify"))
}

pub(super) fn listen_on_loopback() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // std listens with 128: a burst beyond that loses SYNs, which are sent again a second later.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "{} stays behind: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

/// A connection waits to be accepted.
pub(super) fn has_waiting(listener: &TcpListener) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
