//! The link: the socketpair between keeper and front, and its messages.
//!
//! One SOCK_SEQPACKET message carries one [`ToFront`] or [`FromFront`] as JSON behind a version
//! byte, and the fds that belong to it. Either end may be replaced by a process of another gapless
//! version, so nothing here may depend on the other end's memory: every message says a whole state
//! (the cell, the leases), never a difference.

#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod histogram;
pub mod message;
pub mod seqpacket;
pub mod settings;
pub mod slots;

pub use histogram::{Histogram, LIFECYCLE_BOUNDS, REQUEST_BOUNDS};
pub use message::{Backend, Cell, Counters, Endpoint, FromFront, Report, Served, Target, ToFront};
pub use settings::{FrontSettings, Orphaned};

use seqpacket::{FLIGHT_DELAY, FLIGHT_TRIES, Incoming, Seqpacket, is_for_now};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Of the messages in this module. A message of another version is refused, not guessed at.
pub const VERSION: u8 = 1;

/// A link that cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other process ended or closed its end.
    #[error("the other end of the link is gone")]
    Ended,
    /// The other process speaks a later version.
    #[error(
        "a link message has version {0}, this gapless understands {VERSION}; restart the service"
    )]
    Version(u8),
    /// Not a message of ours.
    #[error("a link message cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// The socket failed.
    #[error("the link failed")]
    Socket(#[source] io::Error),
}

/// One end of a link: sends `S`, receives `R`.
#[derive(Debug)]
pub struct Link<S, R> {
    socket: Seqpacket,
    speaks: PhantomData<fn(S) -> R>,
}

/// The keeper's end.
pub type KeeperEnd = Link<ToFront, FromFront>;
/// The front's end.
pub type FrontEnd = Link<FromFront, ToFront>;

/// A fresh socketpair, close-on-exec and non-blocking: the keeper's end, the front's end.
///
/// # Errors
/// When the process is out of fds.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    seqpacket::pair()
}

impl<S: Serialize, R: DeserializeOwned> Link<S, R> {
    /// Must be called within a tokio runtime with io enabled.
    ///
    /// # Errors
    /// When the fd cannot be polled.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: Seqpacket::new(socket)?,
            speaks: PhantomData,
        })
    }

    /// Waits for room in the socket, then sends; what the kernel does not take for now is tried again
    /// for a minute. Cancel-safe: sent whole or not at all.
    ///
    /// # Errors
    /// [`LinkError::Ended`] when nobody is there to read it.
    pub async fn send(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let bytes = encode(message)?;
        for tries in 0..FLIGHT_TRIES {
            match self.socket.send(&bytes, fds).await {
                Err(error) if is_for_now(&error) => {
                    if tries == 0 && !fds.is_empty() {
                        tracing::warn!(%error, "a front is told later, the app has too many file descriptors on their way over its sockets; let them be read, or raise LimitNOFILE= of the service: {error}");
                    }
                    tokio::time::sleep(FLIGHT_DELAY).await;
                }
                sent => return sent.map_err(LinkError::from_io),
            }
        }
        let sent = self.socket.send(&bytes, fds).await;
        sent.map_err(LinkError::from_io)
    }

    /// Sends if there is room at once; `false` when the socket is full (the other end is slow or
    /// stopped) and nothing was sent.
    ///
    /// # Errors
    /// [`LinkError::Ended`] when nobody is there to read it.
    pub fn try_send(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<bool, LinkError> {
        let bytes = encode(message)?;
        match self.socket.try_send(&bytes, fds) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_for_now(&error) => {
                Ok(false)
            }
            Err(error) => Err(LinkError::from_io(error)),
        }
    }

    /// The next message and the fds that came with it. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkError::Ended`] at the end; any other error concerns one message, and the next call
    /// may succeed.
    pub async fn receive(&self) -> Result<(R, Vec<OwnedFd>), LinkError> {
        let Incoming { bytes, fds, .. } =
            self.socket.receive().await.map_err(LinkError::from_io)?;
        let Some((&version, body)) = bytes.split_first() else {
            return Err(LinkError::Ended);
        };
        if version != VERSION {
            return Err(LinkError::Version(version));
        }
        let message = serde_json::from_slice(body).map_err(LinkError::Malformed)?;
        Ok((message, fds))
    }
}

impl<S, R> AsFd for Link<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl LinkError {
    fn from_io(error: io::Error) -> Self {
        let ended = [
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::NotConnected,
        ];
        if ended.contains(&error.kind()) {
            Self::Ended
        } else {
            Self::Socket(error)
        }
    }
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LinkError> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, message).map_err(LinkError::Malformed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GenerationId;

    fn linked() -> (KeeperEnd, FrontEnd) {
        let (keeper, front) = pair().unwrap();
        (Link::new(keeper).unwrap(), Link::new(front).unwrap())
    }

    #[tokio::test]
    async fn a_message_arrives_with_its_fds() {
        let (keeper, front) = linked();
        let (extra, _other) = pair().unwrap();
        keeper
            .send(&ToFront::Retire, &[extra.as_fd()])
            .await
            .unwrap();
        let (message, fds) = front.receive().await.unwrap();
        assert_eq!(message, ToFront::Retire);
        assert_eq!(fds.len(), 1);
    }

    /// For this thread the kernel's limit holds, as for the user of a service.
    fn without_capabilities() {
        let none = rustix::thread::CapabilitySet::empty();
        let none = rustix::thread::CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, none).unwrap();
    }

    /// As many fds on their way as the kernel allows, and what they are in.
    fn all_that_may_be_in_flight() -> Vec<(OwnedFd, OwnedFd)> {
        let (one, _other) = pair().unwrap();
        let fds = vec![one.as_fd(); seqpacket::FDS_MAX];
        let mut hog = vec![pair().unwrap()];
        for _ in 0..100_000 {
            let (to, _) = hog.last().unwrap();
            match seqpacket::send_now(to.as_fd(), b"x", &fds) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    hog.push(pair().unwrap());
                }
                Err(error) => {
                    assert!(is_for_now(&error), "{error}");
                    return hog;
                }
            }
        }
        panic!("so many fds in flight, and no limit");
    }

    async fn sent_only_when_fewer_are_in_flight() {
        let (keeper, front) = linked();
        let (extra, _other) = pair().unwrap();
        let hog = all_that_may_be_in_flight();
        assert!(!keeper.try_send(&ToFront::Retire, &[extra.as_fd()]).unwrap());
        let fds = [extra.as_fd()];
        let mut send = std::pin::pin!(keeper.send(&ToFront::Retire, &fds));
        let early = tokio::time::timeout(3 * FLIGHT_DELAY, &mut send).await;
        assert!(early.is_err(), "{early:?}");
        drop(hog);
        send.await.unwrap();
        let (message, fds) = front.receive().await.unwrap();
        assert_eq!((message, fds.len()), (ToFront::Retire, 1));
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "what is not tried is said")]
    fn a_link_outlives_too_many_fds_in_flight() {
        // Root's other threads have no such limit. Those of another user would be refused meanwhile, and
        // some of them are other tests.
        if !rustix::process::geteuid().is_root() {
            let must = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!must, "fds in flight are tried as root only");
            return eprintln!("*** not root: too many fds in flight are NOT tried");
        }
        let apart = std::thread::spawn(|| {
            without_capabilities();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(sent_only_when_fewer_are_in_flight());
        });
        apart.join().unwrap();
    }

    #[tokio::test]
    async fn an_ended_link_says_so_at_both_ends() {
        let (keeper, front) = linked();
        drop(keeper);
        assert!(matches!(front.receive().await, Err(LinkError::Ended)));
        assert!(matches!(
            front.send(&FromFront::Ready, &[]).await,
            Err(LinkError::Ended)
        ));
    }

    #[tokio::test]
    async fn a_full_link_is_told_from_an_ended_one() {
        let (keeper, _front) = linked();
        let cut = ToFront::Cut {
            generation: GenerationId(1),
        };
        let mut sent = 0_u32;
        while keeper.try_send(&cut, &[]).unwrap() {
            sent += 1;
            assert!(sent < 100_000, "a socket buffer has an end");
        }
        assert!(sent > 0);
    }

    #[tokio::test]
    async fn a_message_of_another_version_is_refused_and_the_next_is_read() {
        let (keeper, front) = pair().unwrap();
        let raw = Seqpacket::new(keeper).unwrap();
        let front: FrontEnd = Link::new(front).unwrap();
        raw.send(&[9, b'x'], &[]).await.unwrap();
        raw.send(b"\x01not json", &[]).await.unwrap();
        raw.send(b"\x01\"Hello\"", &[]).await.unwrap();
        assert!(matches!(front.receive().await, Err(LinkError::Version(9))));
        assert!(matches!(
            front.receive().await,
            Err(LinkError::Malformed(_))
        ));
        assert_eq!(front.receive().await.unwrap().0, ToFront::Hello);
    }
}
