//! The keeper: the main process. It supervises and decides, and never touches traffic.
//!
//! It is crash-only: to start is to adopt what runs. Everything that it owns is kept in systemd's
//! fd store, everything that it knows is written down, so that restart, crash and watchdog kill are
//! one path.
//!
//! # Signals
//!
//! | signal | does |
//! |---|---|
//! | SIGHUP | reload, without waiting |
//! | SIGTERM, SIGINT | drain, then exit 0; a second one ends at once |
//! | SIGCHLD | reaps orphans |
//! | SIGUSR2 | upgrade, without waiting |
//! | SIGUSR1, SIGQUIT, SIGALRM, SIGPIPE | ignored |
//!
//! Fronts ignore all of them: the keeper speaks to them over the link.

pub mod admin;
pub mod adoption;
pub mod cgroup;
pub mod changes;
pub mod console;
pub mod control;
pub mod counter;
pub mod crew;
pub mod death;
pub mod deposits;
pub mod diagnosis;
pub mod errand;
pub mod fronts;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod happening;
pub mod health;
mod kin;
pub mod lane_probe;
pub mod lifetime;
pub mod limits;
pub mod listeners;
pub mod metrics;
pub mod notice;
pub mod oom;
pub mod output;
pub mod plan;
pub mod process;
pub mod reaper;
pub mod release;
pub mod spawn;
pub mod standing;
pub mod status;
pub mod stored;
mod strays;
pub mod supervisor;
pub mod totals;
pub mod upgrade;
pub mod worker;
pub mod yard;

pub use supervisor::{KeeperError, Mode, Options, run};
