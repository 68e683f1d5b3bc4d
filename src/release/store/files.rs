//! What the store does to files, with its errors: by [`beneath`], as all of it is root's.

use super::{StoreError, io_error};
use crate::beneath;
use std::io;
use std::path::{Path, PathBuf};

/// None when there is no such directory.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match beneath::entries(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(io_error("list", directory)),
    }
}

/// Follows no link.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    beneath::remove(path).map_err(io_error("remove", path))
}

/// A rename is on disk when its directory is.
pub(super) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    beneath::sync(directory).map_err(io_error("write to disk", directory))
}
