//! Who listens on a TCP port: /proc/net/tcp and the fds of processes.
//!
//! That a port answers proves nothing: another program may have had it before. Only a listening
//! socket that one of the worker's own processes holds is the worker's.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP_LISTEN in include/net/tcp_states.h.
const LISTEN: &str = "0A";

/// A listening socket, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// Connections that wait to be accepted: in a LISTEN line, rx_queue is sk_ack_backlog.
    pub(super) backlog: u32,
    /// Of its owner.
    pub(super) uid: u32,
    /// Of the socket, as in `socket:[INODE]`.
    pub(super) inode: u64,
}

/// Every listener on `port` that a connection to 127.0.0.1 or ::1 reaches.
pub(super) fn on_loopback(port: u16) -> Vec<Listener> {
    let mut found = all();
    found.retain(|listener| listener.address.port() == port && listener.loopback().is_some());
    found
}

/// The addresses of all listeners that one of `pids` has open.
pub(super) fn of_processes(pids: &HashSet<u32>) -> Vec<SocketAddr> {
    let mut found = all();
    found.retain(|listener| is_held_by(listener.inode, pids));
    found.into_iter().map(|listener| listener.address).collect()
}

/// The listener bound to exactly this address.
pub(super) fn bound_to(address: SocketAddr) -> Option<Listener> {
    all().into_iter().find(|found| found.address == address)
}

fn all() -> Vec<Listener> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|table| File::open(table).ok())
        .flat_map(|table| listeners(BufReader::new(table)))
        .collect()
}

impl Listener {
    /// Where on loopback it can be reached.
    pub(super) fn loopback(&self) -> Option<SocketAddr> {
        let ip = match self.address.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(ip),
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_loopback() => IpAddr::V6(ip),
            // IPV6_V6ONLY is not shown; ::1 answers in either case.
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(SocketAddr::new(ip, self.address.port()))
    }
}

/// Of either table. The kernel has listeners first (`tcp_seq_start` in net/ipv4/tcp_ipv4.c), and behind
/// them perhaps a line for each of a hundred thousand connections, which are not even asked for.
fn listeners(table: impl BufRead) -> Vec<Listener> {
    let lines = table.lines().map_while(Result::ok).skip(1);
    let listening = lines.take_while(|line| state(line) == Some(LISTEN));
    listening.filter_map(|line| parse_line(&line)).collect()
}

/// Of a line: `sl local remote st tx:rx tr:when retrnsmt uid timeout inode …`.
fn state(line: &str) -> Option<&str> {
    line.split_ascii_whitespace().nth(3)
}

fn parse_line(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    let mut fields = fields.skip(2);
    let (_tx, rx) = fields.next()?.split_once(':')?;
    let mut fields = fields.skip(2);
    let uid = fields.next()?.parse().ok()?;
    let mut fields = fields.skip(1);
    Some(Listener {
        address: parse_address(local)?,
        backlog: u32::from_str_radix(rx, 16).ok()?,
        uid,
        inode: fields.next()?.parse().ok()?,
    })
}

/// `0100007F:1F90`: words of 32 bits in the byte order of the machine.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len())
        .step_by(8)
        .map(|at| {
            let word = ip.get(at..at.checked_add(8)?)?;
            Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
        })
        .collect();
    let ip = match words?.as_slice() {
        [word] => IpAddr::from(*word),
        words @ [_, _, _, _] => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether one of `pids` has the socket open.
pub(super) fn is_held_by(inode: u64, pids: &HashSet<u32>) -> bool {
    pids.iter().any(|pid| holds(*pid, inode))
}

/// Some process that has the socket open, among those that we may look into.
pub(super) fn holder(inode: u64) -> Option<u32> {
    let table = crate::keeper::process::table();
    let pids = table.into_iter().map(|process| process.pid);
    pids.into_iter().find(|pid| holds(*pid, inode))
}

fn holds(pid: u32, inode: u64) -> bool {
    let link = format!("socket:[{inode}]");
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    fds.filter_map(Result::ok)
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|target| target.as_os_str() == link.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 4711 1
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1
   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1
";

    #[test]
    fn only_listeners_are_taken_from_the_table() {
        let found = listeners(TABLE.as_bytes());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].backlog, found[0].inode), (3, 4711));
        if cfg!(target_endian = "little") {
            assert_eq!(found[0].address.to_string(), "127.0.0.1:8080");
        }
    }

    #[test]
    fn what_is_behind_the_listeners_is_not_read() {
        let mut table = TABLE.to_owned();
        table.push_str(&TABLE.lines().last().unwrap().repeat(2));
        let mut rest = BufReader::with_capacity(1, table.as_bytes());
        assert_eq!(listeners(&mut rest).len(), 2);
        let mut unread = String::new();
        rest.read_line(&mut unread).unwrap();
        assert!(unread.contains("4712"), "{unread}");
    }

    #[test]
    fn an_ipv6_address_is_read() {
        let one = if cfg!(target_endian = "little") {
            "00000000000000000000000001000000:0050"
        } else {
            "00000000000000000000000000000001:0050"
        };
        assert_eq!(parse_address(one).unwrap().to_string(), "[::1]:80");
        for wrong in ["", "0100007F", "01:50", "ä0100007F:1F90", "0100007F0:1"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn our_own_listener_is_found_with_its_holder_and_backlog() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let before = bound_to(address).unwrap();
        let all = on_loopback(address.port());
        assert_eq!(all.first(), Some(&before));
        assert_eq!(before.loopback(), Some(address));
        assert!(is_held_by(
            before.inode,
            &HashSet::from([std::process::id()])
        ));
        assert!(!is_held_by(before.inode, &HashSet::from([1, u32::MAX])));
        let _waiting = TcpStream::connect(address).unwrap();
        assert_eq!(bound_to(address).unwrap().backlog, 1);
        listener.accept().unwrap();
        assert_eq!(bound_to(address).unwrap().backlog, 0);
    }
}
