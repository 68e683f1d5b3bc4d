//! Entries for the journal that may be lost but never waited for: its native protocol, without
//! blocking. <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// As sd-journal asks for: a burst finds room while journald is busy.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// A way to the journal.
#[derive(Debug)]
pub struct Entries {
    socket: UnixDatagram,
}

impl Entries {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// When the process is out of fds.
    pub fn new() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // Limited by net.core.wmem_max, and a smaller one does too.
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES)
            .unwrap_or_default();
        Ok(Self { socket })
    }

    /// Sends one entry now or not at all.
    ///
    /// # Errors
    /// When journald is behind (`WouldBlock`) or gone.
    pub fn send(&self, entry: &Entry) -> io::Result<()> {
        self.socket.send_to(&entry.bytes, SOCKET).map(drop)
    }
}

/// One entry.
#[derive(Debug, Default)]
pub struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    /// Appends a field; `name` is one that journald takes: A to Z, 0 to 9 and underscores.
    pub fn put(&mut self, name: &str, value: &str) {
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(&length.to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }

    /// The same for a number.
    pub fn put_number(&mut self, name: &str, value: u64) {
        self.bytes.extend_from_slice(name.as_bytes());
        // A Vec takes everything.
        drop(writeln!(self.bytes, "={value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_line_break_stays_one_value() {
        let mut entry = Entry::default();
        entry.put("MESSAGE", "one\nTWO=2");
        entry.put("THREE", "3");
        entry.put_number("FOUR", 4);
        assert_eq!(
            entry.bytes,
            b"MESSAGE\n\x09\0\0\0\0\0\0\0one\nTWO=2\nTHREE=3\nFOUR=4\n"
        );
    }
}
