//! Releases on disk: how they come in, where they are, which of them is to run.
//!
//! Written only by the command line, which an administrator runs; the keeper reads. So every step
//! leaves a store from which the next start serves something that was healthy once.

pub mod detection;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod id;
pub mod lock;
pub mod manifest;
pub mod room;
pub mod staging;
pub mod store;

pub use id::{ReleaseId, ReleaseIdError};
pub use lock::{Lock, LockError};
pub use manifest::{Manifest, State};
pub use store::{Store, StoreError};
