//! What a person at a terminal sees.

use crate::world::process;
use crate::world::service::SOON;
use crate::world::site::Site;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

/// All that a deploy writes to a terminal so wide, with these variables.
fn seen(site: &Site, app: &str, columns: u16, variables: &[(&str, &str)]) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new())
        .unwrap()
        .into_string()
        .unwrap();
    let extent = Winsize {
        ws_row: 25,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, extent).unwrap();
    let screen = File::options()
        .read(true)
        .write(true)
        .open(PathBuf::from(name))
        .unwrap();
    let mut command = site.service.command(&["deploy", app]);
    command.envs(variables.iter().copied());
    command.stdin(screen.try_clone().unwrap());
    command.stdout(screen.try_clone().unwrap()).stderr(screen);
    let mut child = command.spawn().unwrap();
    // Else its ends of the terminal stay open here.
    drop(command);
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        // Its end is an error: nobody has the other side any more.
        drop(File::from(terminal).read_to_end(&mut text));
        String::from_utf8(text).unwrap()
    });
    assert!(process::wait(&mut child, SOON).unwrap().success());
    reading.join().unwrap()
}

/// What stands there at the end: every line as it was last written over.
fn left(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.replace("\r\n", "\n").split('\n') {
        let mut standing = String::new();
        for part in line.split('\r').filter(|part| !part.is_empty()) {
            standing = part.replace("\x1b[K", "");
        }
        lines.push(standing);
    }
    lines
}

#[test]
fn a_terminal_shows_what_is_waited_for_and_keeps_what_was_done() {
    let site = Site::bare();
    let app = site.app("v1", "");
    let file = app.join("gapless.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "PROBE_BOOT_MS = \"700\"\n").unwrap();
    let app = app.to_str().unwrap();

    let text = seen(&site, app, 80, &[("TERM", "xterm")]);
    let waiting: Vec<_> = text
        .split(['\r', '\n'])
        .filter_map(|part| part.split_once("\x1b[K"))
        .map(|(line, _)| line)
        .filter(|line| line.starts_with("  waiting until it is healthy ..."))
        .collect();
    assert!(waiting.len() > 2, "it goes on: {text:?}");
    assert!(
        waiting
            .iter()
            .all(|line| line.len() < 80 && line.ends_with(" s")),
        "{waiting:?}"
    );
    assert!(
        text.contains("\x1b[1m\x1b[32m") || text.contains("\x1b[32m"),
        "{text:?}"
    );
    let left = left(&text);
    let steps: Vec<_> = left
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        steps[..4],
        ["staged", "started", "healthy", "swapped"],
        "{left:#?}"
    );
    assert!(!left.iter().any(|line| line.contains("...")), "{left:#?}");
    assert!(
        left.iter()
            .all(|line| line.starts_with("  ") && line.len() <= 80
                || line.contains("is live")
                || line.is_empty()),
        "{left:#?}"
    );

    let text = seen(&site, app, 80, &[("TERM", "xterm"), ("NO_COLOR", "1")]);
    assert!(text.contains("waiting until it is healthy ..."), "{text:?}");
    assert!(
        !text.replace("\x1b[K", "").contains('\x1b'),
        "no colour: {text:?}"
    );

    let text = seen(&site, app, 80, &[("TERM", "dumb")]);
    assert!(!text.contains('\x1b') && !text.contains("..."), "{text:?}");

    let piped = site.cli(&["deploy", app]).expect_success();
    assert!(
        !piped.contains(['\x1b', '\r']) && !piped.contains("..."),
        "{piped:?}"
    );
    assert!(piped.starts_with("  staged    "), "{piped}");
}
