//! Whether the user of the service may do what a start needs: enter the directory of the app, and execute
//! its program, with the interpreter that a script asks for.
//!
//! The kernel is asked, by a thread with the rights of that user: so groups, access lists and mounts count.
//! What the unit hides from its service (`InaccessiblePaths=`) is not seen.
//!
//! The thread gives up root's rights for that user's. Only threads have rights on Linux, so the command
//! goes on as root.

mod login;

pub(super) use login::Login;

use crate::config::{Config, Problem};
use crate::exec;
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As many as the kernel follows, path_resolution(7).
const LINKS_MAX: u8 = 40;

/// Of a service that nobody gave another one, systemd.exec(5).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be done with a path.
struct Need {
    /// `cannot execute the program`
    what: &'static str,
    path: PathBuf,
    wanted: Access,
}

/// What the user may not do, each with what refuses it. None when nobody can say.
pub(super) fn problems(config: &Config, login: &Login) -> Vec<Problem> {
    let needs = needs(config);
    let refused = login.with_its_rights(|| {
        let refused = |need: &Need| refused_at(&need.path, need.wanted, LINKS_MAX);
        needs.iter().map(refused).collect::<Vec<_>>()
    });
    let refused = refused.unwrap_or_default();
    let mut problems: Vec<_> = needs
        .iter()
        .zip(refused)
        .filter_map(|(need, at)| Some(problem(need, &at?, login)))
        .collect();
    // What is above both refuses both.
    problems.dedup_by(|one, other| one.remedy == other.remedy);
    problems.extend(missing_interpreter(config));
    problems
}

fn needs(config: &Config) -> Vec<Need> {
    let need = |what, path: &Path, wanted| Need {
        what,
        // Without `./`, as a person writes it.
        path: path.components().collect(),
        wanted,
    };
    let directory = &config.app.directory;
    let mut needs = Vec::new();
    // Without a release there is none.
    if !directory.as_os_str().is_empty() {
        needs.push(need("enter the directory", directory, Access::EXEC_OK));
    }
    let Some(program) = program(config) else {
        return needs;
    };
    needs.push(need("execute", &program, Access::EXEC_OK));
    if let Some(interpreter) = exec::interpreter_of(&program) {
        needs.push(need("read the script", &program, Access::READ_OK));
        needs.push(need(
            "execute the interpreter",
            &app_path(config, &interpreter),
            Access::EXEC_OK,
        ));
    }
    needs
}

/// What to say if the program is nowhere to be seen. Only the service knows its own PATH.
pub(super) fn unfound(config: &Config) -> Option<String> {
    let name = config.app.command.first()?;
    let path = path_of(config);
    program(config)
        .is_none()
        .then(|| format!("{name} is in none of {path}; correct it, or write its whole path"))
}

fn path_of(config: &Config) -> &str {
    config.app.env.get("PATH").map_or(PATH, String::as_str)
}

/// Where it is; none: only the service knows, by its PATH.
fn program(config: &Config) -> Option<PathBuf> {
    let app = &config.app;
    let name = app.command.first()?;
    if name.contains('/') {
        return Some(app.directory.join(name));
    }
    let found = path_of(config)
        .split(':')
        .map(|directory| Path::new(directory).join(name));
    found.into_iter().find(|path| path.is_file())
}

fn missing_interpreter(config: &Config) -> Option<Problem> {
    let program = program(config)?;
    let interpreter = exec::interpreter_of(&program)?;
    let is_missing = !app_path(config, &interpreter).exists();
    is_missing.then(|| Problem {
        message: format!(
            "the first line of {} asks for {}, which is not there",
            program.display(),
            interpreter.escape_default()
        ),
        hint: None,
        remedy: "install it, or correct that line; it may not end with a carriage return"
            .to_owned(),
        place: None,
    })
}

/// A relative one is looked for from the directory of the app.
fn app_path(config: &Config, path: &str) -> PathBuf {
    config.app.directory.join(path)
}

/// The first part of a path that refuses; through a link, what is behind it. What is not there refuses
/// nobody.
fn refused_at(path: &Path, wanted: Access, links_left: u8) -> Option<PathBuf> {
    let parts: Vec<_> = path.ancestors().collect();
    let part = parts.into_iter().rev().find(|part| {
        let wanted = if *part == path {
            wanted
        } else {
            Access::EXEC_OK
        };
        access(*part, wanted) == Err(Errno::ACCESS)
    })?;
    let wanted = if part == path {
        wanted
    } else {
        Access::EXEC_OK
    };
    let behind = std::fs::read_link(part).ok().filter(|_| links_left > 0);
    let behind = behind.and_then(|target| {
        let target = part.parent().unwrap_or(part).join(target);
        refused_at(&target, wanted, links_left.saturating_sub(1))
    });
    Some(behind.unwrap_or_else(|| part.to_owned()))
}

fn problem(need: &Need, at: &Path, login: &Login) -> Problem {
    let Need { what, path, wanted } = need;
    let (at_text, name) = (at.display(), login.name());
    let is_end = std::fs::canonicalize(path).is_ok_and(|end| end == at) || at == path;
    let (why, remedy) = if is_noexec(at) && is_end {
        (
            format!("{at_text} is on a file system that is mounted noexec"),
            "mount it without noexec, or put the program elsewhere".to_owned(),
        )
    } else {
        let right = if wanted.contains(Access::READ_OK) && is_end {
            "o+r"
        } else {
            "o+x"
        };
        (
            format!("{at_text} refuses it{}", rights(at)),
            format!(
                "let it in: sudo chmod {right} {at_text}; or put the app below /srv or /opt, or use gapless \
                 deploy, which copies it"
            ),
        )
    };
    Problem {
        message: format!("the user {name} cannot {what} {}: {why}", path.display()),
        hint: None,
        remedy,
        place: None,
    }
}

/// A program with the right that the mount takes away.
fn is_noexec(path: &Path) -> bool {
    let may_run = std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.mode() & 0o111 != 0);
    may_run && statvfs(path).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// ` (mode 700, owner 1000:1000)`
fn rights(path: &Path) -> String {
    std::fs::metadata(path).map_or_else(
        |_| String::new(),
        |it| {
            format!(
                " (mode {:o}, owner {}:{})",
                it.mode() & 0o7777,
                it.uid(),
                it.gid()
            )
        },
    )
}
