//! The packages of this tree, and the same as the next version: built once for all tests, around
//! one release binary.

use crate::world::{Scratch, process, repository};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// A release build, on a machine that builds other things too.
const BUILT_WITHIN: Duration = Duration::from_mins(30);
const PACKED_WITHIN: Duration = Duration::from_mins(5);

/// Later than every version of Cargo.toml.
const NEXT: &str = "99.0.0";

/// How a package is made: deb.sh, rpm.sh.
#[derive(Clone, Copy)]
pub struct Format {
    pub extension: &'static str,
    pub tools: &'static [&'static str],
    pub remedy: &'static str,
    /// Makes large packages quickly: to compress them well takes longer than all the rest.
    pub quickly: &'static [&'static str],
}

pub const DEB: Format = Format {
    extension: "deb",
    tools: &["make", "dh", "dpkg-deb", "lintian"],
    remedy: "debhelper dpkg-dev lintian",
    quickly: &[],
};
pub const RPM: Format = Format {
    extension: "rpm",
    tools: &["make", "rpmbuild", "objcopy", "rpmlint"],
    remedy: "rpm binutils rpmlint",
    quickly: &["--define", "_binary_payload w1.gzdio"],
};

/// A package in a directory of its own, gone with the value.
pub struct Package {
    _directory: Scratch,
    pub path: PathBuf,
    pub symbols: PathBuf,
}

impl Format {
    /// What is missing on this machine to make and check it.
    pub fn missing(self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap();
        let is_here = |tool: &str| std::env::split_paths(&path).any(|at| at.join(tool).is_file());
        let absent: Vec<_> = self
            .tools
            .iter()
            .copied()
            .filter(|tool| !is_here(tool))
            .collect();
        let remedy = format!("apt-get install {}, as `make test` does", self.remedy);
        (!absent.is_empty()).then(|| format!("{} missing; {remedy}", absent.join(", ")))
    }

    /// A package of this tree, of the binary of `make build`, with the version `number`.
    pub fn pack(self, number: &str) -> Package {
        build_binary();
        let directory = Scratch::new();
        let script = format!("packaging/{}.sh", self.extension);
        let said = run(Command::new(repository(&script))
            .args(self.quickly)
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "0")
            .env("GAPLESS_VERSION", number)
            .env("GAPLESS_DIST", &directory.0));
        let (symbols, main): (Vec<_>, Vec<_>) = said.lines().partition(|path| path.contains("-d"));
        Package {
            _directory: directory,
            path: main[0].into(),
            symbols: symbols[0].into(),
        }
    }
}

/// `make build`, once.
pub fn build_binary() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut make = Command::new("make");
        make.arg("--directory").arg(repository("")).arg("build");
        process::run(make, BUILT_WITHIN).expect_success();
    });
}

/// This version and the next.
pub fn debs() -> &'static [Package; 2] {
    static DEBS: OnceLock<[Package; 2]> = OnceLock::new();
    DEBS.get_or_init(|| [env!("CARGO_PKG_VERSION"), NEXT].map(|number| DEB.pack(number)))
}

/// This version and the next.
pub fn rpms() -> &'static [Package; 2] {
    static RPMS: OnceLock<[Package; 2]> = OnceLock::new();
    RPMS.get_or_init(|| [env!("CARGO_PKG_VERSION"), NEXT].map(|number| RPM.pack(number)))
}

/// A command of the host that has to succeed; its output.
pub fn run(command: &mut Command) -> String {
    let command = std::mem::replace(command, Command::new(""));
    process::run(command, PACKED_WITHIN).expect_success()
}

/// `program option package`, in a language that can be read.
pub fn ask(program: &str, options: &[&str], package: &Path) -> String {
    run(Command::new(program)
        .args(options)
        .arg(package)
        .env("LC_ALL", "C.UTF-8"))
}
