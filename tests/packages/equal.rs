//! Two builds are equal byte for byte: packed by somebody else, elsewhere; and the binary says nothing
//! of where it was built.

use crate::build::{
    DEB, Format, Package, RPM, build_binary, build_elsewhere, build_in, debs, fetch, rpms, run,
};
use crate::world::{Scratch, is_long, repository, skip};
use std::process::Command;

/// Everything that a package is made of, in another directory and of now.
fn tree_elsewhere() -> Scratch {
    let tree = Scratch::new();
    let parts = [
        "Cargo.toml",
        "Makefile",
        "README.md",
        "docs",
        "CHANGELOG.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "packaging",
        "units",
        "examples",
    ];
    let mut copy = Command::new("cp");
    copy.arg("--recursive").args(parts.map(repository));
    run(copy.arg(&tree.0));
    std::fs::create_dir_all(tree.0.join("target/release")).unwrap();
    let binary = "target/release/gapless";
    std::fs::copy(repository(binary), tree.0.join(binary)).unwrap();
    tree
}

fn belongs_to_somebody_else(tree: &Scratch) {
    run(Command::new("chown")
        .args(["--recursive", "65534:65534"])
        .arg(&tree.0));
    run(Command::new("chmod")
        .args(["--recursive", "go="])
        .arg(&tree.0));
}

fn expect_equal_builds(format: Format, first: &Package, tree: &Scratch) {
    belongs_to_somebody_else(tree);
    let second = format.pack_elsewhere(&tree.0);
    for (first, second) in [
        (&first.path, &second.path),
        (&first.symbols, &second.symbols),
    ] {
        let equal = std::fs::read(first).unwrap() == std::fs::read(second).unwrap();
        assert!(equal, "two builds of {} differ", first.display());
    }
}

fn packed_elsewhere_it_is_equal(format: Format, first: fn() -> &'static [Package; 2]) {
    if let Some(missing) = format.missing() {
        return skip(&missing);
    }
    if !rustix::process::geteuid().is_root() {
        return skip("to build as somebody else needs root; run `make test` as root");
    }
    let first = &first()[0];
    expect_equal_builds(format, first, &tree_elsewhere());
}

#[test]
fn a_deb_packed_elsewhere_by_somebody_else_is_equal_byte_for_byte() {
    packed_elsewhere_it_is_equal(DEB, debs);
}

#[test]
fn an_rpm_packed_elsewhere_by_somebody_else_is_equal_byte_for_byte() {
    packed_elsewhere_it_is_equal(RPM, rpms);
}

/// Nor of who built it: a second build takes minutes, so here it is only searched for what would
/// differ. The long form builds twice.
#[test]
fn the_binary_says_nothing_of_where_it_was_built() {
    build_binary();
    let binary = std::fs::read(repository("target/release/gapless")).unwrap();
    let home = std::env::var("HOME").unwrap();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let root = repository("").display().to_string();
    for place in [root.trim_end_matches('/'), cargo.as_str(), "/registry/src/"] {
        let mut windows = binary.windows(place.len());
        assert!(!windows.any(|it| it == place.as_bytes()), "{place}");
    }
    // What stands in their place is there, so they were looked for in the right form.
    let mut windows = binary.windows(7);
    assert!(windows.any(|it| it == b"/cargo/"));
}

/// Of some crates that the binary is made of: all of it takes minutes. With a cargo that has its home
/// within the tree, as where pipelines cache it.
#[test]
fn crates_built_elsewhere_are_equal_byte_for_byte() {
    let some = Some("BUILT=--package walkdir --package httparse --package smallvec");
    let parts = [
        "Cargo.toml",
        "Cargo.lock",
        "Makefile",
        "src",
        "tests",
        "examples",
    ];
    let (first, second) = (Scratch::new(), Scratch::new());
    for tree in [&first, &second] {
        let mut copy = Command::new("cp");
        copy.arg("--recursive").args(parts.map(repository));
        run(copy.arg(&tree.0));
    }
    fetch();
    build_in(&first.0, some);
    build_elsewhere(&second.0, some);
    let mut compared = 0;
    for entry in std::fs::read_dir(first.0.join("target/release/deps")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "rlib") {
            let other = second.0.join(path.strip_prefix(&first.0).unwrap());
            let equal = std::fs::read(&path).unwrap() == std::fs::read(other).unwrap();
            assert!(equal, "two builds of {} differ", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 3, "{compared}");
}

/// The sources are copied, cargo has another home and one job, and there is no network.
#[test]
fn a_second_build_elsewhere_is_equal_byte_for_byte_in_the_long_form() {
    // Two builds with link-time optimization.
    if !is_long() {
        return;
    }
    if let Some(missing) = DEB.missing().or_else(|| RPM.missing()) {
        return skip(&missing);
    }
    debs();
    rpms();
    let tree = tree_elsewhere();
    std::fs::remove_file(tree.0.join("target/release/gapless")).unwrap();
    let mut copy = Command::new("cp");
    let sources = ["src", "tests", "Cargo.lock"].map(repository);
    run(copy.arg("--recursive").args(sources).arg(&tree.0));
    build_elsewhere(&tree.0, None);
    let binary = "target/release/gapless";
    let equal =
        std::fs::read(repository(binary)).unwrap() == std::fs::read(tree.0.join(binary)).unwrap();
    assert!(equal, "two builds of the binary differ");
    expect_equal_builds(DEB, &debs()[0], &tree);
    expect_equal_builds(RPM, &rpms()[0], &tree);
}
