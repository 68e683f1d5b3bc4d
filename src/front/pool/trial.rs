//! Whether the app takes a second request on a connection.
//!
//! Some answer one, say nothing of closing, and neither read on nor close: a thread has ended, and somebody
//! still holds its socket. A request on such a connection would wait for ever. So the first one on a used
//! connection is a trial, of a request that may be sent again; and where the kernel says that the app has not
//! read it, it is. Once a second request was answered, nothing of this costs anything any more.

use super::{AppConnection, Socket};
use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::time::Duration;

/// So long the app has to read a request that is on trial. One that is busy for longer gets it by a fresh
/// connection, and takes it from there no later.
const LIMIT: Duration = Duration::from_millis(500);

/// So many in a row were not read: no connection is used again.
const UNREAD_MAX: u32 = 2;

/// So many requests that cannot be sent again get a fresh connection before one of them is tried all the
/// same: there may be no others.
const SPARED_MAX: u32 = 16;

/// Of one worker, in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reuse {
    Untried {
        /// Requests that were not read so far; none was answered.
        unread: u32,
        /// Those that had a fresh connection instead.
        spared: u32,
    },
    Works,
    Fails,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trial(Cell<Reuse>);

impl Default for Trial {
    fn default() -> Self {
        Self(Cell::new(Reuse::Untried {
            unread: 0,
            spared: 0,
        }))
    }
}

impl Trial {
    /// A used connection may be taken. `can_be_sent_again`: what is lost on it is not lost.
    pub(super) fn allows(&self, can_be_sent_again: bool) -> bool {
        match self.0.get() {
            Reuse::Works => true,
            Reuse::Fails => false,
            Reuse::Untried { .. } if can_be_sent_again => true,
            Reuse::Untried { unread, spared } => {
                let spared = spared.saturating_add(1);
                self.0.set(Reuse::Untried { unread, spared });
                spared > SPARED_MAX
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self.0.get() {
            Reuse::Works | Reuse::Fails => true,
            Reuse::Untried { .. } => false,
        }
    }

    /// A second request was answered.
    pub(super) fn works(&self) {
        if !self.is_over() {
            self.0.set(Reuse::Works);
        }
    }

    pub(super) fn was_not_read(&self) {
        if let Reuse::Untried { unread, spared } = self.0.get() {
            let unread = unread.saturating_add(1);
            let fails = unread >= UNREAD_MAX;
            self.0.set(if fails {
                tracing::info!(
                    "the app takes no second request on a connection, and does not close it: each gets a fresh one"
                );
                Reuse::Fails
            } else {
                Reuse::Untried { unread, spared }
            });
        }
    }
}

/// What came of waiting; None when the app did not read the request in time, and it can be sent again.
pub(super) async fn wait<F: Future>(
    trial: &Trial,
    connection: &AppConnection,
    can_be_sent_again: bool,
    answered: F,
) -> Option<F::Output> {
    let mut answered = std::pin::pin!(answered);
    let mut answer = tokio::time::timeout(LIMIT, &mut answered).await.ok();
    if answer.is_none() && !connection.has_heard() && is_unread(&connection.socket.borrow()) {
        trial.was_not_read();
        if can_be_sent_again {
            return None;
        }
    }
    if answer.is_none() {
        answer = Some(answered.await);
    }
    // One that was closed meanwhile proves nothing.
    if connection.has_heard() {
        trial.works();
    }
    answer
}

/// By the table of the kernel, which has the other end of a connection within the machine, too. Of a unix
/// socket nobody can tell.
fn is_unread(socket: &Socket) -> bool {
    let Socket::Tcp(stream) = socket else {
        return false;
    };
    let (Ok(own), Ok(app)) = (stream.local_addr(), stream.peer_addr()) else {
        return false;
    };
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::File::open(table).ok())
        .any(|table| lists_unread(BufReader::new(table), app, own))
}

/// `sl local remote st tx:rx …`, proc_pid_net(5): numbers in hexadecimal. On loopback the ports alone say
/// which connection it is.
fn lists_unread(table: impl BufRead, local: SocketAddr, remote: SocketAddr) -> bool {
    let ends_with_port = |address: &str, port: u16| {
        let found = address.rsplit_once(':').map(|(_, port)| port);
        found.and_then(|it| u16::from_str_radix(it, 16).ok()) == Some(port)
    };
    let is_it = |line: &String| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(here), Some(there)) = (fields.next(), fields.next()) else {
            return false;
        };
        let queued = fields.nth(1).and_then(|queues| queues.split_once(':'));
        let unread = queued.and_then(|(_, unread)| u32::from_str_radix(unread, 16).ok());
        ends_with_port(here, local.port())
            && ends_with_port(there, remote.port())
            && unread.is_some_and(|unread| unread > 0)
    };
    table.lines().map_while(Result::ok).any(|line| is_it(&line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn the_kernel_says_what_the_app_has_not_read() {
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(place).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap());
            let mut client = client.await.unwrap().into_std().unwrap();
            client.set_nonblocking(false).unwrap();
            let (mut app, _) = listener.accept().unwrap();
            let copy = client.try_clone().unwrap();
            copy.set_nonblocking(true).unwrap();
            let socket = Socket::Tcp(TcpStream::from_std(copy).unwrap());
            assert!(!is_unread(&socket), "nothing was sent");
            client.write_all(b"hello").unwrap();
            assert!(is_unread(&socket));
            app.read_exact(&mut [0; 5]).unwrap();
            assert!(!is_unread(&socket), "it was read");
        }
    }

    #[test]
    fn one_answer_is_enough_and_what_fails_twice_stays_so() {
        let trial = Trial::default();
        assert!(trial.allows(true) && !trial.allows(false));
        trial.was_not_read();
        assert!(trial.allows(true) && !trial.is_over());
        trial.was_not_read();
        trial.works();
        assert!(!trial.allows(true) && trial.is_over());
        let trial = Trial::default();
        trial.was_not_read();
        trial.works();
        trial.was_not_read();
        assert!(trial.allows(false));
        let trial = Trial::default();
        assert!((0..SPARED_MAX).all(|_| !trial.allows(false)));
        assert!(trial.allows(false), "there are no others");
    }
}
