//! What systemd gives us and hears from us: one module per conversation.

pub mod entries;
pub mod given;
pub mod job;
pub mod journal;
pub mod kept;
pub mod message_id;
pub mod notify;
pub mod scope;
pub mod unit;
