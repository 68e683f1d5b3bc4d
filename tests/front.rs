//! Fronts as a keeper and clients see them.

#![allow(
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests"
)]
#![allow(dead_code, reason = "not every helper is needed by every test")]

#[path = "front/buffers.rs"]
mod buffers;
#[path = "front/clients.rs"]
mod clients;
#[path = "front/confinement.rs"]
mod confinement;
#[path = "front/connect.rs"]
mod connect;
#[path = "front/early.rs"]
mod early;
#[path = "front/generations.rs"]
mod generations;
#[path = "front/interim.rs"]
mod interim;
#[path = "front/limits.rs"]
mod limits;
#[path = "front/moving.rs"]
mod moving;
#[path = "front/pools.rs"]
mod pools;
#[path = "front/proxying.rs"]
mod proxying;
#[path = "front/strangers.rs"]
mod strangers;
#[path = "front/tunnels.rs"]
mod tunnels;
#[path = "front/world.rs"]
mod world;
