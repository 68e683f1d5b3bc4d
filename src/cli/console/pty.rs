//! A terminal of the console's own, and ours beside it.
//!
//! What runs there can do what it likes to its terminal, type into it for example (TIOCSTI, ioctl_tty(2)): only
//! the console reads that. Ours passes bytes on and is open to nobody else.

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmod, chownat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcgetwinsize, tcsetattr, tcsetwinsize,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, stdin, stdout};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where Linux shows the other sides.
const DIRECTORY: &str = "/dev/pts";

/// Our side of it.
pub(super) struct Pty {
    master: OwnedFd,
    /// `7` of `/dev/pts/7`.
    pub number: u32,
    /// Ends what is read there.
    end_of_file: u8,
}

impl Pty {
    /// For a process of this user; none: of ours.
    pub fn open(user: Option<u32>) -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let path = PathBuf::from(OsStr::from_bytes(name.as_bytes()));
        let number = number(&path).ok_or(io::ErrorKind::Unsupported)?;
        // By its name, which is root's: once it was open and nobody has it any more, it hangs up.
        if let Some(user) = user {
            let (user, same) = (Uid::from_raw(user), None::<Gid>);
            chownat(CWD, &path, Some(user), same, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        chmod(&path, Mode::RUSR | Mode::WUSR)?;
        let modes = modes(tcgetattr(&master)?)?;
        tcsetattr(&master, OptionalActions::Now, &modes)?;
        let pty = Self {
            master,
            number,
            end_of_file: modes.special_codes[SpecialCodeIndex::VEOF],
        };
        pty.follow_size();
        Ok(pty)
    }

    /// As large as ours, if we have one.
    pub fn follow_size(&self) {
        let size = tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout()));
        if let Ok(size) = size {
            // A console with another size is still one.
            tcsetwinsize(&self.master, size).ok();
        }
    }

    /// To read and write what passes.
    pub fn side(&self) -> io::Result<File> {
        Ok(fcntl_dupfd_cloexec(&self.master, 0)?.into())
    }

    /// What to type when there is no more: it ends a line first that was begun.
    pub fn last_words(&self, is_line_begun: bool) -> Vec<u8> {
        vec![self.end_of_file; 1 + usize::from(is_line_begun)]
    }
}

fn number(path: &Path) -> Option<u32> {
    path.strip_prefix(DIRECTORY).ok()?.to_str()?.parse().ok()
}

/// Those of our own terminal. From a pipe nothing is typed, so nothing is shown as it is typed; to a pipe lines end
/// as they do in files.
fn modes(plain: Termios) -> io::Result<Termios> {
    let mut modes = if isatty(stdin()) {
        tcgetattr(stdin())?
    } else {
        plain
    };
    if !isatty(stdin()) {
        modes.local_modes -= LocalModes::ECHO;
    }
    if !isatty(stdout()) {
        modes.output_modes -= OutputModes::OPOST;
    }
    Ok(modes)
}

/// Our own terminal, while it passes on every key as it is. As before when this is dropped.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    /// Nothing, where there is no terminal.
    pub fn enter() -> io::Result<Self> {
        if !isatty(stdin()) {
            return Ok(Self(None));
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It is gone: there is nothing to restore.
            tcsetattr(stdin(), OptionalActions::Now, before).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn its_other_side_is_for_its_owner_alone() {
        let pty = Pty::open(None).unwrap();
        let path = PathBuf::from(format!("{DIRECTORY}/{}", pty.number));
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(pty.last_words(false), [4]);
        assert_eq!(pty.last_words(true), [4, 4]);
    }

    #[test]
    fn only_a_terminal_of_linux_has_a_number() {
        assert_eq!(number(Path::new("/dev/pts/12")), Some(12));
        for path in ["/dev/tty1", "/dev/pts/", "/dev/pts/x", "/dev/pts/1/2"] {
            assert_eq!(number(Path::new(path)), None, "{path}");
        }
    }
}
