//! Links to what the app keeps, in place of what the release has there.
//!
//! `shared` directories belong to the app, so the keeper makes them, with the app's rights: root walking
//! through directories of another user is how links become traps.

use super::tree::shown;
use crate::beneath::{self, Directory};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What keeps an empty directory in a repository.
const KEEPERS: [&str; 3] = [".keep", ".gitkeep", ".gitignore"];

/// The release has something else there.
#[derive(Debug, Error)]
pub enum SharedError {
    /// Files, which the app would not see.
    #[error(
        "{path} is shared between releases, but there are files in that of this release; take it out of the \
         release, or out of shared in [app]"
    )]
    NotEmpty {
        /// In the release.
        path: String,
    },
    /// It would be made where the link leads.
    #[error(
        "{path} is shared between releases, but {link} is a link or a file in this release; name a path below \
         directories of the release in shared in [app]"
    )]
    BelowLink {
        /// In the release.
        path: String,
        /// The first part of it that is no directory.
        link: String,
    },
    /// What the system said.
    #[error("cannot link {path}")]
    Io {
        /// In the release.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Of each `shared` path of the release in `staging`, to the same path below `kept`. Follows no link of the release:
/// that may lead to the system's programs, and this is root.
///
/// # Errors
/// [`SharedError`] of the first that cannot be.
pub fn share(staging: &Path, shared: &[PathBuf], kept: &Path) -> Result<(), SharedError> {
    for path in shared {
        let failed = |source| SharedError::Io {
            path: shown(path),
            source,
        };
        let top = beneath::open_directory(staging).map_err(failed)?;
        let parent = make_parent(&top, path)?;
        let name = path.file_name().unwrap_or_default();
        make_way(&parent, name, path)?;
        parent.symlink(&kept.join(path), name).map_err(failed)?;
    }
    Ok(())
}

fn make_parent(top: &Directory, path: &Path) -> Result<Directory, SharedError> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let mode = Mode::from_raw_mode(0o755);
    top.make_way(parent, mode).map_err(|source| {
        let is_no_directory = [Errno::LOOP, Errno::NOTDIR]
            .iter()
            .any(|it| source.raw_os_error() == Some(it.raw_os_error()));
        let mut above: Vec<&Path> = parent.ancestors().collect();
        above.reverse();
        let link = above.into_iter().find(|it| top.enter(it).is_err());
        match link {
            Some(link) if is_no_directory => SharedError::BelowLink {
                path: shown(path),
                link: shown(link),
            },
            Some(_) | None => SharedError::Io {
                path: shown(path),
                source,
            },
        }
    })
}

/// Removes a link, and a directory with nothing in it but what keeps it in a repository.
fn make_way(parent: &Directory, name: &OsStr, path: &Path) -> Result<(), SharedError> {
    let failed = |source| SharedError::Io {
        path: shown(path),
        source,
    };
    let not_empty = || SharedError::NotEmpty { path: shown(path) };
    let stat = match parent.stat(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed)?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return parent.unlink(name).map_err(failed);
    }
    if kind != FileType::Directory {
        return Err(not_empty());
    }
    let directory = parent.enter(Path::new(name)).map_err(failed)?;
    for entry in directory.entries().map_err(failed)? {
        if !KEEPERS.iter().any(|keeper| entry.name == *keeper) {
            return Err(not_empty());
        }
    }
    parent.remove(name).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::store::tests::Scratch;
    use std::os::unix::fs::symlink;

    fn shared(release: &Path, path: &str) -> Result<(), SharedError> {
        share(
            release,
            &[PathBuf::from(path)],
            Path::new("/var/lib/x/shared"),
        )
    }

    #[test]
    fn a_shared_path_is_linked_below_directories_of_the_release_alone() {
        let scratch = Scratch::new();
        let (release, system) = (scratch.0.join("release"), scratch.0.join("usr"));
        for directory in [
            &release,
            &system,
            &release.join("empty"),
            &release.join("full"),
        ] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(system.join("sh"), "the shell").unwrap();
        std::fs::write(release.join("empty/.keep"), "").unwrap();
        std::fs::write(release.join("full/mine"), "").unwrap();
        std::fs::write(release.join("file"), "").unwrap();
        symlink(&system, release.join("lib")).unwrap();
        symlink("lib", release.join("again")).unwrap();
        symlink(system.join("sh"), release.join("sh")).unwrap();
        for below in ["lib/sh", "lib/new", "lib/a/b", "again/sh", "file/x"] {
            let refused = shared(&release, below).unwrap_err();
            let is_told = matches!(refused, SharedError::BelowLink { .. });
            assert!(is_told, "{below}: {refused}");
        }
        for taken in ["full", "file"] {
            let refused = shared(&release, taken).unwrap_err();
            assert!(
                matches!(refused, SharedError::NotEmpty { .. }),
                "{taken}: {refused}"
            );
        }
        for good in ["empty", "sh", "new", "deep/er/new"] {
            shared(&release, good).unwrap();
            let target = std::fs::read_link(release.join(good)).unwrap();
            assert_eq!(target, Path::new("/var/lib/x/shared").join(good));
        }
        let left: Vec<_> = std::fs::read_dir(&system).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read(system.join("sh")).unwrap(), b"the shell");
    }
}
