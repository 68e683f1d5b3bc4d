//! The trustee of a front: a process with the same table of fds, which outlives it by a moment.
//!
//! It sleeps until the front is dead. Then the fds are its own: it resets the connections that were
//! busy, closes what is of no use, and passes the settled ones on, as a parcel, to whoever reads the
//! estate.
//!
//! # The estate of a front
//!
//! A front that dies (SIGKILL, OOM, abort) leaves its settled connections to the next one; busy ones are
//! reset, and are what is lost. Two things make that possible, and neither costs a message:
//!
//! * **The trustee.** Before it has a thread, a front clones a process with its own memory and the *same
//!   table of file descriptors* (CLONE_FILES). It waits for the end of the front (pidfd) and does nothing
//!   else. While the front lives, a close is a close: there is no duplicate that would hold a connection
//!   open, count against a limit, or have to be told of. When the front is dead, the table is the trustee's
//!   alone. It ends when all that is settled was taken. The kernel ends processes that share *memory* with
//!   one that it kills for want of it; the trustee shares none, and has hardly any.
//! * **The slots.** A memfd that front and trustee map, one cache line for each fd number. A connection is
//!   busy *before* the first byte of its next request is read from the kernel. It is settled again when
//!   hyper asks for more, the guard is between two requests, as many requests began as heads passed the
//!   guard, and the last answer is flushed. So what was read in part is never taken for a beginning. A
//!   connection that has said nothing yet is settled from the beginning. A slot is vacant before its fd is
//!   closed, moved or becomes a tunnel, so a number that is used again never resurrects anything. What a
//!   PROXY header said is in the slot, for the parcel.
//!
//! A front that ends on purpose leaves nothing settled and dismisses its trustee; at a stop nobody
//! inherits. A tunnel is lost with its front, as is a connection whose PROXY header is still awaited.
//!
//! A connection on its way to another front keeps its slot until the system call that sends it, and has one
//! of the heir when the heir has received it; what waits in the heir's socket is received by the trustee.
//! Lost is only what is between two such moments, some microseconds, and what an old front sends in the
//! moment in which the trustee of its heir looks for the last time. What the keeper does with the estate is
//! in `keeper::fronts::estate`.
//!
//! # What it costs
//!
//! Two stores and a few compared cells for each request: 3 ns of some 17 µs, which is not seen in the CPU
//! time of a front. The trustee has 0.14 MiB of its own. Without a trustee (clone is refused, or somebody
//! killed it, which nobody notices while the front lives) a front serves as well, and its connections die
//! with it.
//!
//! # What was not built
//!
//! The first design had a duplicate of each settled connection in the keeper, sent when it had been quiet
//! for a while. It costs more and does less: a message and a wake-up of the keeper for each quiet spell, so
//! only connections quiet for long could be protected; twice the fds, with a budget and a way back from it;
//! shutdown(2) before each close, and a dropped duplicate after it; generation counters, since duplicate
//! and slot live in two processes; and all duplicates again after a crash of the keeper. A socketpair's
//! queue holds 2,783 connections (measured), and none can be taken out of it. The shared table has no such
//! number, and a connection is settled at the moment its answer is out.

mod shared;
mod slots;

pub(super) use slots::{Berth, Slot, Slots};

use super::parcel::{self, Parked};
use crate::link::seqpacket::{self, FLIGHT_DELAY, FLIGHT_TRIES, is_for_now};
use crate::steps::{self, Step};
use crate::systemd::given;
use hyper::body::Bytes;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process, pidfd_open, waitid,
};
use slots::Left;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The next front is there within moments, unless none can be started. Then the clients should know.
const TAKEN_WITHIN: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// The trustee of this process, if it has one.
#[derive(Debug, Default)]
pub struct Trustee {
    pub(super) slots: Slots,
    pid: Option<Pid>,
}

impl Trustee {
    /// This front ends on purpose, and leaves nothing.
    pub(super) fn dismiss(self) {
        let Some(pid) = self.pid else { return };
        // However it ended: it is gone.
        let _killed = kill_process(pid, Signal::KILL);
        let _reaped = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    }
}

/// Starts the trustee of this process. `estate` is where it
/// passes connections on.
///
/// Only before this process has a second thread.
///
/// # Errors
/// What is missing is only this: the front serves, and its connections would die with it.
pub fn appoint(slots: &OwnedFd, estate: OwnedFd) -> io::Result<Trustee> {
    super::descriptors::raise();
    let slots = Slots::map(slots)?;
    let front = pidfd_open(getpid(), PidfdFlags::empty())?;
    // Both stay open as long as the table lives: the trustee knows them by their numbers.
    let (front, estate) = (front, estate.into_raw_fd());
    let mut before = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    let started = shared::beside(&|| serve(front.as_fd(), estate, slots));
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    let pid = started?;
    let _stays_open = front.into_raw_fd();
    Ok(Trustee { slots, pid })
}

/// All that the trustee does. What fails here costs connections of a front that is dead, and there is
/// nobody to tell.
fn serve(front: BorrowedFd<'_>, estate: RawFd, slots: Slots) {
    // What ends the session of a front is not meant for the trustee.
    let _own_session = rustix::process::setsid();
    let _named = rustix::thread::set_name(c"gapless-trustee");
    if await_end(front).is_err() {
        return;
    }
    steps::reached(Step::TrusteeWoken);
    let mut all = given::take_over();
    let Some(estate) = all.remove(&estate) else {
        return;
    };
    let mut settled = VecDeque::new();
    for (number, fd) in all {
        match slots.left(number) {
            Left::Vacant => {}
            // An answer that only the close ends must not look whole.
            Left::Busy => drop(set_socket_linger(&fd, Some(Duration::ZERO))),
            Left::Settled(introduced) => settled.push_back(Parked {
                fd,
                bytes: Bytes::new(),
                introduced,
                // Its slot does not tell: a clock would be read for each request.
                idle: Duration::ZERO,
                berth: Berth::default(),
            }),
            Left::Inheriting => settled.extend(came_in(&fd)),
        }
    }
    steps::reached(Step::TrusteeSorted);
    drop(pass_on(settled, &estate));
    steps::reached(Step::TrusteeDone);
}

/// What was sent to the front, and that it did not take yet. What is sent from now on finds nobody, so
/// its sender keeps it.
fn came_in(socket: &OwnedFd) -> Vec<Parked> {
    let mut all = Vec::new();
    while let Ok(message) = seqpacket::receive_now(socket.as_fd()) {
        if message.bytes.is_empty() {
            break;
        }
        if let Ok(unpacked) = parcel::unpack(message) {
            all.extend(unpacked.parked);
        }
    }
    all
}

fn await_end(front: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(front, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for whoever takes it; ends when the other end is gone.
fn pass_on(mut settled: VecDeque<Parked>, estate: &OwnedFd) -> io::Result<()> {
    while !settled.is_empty() {
        let (message, count) = parcel::pack(&settled)?;
        let fds: Vec<BorrowedFd<'_>> = settled
            .iter()
            .take(count)
            .map(|one| one.fd.as_fd())
            .collect();
        send(estate, &message, &fds)?;
        settled.drain(..count);
        steps::reached(Step::EstateSent);
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when fewer fds are in flight, and nothing else is to be done here"
)]
fn send(estate: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let Err(error) = seqpacket::send_now(estate.as_fd(), message, fds) else {
            return Ok(());
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => await_room(estate)?,
            Some(Errno::INTR) => {}
            Some(_) if is_for_now(&error) && tries < FLIGHT_TRIES => {
                tries += 1;
                std::thread::sleep(FLIGHT_DELAY);
            }
            Some(_) | None => return Err(error),
        }
    }
}

fn await_room(estate: &OwnedFd) -> io::Result<()> {
    match poll(
        &mut [PollFd::new(estate, PollFlags::OUT)],
        Some(&TAKEN_WITHIN),
    ) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
