//! The same for a path whose directory must be root's: opened by [`Directory::of_root`], then by the last name alone.

use super::Directory;
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// More is no file that root reads whole.
const READ_BYTES_MAX: u64 = 64 << 20;

fn split(path: &Path) -> io::Result<(Directory, &OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Ok((Directory::of_root(parent)?, name))
}

/// The directory itself.
///
/// # Errors
/// As [`Directory::of_root`].
pub fn open_directory(path: &Path) -> io::Result<Directory> {
    let (parent, name) = split(path)?;
    parent.enter(Path::new(name))
}

/// What lies in a directory.
///
/// # Errors
/// As [`open_directory`] and [`Directory::entries`].
pub fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = open_directory(path)?.entries()?.into_iter();
    Ok(entries.map(|entry| path.join(entry.name)).collect())
}

/// A whole file.
///
/// # Errors
/// As [`Directory::open_file`]; `FileTooLarge` beyond 64 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (parent, name) = split(path)?;
    let mut bytes = Vec::new();
    let file = parent.open_file(Path::new(name))?;
    file.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > READ_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Where a link leads.
///
/// # Errors
/// As [`Directory::read_link`].
pub fn read_link(path: &Path) -> io::Result<PathBuf> {
    let (parent, name) = split(path)?;
    parent.read_link(name)
}

/// A directory, and no link to one.
pub fn is_directory(path: &Path) -> bool {
    kind(path) == Some(FileType::Directory)
}

/// Anything, also a link that leads nowhere.
pub fn is_there(path: &Path) -> bool {
    kind(path).is_some()
}

fn kind(path: &Path) -> Option<FileType> {
    let (parent, name) = split(path).ok()?;
    Some(FileType::from_raw_mode(parent.stat(name).ok()?.st_mode))
}

/// Makes a directory that is not there.
///
/// # Errors
/// As mkdir(2).
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    let (parent, name) = split(path)?;
    parent.make(name, Mode::from_raw_mode(mode))
}

/// Makes a directory and those above it that are not there.
///
/// # Errors
/// As mkdir(2).
pub fn make_directories(path: &Path, mode: u32) -> io::Result<()> {
    let above: Vec<&Path> = path.ancestors().collect();
    let is_missing = |path: &&&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<_> = above.iter().take_while(is_missing).collect();
    for path in missing.into_iter().rev() {
        match make_directory(path, mode) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    open_directory(path).map(drop)
}

/// A file that was not there, for writing.
///
/// # Errors
/// As open(2) with O_EXCL.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let (parent, name) = split(path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mode = Mode::from_raw_mode(mode);
    Ok(parent.open(Path::new(name), flags, mode)?.into())
}

/// A file for flock(2), made where it is missing.
///
/// # Errors
/// As open(2).
pub fn open_to_lock(path: &Path, mode: u32) -> io::Result<File> {
    let (parent, name) = split(path)?;
    let flags = OFlags::CREATE | OFlags::RDWR;
    let mode = Mode::from_raw_mode(mode);
    Ok(parent.open(Path::new(name), flags, mode)?.into())
}

/// A whole file, on disk when this returns; what was there is replaced.
///
/// # Errors
/// As open(2), write(2) and fsync(2).
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    unlink_if_there(path)?;
    let mut file = create_new(path, mode)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// # Errors
/// As rename(2).
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let ((from, name), (to, as_name)) = (split(from)?, split(to)?);
    from.rename(name, &to, as_name)
}

/// # Errors
/// As symlink(2).
pub fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    parent.symlink(target, name)
}

/// With all that is below it, however deep.
///
/// # Errors
/// As [`Directory::remove`].
pub fn remove(path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    parent.remove(name)
}

/// True: it was there.
///
/// # Errors
/// As [`Directory::remove`].
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file or a link, never a directory. True: it was there.
///
/// # Errors
/// As unlink(2).
pub fn unlink_if_there(path: &Path) -> io::Result<bool> {
    let (parent, name) = match split(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    match parent.unlink(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An empty directory.
///
/// # Errors
/// As rmdir(2).
pub fn remove_empty(path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    parent.unlink_empty(name)
}

/// A rename is on disk when its directory is.
///
/// # Errors
/// As fsync(2).
pub fn sync(directory: &Path) -> io::Result<()> {
    open_directory(directory)?.sync()
}
