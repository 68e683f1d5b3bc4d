//! An archive of a directory, as `tar czf app.tar.gz myapp/` makes it: the release is what is in it.

use super::{StagingError, links};
use crate::beneath::Directory;
use rustix::fs::FileType;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Puts what is in the only directory of a staged release into its place. False: there is more at the
/// top, or no directory.
///
/// # Errors
/// [`StagingError`]: a link that led through the directory now leaves the release, or as the system says.
pub fn lift(staging: &Path) -> Result<bool, StagingError> {
    let failed = |what| StagingError::io(what, staging);
    let top = Directory::chosen(staging).map_err(failed("open"))?;
    let entries = top.entries().map_err(failed("list"))?;
    let [only] = entries.as_slice() else {
        return Ok(false);
    };
    if only.kind != FileType::Directory {
        return Ok(false);
    }
    let inner = top.enter(Path::new(&only.name)).map_err(failed("open"))?;
    let inside = inner.entries().map_err(failed("list"))?;
    let is_free = |name: &OsStr| inside.iter().all(|entry| entry.name != name);
    // It may have an entry of its own name.
    let aside = (0..=inside.len())
        .map(|number| OsString::from(format!(".gapless-top-{number}")))
        .find(|name| is_free(name))
        .unwrap_or_default();
    let moved = top.rename(&only.name, &top, &aside).and_then(|()| {
        let mut names = inside.iter().map(|entry| &entry.name);
        names.try_for_each(|name| inner.rename(name, &top, name))?;
        top.unlink_empty(&aside)
    });
    moved.map_err(failed("move what is in"))?;
    links::stay_inside(&top, staging)?;
    Ok(true)
}
