//! Hostile clients and hostile apps, as a corpus: `tests/corpus/requests`, `tests/corpus/answers`.

#![allow(
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests"
)]
#![allow(dead_code, reason = "not every helper is needed by every test")]

#[path = "corpus/answers.rs"]
mod answers;
#[path = "corpus/app.rs"]
mod app;
#[path = "corpus/cases.rs"]
mod cases;
#[path = "corpus/client.rs"]
mod client;
#[path = "corpus/mutations.rs"]
mod mutations;
#[path = "corpus/nginx.rs"]
mod nginx;
#[path = "corpus/requests.rs"]
mod requests;
#[path = "front/world.rs"]
mod world;
