//! What a front is born with.

use crate::config::{AccessConfig, HttpConfig};
use crate::id::FrontId;
use serde::{Deserialize, Serialize};

/// Travels as JSON in the memfd named [`SETTINGS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontSettings {
    /// The instance, for logs.
    pub name: String,
    /// Which front this is.
    pub id: FrontId,
    /// Limits and timeouts.
    pub http: HttpConfig,
    /// As RUST_LOG; may change while it serves.
    pub log_level: String,
    /// Which requests it logs.
    #[serde(default)]
    pub access: AccessConfig,
    /// What to do when the link ends without `End`, `Drain` or `Retire`.
    pub orphaned: Orphaned,
}

/// What a front does when its keeper is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Orphaned {
    /// The next keeper will adopt it, the other end of the link is kept: serve on.
    ServeOn,
    /// No next keeper can come (`gapless run`): end the workers in the cell, and itself.
    EndAll,
}

/// Name of the fd with the front's end of the link.
pub const LINK: &str = "link";
/// Name of the fd with the settings.
pub const SETTINGS: &str = "settings";
/// Name of the memfd with the front's slots.
pub const SLOTS: &str = "slots";
/// Name of the socket by which the front's trustee passes connections on.
pub const ESTATE: &str = "estate";
/// Name of the listening sockets that clients connect to.
pub const HTTP: &str = "http";
/// Name of those whose queues are to be emptied, and which are closed then.
pub const CLOSING: &str = "closing";
/// Name of the unix listening sockets on which the keeper asks a lane whether it lives; one per
/// lane, so their number is the number of lanes.
pub const PROBE: &str = "probe";
