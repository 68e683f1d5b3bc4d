//! Standing orders: what an operator told, and what holds until the opposite is told. Kept with the
//! state, so that no crash, restart or upgrade of the keeper forgets them; a stop ends them.
//!
//! The orders are `gapless drain` and `gapless hold`. Drained means that `/readyz` says 503; nothing else
//! changes.

use super::plan::Moment;
use serde::{Deserialize, Serialize};

/// See the module. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Taken out of rotation, since this Unix time: `/readyz` says no, and serving goes on.
    #[serde(default)]
    pub drained_since_unix_seconds: Option<u64>,
    /// All new requests wait.
    #[serde(default)]
    pub pause: Option<Pause>,
}

/// What `gapless hold` is while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it began.
    pub since: Moment,
    /// It ends by itself then.
    pub until: Moment,
    /// Nothing was in flight any more, and somebody was told so: there may be a migration at work.
    pub is_told: bool,
}
