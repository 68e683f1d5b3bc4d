//! Staging: what is deployed becomes a directory that is ours, whatever it was and whoever made it.
//!
//! An archive may come from anywhere. Nothing in it may write outside of the directory, be more
//! than files, directories and links that stay inside, or take more room than there is.

mod archive;
mod directory;
mod lift;
mod links;
mod shared;
mod sources;
mod tree;

pub use lift::lift;
pub use links::SYSTEM;
pub use shared::{SharedError, share};
pub use sources::Kind;
pub use tree::Limits;

use super::room::{Full, Megabytes, Room};
use crate::steps::{Step, reached};
use directory::Source;
use rustix::fs::Gid;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tree::Tree;

/// Why an entry is refused; reads on after its name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Why {
    /// `/etc/passwd`
    #[error("has an absolute path")]
    Absolute,
    /// `../x`
    #[error("has .. in its path")]
    Upwards,
    /// A symbolic or hard link to something that is not part of the release.
    #[error("is a link that leaves the release: -> {0}; put a copy in its place (cp -L)")]
    Leaves(String),
    /// A hard link to what is not there (yet).
    #[error("is a link to {0}, which is no file before it")]
    Dangling(String),
    /// A device, a fifo.
    #[error("is {0}, not a file, a directory or a link")]
    Special(&'static str),
    /// A file of this name is there.
    #[error("is there twice")]
    Twice,
    /// Something above it is a file or a link.
    #[error("lies below something that is no directory")]
    BelowFile,
    /// `bytes_max`
    #[error("does not fit any more: {0} are free; make room")]
    NoRoom(String),
    /// `entries_max`
    #[error("is one entry too many: {0} are the limit")]
    TooMany(u64),
    /// More directories, one in the other, than anything needs.
    #[error("lies {0} directories deep, and {1} are the limit; pack it less deep")]
    TooDeep(usize, usize),
    /// Longer than the system can name.
    #[error("has a name of {0} bytes, and {1} are the limit; give it a shorter one")]
    TooLong(usize, usize),
    /// Only somebody else can read it.
    #[error(
        "is readable for the user {owner} alone, and the directory belongs to the user {directory}, who could have \
         put it there; give it to that user with chown, or deploy a tar archive of it"
    )]
    Foreign {
        /// Whose file it is.
        owner: u32,
        /// Whose directory is deployed.
        directory: u32,
    },
    /// A link took its place while it was copied.
    #[error(
        "became a link, or is below one, while it was copied; deploy again when nobody changes it"
    )]
    Swapped,
    /// It grows beyond what real files do.
    #[error("unpacks to more than {0} times its size, as a bomb does")]
    Bomb(u64),
}

/// Nothing was staged.
#[derive(Debug, Error)]
pub enum StagingError {
    /// An entry is not as it should be.
    #[error("refused: {entry} {why}")]
    Entry {
        /// Its name, safe for a terminal.
        entry: String,
        /// What is wrong with it.
        why: Why,
    },
    /// A format that is not read.
    #[error("{what}; {remedy}")]
    Format {
        /// What it is.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// It is larger than what is left.
    #[error(
        "no room at {}: it takes {} and {files} files, and {room} can be had there (64 MiB stay \
         free); make room, for example by a smaller keep in [app]; nothing was staged",
        at.display(),
        Megabytes(*bytes)
    )]
    TooLarge {
        /// Where it was to go.
        at: PathBuf,
        /// What it takes.
        bytes: u64,
        /// Files, directories and links.
        files: u64,
        /// What there is for it.
        room: Room,
    },
    /// There is no room left.
    #[error(transparent)]
    Full(#[from] Full),
    /// It ends too early, or is damaged.
    #[error("the archive is damaged or ends too early; send it again")]
    Damaged(#[source] io::Error),
    /// What the system said.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl StagingError {
    fn entry(path: &Path, why: Why) -> Self {
        Self::Entry {
            entry: tree::shown(path),
            why,
        }
    }

    fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match Full::by(what, path, source) {
            Ok(full) => full.into(),
            Err(source) => Self::Io {
                what,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// What was given is as good as ever: only the disk is too small for it.
    pub fn is_about_room(&self) -> bool {
        match self {
            Self::Entry { why, .. } => matches!(why, Why::NoRoom(_)),
            Self::TooLarge { .. } | Self::Full(_) => true,
            Self::Format { .. } | Self::Damaged(_) | Self::Io { .. } => false,
        }
    }
}

/// What was staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// What it came as.
    pub kind: Kind,
    /// Files and links.
    pub files: u64,
    /// Of all files.
    pub bytes: u64,
    /// `sha256:…`
    pub digest: String,
}

/// Copies or unpacks a path into `to`, an empty directory. What was readable for its owner alone is
/// readable for `group` too, and for nobody else.
///
/// # Errors
/// [`StagingError`]; what is in `to` then is of no use.
pub fn stage_path(
    from: &Path,
    to: &Path,
    group: Option<Gid>,
    limits: Limits,
) -> Result<Staged, StagingError> {
    // What the administrator names may be a link; nothing below it is followed.
    let given = directory::open(from)?;
    let metadata = given.metadata().map_err(StagingError::io("read", from))?;
    let mut tree = Tree::new(to, group, limits)?;
    let kind = if metadata.is_dir() {
        let source = Source::open(from)?;
        source.expect_room(to, limits)?;
        source.copy(&mut tree)?;
        Kind::Directory
    } else if metadata.is_file() {
        let file = given;
        sources::stage(file, from.file_name().map(Path::new), &mut tree)?
    } else {
        let why = Why::Special("neither file nor directory");
        return Err(StagingError::entry(from, why));
    };
    let staged = tree.finish(kind);
    reached(Step::FilesStaged);
    staged
}

/// The same from a stream: an archive, a jar or a program.
///
/// # Errors
/// As [`stage_path`].
pub fn stage_stream(
    from: impl Read,
    to: &Path,
    group: Option<Gid>,
    limits: Limits,
) -> Result<Staged, StagingError> {
    let mut tree = Tree::new(to, group, limits)?;
    let kind = sources::stage(from, None, &mut tree)?;
    let staged = tree.finish(kind);
    reached(Step::FilesStaged);
    staged
}

#[cfg(test)]
mod tests;
