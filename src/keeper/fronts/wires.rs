//! The tasks of a front in the keeper: hear it, speak to it, see it end.

use super::Letter;
use crate::id::FrontId;
use crate::keeper::happening::{Happening, Outbox};
use crate::keeper::reaper::{self, Ending};
use crate::link::{KeeperEnd, LinkError, ToFront};
use crate::steps::{self, Step};
use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

pub(super) async fn watch_end(id: FrontId, pidfd: AsyncFd<OwnedFd>, pid: u32, outbox: Outbox) {
    let ending = reaper::ended(&pidfd, pid).await.unwrap_or_else(|error| {
        tracing::error!(front = %id, %error, "cannot watch {id} any more, it counts as ended: {error}");
        Ending::Unknown
    });
    outbox.put(Happening::FrontExited(id, ending)).await;
}

pub(super) async fn listen(id: FrontId, link: Rc<KeeperEnd>, outbox: Outbox) {
    loop {
        match link.receive().await {
            Ok((message, _no_fds)) => outbox.put(Happening::FrontSaid(id, message)).await,
            Err(LinkError::Ended) => return,
            Err(LinkError::Socket(error)) => {
                tracing::error!(front = %id, %error, "link failed, replacing {id}: {error}");
                outbox.put(Happening::FrontHung(id)).await;
                return;
            }
            Err(error @ (LinkError::Version(_) | LinkError::Malformed(_))) => {
                tracing::warn!(front = %id, %error, "{id} said something unknown, ignored: {error}");
            }
        }
    }
}

pub(super) async fn speak(
    id: FrontId,
    link: Rc<KeeperEnd>,
    mut letters: mpsc::Receiver<Letter>,
    is_speaking: Rc<Cell<bool>>,
) {
    while let Some((message, fds)) = letters.recv().await {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        is_speaking.set(true);
        let sent = link.send(&message, &borrowed).await;
        is_speaking.set(false);
        if let Err(error) = sent {
            tracing::debug!(front = %id, %error, "front did not take a message, it is ending");
            return;
        }
        match message {
            ToFront::Inherit => steps::reached(Step::HeirTold),
            ToFront::Retire => steps::reached(Step::RetireTold),
            ToFront::Hello
            | ToFront::Ask
            | ToFront::Serve(_)
            | ToFront::Cut { .. }
            | ToFront::KeepTunnels
            | ToFront::Drain
            | ToFront::LogLevel(_)
            | ToFront::End => {}
        }
    }
}
