//! Asking a lane whether it lives, through its real accept path.
//!
//! Every lane of a front accepts from one unix socket that only the keeper knows, in the same loop
//! as it accepts clients, and answers by itself, without the app: a busy app or a front that is
//! full of connections is not a hung one.

use crate::id::FrontId;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nHost: lane\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 204";

/// Where lane number `lane` of a front is asked.
pub fn path(runtime_directory: &Path, id: FrontId, lane: usize) -> PathBuf {
    runtime_directory.join(format!("{id}-lane{lane}"))
}

/// One listening socket per lane.
///
/// # Errors
/// When the runtime directory cannot be written.
pub fn listen(runtime_directory: &Path, id: FrontId, lanes: usize) -> io::Result<Vec<OwnedFd>> {
    let bind = |lane| {
        let path = path(runtime_directory, id, lane);
        remove(&path)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(listener.into())
    };
    (0..lanes).map(bind).collect()
}

/// Removes what [`listen`] left in the directory.
pub fn forget(runtime_directory: &Path, id: FrontId, lanes: usize) {
    for lane in 0..lanes {
        let path = path(runtime_directory, id, lane);
        if let Err(error) = remove(&path) {
            tracing::debug!(path = %path.display(), %error, "probe socket stays behind");
        }
    }
}

/// Asks once; the caller sets the deadline.
///
/// # Errors
/// When the lane does not accept, or does not answer as one.
pub async fn ask(path: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(QUESTION).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    if answer == ANSWER {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a lane answered {answer:?}"),
    ))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
