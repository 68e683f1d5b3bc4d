//! Passes bytes on, between our standard streams and the terminal of a console.
//!
//! One thread for each direction, because reading from standard input and writing to standard output block. Both
//! end with the process: whoever reads has nothing else to do then.

use super::pty::Pty;
use std::fs::File;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// In one piece.
const PIECE: usize = 4096;

/// How the console's output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dry {
    /// Nobody has the terminal any more.
    Ended,
    /// Nobody reads ours.
    Unread,
}

/// Begins. What comes back is heard when the console has no more to say.
pub(super) fn begin(pty: &Pty) -> io::Result<mpsc::Receiver<Dry>> {
    let (keys, screen) = (pty.side()?, pty.side()?);
    let (tell, told) = mpsc::channel(1);
    let last_words = [pty.last_words(false), pty.last_words(true)];
    std::thread::Builder::new()
        .name("keys".into())
        .spawn(move || type_in(keys, &last_words))?;
    std::thread::Builder::new()
        .name("screen".into())
        .spawn(move || tell.blocking_send(show(screen)).unwrap_or_default())?;
    Ok(told)
}

/// An error means that nobody is there to type for.
fn type_in(mut keys: File, [at_line_start, within_line]: &[Vec<u8>; 2]) {
    let mut piece = [0; PIECE];
    let mut is_line_begun = false;
    loop {
        let typed = match read(&mut io::stdin(), &mut piece) {
            Ok(typed) if !typed.is_empty() => typed,
            Ok(_) | Err(_) => break,
        };
        is_line_begun = typed.last() != Some(&b'\n');
        if keys.write_all(typed).is_err() {
            return;
        }
    }
    let words = if is_line_begun {
        within_line
    } else {
        at_line_start
    };
    drop(keys.write_all(words));
}

fn show(mut screen: File) -> Dry {
    let mut piece = [0; PIECE];
    // EIO is how a terminal says that nobody has it any more.
    while let Ok(shown) = read(&mut screen, &mut piece)
        && !shown.is_empty()
    {
        let mut stdout = io::stdout().lock();
        if stdout
            .write_all(shown)
            .and_then(|()| stdout.flush())
            .is_err()
        {
            return Dry::Unread;
        }
    }
    Dry::Ended
}

/// Empty at the end.
fn read<'a>(from: &mut impl Read, piece: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match from.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(length) => return Ok(piece.get(..length).unwrap_or_default()),
            Err(error) => return Err(error),
        }
    }
}
