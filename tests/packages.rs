//! Ring 3: the packages as administrators meet them, installed by their own tools in containers,
//! upgraded with everybody connected. What can be said of the files alone is said on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

#[path = "packages/build.rs"]
mod build;
#[path = "packages/deb.rs"]
mod deb;
#[path = "packages/equal.rs"]
mod equal;
#[path = "packages/files.rs"]
mod files;
#[path = "packages/image.rs"]
mod image;
#[path = "packages/installed.rs"]
mod installed;
#[path = "packages/released.rs"]
mod released;
#[path = "packages/restarts.rs"]
mod restarts;
#[path = "packages/rpm.rs"]
mod rpm;
#[path = "packages/runtimes.rs"]
mod runtimes;
#[path = "packages/traces.rs"]
mod traces;
mod world;
