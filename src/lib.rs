//! gapless: an application server that systemd starts, that starts the user's web app, and that
//! loses no request while either is replaced.
//!
//! Two halves, each a feature: `server` is the program, `app` is what a web app in Rust may use.
//!
//! The layers, from the top: `cli`; `keeper` and `front` (which never import each other), `verify`,
//! [`app`]; `link`, `api` and `release`; `config`, [`systemd`], `exec`; the rest. A module imports from
//! its own row or below; `tests/layering.rs` holds the code to it. ARCHITECTURE.md has the words.
//!
//! `server` has all dependencies that only the program needs; `app` is built with `--no-default-features
//! --features app`, and `make check` does so. It is not a crate of its own: what an app says to gapless is
//! what gapless says to systemd, so it is the same `systemd::{given, kept, notify}` and `state`, with the
//! one `unsafe` that turns a number into an fd. They would have become a third crate, and a workspace of
//! three for 600 lines. What an app gets for it are these modules, hyper and tokio, and a line of
//! `Cargo.toml` more.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "app")]
pub mod app;
#[cfg(feature = "server")]
pub mod beneath;
#[cfg(feature = "server")]
pub mod causes;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod diagnosis;
#[cfg(feature = "server")]
pub mod exec;
#[cfg(feature = "server")]
pub mod explain;
#[cfg(feature = "server")]
pub mod front;
#[cfg(feature = "server")]
pub mod id;
#[cfg(feature = "server")]
pub mod keeper;
#[cfg(feature = "server")]
pub mod link;
#[cfg(feature = "server")]
pub mod poll;
#[cfg(feature = "server")]
pub mod release;
#[cfg(all(test, feature = "server"))]
mod replay;
pub mod state;
#[cfg(feature = "server")]
pub mod steps;
pub mod systemd;
#[cfg(feature = "server")]
pub mod usage;
#[cfg(feature = "server")]
pub mod verify;
