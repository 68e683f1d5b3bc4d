//! The keeper's things in systemd's fd store, by name.
//!
//! Every name is given once: a thing is found again by its name alone, and removed by it.

use crate::id::{FrontId, GenerationId, Slot};
use crate::systemd::kept;
use std::cell::RefCell;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

thread_local! {
    /// What the store has, by name: systemd gives it back only to a new process, and an image that
    /// is executed in place needs it, too. Of the keeper's main thread, as everything is.
    static COPIES: RefCell<Vec<(String, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// All names begin so; no socket unit may use one.
pub const PREFIX: &str = "gapless-";
/// The memfd with the written-down state.
pub const STATE: &str = "gapless-state";
/// The control socket; only on its way to the next image, never in the store. Further ones have a number behind it.
pub const CONTROL: &str = "gapless-control";
/// Copies of the listening sockets, so that a restart of the socket unit never closes the port.
pub const LISTENER: &str = "gapless-listener";

/// The name of one of several control sockets: the first has the one that every version knows.
pub fn of_control(number: usize) -> String {
    match number {
        0 => CONTROL.to_owned(),
        further => format!("{CONTROL}-{further}"),
    }
}

/// A thing of a front: `pidfd`, `link`.
pub fn of_front(id: FrontId, thing: &str) -> String {
    format!("gapless-{id}-{thing}")
}

/// A thing of a worker's place: `pidfd`, `notify`, `output`, `listen`.
pub fn of_worker(generation: GenerationId, slot: Slot, thing: &str) -> String {
    format!("gapless-{generation}-{slot}-{thing}")
}

/// Puts a thing into the store. Without a store (no systemd) nothing happens; if systemd does not
/// take it, only the next keeper will miss it.
pub fn keep(name: &str, fd: impl AsFd) {
    copy(name, fd.as_fd());
    log(name, "kept", kept::put(name, &[fd.as_fd()]));
}

/// Takes a thing out of the store.
pub fn forget(name: &str) {
    COPIES.with_borrow_mut(|copies| copies.retain(|(known, _)| known != name));
    log(name, "forgotten", kept::remove(name));
}

/// Counts something as kept that the store has already.
pub fn copy(name: &str, fd: impl AsFd) {
    match fd.as_fd().try_clone_to_owned() {
        Ok(copy) => COPIES.with_borrow_mut(|copies| copies.push((name.to_owned(), copy))),
        Err(error) => {
            tracing::error!(fd.name = name, %error, "{name} cannot be handed on by an upgrade, which would cost it: {error}");
        }
    }
}

/// Something of this name is kept.
pub fn has(name: &str) -> bool {
    COPIES.with_borrow(|copies| copies.iter().any(|(known, _)| known == name))
}

/// All that is kept, for the image that takes this one's place.
pub fn take_all() -> Vec<(String, OwnedFd)> {
    COPIES.take()
}

fn log(name: &str, what: &str, result: Result<(), impl Display>) {
    if let Err(error) = result {
        tracing::error!(fd.name = name, %error, "{name} not {what} in the fd store, a crash of the keeper would cost it: {error}");
    }
}
