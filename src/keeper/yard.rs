//! The yard: what all workers of all generations share.

use super::deposits::Deposits;
use super::happening::Outbox;
use super::oom::OomKills;
use super::output::Output;
use super::spawn::Environment;
use std::path::PathBuf;
use std::rc::Rc;

/// Handed to every crew.
#[derive(Clone)]
pub struct Yard {
    /// The instance.
    pub name: String,
    /// For sockets.
    pub runtime_directory: PathBuf,
    /// The keeper's environment without what is only for the keeper.
    pub env: Rc<Environment>,
    /// Where workers' lines go.
    pub output: Rc<Output>,
    /// What workers keep for those after them.
    pub deposits: Rc<Deposits>,
    /// Which deaths the kernel caused for want of memory.
    pub oom: Rc<OomKills>,
    /// The keeper's loop.
    pub outbox: Outbox,
    /// No next keeper can come: workers end with this one.
    pub is_foreground: bool,
}

impl Yard {
    /// RUNTIME_DIRECTORY of the app: its own, beside our sockets, and as lasting.
    pub fn app_directory(&self) -> PathBuf {
        self.runtime_directory.join("app")
    }
}
