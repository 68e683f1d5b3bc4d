//! Holds the code to the layers: a module imports from its own row or below, and `keeper` and
//! `front` never import each other. (The rows are explained in the head of `src/lib.rs`.)

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the top.
const ROWS: [&[&str]; 5] = [
    &["cli"],
    &["keeper", "front", "verify", "app"],
    &["link", "api", "release"],
    &["config", "systemd", "exec"],
    &[
        "beneath",
        "causes",
        "diagnosis",
        "explain",
        "id",
        "poll",
        "replay",
        "state",
        "steps",
        "usage",
    ],
];

/// `from` may use `to`.
fn is_allowed(from: &str, to: &str) -> bool {
    let apart = [from, to].contains(&"keeper") && [from, to].contains(&"front");
    !apart && row(from) <= row(to)
}

fn row(module: &str) -> usize {
    ROWS.iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("the module {module} has no row yet: give it one in ROWS"))
}

/// Modules of the crate that `code` names by `crate::`.
fn named(code: &str) -> BTreeSet<String> {
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut found = BTreeSet::new();
    for (at, mark) in code.match_indices("crate::") {
        // `pub(crate)` has no `::`; `$crate::` and `other_crate::` are not this.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + mark.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first words of the branches of a `use` group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut found, mut branch) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => found.extend(head(&std::mem::take(&mut branch))),
            _ if depth == 0 => branch.push(c),
            _ => {}
        }
    }
    found.extend(head(&branch));
    found
}

fn head(path: &str) -> Option<String> {
    let word: String = path
        .trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module below the crate that a file belongs to; none for `lib.rs` and `main.rs`.
fn module(file: &Path) -> Option<String> {
    let first = file.iter().next().unwrap().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then(|| name.to_owned())
}

#[test]
fn every_module_imports_from_its_own_row_or_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let short = file.strip_prefix(&root).unwrap();
        let Some(from) = module(short) else { continue };
        let used = named(&std::fs::read_to_string(&file).unwrap());
        let above = used.iter().filter(|to| !is_allowed(&from, to));
        wrong.extend(above.map(|to| format!("src/{}: {from} uses {to}", short.display())));
    }
    assert!(
        wrong.is_empty(),
        "against the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_check_sees_every_form_of_import() {
    let code = "use crate::{api::Status, link::{message, Cell}, id};\n\
                //! see crate::cli\nlet x = crate::poll::fds();\npub(crate) fn f() {}";
    let all: Vec<_> = named(code).into_iter().collect();
    assert_eq!(all, ["api", "id", "link", "poll"]);
    assert!(!is_allowed("keeper", "front") && !is_allowed("front", "keeper"));
    assert!(!is_allowed("link", "keeper") && is_allowed("keeper", "link"));
}

/// The blocks, as in `unsafe {`, of each file that has some.
fn unsafe_blocks() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut found = BTreeSet::new();
    for file in files {
        let code = std::fs::read_to_string(&file).unwrap();
        let code = code.lines().map(|line| line.split("//").next().unwrap());
        let count: usize = code.map(|line| line.matches("unsafe {").count()).sum();
        if count > 0 {
            let short = file.strip_prefix(root).unwrap().display();
            found.insert(format!("{count} in `{short}`"));
        }
    }
    found
}

#[test]
fn the_unsafe_blocks_are_those_that_security_md_lists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, list) = text
        .split_once("`unsafe` blocks ([ARCHITECTURE.md](ARCHITECTURE.md)): ")
        .unwrap();
    let (list, _) = list.split_once(". ").unwrap();
    let listed: BTreeSet<_> = list.split(", ").map(str::to_owned).collect();
    assert_eq!(listed, unsafe_blocks());
}

/// Where root's commands and what they stand on are. `config` is read by the app's user as well, with no other rights.
const OF_ROOT: [&str; 7] = [
    "src/release",
    "src/cli/add.rs",
    "src/cli/bake.rs",
    "src/cli/deploy.rs",
    "src/cli/footprint.rs",
    "src/cli/remove.rs",
    "src/cli/rollback.rs",
];

/// Calls that take a path and follow the links on it.
const BY_PATH: [&str; 14] = [
    "std::fs::",
    "fs::read",
    "fs::write",
    "fs::open(",
    "fs::metadata",
    "File::open",
    "File::create",
    "File::options",
    "OpenOptions",
    "DirBuilder",
    "read_dir(",
    ".metadata()",
    ".canonicalize()",
    "unix::fs::symlink",
];

/// What may stay, each with a reason: file, part of the line, how often.
const EXCEPTIONS: [(&str, &str, usize); 9] = [
    // Of a file that is open.
    ("src/release/staging.rs", "given.metadata()", 1),
    ("src/release/staging/directory.rs", "file.metadata()", 1),
    // What the administrator names on the command line, links included.
    (
        "src/release/staging/directory.rs",
        "rustix::fs::open(path",
        1,
    ),
    // Type names.
    (
        "src/release/staging/directory.rs",
        "use std::fs::{File, Metadata};",
        1,
    ),
    ("src/release/lock.rs", "use std::fs::File;", 1),
    ("src/release/staging/tree.rs", "use std::fs::File;", 1),
    // A link out of a release is found by where it really leads; then it is opened without one. The rest looks at
    // names and modes, and reads nothing.
    ("src/release/detection.rs", "", 5),
    // In no program: a fuzzer's and a test's.
    ("src/release/fuzzing.rs", "std::fs::", 2),
    // What systemd and every user read: names of units, users and groups.
    ("src/cli/footprint.rs", "std::fs::read", 4),
];

/// Lines of a file, without its tests.
fn code_of(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("\n#[cfg(test)]\n").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    code.lines().filter(is_code).map(str::to_owned).collect()
}

#[test]
fn root_reaches_files_by_open_directories_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for place in OF_ROOT {
        let path = root.join(place);
        if path.is_dir() {
            sources(&path, &mut files);
        }
        files.extend(
            [root.join(format!("{place}.rs")), path]
                .into_iter()
                .filter(|it| it.is_file()),
        );
    }
    let mut left: Vec<_> = EXCEPTIONS.to_vec();
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        let short = file.strip_prefix(root).unwrap().display().to_string();
        for line in code_of(file) {
            let line = line.replace("beneath::", "by_fd::");
            if !BY_PATH.iter().any(|call| line.contains(call)) {
                continue;
            }
            let excused = left
                .iter_mut()
                .find(|(of, part, times)| *of == short && line.contains(part) && *times > 0);
            match excused {
                Some((_, _, times)) => *times -= 1,
                None => wrong.push(format!("{short}: {}", line.trim())),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "by a path, where root goes:\n{}",
        wrong.join("\n")
    );
    left.retain(|(_, _, times)| *times > 0);
    assert!(left.is_empty(), "no longer there: {left:?}");
}
