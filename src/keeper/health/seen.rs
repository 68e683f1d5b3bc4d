//! What was seen instead of a good answer, in words for the one who must mend the app.

use crate::link::Endpoint;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One look at one candidate that is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Nobody listens on the port.
    Nothing {
        /// `$PORT` of the worker.
        port: u16,
    },
    /// Somebody else does.
    Taken {
        /// `$PORT` of the worker.
        port: u16,
        /// Who, if we may see it.
        pid: Option<u32>,
        /// The user of that socket.
        uid: Option<u32>,
    },
    /// A connection is refused.
    Refused {
        /// Where.
        at: String,
        /// What connect(2) said.
        reason: String,
    },
    /// The socket that we handed out is not used.
    NotAccepted {
        /// Where it is bound.
        address: SocketAddr,
    },
    /// Accepted, but no answer in time.
    NoAnswer {
        /// Where.
        at: String,
        /// What was asked for.
        path: String,
        /// How long it had.
        timeout: Duration,
    },
    /// An answer that is no HTTP.
    NoHttp {
        /// Where.
        at: String,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another status than the wanted ones.
    Status {
        /// Where.
        at: String,
        /// The `Host` that was asked for it.
        host: String,
        /// What was asked for.
        path: String,
        /// What came.
        status: u16,
    },
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing { port } => write!(f, "nothing listens on port {port}"),
            Self::Taken { port, pid, uid } => taken(f, *port, *pid, *uid),
            Self::Refused { at, reason } => write!(f, "no connection to {at}: {reason}"),
            Self::NotAccepted { address } => write!(
                f,
                "the app accepts no connection on the socket given to it ({address})"
            ),
            Self::NoAnswer { at, path, timeout } => {
                write!(f, "GET {path} at {at} was not answered within {timeout:?}")
            }
            Self::NoHttp { at, path, reason } => {
                write!(f, "GET {path} at {at} was not answered by HTTP: {reason}")
            }
            Self::Status {
                at,
                host: _,
                path,
                status,
            } => write!(f, "GET {path} at {at} answered {status}"),
        }
    }
}

fn taken(f: &mut fmt::Formatter<'_>, port: u16, pid: Option<u32>, uid: Option<u32>) -> fmt::Result {
    write!(f, "port {port} is taken by ")?;
    match (pid, uid) {
        (Some(pid), _) => write!(f, "pid {pid}, which is not ours"),
        (None, Some(uid)) => write!(f, "a process of uid {uid} that we may not look into"),
        (None, None) => f.write_str("a process that is not ours"),
    }
}

/// `127.0.0.1:4711`, or the path of a socket.
pub(super) fn show(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp(address) => address.to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}

/// What was seen last, one per candidate. Clones share it: one goes into the wait, one stays with
/// whoever may give it up.
#[derive(Clone, Debug, Default)]
pub struct LastSeen {
    last: Arc<Mutex<Vec<Option<Observation>>>>,
}

impl LastSeen {
    /// Of one candidate, in place of what was seen there before.
    pub(super) fn note(&self, candidate: usize, observation: Observation) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() <= candidate {
            last.resize(candidate + 1, None);
        }
        if let Some(before) = last.get_mut(candidate) {
            *before = Some(observation);
        }
    }

    /// In the order of the candidates, up to the first where nothing was seen yet.
    pub fn observations(&self) -> Vec<Observation> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map_while(Clone::clone).collect()
    }
}

impl fmt::Display for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observations = self.observations();
        if observations.is_empty() {
            return f.write_str("nothing was seen yet");
        }
        for (number, observation) in observations.iter().enumerate() {
            let comma = if number > 0 { "; " } else { "" };
            write!(f, "{comma}{observation}")?;
        }
        Ok(())
    }
}
