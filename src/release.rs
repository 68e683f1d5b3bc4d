//! Releases on disk: how they come in, where they are, which of them is to run.
//!
//! Written only by the command line, which an administrator runs; the keeper reads. So every step
//! leaves a store from which the next start serves something that was healthy once.
//!
//! # A deploy
//!
//! ```text
//! /srv/gapless/NAME/   incoming/   releases/ID/  releases/ID.json   current   previous   lock
//! ```
//!
//! A deploy goes like this:
//!
//! 1. `gapless deploy` takes the lock (flock, so it ends with its holder), empties `incoming/`, and stages
//!    there. Every entry is opened by its name in the directory above it, without following links
//!    (`beneath.rs`). So nothing is written elsewhere, and nothing is read that somebody put in the way.
//!    Where the links lead is judged when all is there.
//! 2. The links that will be `current` and `previous` are made, so that a full disk cannot keep what is
//!    live from being current. Then come syncfs(2), the manifest, and rename(2) into `releases/`.
//! 3. `POST /deploy/ID` begins a generation by the same plan as a reload. Its answer is a line of JSON for
//!    each step.
//! 4. Only when the fronts serve it do `previous` and then `current` move, each by rename(2). So whoever is
//!    killed, and wherever, the next start serves what was live once. Until then the keeper refuses a
//!    reload, which would begin what is current still: the old release.
//! 5. That the release was live is noted after that. If there was no time or room for it, the next deploy
//!    notes it, since what is current was live.
//!
//! A release that failed is marked and goes first when room is made; what runs, `current` and `previous`
//! never go. A deploy whose command has left may be superseded. If the keeper ends before the decision, the
//! command asks the next one again, since that began with what is current; a release command that was
//! running then runs once more. `tests/deploy_steps.rs` kills a deploy, a rollback and a way back at every
//! step (`src/steps.rs`), and fills the disk there.
//!
//! # What runs
//!
//! Workers run in the resolved directory. `/etc/gapless/NAME.toml` counts first, then what was said with
//! the deploy, then `gapless.toml` in the release, then what was found there. With `[app] directory` in
//! /etc, also without a command beside it, no release counts, and a deploy is refused: the release would
//! never run.
//!
//! A generation that a deploy begins is a trial. If it fails while nothing is live, it is not tried again,
//! since its release is not current either; what was being tried before is begun again. Without anything to
//! run the instance is bare: it is READY, and the fronts answer 200 with what to type next.
//!
//! # Why it is so
//!
//! * The store is not below /var/lib: StateDirectory= belongs to the app's user, who could move it and put
//!   another in its place.
//! * The manifest lies beside the release, not in it: the files stay what was deployed, and no app serves
//!   it by accident.
//! * One syncfs(2) for a release, not an fsync(2) for each file: a node_modules has ten thousands.
//! * `POST /deploy/ID`, as `/log-level/LEVEL`: what is said fits in a path, and no body needs parsing.

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
