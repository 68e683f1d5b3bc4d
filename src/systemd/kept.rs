//! The fds we keep in systemd's store, so that the next keeper gets them: FDSTORE=1, sd_notify(3).
//!
//! Never one entry per connection: systemd compares each new fd with all it has, 6,000 entries cost
//! it seconds. Never an assumption that an entry is there at once: order a
//! [`barrier`](super::notify::barrier) before relying on it.

use sd_notify::NotifyState;
use std::io;
use std::os::fd::BorrowedFd;

/// Of one message: SCM_MAX_FD of the kernel, unix(7).
const FDS_PER_MESSAGE: usize = 253;

/// Longest name, sd_pid_notify_with_fds(3).
const NAME_BYTES_MAX: usize = 255;

/// The store was not changed (or only in part, when there was more than one message to send).
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// systemd would keep the fd as `stored`, and nobody would know it again.
    #[error(
        "cannot keep an fd as {name:?}: a name has 1 to {NAME_BYTES_MAX} printable ASCII \
         characters and no colon"
    )]
    Name {
        /// The name that is no name.
        name: String,
    },
    /// The message could not be sent.
    #[error(
        "cannot change what systemd keeps as {name:?}; without it the next start begins anew \
         (is NotifyAccess=main and FileDescriptorStoreMax= set in the unit?)"
    )]
    Send {
        /// The name meant.
        name: String,
        /// What sendmsg(2) said.
        #[source]
        source: io::Error,
    },
}

/// Adds duplicates of `fds` to the store under `name`, in their order. An fd that is there already
/// stays under its old name. Does nothing without NOTIFY_SOCKET.
///
/// FDPOLL=0 (systemd 246): the store must not drop an fd because its other end hung up: a pidfd of
/// a dead worker and the pipe of its last words are exactly what the next keeper wants to see.
///
/// # Errors
/// [`KeptError`]; the caller logs it and goes on, less is kept then.
pub fn put(name: &str, fds: &[BorrowedFd<'_>]) -> Result<(), KeptError> {
    check_name(name)?;
    let message = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    fds.chunks(FDS_PER_MESSAGE).try_for_each(|chunk| {
        sd_notify::notify_with_fds(&message, chunk).map_err(|source| KeptError::Send {
            name: name.to_owned(),
            source,
        })
    })
}

/// Removes every fd kept under `name`; none is no error. Does nothing without NOTIFY_SOCKET.
///
/// # Errors
/// [`KeptError`]; the caller logs it and goes on, the next start finds an fd too many.
pub fn remove(name: &str) -> Result<(), KeptError> {
    check_name(name)?;
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]).map_err(|source| {
        KeptError::Send {
            name: name.to_owned(),
            source,
        }
    })
}

/// # Errors
/// [`KeptError::Name`].
fn check_name(name: &str) -> Result<(), KeptError> {
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(printable) {
        return Ok(());
    }
    Err(KeptError::Name {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_systemd_would_replace_is_refused() {
        for name in ["", "a:b", "wörker", "a\nREADY=1", &"x".repeat(256)] {
            assert!(matches!(put(name, &[]), Err(KeptError::Name { .. })));
            assert!(matches!(remove(name), Err(KeptError::Name { .. })));
        }
        check_name("g7-w0.pid").unwrap();
    }
}
