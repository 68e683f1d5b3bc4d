//! The packages of this tree, and the same as the next version: built once for all tests, around
//! one release binary.

use crate::world::{Scratch, process, repository};
use std::os::unix::fs::PermissionsExt;
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

/// A package in a directory of its own.
pub struct Package {
    /// Gone with the value.
    _directory: Option<Scratch>,
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
        let mut command = without_network();
        command.arg(repository(&format!("packaging/{}.sh", self.extension)));
        command.args(self.quickly).env("GAPLESS_VERSION", number);
        // For all tests, and nothing drops it after the last: the next run does.
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.join(format!("{}-{number}", self.extension));
        if directory.exists() {
            std::fs::remove_dir_all(&directory).unwrap();
        }
        pack_into(&directory, &mut command)
    }

    /// The same of what is in `tree`, by somebody else: another user, machine, time zone, language,
    /// umask, directory.
    pub fn pack_elsewhere(self, tree: &Path) -> Package {
        let script = tree.join(format!("packaging/{}.sh", self.extension));
        let mut command = Command::new("unshare");
        command.args(["--net", "--uts", "sh", "-c"]).arg(
            "hostname elsewhere && umask 077 && \
             exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"",
        );
        command.arg("sh").arg(script).args(self.quickly);
        command.env("HOME", tree).env("TMPDIR", tree);
        command
            .env("TZ", "Pacific/Chatham")
            .env("LANG", "de_DE.UTF-8");
        let epoch = "git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md";
        let mut sh = Command::new("sh");
        let epoch = run(sh.args(["-c", epoch]).current_dir(repository("")));
        command.env("SOURCE_DATE_EPOCH", epoch.trim());
        let directory = Scratch::new();
        std::fs::set_permissions(&directory.0, PermissionsExt::from_mode(0o777)).unwrap();
        let package = pack_into(&directory.0, &mut command);
        Package {
            _directory: Some(directory),
            ..package
        }
    }
}

/// What `command` packs; the directory is made by it.
fn pack_into(directory: &Path, command: &mut Command) -> Package {
    let said = run(command
        .env("DPKG_DEB_COMPRESSOR_LEVEL", "0")
        .env("GAPLESS_DIST", directory));
    let (symbols, main): (Vec<_>, Vec<_>) = said.lines().partition(|path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.contains("-d")
    });
    Package {
        _directory: None,
        path: main[0].into(),
        symbols: symbols[0].into(),
    }
}

/// What `make deb` and `make rpm` do first, once: fetch, then build without a network.
pub fn build_binary() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        fetch();
        build_in(&repository(""), None);
    });
}

/// What only a network can bring.
pub fn fetch() {
    let mut make = Command::new("make");
    make.arg("--directory").arg(repository("")).arg("fetch");
    process::run(make, BUILT_WITHIN).expect_success();
}

/// The release binary of the sources in `tree`, or what else `built` says (`BUILT=--bin x`).
pub fn build_in(tree: &Path, built: Option<&str>) {
    let mut make = without_network();
    make.args(["make", "build", "--directory"]).arg(tree);
    make.arg("OFFLINE=--offline").args(built);
    process::run(make, BUILT_WITHIN).expect_success();
}

/// The same with a cargo that has its home there, and one job.
pub fn build_elsewhere(tree: &Path, built: Option<&str>) {
    let home = std::env::var("HOME").unwrap();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let theirs = tree.join("cargo-home");
    std::fs::create_dir(&theirs).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("--recursive")
        .arg(Path::new(&cargo).join("registry"));
    run(copy.arg(&theirs));
    let mut make = without_network();
    make.args(["make", "build", "--directory"]).arg(tree);
    make.arg("OFFLINE=--offline").args(built);
    make.env("CARGO_HOME", theirs);
    make.env("CARGO_BUILD_JOBS", "1")
        .env("TZ", "Pacific/Chatham");
    process::run(make, BUILT_WITHIN).expect_success();
}

/// What is run by this has no network, unless we are not root: then nobody can take it away.
fn without_network() -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new("env");
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]);
    command
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
