//! Carrying out standing orders.

use super::Keeper;
use crate::api::Rotation;
use crate::keeper::totals::unix_seconds;
use crate::systemd::message_id;
use tokio::sync::oneshot;

impl Keeper {
    /// Takes the service out of the rotation of load balancers, or back into it.
    pub(super) fn rotate(&mut self, is_drained: bool, answer: oneshot::Sender<Rotation>) {
        let since = &mut self.memory.standing.drained_since_unix_seconds;
        let has_changed = since.is_some() != is_drained;
        if has_changed {
            *since = is_drained.then(unix_seconds);
            let word = if is_drained {
                "drained: /readyz says 503 from now on, requests are served as before"
            } else {
                "no longer drained: /readyz says how it is"
            };
            tracing::info!(name: message_id::ROTATED.name, "{word}");
            // Whoever is told of it finds it with the next keeper, too.
            self.save_state();
        }
        let rotation = Rotation {
            drained_since_unix_seconds: self.memory.standing.drained_since_unix_seconds,
            has_changed,
            asked_at: self.admin.iter().map(|it| it.address.clone()).collect(),
        };
        // Who asked may have left.
        drop(answer.send(rotation));
    }
}
