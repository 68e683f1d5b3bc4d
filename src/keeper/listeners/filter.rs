//! Classic BPF on listening sockets, socket(7): which of a group gets a connection, and whether any.

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::{libc, setsockopt_impl, sockopt_impl};
use std::os::fd::OwnedFd;

/// linux/bpf_common.h: return k; A is the byte at offset k; skip `jt` or `jf` by A & k.
const RETURN: u16 = 0x06;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_SET: u16 = 0x45;

/// Offset of the flags in the TCP header, and that of a first packet, RFC 9293 section 3.1.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;

sockopt_impl!(
    /// Which packets a socket gets. One of TCP is given them from the TCP header on.
    AttachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog
);

/// Every connection for the group comes to its first socket.
///
/// # Errors
/// As setsockopt(2).
pub(super) fn prefer_oldest(fd: &OwnedFd) -> Result<(), Errno> {
    let mut program = [instruction(RETURN, 0, 0)];
    setsockopt(fd, sockopt::AttachReusePortCbpf, &given(&mut program))
}

/// No connection begins any more; handshakes under way end in the queue. Accepted connections inherit
/// this, and never get a SYN.
///
/// # Errors
/// As setsockopt(2).
pub(super) fn refuse_new(fd: &OwnedFd) -> Result<(), Errno> {
    let mut program = [
        instruction(LOAD_BYTE, 0, FLAGS),
        instruction(JUMP_IF_SET, 1, SYN),
        instruction(RETURN, 0, u32::MAX),
        instruction(RETURN, 0, 0),
    ];
    setsockopt(fd, AttachFilter, &given(&mut program))
}

const fn instruction(code: u16, jt: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf: 0, k }
}

fn given(program: &mut [libc::sock_filter]) -> libc::sock_fprog {
    libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn who_is_connected_is_accepted_and_nobody_else_connects() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let place = listener.local_addr().unwrap();
            let mut queued = TcpStream::connect(place).unwrap();
            let fd = OwnedFd::from(listener.try_clone().unwrap());
            refuse_new(&fd).unwrap();
            let late = TcpStream::connect_timeout(&place, Duration::from_millis(50));
            assert!(late.is_err(), "{late:?}");
            queued.write_all(b"there").unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let mut heard = [0; 5];
            accepted.read_exact(&mut heard).unwrap();
            accepted.write_all(&heard).unwrap();
            queued.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"there");
        }
    }
}
