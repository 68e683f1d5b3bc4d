//! `gapless run --watch`: which files changed, for those who develop.
//!
//! inotify(7) only wakes; what changed is found by comparing the files with how they were. So nothing
//! is missed when events are lost, when an editor writes a new file and renames it, or when a directory
//! is made and filled faster than it can be watched.

use super::happening::{Happening, Outbox};
use crate::causes::chain;
use ignore::{DirEntry, WalkBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Silence that ends a burst of changes: an editor, a compiler or git writes many files at once.
const QUIET: Duration = Duration::from_millis(100);
/// Who never stops writing is not waited for: so many times [`QUIET`] at most.
const BURST: u32 = 20;
/// What no .gitignore needs to name: other people's code, and what tools derive.
const NEVER: [&str; 3] = ["node_modules", "target", "__pycache__"];
/// What may change below a directory that is watched.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A path that was named is not there.
    #[error("--watch {}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Too many directories.
    #[error(
        "cannot watch {}: this user may watch no more directories; name fewer with --watch PATH, or raise \
         the sysctl fs.inotify.max_user_watches",
        path.display()
    )]
    Limit {
        /// The first one too many.
        path: PathBuf,
    },
    /// The system grants no inotify, or no thread.
    #[error(
        "cannot watch files (sysctl fs.inotify.max_user_instances limits how many programs do)"
    )]
    System(#[source] io::Error),
}

/// How a file was: another value, another content. Seconds and nanoseconds of its last change, bytes,
/// inode: a file that replaced it has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(i64, i64, u64, u64);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.size(),
            metadata.ino(),
        )
    }
}

type Files = BTreeMap<PathBuf, Stamp>;

/// The files that are watched, and how they were last.
#[derive(Debug)]
pub struct Changes {
    paths: Vec<PathBuf>,
    inotify: OwnedFd,
    /// By which inotify knows the directories.
    watched: HashSet<i32>,
    /// Where our own output goes, by device and inode: every reload would write there and be a change.
    output: Vec<(u64, u64)>,
    files: Files,
}

impl Changes {
    /// Files, and directories with all below them except hidden files, what .gitignore and .ignore
    /// leave out, `node_modules`, `target` and `__pycache__`. A symbolic link that is named, or found,
    /// stands for itself and not for what it points to.
    ///
    /// # Errors
    /// [`WatchError`]; a path must be there now, and may come and go later.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self, WatchError> {
        for path in &paths {
            path.symlink_metadata().map_err(|source| WatchError::Path {
                path: path.clone(),
                source,
            })?;
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| WatchError::System(errno.into()))?;
        let mut changes = Self {
            paths,
            inotify,
            watched: HashSet::new(),
            output: own_output(),
            files: Files::new(),
        };
        changes.files = changes.look()?;
        Ok(changes)
    }

    /// Tells of changes, each burst once, from a thread of its own: walking blocks.
    ///
    /// # Errors
    /// [`WatchError::System`] without a thread.
    pub fn tell(mut self, outbox: Outbox) -> Result<(), WatchError> {
        let thread = std::thread::Builder::new().name("watch".to_owned());
        let thread = thread.spawn(move || {
            let error = loop {
                match self.next() {
                    Ok(changed) => {
                        if !outbox.put_blocking(Happening::Changed(changed)) {
                            return;
                        }
                    }
                    Err(error) => break chain(&error),
                }
            };
            tracing::error!(
                error,
                "files are no longer watched, gapless reload still works: {error}"
            );
        });
        thread.map(drop).map_err(WatchError::System)
    }

    /// The files of the next burst, at least one.
    fn next(&mut self) -> Result<Vec<PathBuf>, WatchError> {
        loop {
            self.wait(None)?;
            for _ in 0..BURST {
                self.drain()?;
                if !self.wait(Some(QUIET))? {
                    break;
                }
            }
            let files = self.look()?;
            let changed = difference(&self.files, &files);
            self.files = files;
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// Whether something happened within the limit.
    fn wait(&self, limit: Option<Duration>) -> Result<bool, WatchError> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        loop {
            match poll(&mut fds, limit.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => (),
                Err(errno) => return Err(WatchError::System(errno.into())),
            }
        }
    }

    fn drain(&self) -> Result<(), WatchError> {
        let mut events = [0; 4096];
        loop {
            match rustix::io::read(&self.inotify, &mut events) {
                Ok(_) | Err(Errno::INTR) => (),
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(WatchError::System(errno.into())),
            }
        }
    }

    /// What is there now. Again when a directory is new, because it may have been filled before it
    /// was watched.
    fn look(&mut self) -> Result<Files, WatchError> {
        loop {
            let known = self.watched.len();
            let mut files = Files::new();
            for path in self.paths.clone() {
                self.look_at(&path, &mut files)?;
            }
            if self.watched.len() == known {
                return Ok(files);
            }
        }
    }

    fn look_at(&mut self, path: &Path, files: &mut Files) -> Result<(), WatchError> {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {
                let walk = WalkBuilder::new(path)
                    .require_git(false)
                    .filter_entry(|entry| !is_never(entry))
                    .build();
                // What is gone again or unreadable is no file of the app.
                for entry in walk.filter_map(Result::ok) {
                    let Ok(metadata) = entry.path().symlink_metadata() else {
                        continue;
                    };
                    if metadata.is_dir() {
                        self.watch(entry.path())?;
                    } else if !self.output.contains(&(metadata.dev(), metadata.ino())) {
                        files.insert(entry.into_path(), Stamp::of(&metadata));
                    }
                }
            }
            found => {
                // Its directory, because whoever replaces a file does so there.
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                self.watch(parent.unwrap_or(Path::new(".")))?;
                if let Ok(metadata) = found {
                    files.insert(path.to_owned(), Stamp::of(&metadata));
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, directory: &Path) -> Result<(), WatchError> {
        match inotify::add_watch(&self.inotify, directory, EVENTS) {
            Ok(id) => drop(self.watched.insert(id)),
            Err(Errno::NOSPC) => {
                return Err(WatchError::Limit {
                    path: directory.to_owned(),
                });
            }
            // Gone again, or not for us to read: its files are not seen either.
            Err(_) => (),
        }
        Ok(())
    }
}

fn own_output() -> Vec<(u64, u64)> {
    let of = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let streams = [rustix::stdio::stdout(), rustix::stdio::stderr()];
    let stats = streams.map(|stream| rustix::fs::fstat(stream).map(of));
    stats.into_iter().filter_map(Result::ok).collect()
}

fn is_never(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    entry.depth() > 0 && NEVER.iter().any(|never| name == *never)
}

/// Who came, went, or is another.
fn difference(before: &Files, now: &Files) -> Vec<PathBuf> {
    let gone = before.keys().filter(|path| !now.contains_key(*path));
    let new = now
        .iter()
        .filter(|(path, stamp)| before.get(*path) != Some(stamp));
    gone.chain(new.map(|(path, _)| path)).cloned().collect()
}

/// In a few words: `server.ts`, `server.ts and 3 more`.
pub fn summary(changed: &[PathBuf]) -> String {
    let first = changed
        .first()
        .map_or(Path::new("nothing"), PathBuf::as_path);
    let first = first.strip_prefix(".").unwrap_or(first).display();
    match changed.len() {
        0 | 1 => first.to_string(),
        many => format!("{first} and {} more", many - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory with these files, watched.
    fn watched(files: &[&str], paths: &[&str]) -> (tempfile::TempDir, Changes) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            write(&directory, file, "1");
        }
        let paths = paths.iter().map(|path| directory.path().join(path));
        let changes = Changes::new(paths.collect()).unwrap();
        (directory, changes)
    }

    fn write(directory: &tempfile::TempDir, name: &str, text: &str) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn next(directory: &tempfile::TempDir, changes: &mut Changes) -> Vec<String> {
        let burst = changes.next().unwrap().into_iter();
        let names = burst.map(|path| path.strip_prefix(directory).unwrap().display().to_string());
        names.collect()
    }

    #[test]
    fn a_burst_is_told_once_with_all_that_changed_came_and_went() {
        let (directory, mut changes) = watched(&["a", "sub/b", "c"], &[""]);
        write(&directory, "a", "22");
        fs::remove_file(directory.path().join("c")).unwrap();
        write(&directory, "new/deep/d", "1");
        assert_eq!(next(&directory, &mut changes), ["c", "a", "new/deep/d"]);
        write(&directory, "new/deep/d", "22");
        assert_eq!(next(&directory, &mut changes), ["new/deep/d"]);
        write(&directory, "sub/b.new", "22");
        fs::rename(
            directory.path().join("sub/b.new"),
            directory.path().join("sub/b"),
        )
        .unwrap();
        assert_eq!(next(&directory, &mut changes), ["sub/b"]);
    }

    #[test]
    fn what_is_not_the_apps_source_changes_nothing() {
        let (directory, mut changes) = watched(&["a", ".gitignore"], &[""]);
        write(&directory, ".gitignore", "*.log\n/build\n");
        for other in [
            "app.log",
            "build/x",
            ".git/index",
            ".a.swp",
            "node_modules/m/i.js",
            "sub/target/o",
            "__pycache__/a.pyc",
        ] {
            write(&directory, other, "1");
        }
        write(&directory, "a", "22");
        assert_eq!(next(&directory, &mut changes), ["a"]);
    }

    #[test]
    fn a_pointer_counts_alone_and_by_itself() {
        let files = ["version", "link", "one/a", "two/a"];
        let (directory, mut changes) = watched(&files, &["version", "link"]);
        let point = |to: &str| {
            let link = directory.path().join("link");
            fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink(to, &link).unwrap();
        };
        write(&directory, "two/a", "22");
        write(&directory, "other", "1");
        point("one");
        assert_eq!(next(&directory, &mut changes), ["link"]);
        write(&directory, "one/a", "22");
        point("two");
        write(&directory, "version", "two");
        assert_eq!(next(&directory, &mut changes), ["link", "version"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let error = Changes::new(vec!["/nonexistent/x".into()]).unwrap_err();
        assert_eq!(error.to_string(), "--watch /nonexistent/x");
    }

    #[test]
    fn many_are_told_by_one_and_their_number() {
        assert_eq!(summary(&["./a/b.ts".into()]), "a/b.ts");
        assert_eq!(
            summary(&["a".into(), "b".into(), "c".into()]),
            "a and 2 more"
        );
    }
}
