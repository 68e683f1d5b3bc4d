//! Registering an fd with the runtime's epoll.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Watches `fd`; must be called within a tokio runtime with io enabled.
///
/// # Errors
/// When epoll refuses the fd: it cannot be polled, or the limit of watches is reached.
#[expect(
    deprecated,
    reason = "`new` is unsound only for types whose raw fd may change or close while registered; \
              an OwnedFd keeps its fd open and the same, so `register`'s contract holds without unsafe"
)]
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
