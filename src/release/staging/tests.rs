//! What may come in, and what may not, whoever made it.

use super::*;
use crate::release::store::tests::Scratch;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use tar::{EntryType, Header};

const ROOM: Limits = Limits {
    bytes_max: 1 << 30,
    entries_max: 1000,
};

/// An archive of whatever one likes, also of what no tar would write.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(u64::try_from(content.len()).unwrap());
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, content.as_bytes())
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.entry(kind, name, target, 0o777, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn stage(self) -> Result<(Scratch, Staged), StagingError> {
        stage(&self.end(), ROOM)
    }

    fn refused(self) -> String {
        self.stage().map(|_| ()).unwrap_err().to_string()
    }
}

fn stage(bytes: &[u8], limits: Limits) -> Result<(Scratch, Staged), StagingError> {
    let scratch = Scratch::new();
    let to = scratch.0.join("release");
    fs::create_dir(&to).unwrap();
    let staged = stage_stream(bytes, &to, None, limits);
    let mut outside: Vec<_> = fs::read_dir(&scratch.0).unwrap().flatten().collect();
    outside.retain(|entry| entry.file_name() != "release");
    assert!(outside.is_empty(), "written outside: {outside:?}");
    staged.map(|staged| (scratch, staged))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress_to_vec(bytes, level)
}

fn good() -> Archive {
    let archive = Archive::default().link(EntryType::Directory, "./", "");
    let archive = archive.file("./gapless.toml", "[app]\n").entry(
        EntryType::Regular,
        "bin/server",
        "",
        0o4755,
        b"#!/bin/sh\n",
    );
    let archive = archive.link(EntryType::Symlink, "current", "bin/server");
    archive.link(EntryType::Link, "bin/copy", "bin/server")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_archive_is_unpacked_without_set_user_id() {
    let (scratch, staged) = good().stage().unwrap();
    let release = scratch.0.join("release");
    assert_eq!(
        (staged.kind, staged.files, staged.bytes),
        (Kind::Tar, 4, 16)
    );
    assert_eq!(
        fs::read_to_string(release.join("bin/copy")).unwrap(),
        "#!/bin/sh\n"
    );
    assert_eq!(mode(&release.join("bin/server")), 0o755);
    assert_eq!(mode(&release.join("gapless.toml")), 0o644);
    assert_eq!(
        fs::read_link(release.join("current")).unwrap(),
        Path::new("bin/server")
    );
}

#[test]
fn packed_or_not_and_in_any_order_the_digest_is_the_same() {
    let plain = good().stage().unwrap().1;
    let bytes = good().end();
    for (packed, kind) in [(gzip(&bytes), Kind::TarGz), (zstd(&bytes), Kind::TarZst)] {
        let staged = stage(&packed, ROOM).unwrap().1;
        assert_eq!((staged.kind, &staged.digest), (kind, &plain.digest));
    }
    let one = Archive::default()
        .file("a", "1")
        .file("b", "2")
        .stage()
        .unwrap()
        .1;
    let other = Archive::default()
        .file("b", "2")
        .file("a", "1")
        .stage()
        .unwrap()
        .1;
    assert_eq!(one.digest, other.digest);
    let third = Archive::default()
        .file("a", "2")
        .file("b", "1")
        .stage()
        .unwrap()
        .1;
    assert_ne!(one.digest, third.digest);
}

#[test]
fn data_in_several_frames_is_read_to_its_end() {
    let bytes = good().end();
    let (first, second) = bytes.split_at(700);
    for packed in [[gzip(first), gzip(second)], [zstd(first), zstd(second)]] {
        assert_eq!(stage(&packed.concat(), ROOM).unwrap().1.files, 4);
    }
}

#[test]
fn what_would_be_written_elsewhere_is_refused_by_its_name() {
    let refused = Archive::default().file("/etc/passwd", "x").refused();
    assert_eq!(refused, "refused: /etc/passwd has an absolute path");
    let refused = Archive::default().file("a/../../x", "x").refused();
    assert_eq!(refused, "refused: a/../../x has .. in its path");
    let through = Archive::default().link(EntryType::Symlink, "out", "..");
    let refused = through.file("out/x", "x").refused();
    assert_eq!(
        refused,
        "refused: out/x lies below something that is no directory"
    );
    let over = Archive::default().link(EntryType::Symlink, "out", "../x");
    assert_eq!(
        over.file("out", "x").refused(),
        "refused: out is there twice"
    );
    let below = Archive::default().file("a", "1").file("a/b", "2").refused();
    assert_eq!(
        below,
        "refused: a/b lies below something that is no directory"
    );
}

#[test]
fn links_that_leave_are_refused_however_they_wind() {
    let link = |target| Archive::default().link(EntryType::Symlink, "deep/er/link", target);
    for target in [
        "/etc/passwd",
        "../../..",
        "../../../x",
        "/usr/../etc/shadow",
        "/",
    ] {
        let refused = link(target).refused();
        let expected = format!(
            "refused: deep/er/link is a link that leaves the release: -> {target}; put a copy"
        );
        assert!(refused.starts_with(&expected), "{refused}");
    }
    // Each on its own stays inside.
    let up = Archive::default().link(EntryType::Symlink, "x/up", "..");
    let winding = up.link(EntryType::Symlink, "out", "x/up/../..").refused();
    assert!(
        winding.starts_with("refused: out is a link that leaves"),
        "{winding}"
    );
    let system = Archive::default().link(EntryType::Symlink, "lib", "/usr/lib");
    let beyond = system
        .link(EntryType::Symlink, "out", "lib/../../etc")
        .refused();
    assert!(
        beyond.starts_with("refused: out is a link that leaves"),
        "{beyond}"
    );
    for target in [
        "x",
        "../../bin/server",
        "/usr/bin/python3",
        "./nothing/../there",
    ] {
        link(target).stage().unwrap();
    }
    let circle = Archive::default().link(EntryType::Symlink, "a", "b");
    circle.link(EntryType::Symlink, "b", "a").stage().unwrap();
}

#[test]
fn hard_links_lead_only_to_files_that_came_before() {
    let link = |target| {
        Archive::default()
            .link(EntryType::Link, "link", target)
            .refused()
    };
    for target in ["/etc/shadow", "../x"] {
        let expected = format!("refused: link is a link that leaves the release: -> {target}; put");
        let refused = link(target);
        assert!(refused.starts_with(&expected), "{refused}");
    }
    assert_eq!(
        link("later"),
        "refused: link is a link to later, which is no file before it"
    );
    let symlink = Archive::default().link(EntryType::Symlink, "s", "/usr/bin/env");
    let refused = symlink.link(EntryType::Link, "link", "s").refused();
    assert_eq!(
        refused,
        "refused: link is a link to s, which is no file before it"
    );
}

#[test]
fn devices_fifos_and_files_with_holes_are_refused() {
    for (kind, what) in [
        (EntryType::Char, "a device"),
        (EntryType::Block, "a device"),
        (EntryType::Fifo, "a fifo"),
        (EntryType::GNUSparse, "a file with holes"),
        (EntryType::new(b'V'), "of a kind that nobody knows"),
    ] {
        let refused = Archive::default().link(kind, "dev/x", "").refused();
        let expected = format!("refused: dev/x is {what}, not a file, a directory or a link");
        assert_eq!(refused, expected);
    }
}

#[test]
fn names_longer_than_a_head_are_read_and_endless_ones_are_not() {
    let name = format!("{}/file", "long".repeat(40));
    let long = |kind, text: &str| {
        let archive = Archive::default().entry(kind, "././@LongLink", "", 0, text.as_bytes());
        archive.file("short", "x")
    };
    let (scratch, _) = long(EntryType::GNULongName, &format!("{name}\0"))
        .stage()
        .unwrap();
    assert!(scratch.0.join("release").join(&name).is_file());
    let record = format!("{} path={name}\n", name.len() + 10);
    let (scratch, _) = long(EntryType::XHeader, &record).stage().unwrap();
    assert!(scratch.0.join("release").join(&name).is_file());
    let outside = long(EntryType::GNULongName, "../outside\0").refused();
    assert_eq!(outside, "refused: ../outside has .. in its path");
    let endless = long(EntryType::GNULongName, &"x".repeat(70_000)).stage();
    assert!(matches!(endless, Err(StagingError::Damaged(_))));
}

#[test]
fn what_does_not_fit_is_refused_before_the_disk_is_full() {
    let limits = Limits {
        bytes_max: 1 << 20,
        ..ROOM
    };
    let large = Archive::default()
        .file("large", &"x".repeat((1 << 20) + 1))
        .end();
    let error = stage(&large, limits).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "refused: large does not fit any more: 1MiB are free; make room"
    );
    let many = (0..1001).fold(Archive::default(), |all, n| all.file(&format!("f{n}"), ""));
    assert_eq!(
        many.refused(),
        "refused: f1000 is one entry too many: 1000 are the limit"
    );
}

#[test]
fn a_bomb_is_stopped_while_it_unpacks() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(1 << 30);
    header.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"bomb");
    header.set_cksum();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..80 {
        packed.write_all(&zeros).unwrap();
    }
    let error = stage(&packed.finish().unwrap(), ROOM)
        .map(|_| ())
        .unwrap_err();
    let expected = "refused: bomb unpacks to more than 200 times its size, as a bomb does";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_archive_that_was_cut_off_anywhere_is_damaged() {
    let bytes = good().end();
    let whole = bytes.len();
    for cut in [0, 100, 512, 1024, 1500, whole - 1024] {
        let error = stage(&bytes[..cut], ROOM).map(|_| ());
        assert!(error.is_err(), "cut at {cut}");
        let error = stage(&gzip(&bytes[..cut]), ROOM).map(|_| ());
        assert!(error.is_err(), "packed, cut at {cut}");
    }
    for packed in [gzip(&bytes), zstd(&bytes)] {
        for cut in [packed.len() - 1, packed.len() / 2] {
            let error = stage(&packed[..cut], ROOM).map(|_| ());
            assert!(
                matches!(error, Err(StagingError::Damaged(_))),
                "cut at {cut}"
            );
        }
    }
    let mut changed = gzip(&bytes);
    let checksum = changed.len() - 6;
    changed[checksum] ^= 1;
    assert!(stage(&changed, ROOM).is_err(), "a wrong checksum");
}

#[test]
fn other_formats_are_named_with_what_to_do() {
    let of = |bytes: &[u8]| stage(bytes, ROOM).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        of(b"\xfd7zXZ\0..."),
        "the stream is an xz archive; send .tar.gz or .tar.zst"
    );
    assert_eq!(of(b""), "the stream is empty; was it written to its end?");
    assert_eq!(
        of(&gzip(b"text")),
        "what is compressed there is no tar archive; compress a tar archive: tar czf app.tar.gz -C \
         DIRECTORY ."
    );
    assert!(of(b"hello").contains("none of the formats"));
}

#[test]
fn one_file_is_a_jar_or_a_program_by_its_first_bytes() {
    let scratch = Scratch::new();
    for (name, bytes, kind, stays) in [
        ("app.jar", b"PK\x03\x04....".as_slice(), Kind::Jar, 0o644),
        ("app", b"\x7fELF...", Kind::Program, 0o755),
        ("run.sh", b"#!/bin/sh\n", Kind::Program, 0o755),
    ] {
        let (from, to) = (scratch.0.join(name), scratch.0.join(format!("{name}.d")));
        fs::write(&from, bytes).unwrap();
        fs::create_dir(&to).unwrap();
        assert_eq!(stage_path(&from, &to, None, ROOM).unwrap().kind, kind);
        assert_eq!(mode(&to.join(name)), stays);
        assert_eq!(stage(bytes, ROOM).unwrap().1.kind, kind);
    }
    fs::write(scratch.0.join("x.zip"), b"PK\x03\x04....").unwrap();
    let zip = stage_path(
        &scratch.0.join("x.zip"),
        &scratch.0.join("app.d"),
        None,
        ROOM,
    );
    let expected = "x.zip is a zip file; unpack it and deploy the directory";
    assert_eq!(zip.unwrap_err().to_string(), expected);
}

#[test]
fn a_directory_is_copied_without_its_history_and_keeps_what_is_private() {
    let scratch = Scratch::new();
    let (from, to) = (scratch.0.join("app"), scratch.0.join("release"));
    fs::create_dir_all(from.join(".git/objects")).unwrap();
    fs::create_dir_all(from.join("bin")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("bin/server"), "x").unwrap();
    fs::write(from.join(".env"), "SECRET=1").unwrap();
    fs::set_permissions(from.join("bin/server"), fs::Permissions::from_mode(0o775)).unwrap();
    fs::set_permissions(from.join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("server", from.join("bin/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let group = Some(rustix::process::getgid());
    let staged = stage_path(&from, &to, group, ROOM).unwrap();
    assert_eq!((staged.kind, staged.files), (Kind::Directory, 3));
    assert_eq!(mode(&to.join(".env")), 0o640);
    assert_eq!(mode(&to.join("bin/server")), 0o755);
    assert!(!to.join(".git").exists() && !to.join("socket").exists());
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let again = scratch.0.join("again");
    fs::create_dir(&again).unwrap();
    let error = stage_path(&from, &again, None, ROOM)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "refused: fifo is a fifo, not a file, a directory or a link"
    );
}

fn a_name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[ab]",
        2 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn an_entry() -> impl Strategy<Value = (u8, String, String)> {
    (0_u8..4, a_name(), a_name())
}

proptest! {
    /// `stage` checks that nothing is beside the directory; here, that nothing leads out of it.
    #[test]
    fn no_archive_writes_or_leads_outside(entries in prop::collection::vec(an_entry(), 0..8)) {
        let mut archive = Archive::default();
        for (kind, name, target) in &entries {
            archive = match kind {
                0 => archive.file(name, "x"),
                1 => archive.link(EntryType::Directory, name, ""),
                2 => archive.link(EntryType::Symlink, name, target),
                _ => archive.link(EntryType::Link, name, target),
            };
        }
        if let Ok((scratch, _)) = archive.stage() {
            let release = scratch.0.join("release").canonicalize().unwrap();
            for (_, name, _) in &entries {
                if let Ok(found) = release.join(name).canonicalize() {
                    prop_assert!(found.starts_with(&release), "{name} leads to {found:?}");
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), magic in 0..5) {
        let magic: &[u8] = [b"".as_slice(), b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"#!"]
            [usize::try_from(magic).unwrap()];
        bytes.splice(0..0, magic.iter().copied());
        drop(stage(&bytes, ROOM));
        if let Some(mark) = bytes.get_mut(257..262) {
            mark.copy_from_slice(b"ustar");
        }
        drop(stage(&bytes, ROOM));
    }
}

/// As root, for whom another user made the directory.
#[test]
fn what_the_owner_of_a_directory_could_not_read_does_not_come_in() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let from = scratch.0.join("theirs");
    fs::create_dir(&from).unwrap();
    let (theirs, other) = (Some(65_534), Some(65_533));
    chown(&from, theirs, theirs).unwrap();
    let file = from.join("file");
    // Owner, group, mode, and whether it comes in.
    let cases = [
        (theirs, Some(0), 0o600, true),
        (Some(0), Some(0), 0o644, true),
        (Some(0), theirs, 0o640, true),
        (Some(0), Some(0), 0o640, false),
        (Some(0), Some(0), 0o600, false),
        (other, other, 0o600, false),
    ];
    for (number, (owner, group, mode, comes_in)) in cases.into_iter().enumerate() {
        fs::write(&file, "secret").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        chown(&file, owner, group).unwrap();
        let to = scratch.0.join(format!("to{number}"));
        fs::create_dir(&to).unwrap();
        let staged = stage_path(&from, &to, None, Limits::of(&to).unwrap());
        assert_eq!(
            staged.is_ok(),
            comes_in,
            "{owner:?} {group:?} {mode:o}: {staged:?}"
        );
        if let Err(error) = staged {
            let said = error.to_string();
            assert!(said.contains("belongs to the user 65534"), "{said}");
        }
        fs::remove_file(&file).unwrap();
    }
    // What is root's own, root may deploy whole.
    fs::write(&file, "secret").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    chown(&from, Some(0), Some(0)).unwrap();
    let to = scratch.0.join("to");
    fs::create_dir(&to).unwrap();
    stage_path(&from, &to, None, Limits::of(&to).unwrap()).unwrap();
}

/// Over and over, while somebody exchanges the directory for a link to another one.
#[test]
fn a_directory_that_is_exchanged_for_a_link_is_never_read_through() {
    let scratch = Scratch::new();
    let (from, secret) = (scratch.0.join("from"), scratch.0.join("secret"));
    for directory in [&from, &secret, &from.join("d")] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(secret.join("key"), "secret").unwrap();
    fs::write(from.join("d/config"), "1").unwrap();
    symlink(&secret, from.join("link")).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                // Both names, at once and over again: RENAME_EXCHANGE.
                let (d, link) = (from.join("d"), from.join("link"));
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &d, rustix::fs::CWD, &link, flags)
                    .unwrap();
            }
        });
        for number in 0..300 {
            let to = scratch.0.join(format!("to{number}"));
            fs::create_dir(&to).unwrap();
            // A link that leaves is refused, and so is what was exchanged in time.
            drop(stage_path(&from, &to, None, Limits::of(&to).unwrap()));
            for place in ["d", "link"] {
                assert!(
                    !to.join(place).is_dir()
                        || to.join(place).is_symlink()
                        || !to.join(place).join("key").exists()
                );
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn names_that_are_too_deep_or_too_long_are_refused_in_a_short_sentence() {
    let long = "n".repeat(256);
    let wide = format!("{}f", format!("{}/", "w".repeat(200)).repeat(16));
    for (name, what) in [
        (
            format!("{}f", "d/".repeat(256)),
            "lies 257 directories deep, and 256 are the limit",
        ),
        (
            format!("{}f", "d/".repeat(20_000)),
            "lies 20001 directories deep",
        ),
        (
            format!("{long}/f"),
            "has a name of 256 bytes, and 255 are the limit",
        ),
        (wide, "has a name of 3217 bytes, and 3072 are the limit"),
    ] {
        let scratch = Scratch::new();
        let to = scratch.0.join("to");
        fs::create_dir(&to).unwrap();
        let mut tree = Tree::new(&to, None, Limits::of(&to).unwrap()).unwrap();
        let path = Path::new(&name);
        let refused = [
            tree.file(path, 0o644, &mut "x".as_bytes()),
            tree.directory(path),
            tree.symlink(path, Path::new("x")),
            tree.hard_link(path, path),
        ];
        for refused in refused {
            let said = refused.unwrap_err().to_string();
            assert!(said.len() < 500, "{said}");
            let is_told = said.contains(what) || said.contains("is a link that leaves");
            assert!(is_told, "{said}");
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "nothing was made");
    }
}

#[test]
fn every_link_on_the_way_out_is_named() {
    let venv = Archive::default()
        .link(EntryType::Symlink, "bin/python", "python3")
        .link(
            EntryType::Symlink,
            "bin/python3",
            "/home/me/.pyenv/bin/python3.12",
        );
    let refused = venv.refused();
    let python3 =
        "bin/python3 is a link that leaves the release: -> /home/me/.pyenv/bin/python3.12; put";
    let python = "bin/python is a link that leaves the release: -> python3 -> /home/me/.pyenv/bin/python3.12; put";
    assert!(
        refused.contains(python) || refused.contains(python3),
        "{refused}"
    );
    assert!(refused.contains("cp -L"), "{refused}");
}

#[test]
fn an_archive_of_one_directory_is_what_is_in_it() {
    let packed = Archive::default()
        .file("shop/Procfile", "web: ./shop")
        .file("shop/shop", "itself")
        .file("shop/.env.example", "")
        .link(EntryType::Symlink, "shop/lib/web", "../shop");
    let (scratch, _) = packed.stage().unwrap();
    let release = scratch.0.join("release");
    assert!(lift(&release).unwrap());
    let read = |name: &str| fs::read_to_string(release.join(name)).unwrap();
    assert_eq!(
        (read("Procfile"), read("shop")),
        ("web: ./shop".into(), "itself".into())
    );
    assert_eq!(read("lib/web"), "itself");
    assert_eq!(fs::read_dir(&release).unwrap().count(), 4);
    assert!(!lift(&release).unwrap(), "there is more than one");

    let (scratch, _) = Archive::default().file("shop", "a file").stage().unwrap();
    assert!(!lift(&scratch.0.join("release")).unwrap());
    let through = Archive::default().file("shop/data", "").link(
        EntryType::Symlink,
        "shop/link",
        "../shop/data",
    );
    let (scratch, _) = through.stage().unwrap();
    let refused = lift(&scratch.0.join("release")).unwrap_err().to_string();
    assert!(refused.contains("link is a link that leaves"), "{refused}");
}
