//! A parcel: connections on their way to the next front, as messages over a SOCK_SEQPACKET.
//!
//! One message: a version byte, the length of a JSON header (u32, little endian), the header, and
//! the bytes that were read from each connection and not used, one after the other; the fds come
//! along in the same order. The other end may be of another version of gapless: what is not
//! understood closes the connections in it, and never guesses at where a request begins.
//!
//! # To a new front
//!
//! When a restart or a changed `[http]` brings a new front, the older ones retire. Each idle connection is
//! taken out of hyper whole, with the bytes already read, and sent to the new front; a connection in use
//! follows when it is idle. No client sees a close, and no request races with one. A tunnel stays with the
//! old front for its window, which delays nothing else.
//!
//! Where the next front may have fewer connections (LimitNOFILE= or `connections_max` was lowered), it
//! closes those that were idle for longest, and its log counts each of them. For that the parcel says how
//! long each was idle. The next message of a parcel is taken when what came before fits, or after a second,
//! so that descriptors do not run out meanwhile. If they do all the same, the kernel cuts the message off,
//! and what it closed is counted in the log.
//!
//! Idle connections move, instead of being closed, for a reason: to let the old front say `Connection:
//! close` loses the second request of a pipelined pair, and closing idle connections races with the next
//! request. Taking a connection out of hyper was the simpler way to lose nothing.

use super::introduction::Introduced;
use super::trustee::Berth;
use crate::link::seqpacket::{self, BYTES_MAX as MESSAGE_BYTES_MAX, FDS_MAX, Incoming, Seqpacket};
use crate::steps::{self, Step};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Of the message format.
pub(super) const VERSION: u8 = 1;

/// Unused bytes of one connection that a parcel can carry.
pub(super) const BYTES_MAX: usize = MESSAGE_BYTES_MAX - HEADER_BYTES_MAX;

/// Version, length, and JSON of [`FDS_MAX`] connections at some 20 bytes each, or 80 with the
/// address of an introduced client, and how long it was idle.
const HEADER_BYTES_MAX: usize = 24 * 1024;

/// A connection that was taken out of hyper.
#[derive(Debug)]
pub(super) struct Parked {
    /// Before the fd: it is vacant before that is closed.
    pub(super) berth: Berth,
    pub(super) fd: OwnedFd,
    /// Read already, and not used: the beginning of the next request.
    pub(super) bytes: Bytes,
    /// Its PROXY header, which is not among the bytes, said this.
    pub(super) introduced: Option<Introduced>,
    /// For so long when it left: who must close some closes those that were idle for longest.
    pub(super) idle: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    connections: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Length of its unused bytes.
    bytes: usize,
    /// Whom the PROXY header named. Absent where there was none, and from fronts that know none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    introduced: Option<Introduced>,
    /// How long it was idle. Absent from fronts that do not tell.
    #[serde(default)]
    idle_ms: u64,
}

/// The longest that is told: eleven days, as its digits have to fit into the header.
const IDLE_MS_MAX: u64 = 999_999_999;

fn told(idle: Duration) -> u64 {
    u64::try_from(idle.as_millis()).map_or(IDLE_MS_MAX, |ms| ms.min(IDLE_MS_MAX))
}

/// A message that cannot be unpacked; the connections in it are closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParcelError {
    #[error("a parcel has version {0}, this gapless understands {VERSION}")]
    Version(u8),
    #[error("a parcel is too short for its header")]
    Short,
    #[error("the header of a parcel is not understood")]
    Header,
    #[error("a parcel announces {announced} connections and has {fds}")]
    Count { announced: usize, fds: usize },
    #[error("a parcel announces other lengths than it has bytes")]
    Lengths,
}

/// As many from the front of `queue` as fit into one message, and how many those are.
///
/// # Errors
/// When the header cannot be written, which is a bug.
pub(super) fn pack(queue: &VecDeque<Parked>) -> io::Result<(Vec<u8>, usize)> {
    let mut bytes = 0_usize;
    let fitting = queue.iter().take(FDS_MAX).take_while(|parked| {
        bytes = bytes.saturating_add(parked.bytes.len());
        bytes <= BYTES_MAX
    });
    let packed: Vec<&Parked> = fitting.collect();
    let connections = packed
        .iter()
        .map(|parked| Entry {
            bytes: parked.bytes.len(),
            introduced: parked.introduced,
            idle_ms: told(parked.idle),
        })
        .collect();
    let header = serde_json::to_vec(&Header { connections })?;
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    let mut message = vec![VERSION];
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(&header);
    for parked in &packed {
        message.extend_from_slice(&parked.bytes);
    }
    Ok((message, packed.len()))
}

/// What came of a message.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) parked: Vec<Parked>,
    /// Connections that the kernel closed because this process may have no more descriptors.
    pub(super) closed: usize,
}

/// What [`pack`] packed.
///
/// # Errors
/// The fds are closed.
pub(super) fn unpack(message: Incoming) -> Result<Unpacked, ParcelError> {
    let mut rest = Bytes::from(message.bytes);
    let version = *rest.first().ok_or(ParcelError::Short)?;
    if version != VERSION {
        return Err(ParcelError::Version(version));
    }
    let length = rest.get(1..5).and_then(|bytes| bytes.try_into().ok());
    let length = u32::from_le_bytes(length.ok_or(ParcelError::Short)?);
    let length = usize::try_from(length).map_err(|_too_long| ParcelError::Short)?;
    let mut rest = rest.split_off(5);
    if rest.len() < length {
        return Err(ParcelError::Short);
    }
    let header = rest.split_to(length);
    let header: Header = serde_json::from_slice(&header).map_err(|_error| ParcelError::Header)?;
    let (announced, fds) = (header.connections.len(), message.fds.len());
    // Of a message that was cut off, the first descriptors are there, in their order.
    if announced != fds && !(message.is_cut_off && fds < announced) {
        return Err(ParcelError::Count { announced, fds });
    }
    let mut parked = Vec::with_capacity(fds);
    let mut fds_left = message.fds.into_iter();
    for entry in header.connections {
        if rest.len() < entry.bytes {
            return Err(ParcelError::Lengths);
        }
        let bytes = rest.split_to(entry.bytes);
        parked.extend(fds_left.next().map(|fd| Parked {
            berth: Berth::default(),
            fd,
            bytes,
            introduced: entry.introduced,
            idle: Duration::from_millis(entry.idle_ms),
        }));
    }
    if rest.is_empty() {
        Ok(Unpacked {
            parked,
            closed: announced.saturating_sub(fds),
        })
    } else {
        Err(ParcelError::Lengths)
    }
}

/// The sending end, with what waits to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    socket: Seqpacket,
    queue: VecDeque<Parked>,
    /// Of the front of the queue, and how many are in it.
    packed: Option<(Vec<u8>, usize)>,
}

impl Outgoing {
    /// # Errors
    /// When the fd cannot be polled.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: Seqpacket::new(socket)?,
            queue: VecDeque::new(),
            packed: None,
        })
    }

    pub(super) fn push(&mut self, parked: Parked) {
        self.queue.push_back(parked);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What was not sent.
    pub(super) fn into_rest(self) -> VecDeque<Parked> {
        self.queue
    }

    /// Sends one message; pending while there is nothing to send. Cancel-safe: what was sent
    /// leaves the queue in the same step.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub(super) async fn send(&mut self) -> io::Result<()> {
        if self.queue.is_empty() {
            return std::future::pending().await;
        }
        let (message, count) = match self.packed.take() {
            Some(packed) => packed,
            None => pack(&self.queue)?,
        };
        let (message, count) = self.packed.insert((message, count));
        let leaving = || self.queue.iter().take(*count);
        let fds: Vec<BorrowedFd<'_>> = leaving().map(|parked| parked.fd.as_fd()).collect();
        let send = |socket: BorrowedFd<'_>| {
            leaving().for_each(|parked| parked.berth.leave());
            let sent = seqpacket::send_now(socket, message, &fds);
            if sent.is_err() {
                leaving().for_each(|parked| parked.berth.stay());
            }
            sent
        };
        self.socket.send_by(send).await?;
        steps::reached(Step::ParcelSent);
        // Closes our copies: the connections live on in the message.
        self.queue.drain(..*count);
        self.packed = None;
        steps::reached(Step::ParcelClosed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn parked(bytes: &[u8]) -> Parked {
        Parked {
            berth: Berth::default(),
            fd: fd(),
            bytes: Bytes::copy_from_slice(bytes),
            introduced: None,
            idle: Duration::from_secs(1),
        }
    }

    fn packed(all: &[&[u8]]) -> Incoming {
        let queue: VecDeque<Parked> = all.iter().map(|bytes| parked(bytes)).collect();
        let (bytes, count) = pack(&queue).unwrap();
        Incoming {
            bytes,
            fds: (0..count).map(|_| fd()).collect(),
            is_cut_off: false,
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let unpacked = unpack(packed(&[b"GET / HT", b"", b"POST"])).unwrap().parked;
        assert!(unpacked.iter().all(|it| it.idle == Duration::from_secs(1)));
        let bytes: Vec<&[u8]> = unpacked.iter().map(|parked| &*parked.bytes).collect();
        assert_eq!(bytes, [&b"GET / HT"[..], b"", b"POST"]);
    }

    #[test]
    fn a_message_takes_no_more_than_it_can_hold() {
        let large = vec![b'x'; BYTES_MAX / 2];
        let queue: VecDeque<Parked> = (0..3).map(|_| parked(&large)).collect();
        let (message, count) = pack(&queue).unwrap();
        assert_eq!(count, 2);
        assert!(message.len() <= MESSAGE_BYTES_MAX);
        let queue: VecDeque<Parked> = (0..300).map(|_| parked(b"")).collect();
        let (message, count) = pack(&queue).unwrap();
        assert_eq!(count, FDS_MAX);
        assert!(message.len() <= HEADER_BYTES_MAX);
    }

    #[test]
    fn who_a_client_was_introduced_as_travels_along() {
        let longest = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        let all = [
            Some(Introduced::As(longest)),
            Some(Introduced::AsNobody),
            None,
        ];
        let queue: VecDeque<Parked> = all
            .iter()
            .cycle()
            .take(FDS_MAX)
            .map(|introduced| Parked {
                introduced: *introduced,
                idle: Duration::MAX,
                ..parked(&[b'x'; BYTES_MAX / FDS_MAX])
            })
            .collect();
        let (bytes, count) = pack(&queue).unwrap();
        assert!(count == FDS_MAX && bytes.len() <= MESSAGE_BYTES_MAX);
        let fds = (0..count).map(|_| fd()).collect();
        let unpacked = unpack(Incoming {
            bytes,
            fds,
            is_cut_off: false,
        });
        let unpacked = unpacked.unwrap();
        assert_eq!(unpacked.closed, 0);
        for (parked, introduced) in unpacked.parked.iter().zip(all.iter().cycle()) {
            assert_eq!(parked.introduced, *introduced);
        }
    }

    #[test]
    fn a_parcel_of_a_front_that_knows_no_introductions_is_understood() {
        let header = br#"{"connections":[{"bytes":0}]}"#;
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        let bytes = [&[VERSION][..], &length, header].concat();
        let unpacked = unpack(Incoming {
            bytes,
            fds: vec![fd()],
            is_cut_off: false,
        });
        let parked = &unpacked.unwrap().parked[0];
        assert_eq!((parked.introduced, parked.idle), (None, Duration::ZERO));
    }

    #[test]
    fn of_a_message_that_was_cut_off_what_came_is_served_and_the_rest_counted() {
        let mut message = packed(&[b"GET / HT", b"PO", b"HEAD"]);
        message.fds.pop();
        message.is_cut_off = true;
        let unpacked = unpack(message).unwrap();
        let bytes: Vec<&[u8]> = unpacked.parked.iter().map(|it| &*it.bytes).collect();
        assert_eq!((bytes, unpacked.closed), (vec![&b"GET / HT"[..], b"PO"], 1));
    }

    #[test]
    fn other_versions_and_counts_are_refused() {
        let mut other = packed(&[b"x"]);
        other.bytes[0] = 2;
        assert_eq!(unpack(other).unwrap_err(), ParcelError::Version(2));
        let mut fewer = packed(&[b"x", b"y"]);
        fewer.fds.pop();
        assert_eq!(
            unpack(fewer).unwrap_err(),
            ParcelError::Count {
                announced: 2,
                fds: 1
            }
        );
        let mut longer = packed(&[b"x"]);
        longer.bytes.push(b'y');
        assert_eq!(unpack(longer).unwrap_err(), ParcelError::Lengths);
    }

    proptest! {
        #[test]
        fn no_message_makes_us_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), fds in 0..3_usize) {
            let fds = (0..fds).map(|_| fd()).collect();
            let _unpacked = unpack(Incoming { bytes, fds, is_cut_off: false }).is_ok();
        }

        #[test]
        fn a_truncated_message_is_refused(cut in 1..60_usize) {
            let mut message = packed(&[b"GET / HTTP/1.1\r\n", b"half"]);
            let left = message.bytes.len().saturating_sub(cut);
            message.bytes.truncate(left);
            prop_assert!(unpack(message).is_err());
        }
    }
}
