//! What systemd gives us and hears from us: one module per conversation.

#[cfg(feature = "server")]
pub mod entries;
#[cfg_attr(
    not(feature = "server"),
    allow(
        dead_code,
        reason = "loader, relay and trustee are parts of the server"
    )
)]
pub mod given;
#[cfg(feature = "server")]
pub mod job;
#[cfg(feature = "server")]
pub mod journal;
pub mod kept;
#[cfg(feature = "server")]
pub mod message_id;
pub mod notify;
#[cfg(feature = "server")]
pub mod scope;
#[cfg(feature = "server")]
pub mod unit;
