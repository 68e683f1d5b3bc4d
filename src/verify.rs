//! A strict client: keep-alive load against any app, that never retries and never forgives, and that
//! knows of an app only what it answers at rest.
//!
//! [`connection`] is also what the load of the tests is made of (`tests/load`), which asks an app that
//! proves every byte; here, the app may be anybody's.
//!
//! The client writes and reads HTTP by hand, so that nothing below can retry, reconnect or forgive.

mod connection;
mod load;
mod random;
mod rest;
mod tally;

pub use connection::{Address, Answer, Broken, Connection, Framing, Head, Idle};
pub use load::{Load, Wanted};
pub use random::Random;
pub use rest::{Method, Target};
pub use tally::{Closed, Loss, Lost, Phase, Waits};
