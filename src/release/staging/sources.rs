//! What a file or a stream is, by its first bytes: names lie, and a stream has none.

use super::StagingError;
use super::archive::{self, Counted};
use super::tree::Tree;
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// As far as the mark of a tar archive.
const HEAD_BYTES: usize = 512;
const BUFFER_BYTES: usize = 128 * 1024;

/// What was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Copied.
    Directory,
    /// Unpacked.
    Tar,
    /// Unpacked.
    TarGz,
    /// Unpacked.
    TarZst,
    /// One file, for a JVM.
    Jar,
    /// One file that the kernel can run: ELF, or a script.
    Program,
}

impl Kind {
    /// It was packed by somebody, perhaps as a directory.
    pub fn is_archive(self) -> bool {
        match self {
            Self::Tar | Self::TarGz | Self::TarZst => true,
            Self::Directory | Self::Jar | Self::Program => false,
        }
    }

    /// For people and manifests.
    pub fn word(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Tar => "tar",
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
            Self::Jar => "jar",
            Self::Program => "program",
        }
    }
}

/// Unpacks an archive, or takes the file as it is, under `name` or one that fits.
pub(super) fn stage(
    from: impl Read,
    name: Option<&Path>,
    tree: &mut Tree,
) -> Result<Kind, StagingError> {
    let (from, packed) = Counted::new(from);
    let (head, mut from) = beheaded(from)?;
    let has = |magic: &[u8]| head.starts_with(magic);
    if has(b"PK\x03\x04") && is_jar(name) {
        tree.file(name.unwrap_or(Path::new("app.jar")), 0o644, &mut from)?;
        return Ok(Kind::Jar);
    }
    if has(b"\x7fELF") || has(b"#!") {
        tree.file(name.unwrap_or(Path::new("app")), 0o755, &mut from)?;
        return Ok(Kind::Program);
    }
    tree.is_unpacked_from(packed);
    if has(b"\x1f\x8b") {
        let unpacked = MultiGzDecoder::new(from);
        return unpack_packed(unpacked, Kind::TarGz, tree);
    }
    if has(b"\x28\xb5\x2f\xfd") {
        let unpacked = Frames::new(BufReader::with_capacity(BUFFER_BYTES, from));
        return unpack_packed(unpacked, Kind::TarZst, tree);
    }
    if is_tar(&head) {
        archive::unpack(from, tree)?;
        return Ok(Kind::Tar);
    }
    Err(unread(&head, name))
}

fn unpack_packed(from: impl Read, kind: Kind, tree: &mut Tree) -> Result<Kind, StagingError> {
    let (head, from) = beheaded(from)?;
    if !is_tar(&head) {
        return Err(StagingError::Format {
            what: "what is compressed there is no tar archive".to_owned(),
            remedy: "compress a tar archive: tar czf app.tar.gz -C DIRECTORY .",
        });
    }
    archive::unpack(from, tree)?;
    Ok(kind)
}

/// Its first bytes, and all of it.
fn beheaded<R: Read>(mut from: R) -> Result<(Vec<u8>, impl Read), StagingError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let limit = u64::try_from(HEAD_BYTES).unwrap_or(u64::MAX);
    from.by_ref()
        .take(limit)
        .read_to_end(&mut head)
        .map_err(StagingError::Damaged)?;
    Ok((head.clone(), Cursor::new(head).chain(from)))
}

/// POSIX and GNU have their mark there.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// A jar is a zip file; without a name we take the sender at its word.
fn is_jar(name: Option<&Path>) -> bool {
    let extension = name.map(|name| name.extension().unwrap_or_default());
    extension.is_none_or(|extension| extension == "jar" || extension == "war")
}

fn unread(head: &[u8], name: Option<&Path>) -> StagingError {
    let known: [(&[u8], &str, &str); 4] = [
        (
            b"PK\x03\x04",
            "a zip file",
            "unpack it and deploy the directory",
        ),
        (b"\xfd7zXZ", "an xz archive", "send .tar.gz or .tar.zst"),
        (b"BZh", "a bzip2 archive", "send .tar.gz or .tar.zst"),
        (b"\x7fELF", "a program", "make it executable"),
    ];
    let found = known.iter().find(|(magic, _, _)| head.starts_with(magic));
    let (what, remedy) = match found {
        Some((_, what, remedy)) => (*what, *remedy),
        None if head.is_empty() => ("empty", "was it written to its end?"),
        None => (
            "none of the formats that can be deployed",
            "give a directory, a tar (.gz, .zst), a jar, an ELF program or an executable script",
        ),
    };
    let name = name.map_or("the stream".into(), Path::to_string_lossy);
    StagingError::Format {
        what: format!("{name} is {what}"),
        remedy,
    }
}

/// zstd data is one or more frames, one behind the other.
struct Frames<R: BufRead> {
    state: State<R>,
}

enum State<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<R, FrameDecoder>>),
    Broken,
}

impl<R: BufRead> Frames<R> {
    fn new(from: R) -> Self {
        Self {
            state: State::Between(from),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Between(mut from) => {
                    if from.fill_buf()?.is_empty() {
                        self.state = State::Between(from);
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(from).map_err(io::Error::other)?;
                    self.state = State::Within(Box::new(frame));
                }
                State::Within(mut frame) => {
                    let read = frame.read(buffer)?;
                    if read > 0 {
                        self.state = State::Within(frame);
                        return Ok(read);
                    }
                    let (from, decoder) = frame.into_parts();
                    let written = decoder.get_checksum_from_data();
                    if written.is_some() && written != decoder.get_calculated_checksum() {
                        let wrong = "its checksum does not fit";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
                    }
                    self.state = State::Between(from);
                }
                State::Broken => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}
