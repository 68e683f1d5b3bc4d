//! gapless: an application server that systemd starts, that starts the user's web app, and that
//! loses no request while either is replaced.
//!
//! The layers, from the top: [`cli`]; [`keeper`] and [`front`] (which never import each other), [`verify`];
//! [`link`] and [`api`]; [`config`], [`systemd`], [`exec`]; [`diagnosis`], [`explain`], [`id`], [`steps`], [`usage`]. A module imports from its own
//! row or below; `tests/layering.rs` holds the code to it. ARCHITECTURE.md has the words.

pub mod api;
pub mod causes;
pub mod cli;
pub mod config;
pub mod diagnosis;
pub mod exec;
pub mod explain;
pub mod front;
pub mod id;
pub mod keeper;
pub mod link;
pub mod poll;
pub mod release;
pub mod steps;
pub mod systemd;
pub mod usage;
pub mod verify;
