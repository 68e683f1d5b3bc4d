//! The yard: what all workers of all generations share.

use super::deposits::Deposits;
use super::happening::Outbox;
use super::oom::OomKills;
use super::output::Output;
use super::release::Release;
use super::spawn::Environment;
use std::io;
use std::os::unix::fs::DirBuilderExt;
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
    /// Whether what is started of this release is put into a cage. Not in the foreground: there the user runs gapless
    /// and the app with all their own rights, and sudo in a script is to work.
    pub fn cages(&self, release: &Release) -> bool {
        !self.is_foreground && release.app.landlock
    }

    /// RUNTIME_DIRECTORY of the app: its own, beside our sockets, and as lasting.
    pub fn app_directory(&self) -> PathBuf {
        self.runtime_directory.join("app")
    }

    /// Without it the app may still do well: many need none.
    pub fn make_app_directory(&self) {
        let path = self.app_directory();
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::warn!(path = %path.display(), %error, "the app has no RUNTIME_DIRECTORY, {} cannot be made: {error}", path.display());
        }
    }

    /// At a stop. systemd does it, too; in the foreground nobody else does.
    pub fn remove_app_directory(&self) {
        let path = self.app_directory();
        if let Err(error) = std::fs::remove_dir_all(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "what the app kept in {} stays behind: {error}", path.display());
        }
    }
}
