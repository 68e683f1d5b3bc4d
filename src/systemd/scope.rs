//! Moves processes out of our unit into a transient scope, so that a restart of the unit does not
//! end them: StartTransientUnit over systemd's private socket.
//!
//! No D-Bus daemon and no library for one call: it is needed when a machine shuts down, too, when
//! the daemon is gone. Only root may use the socket (ExecStop=+). Whoever calls must have checked
//! that the processes are in our own cgroup at this moment.
//!
//! The scope has no RuntimeMaxSec=. If the new generation fails, what is in the scope is the live one; a
//! limit would end it. The next keeper ends what has drained, `gapless sweep` the rest at a stop. So the
//! scope gets the slice, limits and filters of the unit: `handover` copies these properties from systemd's
//! answer without reading their values.

mod cage;
mod wire;

pub use cage::Cage;

use rustix::event::{PollFd, Timespec, poll};
use rustix::process::geteuid;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use wire::{Body, Method, Reply};

const PRIVATE_SOCKET: &str = "/run/systemd/private";

/// For the whole exchange. systemd answers within milliseconds; ExecStop= has its own limit above.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often /proc is asked whether the processes have arrived: nothing tells us.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};

const SERIAL: u32 = 1;

/// `OK` and a number of 32 digits.
const LINE_BYTES_MAX: usize = 256;

/// The scope was not started, and the processes are where they were.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// There is no systemd to ask, or we may not ask it.
    #[error(
        "cannot ask systemd about {name:?}: {PRIVATE_SOCKET} cannot be used; this needs \
         systemd as pid 1 and root (ExecStop=+ in the unit)"
    )]
    Connect {
        /// Of the unit.
        name: String,
        /// What connect(2) or the exchange said.
        #[source]
        source: io::Error,
    },
    /// systemd did not answer in time.
    #[error("systemd did not answer about {name:?}, or did not start it, within {DEADLINE:?}")]
    Late {
        /// Of the unit.
        name: String,
    },
    /// It answered something else than D-Bus.
    #[error("the answer of systemd about {name:?} cannot be understood")]
    NotDbus {
        /// Of the unit.
        name: String,
    },
    /// It said no.
    #[error("systemd refused what was asked about {name:?}: {reason}")]
    Refused {
        /// Of the unit.
        name: String,
        /// In its words.
        reason: String,
    },
}

/// What the scope is to be.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Ends in `.scope`; must not be there yet.
    pub name: &'a str,
    /// For `systemctl status`.
    pub description: &'a str,
    /// Are moved into it. One that has ended meanwhile makes no difference, unless all have.
    pub pids: &'a [u32],
    /// systemd ends it after this time at the latest.
    pub runtime_max: Option<Duration>,
    /// What holds it in, beside its processes' own limits.
    pub cage: &'a Cage,
}

/// Starts the scope, and returns when the processes are in it. Blocks, five seconds at most.
///
/// # Errors
/// [`ScopeError`]; the caller lets the processes finish where they are.
pub fn start_scope(scope: &Scope<'_>) -> Result<(), ScopeError> {
    let deadline = deadline();
    let body = body(scope);
    let method = Method {
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "StartTransientUnit",
        signature: "ssa(sv)a(sa(sv))",
    };
    let message = wire::call(&method, &body, SERIAL);
    exchange(Path::new(PRIVATE_SOCKET), scope.name, &message, deadline)?;
    wait_until_moved(scope, deadline)
}

/// What holds a service in now: its slice, limits and filters. Blocks, five seconds at most.
///
/// # Errors
/// [`ScopeError`].
pub fn cage_of(unit: &str) -> Result<Cage, ScopeError> {
    let method = Method {
        path: &wire::unit_path(unit),
        interface: "org.freedesktop.DBus.Properties",
        member: "GetAll",
        signature: "s",
    };
    let mut body = Body::default();
    body.string("org.freedesktop.systemd1.Service");
    let message = wire::call(&method, &body, SERIAL);
    let answer = exchange(Path::new(PRIVATE_SOCKET), unit, &message, deadline())?;
    Cage::read(&answer).map_err(|wire::NotDbus| ScopeError::NotDbus { name: unit.into() })
}

#[expect(
    clippy::disallowed_methods,
    reason = "blocking code of a helper process, with no runtime whose clock could be used"
)]
fn deadline() -> Instant {
    Instant::from_std(std::time::Instant::now() + DEADLINE)
}

fn body(scope: &Scope<'_>) -> Body {
    let mut body = Body::default();
    body.string(scope.name);
    body.string("fail");
    body.array(8, |properties| {
        properties.property("PIDs", "au", |value| {
            value.array(4, |pids| scope.pids.iter().for_each(|pid| pids.u32(*pid)));
        });
        properties.property("Description", "s", |value| value.string(scope.description));
        properties.property("CollectMode", "s", |value| {
            value.string("inactive-or-failed");
        });
        properties.property("Delegate", "b", |value| value.bool(true));
        scope.cage.write(properties);
        if let Some(limit) = scope.runtime_max {
            let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
            properties.property("RuntimeMaxUSec", "t", |value| value.u64(micros));
        }
    });
    body.array(8, |_no_other_units| {});
    body
}

fn exchange(
    socket: &Path,
    name: &str,
    message: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, ScopeError> {
    let failed = |source: io::Error| {
        let late = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        let name = name.to_owned();
        if late.contains(&source.kind()) {
            return ScopeError::Late { name };
        }
        ScopeError::Connect { name, source }
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(failed)?;
    let greeting = greeting(geteuid().as_raw());
    stream.write_all(greeting.as_bytes()).map_err(failed)?;
    // A message that systemd reads together with BEGIN lies there until something else comes.
    let accepted = read_line(&mut stream, deadline).map_err(failed)?;
    stream.write_all(message).map_err(failed)?;
    match read_reply(&mut stream, accepted, deadline).map_err(failed)? {
        Some(Reply::Return(body)) => Ok(body),
        Some(Reply::Error(reason)) => Err(ScopeError::Refused {
            name: name.into(),
            reason,
        }),
        None => Err(ScopeError::NotDbus { name: name.into() }),
    }
}

/// The SASL profile of D-Bus: a zero byte, and the uid as decimal digits in hexadecimal (ASCII
/// digits are 30 to 39).
fn greeting(uid: u32) -> String {
    let mut digits = String::new();
    for digit in uid.to_string().chars() {
        digits.push('3');
        digits.push(digit);
    }
    format!("\0AUTH EXTERNAL {digits}\r\nBEGIN\r\n")
}

/// The line that ends the authentication, or what is no such line.
fn read_line(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_BYTES_MAX && !line.ends_with(b"\r\n") {
        read_some(stream, &mut byte, deadline)?;
        line.extend(byte);
    }
    Ok(line)
}

/// None: what came is no reply of D-Bus, or too long for one.
fn read_reply(
    stream: &mut UnixStream,
    mut received: Vec<u8>,
    deadline: Instant,
) -> io::Result<Option<Reply>> {
    let mut buffer = vec![0; 64 * 1024];
    while received.len() <= wire::REPLY_BYTES_MAX {
        match wire::find_reply(&received, SERIAL) {
            Ok(Some(reply)) => return Ok(Some(reply)),
            Ok(None) => {}
            Err(wire::NotDbus) => return Ok(None),
        }
        let read = read_some(stream, &mut buffer, deadline)?;
        received.extend(buffer.iter().take(read));
    }
    Ok(None)
}

fn read_some(stream: &mut UnixStream, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        let left = remaining(deadline).ok_or(io::ErrorKind::TimedOut)?;
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => return read,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "as for `deadline`")]
fn remaining(deadline: Instant) -> Option<Duration> {
    let left = deadline
        .into_std()
        .checked_duration_since(std::time::Instant::now())?;
    (!left.is_zero()).then_some(left)
}

/// systemd answers when the job is queued; the processes move when it runs. Who ended ExecStop=
/// before that would have them counted with the unit that is being stopped.
fn wait_until_moved(scope: &Scope<'_>, deadline: Instant) -> Result<(), ScopeError> {
    let suffix = format!("/{}", scope.name);
    let outside = |pid: &u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        // A zombie stays where it was, or is shown at the root: it does not count.
        !groups.is_empty() && !is_in(&groups, &suffix) && !is_zombie(*pid)
    };
    while scope.pids.iter().any(outside) {
        if remaining(deadline).is_none() {
            return Err(ScopeError::Late {
                name: scope.name.to_owned(),
            });
        }
        let mut none: [PollFd<'_>; 0] = [];
        match poll(&mut none, Some(&LOOK_EVERY)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(ScopeError::Connect {
                    name: scope.name.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Whether one of the hierarchies has the process in the scope or below it.
fn is_in(groups: &str, suffix: &str) -> bool {
    let below = format!("{suffix}/");
    groups
        .lines()
        .any(|line| line.ends_with(suffix) || line.contains(&below))
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_none_or(|rest| rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    fn exchange_with(
        name: &str,
        answer: &'static [u8],
        message: &[u8],
    ) -> Result<Vec<u8>, ScopeError> {
        let file = format!("gapless-scope-{name}-{}", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(file);
        let listener = UnixListener::bind(&path).unwrap();
        let systemd = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(answer).unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            // A client that hangs up before it has read all resets: what it wrote was heard before that.
            drop(peer.read_to_end(&mut heard));
            heard
        });
        let result = exchange(&path, "x.scope", message, deadline());
        let heard = systemd.join().unwrap();
        assert!(heard.starts_with(b"\0AUTH EXTERNAL "));
        assert!(heard.ends_with(message));
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn an_answer_that_is_not_dbus_is_said_to_be_so() {
        let result = exchange_with("odd", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"call");
        assert!(matches!(result, Err(ScopeError::NotDbus { .. })));
    }

    #[test]
    fn a_systemd_that_hangs_up_is_an_error() {
        let result = exchange_with("gone", b"OK 00\r\n", b"call");
        assert!(matches!(result, Err(ScopeError::Connect { .. })));
    }

    #[test]
    fn the_message_waits_for_the_end_of_the_authentication() {
        let file = format!("gapless-scope-order-{}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let listener = UnixListener::bind(&path).unwrap();
        let systemd = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut greeted = vec![0; greeting(geteuid().as_raw()).len()];
            peer.read_exact(&mut greeted).unwrap();
            peer.set_nonblocking(true).unwrap();
            let early = peer.read(&mut [0]).map_err(|error| error.kind());
            peer.set_nonblocking(false).unwrap();
            peer.write_all(b"OK 00\r\n").unwrap();
            let mut message = [0; 4];
            peer.read_exact(&mut message).unwrap();
            (early, message)
        });
        exchange(&path, "x.scope", b"call", deadline()).unwrap_err();
        let (early, message) = systemd.join().unwrap();
        assert_eq!(early, Err(io::ErrorKind::WouldBlock));
        assert_eq!(&message, b"call");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_greeting_names_the_user_as_dbus_wants_it() {
        assert_eq!(greeting(1002), "\0AUTH EXTERNAL 31303032\r\nBEGIN\r\n");
    }

    #[test]
    fn without_systemd_the_error_says_what_is_needed() {
        let error = exchange(Path::new("/nowhere"), "x.scope", b"", deadline()).unwrap_err();
        assert!(error.to_string().contains("ExecStop=+"));
    }

    #[test]
    fn a_process_is_found_in_the_scope_or_below_it() {
        let suffix = "/gapless-drain.scope";
        assert!(is_in("0::/system.slice/gapless-drain.scope\n", suffix));
        assert!(is_in("0::/system.slice/gapless-drain.scope/g7\n", suffix));
        assert!(!is_in("0::/system.slice/gapless@x.service\n", suffix));
        assert!(!is_in("0::/x/gapless-drain.scope.d\n", suffix));
    }

    #[test]
    fn nobody_is_waited_for_who_has_ended() {
        let scope = Scope {
            name: "x.scope",
            description: "",
            pids: &[u32::MAX],
            runtime_max: None,
            cage: &Cage::default(),
        };
        wait_until_moved(&scope, deadline()).unwrap();
    }
}
