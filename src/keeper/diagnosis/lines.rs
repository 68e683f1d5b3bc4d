//! What the last lines of an app say of its end: the words of loaders, shells and runtimes.

use super::Fault;
use crate::keeper::reaper::Ending;

/// Longer is no name, but somebody's data.
const NAME_CHARS_MAX: usize = 120;

/// The newest line that says something counts.
pub(super) fn read(lines: &[String], ending: Ending) -> Option<Fault> {
    let is_not_found = matches!(ending, Ending::Exited(126 | 127));
    let found = lines.iter().rev().find_map(|line| {
        let shells = is_not_found.then(|| shell(line)).flatten();
        system(line)
            .or(shells)
            .or_else(|| runtime(line))
            .or_else(|| kernel(line))
    });
    // Python says what it tried some lines before what came of it.
    let is_about_a_port = || lines.iter().any(|line| line.contains(".bind("));
    match found {
        Some(Fault::Denied(None)) if is_about_a_port() => Some(Fault::PortDenied),
        found => found,
    }
}

/// Of one that runs, and says why it does not listen.
pub(super) fn read_of_living(lines: &[String]) -> Option<Fault> {
    lines.iter().rev().find_map(|line| kernel(line))
}

/// Of whoever tried to start the program: our loader, env(1), a shell.
fn shell(line: &str) -> Option<Fault> {
    if let Some(rest) = line.strip_prefix("gapless: cannot start ") {
        return loader(rest);
    }
    if let Some((_, rest)) = line.split_once("env: ") {
        let name = rest.split_once(": No such file").map(|(name, _)| name)?;
        return Some(Fault::NoInterpreter(named(name)?));
    }
    // `sh: 1: exec: bun: not found`, `bash: line 1: bun: command not found`
    let is_script = line.contains("bad interpreter");
    if is_script {
        let (before, _) = line.split_once(": bad interpreter")?;
        return Some(Fault::NoInterpreter(named(last_part(before))?));
    }
    let before = [
        ": command not found",
        ": not found",
        ": No such file or directory",
    ]
    .iter()
    .find_map(|end| line.trim_end().strip_suffix(end));
    Some(Fault::NoProgram(named(last_part(before?))?))
}

/// What `exec` says: `"bun": there is no such program in the PATH of the app; set …`.
fn loader(rest: &str) -> Option<Fault> {
    let (program, why) = rest.strip_prefix('"')?.split_once('"')?;
    if let Some((_, after)) = why.split_once("its first line asks for ") {
        let (interpreter, _) = after.split_once(", ")?;
        return Some(Fault::NoInterpreter(named(interpreter)?));
    }
    let program = named(program)?;
    if why.starts_with("; check that the file is executable") {
        return Some(Fault::NotExecutable(program));
    }
    Some(Fault::NoProgram(program))
}

/// Of the dynamic loader.
fn system(line: &str) -> Option<Fault> {
    if let Some((before, _)) = line.split_once(": cannot open shared object file") {
        return Some(Fault::NoLibrary(named(last_part(before))?));
    }
    // musl
    if let Some((_, after)) = line.split_once("Error loading shared library ") {
        return Some(Fault::NoLibrary(named(after.split(':').next()?)?));
    }
    let (_, after) = line.split_once("version `GLIBC")?;
    let (version, _) = after.split_once("' not found")?;
    Some(Fault::OldLibrary(named(&format!("GLIBC{version}"))?))
}

/// Of what programs are written in: what is not there, and what does not fit into the memory.
fn runtime(line: &str) -> Option<Fault> {
    const MEMORY: [&str; 9] = [
        "java.lang.OutOfMemoryError",
        "JavaScript heap out of memory",
        "MemoryError",
        "annot allocate memory",
        "memory allocation of ",
        "std::bad_alloc",
        "Heap exhausted",
        "runtime: out of memory",
        "failed to allocate memory",
    ];
    const MODULES: [&str; 7] = [
        "Cannot find module ",
        "Cannot find package ",
        "No module named ",
        "cannot load such file -- ",
        "ClassNotFoundException: ",
        "Could not find or load main class ",
        "Unable to access jarfile ",
    ];
    if MEMORY.iter().any(|words| line.contains(words)) {
        return Some(Fault::Memory);
    }
    if line.contains("UnsupportedClassVersionError") {
        return Some(Fault::OldJava);
    }
    let after = MODULES
        .iter()
        .find_map(|words| Some(line.split_once(words)?.1))?;
    Some(Fault::NoModule(named(after.split_whitespace().next()?)?))
}

/// Errors of the kernel, as runtimes pass them on.
fn kernel(line: &str) -> Option<Fault> {
    if line.contains("EADDRINUSE") || line.contains("ddress already in use") {
        return Some(Fault::PortInUse);
    }
    if line.contains("EROFS") || line.contains("ead-only file system") {
        return Some(Fault::ReadOnly(path(line)));
    }
    if !line.contains("EACCES") && !line.contains("ermission denied") {
        return None;
    }
    let is_about_a_port = ["listen", "bind"].iter().any(|word| line.contains(word));
    Some(if is_about_a_port {
        Fault::PortDenied
    } else {
        Fault::Denied(path(line))
    })
}

/// The first path in the line, however it is quoted.
fn path(line: &str) -> Option<String> {
    let mut words = line.split(|c: char| c.is_whitespace() || "'\"`‘’()=,".contains(c));
    words.find(|word| word.starts_with('/')).and_then(named)
}

fn last_part(text: &str) -> &str {
    text.rsplit(": ").next().unwrap_or(text)
}

/// Without quotes.
fn named(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || "'\"`‘’,:;".contains(c));
    let is_name = !text.is_empty() && text.chars().count() <= NAME_CHARS_MAX;
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(line: &str, status: i32) -> Option<Fault> {
        read(
            &["starting".into(), line.into(), "    at main".into()],
            Ending::Exited(status),
        )
    }

    #[test]
    fn what_is_not_installed_is_named() {
        let name = |name: &str| name.to_owned();
        for (line, fault) in [
            (
                "gapless: cannot start \"bun\": there is no such program in the PATH of the app; set `command` …",
                Fault::NoProgram(name("bun")),
            ),
            (
                "gapless: cannot start \"./app\": its first line asks for /usr/bin/nosuch, which is not there; set",
                Fault::NoInterpreter(name("/usr/bin/nosuch")),
            ),
            (
                "gapless: cannot start \"./app\"; check that the file is executable for the user: Permission denied",
                Fault::NotExecutable(name("./app")),
            ),
            (
                "/usr/bin/env: ‘nosuch’: No such file or directory",
                Fault::NoInterpreter(name("nosuch")),
            ),
            (
                "env: 'nosuch': No such file or directory",
                Fault::NoInterpreter(name("nosuch")),
            ),
            (
                "/bin/sh: 1: exec: bun: not found",
                Fault::NoProgram(name("bun")),
            ),
            (
                "bash: line 1: bun: command not found",
                Fault::NoProgram(name("bun")),
            ),
            (
                "sh: ./x: /usr/bin/nosuch: bad interpreter: No such file or directory",
                Fault::NoInterpreter(name("/usr/bin/nosuch")),
            ),
        ] {
            assert_eq!(read_one(line, 127), Some(fault), "{line}");
        }
        // An app may well say that of something else.
        assert_eq!(read_one("GET /x: not found", 1), None);
    }

    #[test]
    fn what_loaders_and_runtimes_lack_is_named() {
        let library = |name: &str| Fault::NoLibrary(name.to_owned());
        let module = |name: &str| Fault::NoModule(name.to_owned());
        for (line, fault) in [
            (
                "./app: error while loading shared libraries: libpq.so.5: cannot open shared object file: No such file or directory",
                library("libpq.so.5"),
            ),
            (
                "ImportError: libvips.so.42: cannot open shared object file: No such file",
                library("libvips.so.42"),
            ),
            (
                "Error loading shared library libz.so.1: No such file or directory (needed by ./app)",
                library("libz.so.1"),
            ),
            (
                "./app: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./app)",
                Fault::OldLibrary("GLIBC_2.38".into()),
            ),
            ("Error: Cannot find module './server'", module("./server")),
            (
                "ModuleNotFoundError: No module named 'flask'",
                module("flask"),
            ),
            (
                "<internal>: cannot load such file -- sinatra (LoadError)",
                module("sinatra"),
            ),
            (
                "java.lang.UnsupportedClassVersionError: Main has been compiled by",
                Fault::OldJava,
            ),
        ] {
            assert_eq!(read_one(line, 127), Some(fault), "{line}");
        }
    }

    #[test]
    fn runtimes_say_in_their_own_words_that_memory_is_out() {
        for line in [
            "Exception in thread \"main\" java.lang.OutOfMemoryError: Java heap space",
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            "MemoryError",
            "OSError: [Errno 12] Cannot allocate memory",
            "fork/exec /bin/x: cannot allocate memory",
            "memory allocation of 1073741824 bytes failed",
            "  what():  std::bad_alloc",
            "fatal error: runtime: out of memory",
        ] {
            assert_eq!(read_one(line, 1), Some(Fault::Memory), "{line}");
        }
    }

    #[test]
    fn what_the_kernel_refused_is_named_with_its_path() {
        let denied = |path: &str| Fault::Denied(Some(path.to_owned()));
        for (line, fault) in [
            (
                "Error: listen EADDRINUSE: address already in use :::3000",
                Fault::PortInUse,
            ),
            (
                "OSError: [Errno 98] Address already in use",
                Fault::PortInUse,
            ),
            (
                "Error: listen EACCES: permission denied 0.0.0.0:80",
                Fault::PortDenied,
            ),
            ("listen tcp :80: bind: permission denied", Fault::PortDenied),
            (
                "PermissionError: [Errno 13] Permission denied: '/root/key'",
                denied("/root/key"),
            ),
            (
                "Error: EACCES: permission denied, open '/etc/shadow'",
                denied("/etc/shadow"),
            ),
            (
                "panic: open /home/x/data: permission denied",
                denied("/home/x/data"),
            ),
            (
                "Os { code: 13, kind: PermissionDenied, message: \"Permission denied\" }",
                Fault::Denied(None),
            ),
            (
                "OSError: [Errno 30] Read-only file system: '/opt/app/log'",
                Fault::ReadOnly(Some("/opt/app/log".into())),
            ),
        ] {
            assert_eq!(read_one(line, 1), Some(fault), "{line}");
        }
    }

    #[test]
    fn the_newest_line_counts_and_nothing_is_made_of_what_is_not_known() {
        let lines = [
            "Permission denied: '/a'",
            "Address already in use",
            "giving up",
        ];
        let lines = lines.map(String::from);
        assert_eq!(read(&lines, Ending::Exited(1)), Some(Fault::PortInUse));
        assert_eq!(read_one("no database", 1), None);
        let python = [
            "    sock.bind(sa)",
            "PermissionError: [Errno 13] Permission denied",
        ];
        let python = python.map(String::from);
        assert_eq!(read(&python, Ending::Exited(1)), Some(Fault::PortDenied));
        let long = format!("Cannot find module '{}'", "x".repeat(500));
        assert_eq!(read_one(&long, 1), None);
    }
}
