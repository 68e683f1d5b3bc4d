use super::*;
use std::os::unix::fs::{PermissionsExt, symlink as link};

/// A directory of our own, gone with the value however deep it is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let name = format!("gl-beneath-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Directory {
        Directory::of_root(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0).unwrap();
    }
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn nothing_is_reached_through_a_link_or_above() {
    let scratch = Scratch::new("links");
    let here = scratch.open();
    std::fs::create_dir(scratch.0.join("real")).unwrap();
    std::fs::write(scratch.0.join("real/file"), "x").unwrap();
    link("real", scratch.0.join("link")).unwrap();
    link("/usr", scratch.0.join("usr")).unwrap();
    link("real/file", scratch.0.join("file")).unwrap();
    assert!(here.open_file(Path::new("real/file")).is_ok());
    let looped = Some(Errno::LOOP.raw_os_error());
    for way in ["link/file", "usr/bin/env", "file"] {
        assert_eq!(errno(here.open_file(Path::new(way))), looped, "{way}");
    }
    for way in ["link", "usr", "usr/bin"] {
        let refused = errno(here.enter(Path::new(way)));
        let expected = [Errno::LOOP, Errno::NOTDIR].map(|it| Some(it.raw_os_error()));
        assert!(expected.contains(&refused), "{way}: {refused:?}");
        let made = errno(here.make_way(&Path::new(way).join("new"), Mode::RWXU));
        assert!(expected.contains(&made), "{way}: {made:?}");
    }
    for way in ["..", "../x", "/etc/passwd", "real/../../x"] {
        assert!(
            here.open(Path::new(way), OFlags::RDONLY, Mode::empty())
                .is_err(),
            "{way}"
        );
        assert!(
            here.open_by_parts(Path::new(way), OFlags::RDONLY, Mode::empty())
                .is_err(),
            "{way}"
        );
    }
    assert!(
        here.open_by_parts(Path::new("real/file"), OFlags::RDONLY, Mode::empty())
            .is_ok()
    );
    let by_parts = here.open_by_parts(Path::new("link/file"), OFlags::RDONLY, Mode::empty());
    assert!(by_parts.is_err());
}

#[test]
fn a_fifo_keeps_nobody_waiting_and_is_no_file() {
    let scratch = Scratch::new("fifo");
    let path = scratch.0.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let refused = read(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_way_that_others_could_change_is_refused_to_root() {
    if !geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new("owners");
    let theirs = scratch.0.join("theirs");
    std::fs::create_dir_all(theirs.join("below")).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65_534), None).unwrap();
    let refused = write_whole(&theirs.join("below/file"), b"x", 0o600).unwrap_err();
    assert!(
        refused.to_string().contains("belongs to the user 65534"),
        "{refused}"
    );
    let open = scratch.0.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let refused = make_directory(&open.join("x"), 0o755).unwrap_err();
    assert!(
        refused.to_string().contains("everybody may write to"),
        "{refused}"
    );
    // What is not on the way may be anybody's: it can be removed.
    remove(&theirs).unwrap();
}

/// `depth` directories, one in the other, made without a long path.
fn dig(top: &Path, depth: u32) {
    let mut here = Directory::chosen(top).unwrap();
    for _ in 0..depth {
        here = here.make_way(Path::new("d"), Mode::RWXU).unwrap();
    }
    here.symlink(Path::new("/etc"), OsStr::new("etc")).unwrap();
    here.open(
        Path::new("file"),
        OFlags::CREATE | OFlags::WRONLY,
        Mode::RUSR,
    )
    .unwrap();
}

#[test]
fn trees_of_any_depth_are_removed_and_nothing_behind_a_link() {
    let scratch = Scratch::new("deep");
    let kept = scratch.0.join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    for depth in [0, 1, 31, 32, 33, 34, 300, 3000, 20_000] {
        let top = scratch.0.join("top");
        std::fs::create_dir(&top).unwrap();
        link(&kept, top.join("link")).unwrap();
        std::fs::create_dir(top.join(".removing-1")).unwrap();
        dig(&top, depth);
        remove(&top).unwrap();
        assert!(!is_there(&top), "{depth}");
    }
    link(&kept, scratch.0.join("top")).unwrap();
    remove(&scratch.0.join("top")).unwrap();
    assert_eq!(std::fs::read(kept.join("file")).unwrap(), b"x");
}

#[test]
fn what_is_written_replaces_a_link_and_not_what_it_leads_to() {
    let scratch = Scratch::new("write");
    let (victim, path) = (scratch.0.join("victim"), scratch.0.join("file"));
    std::fs::write(&victim, "as it was").unwrap();
    link(&victim, &path).unwrap();
    assert!(open_to_lock(&path, 0o600).is_err());
    write_whole(&path, b"new", 0o600).unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"as it was");
    assert_eq!(read(&path).unwrap(), b"new");
    make_directories(&scratch.0.join("a/b/c"), 0o755).unwrap();
    make_directories(&scratch.0.join("a/b/c"), 0o755).unwrap();
    assert!(is_directory(&scratch.0.join("a/b/c")) && !is_directory(&path));
}
