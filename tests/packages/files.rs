//! What the packages are made of: the same files every time, and scripts that leave sockets alone.

use crate::build::{DEB, RPM, ask, build_binary, debs, rpms, run};
use crate::world::{Scratch, process, repository, skip};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// Compares with a list that is kept in the repository: a file that comes or goes is meant to.
fn expect_files(found: impl Iterator<Item = String>, list: &str) {
    let found: BTreeSet<_> = found.collect();
    let list = text(list);
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let wanted: BTreeSet<_> = lines.flat_map(for_each_command).collect();
    let differ: Vec<_> = found.symmetric_difference(&wanted).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

/// COMMAND in a line stands for each command that people call.
fn for_each_command(line: &str) -> Vec<String> {
    if !line.contains("COMMAND") {
        return vec![line.to_owned()];
    }
    let grammar = gapless::cli::command();
    let visible = grammar.get_subcommands().filter(|it| !it.is_hide_set());
    visible
        .map(|command| line.replace("COMMAND", command.get_name()))
        .collect()
}

#[test]
fn the_deb_holds_exactly_the_files_of_the_list() {
    if let Some(missing) = DEB.missing() {
        return skip(&missing);
    }
    let listed = ask("dpkg-deb", &["--contents"], &debs()[0].path);
    let file = |line: &str| {
        let mut words = line.split_whitespace();
        let (mode, owner) = (words.next()?, words.next()?);
        let path = words.nth(3)?.trim_start_matches('.');
        (!mode.starts_with('d')).then(|| format!("{mode} {owner} {path}"))
    };
    expect_files(listed.lines().filter_map(file), "tests/packages/deb.files");
}

#[test]
fn the_rpm_holds_exactly_the_files_of_the_list() {
    if let Some(missing) = RPM.missing() {
        return skip(&missing);
    }
    let format = "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\\n]";
    let options = ["--query", "--package", "--queryformat", format];
    let listed = ask("rpm", &options, &rpms()[0].path);
    let files = listed.lines().filter(|line| !line.starts_with('d'));
    expect_files(files.map(ToOwned::to_owned), "tests/packages/rpm.files");
}

#[test]
fn lintian_has_nothing_to_say_of_the_deb() {
    if let Some(missing) = DEB.missing() {
        return skip(&missing);
    }
    let exceptions = repository("packaging/debian/lintian-exceptions");
    let options = [
        "--fail-on",
        "error,warning",
        "--allow-root",
        "--suppress-tags-from-file",
        exceptions.to_str().unwrap(),
    ];
    let said = ask("lintian", &options, &debs()[0].path);
    assert!(said.is_empty(), "{said}");
}

#[test]
fn rpmlint_has_nothing_to_say_of_the_rpm() {
    if let Some(missing) = RPM.missing() {
        return skip(&missing);
    }
    let exceptions = repository("packaging/rpmlint.toml");
    let options = ["--config", exceptions.to_str().unwrap()];
    let said = ask("rpmlint", &options, &rpms()[0].path);
    assert!(said.contains("0 errors, 0 warnings"), "{said}");
}

/// What is built against a later libc is refused by Debian 12, Ubuntu 22.04 and EL 9.
#[test]
fn the_binary_needs_no_libc_later_than_2_36() {
    if let Some(missing) = RPM.missing() {
        return skip(&missing);
    }
    let needs = ask(
        "rpm",
        &["--query", "--package", "--requires"],
        &rpms()[0].path,
    );
    let minors = needs
        .lines()
        .filter_map(|line| line.split_once("(GLIBC_2."))
        .map(|(_, rest)| rest.split(['.', ')']).next().unwrap().parse().unwrap());
    let highest: u32 = minors.max().unwrap();
    assert!(highest <= 36, "GLIBC_2.{highest}");
}

/// Debuggers find them by the build id, or by the name beside the one of the binary.
#[test]
fn the_debug_symbols_are_apart_and_those_of_the_binary() {
    if let Some(missing) = DEB.missing().or_else(|| RPM.missing()) {
        return skip(&missing);
    }
    let (deb, rpm) = (&debs()[0], &rpms()[0]);
    let mut readelf = Command::new("readelf");
    readelf.arg("--notes").env("LC_ALL", "C.UTF-8");
    let notes = run(readelf.arg(repository("target/release/gapless")));
    let (_, id) = notes.split_once("Build ID: ").unwrap();
    let (directory, file) = id.lines().next().unwrap().split_at(2);
    let by_id = format!("/usr/lib/debug/.build-id/{directory}/{file}.debug\n");
    let listed = ask("dpkg-deb", &["--contents"], &deb.symbols);
    assert!(listed.contains(&by_id), "{by_id} not in {listed}");
    let listed = ask("rpm", &["--query", "--package", "--list"], &rpm.symbols);
    assert_eq!(listed, "/usr/lib/debug/usr/bin/gapless.debug\n");
    for (package, symbols) in [(&deb.path, &deb.symbols), (&rpm.path, &rpm.symbols)] {
        let bytes = |path| std::fs::metadata(path).unwrap().len();
        assert!(bytes(symbols) > bytes(package), "{}", package.display());
    }
}

/// Position independent, read-only after relocation, bound at the start, no executable stack.
#[test]
fn the_binary_is_hardened() {
    if let Some(missing) = RPM.missing() {
        return skip(&missing);
    }
    rpms();
    let binary = repository("target/release/gapless");
    let mut readelf = Command::new("readelf");
    readelf
        .args(["--wide", "--file-header", "--segments", "--dynamic"])
        .arg(binary)
        .env("LC_ALL", "C.UTF-8");
    let said = run(&mut readelf);
    assert!(said.contains("DYN (Position-Independent"), "{said}");
    assert!(
        said.contains("GNU_RELRO") && said.contains("BIND_NOW"),
        "{said}"
    );
    for path in ["RPATH", "RUNPATH", "TEXTREL"] {
        assert!(!said.contains(path), "{path}: {said}");
    }
    let stack = said.lines().find(|line| line.contains("GNU_STACK"));
    assert!(!stack.unwrap().contains("RWE"), "{said}");
}

/// For everyone else, below another prefix: the same files, and units that start that binary.
#[test]
fn make_install_puts_the_same_files_below_any_prefix() {
    build_binary();
    let tree = Scratch::new();
    let mut make = Command::new("make");
    make.arg("--directory").arg(repository("")).arg("install");
    make.arg(format!("DESTDIR={}", tree.0.display()));
    run(make.arg("prefix=/usr/local"));
    let mut find = Command::new("find");
    let listed = run(find.arg(&tree.0).args(["-type", "f", "-printf", "%M %P\n"]));
    let found = listed.lines().filter(|line| !line.contains("/share/doc/"));
    let found = found.map(|line| line.replace(' ', " root/root /"));
    let found = found.map(|path| path.replace("/usr/local", "/usr"));
    // What a package adds, or has elsewhere.
    let of_packages = |line: &String| line.contains("/etc/") || line.contains("/maintain");
    let list = text("tests/packages/rpm.files");
    let wanted = list.lines().filter(|line| !line.starts_with('#'));
    let wanted = wanted.flat_map(for_each_command);
    let wanted = wanted.filter(|line| !line.contains("/doc/") && !line.contains("/licenses/"));
    let wanted: BTreeSet<_> = wanted
        .filter(|line| !of_packages(line))
        .map(|line| line.trim_end_matches(".gz").to_owned())
        .collect();
    let found: BTreeSet<_> = found.collect();
    let differ: Vec<_> = found.symmetric_difference(&wanted).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    for unit in ["gapless.service", "gapless@.service"] {
        let path = tree.0.join("usr/local/lib/systemd/system").join(unit);
        let unit = std::fs::read_to_string(path).unwrap();
        let starts = unit.matches("/usr/local/bin/gapless").count();
        assert_eq!((starts, unit.matches("/usr/bin/gapless").count()), (4, 0));
    }
    let installed = tree.0.join("usr/local/bin/gapless");
    assert!(ask_version(&installed).starts_with("gapless "));
    shells_understand_the_completions(&tree.0.join("usr/local/share"));
}

fn shells_understand_the_completions(share: &Path) {
    let bash = share.join("bash-completion/completions/gapless");
    let mut complete = Command::new("bash");
    complete.args(["--norc", "-c", ". \"$1\" && complete -p gapless", "bash"]);
    let told = run(complete.arg(bash));
    assert!(told.contains("-F _gapless"), "{told}");
    let zsh = share.join("zsh/site-functions/_gapless");
    let fish = share.join("fish/vendor_completions.d/gapless.fish");
    for (shell, file) in [("zsh", zsh), ("fish", fish)] {
        let mut command = Command::new("sh");
        let script = "command -v \"$1\" >/dev/null || exit 127; exec \"$1\" -n \"$2\"";
        command.args(["-c", script, "sh", shell]).arg(file);
        let finished = process::run(command, Duration::from_secs(30));
        if finished.code() == 127 {
            skip(&format!(
                "{shell} missing; apt-get install {shell}, as `make test` does"
            ));
            continue;
        }
        assert_eq!(finished.expect_success(), "", "{shell}");
    }
}

fn ask_version(program: &Path) -> String {
    run(Command::new(program).arg("--version"))
}

/// The sources that the Containerfile copies are whole for cargo, and its Rust is the one wanted.
#[test]
fn the_containerfile_copies_what_a_build_needs() {
    let containerfile = text("packaging/container/Containerfile");
    let tree = Scratch::new();
    let (build, _) = containerfile.split_once("\nFROM scratch").unwrap();
    for line in build.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let to = words.pop().unwrap();
        for from in words {
            let name = if to == "./" { from } else { to };
            std::os::unix::fs::symlink(repository(from), tree.0.join(name)).unwrap();
        }
    }
    let manifest = text("Cargo.toml");
    let (_, rust) = manifest.split_once("\nrust-version = \"").unwrap();
    let rust = rust.split('"').next().unwrap();
    let image = format!("\nFROM docker.io/library/rust:{rust}-bookworm AS build\n");
    assert!(build.contains(&image), "not {image}");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
    let metadata = run(cargo.arg("--manifest-path").arg(tree.0.join("Cargo.toml")));
    assert!(metadata.contains("\"probe-app\""), "{metadata}");
    for page in ["packaging/man/gapless.1", "packaging/container/tree.sh"] {
        assert!(tree.0.join(page).is_file(), "{page}");
    }
}

/// As far as that goes without Guix: its Guile reads one expression after another, to the end.
#[test]
fn the_guix_package_is_whole_and_of_this_version() {
    let definition = text("packaging/guix.scm");
    let version = format!("(version \"{}\")", env!("CARGO_PKG_VERSION"));
    assert!(definition.contains(&version), "not {version}");
    // #~ and #$ are what Guix adds to the language.
    let read = "(for-each (lambda (mark) (read-hash-extend mark (lambda (_ port) (read port)))) \
                '(#\\~ #\\$)) \
                (let next ((forms '())) (let ((form (read))) (if (eof-object? form) \
                (write (map car (reverse forms))) (next (cons form forms)))))";
    let file = repository("packaging/guix.scm");
    let mut guile = Command::new("sh");
    let script =
        "command -v guile >/dev/null || exit 127; exec guile --no-auto-compile -c \"$1\" <\"$2\"";
    guile.args(["-c", script, "sh", read]).arg(file);
    let finished = process::run(guile, Duration::from_secs(30));
    if finished.code() == 127 {
        return skip("guile missing; apt-get install guile-3.0, as `make test` does");
    }
    assert_eq!(finished.expect_success(), "(use-modules package)");
}

/// Where a port opens is the administrator's, in drop-ins: an upgrade that brought another address
/// would close theirs at the next restart of the socket. So no release may ever change these lines.
#[test]
fn the_sockets_listen_where_they_always_did() {
    for (unit, wanted) in [
        ("gapless.socket", &["ListenStream=8888"][..]),
        ("gapless@.socket", &[]),
        ("gapless-admin.socket", &["ListenStream=127.0.0.1:8889"]),
        ("gapless-admin@.socket", &[]),
        (
            "gapless-control.socket",
            &["ListenStream=/run/gapless-control/gapless.sock"],
        ),
        (
            "gapless-control@.socket",
            &["ListenStream=/run/gapless-control/%i.sock"],
        ),
    ] {
        let text = text(&format!("units/{unit}"));
        let listens = text.lines().filter(|line| line.starts_with("Listen"));
        assert_eq!(listens.collect::<Vec<_>>(), wanted, "{unit}");
    }
}

/// The scripts of both formats, with what the packagers put into them, only call `maintain`, where
/// each case is a function.
#[test]
fn no_script_touches_a_socket_outside_first_installation_and_removal() {
    if let Some(missing) = DEB.missing().or_else(|| RPM.missing()) {
        return skip(&missing);
    }
    let deb = &debs()[0].path;
    let mut in_the_deb = Command::new("dpkg-deb");
    in_the_deb.arg("--info").arg(deb);
    let scripts = run(in_the_deb.args(["preinst", "postinst", "prerm"]));
    assert!(scripts.contains("/maintain upgraded"), "{scripts}");
    let touches = scripts.contains("socket") || scripts.contains("systemctl");
    assert!(!touches, "{scripts}");
    let mut of_the_deb = Command::new("dpkg-deb");
    let postrm = run(of_the_deb.arg("--info").arg(deb).arg("postrm"));
    let (before, after) = postrm.split_once("if [ \"$1\" = purge ]").unwrap();
    let (_, after) = after.split_once("\nfi\n").unwrap();
    assert!(
        !before.contains("socket") && !after.contains("socket"),
        "{postrm}"
    );

    let scripts = ask(
        "rpm",
        &["--query", "--package", "--scripts"],
        &rpms()[0].path,
    );
    let (upgrading, removing) = scripts.split_once("\npreuninstall scriptlet").unwrap();
    let (removing, after) = removing.split_once("\npostuninstall scriptlet").unwrap();
    assert!(upgrading.contains("/maintain upgraded"), "{upgrading}");
    assert!(
        !upgrading.contains("socket") && !after.contains("socket"),
        "{scripts}"
    );
    let (_, removing) = removing.split_once('\n').unwrap();
    assert!(
        removing.starts_with("if [ \"$1\" -eq 0 ]; then\n"),
        "{removing}"
    );
    for (function, body) in functions(&text("packaging/maintain")) {
        // The last but one only lists them; the last is for the removal of the rpm.
        let allowed = ["installed", "removing", "enabled", "disabling"];
        let may = allowed.contains(&function.as_str());
        assert!(may || !body.contains("socket"), "{function}: {body}");
    }
}

/// Name and commands of each function of a shell script; comments left out.
fn functions(script: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in script.lines().filter(|line| !line.trim().starts_with('#')) {
        if let Some(name) = line.strip_suffix("() {") {
            found.push((name.to_owned(), String::new()));
        } else if let Some((_, body)) = found.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    assert!(found.len() > 5, "{found:?}");
    found
}
