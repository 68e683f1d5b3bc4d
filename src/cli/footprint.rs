//! What an instance has on this machine beside its processes: units, configuration, user, data.
//!
//! An instance is `gapless@NAME`, and its footprint follows from NAME alone. So `list` needs no register,
//! which could be wrong, and also finds what somebody made by hand.

use super::Exit;
use super::address::Address;
use super::instance::{self, DEFAULT, InstanceName, config_file};
use crate::beneath::{self, Directory};
use crate::release::Store;
use crate::systemd::unit;
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// First in every file that `gapless add` writes; the packages know by it what a purge may delete.
const MARK: &str = "# Written by gapless add; gapless remove deletes it.";

/// A file or directory of an instance cannot be used.
#[derive(Debug, Error)]
pub enum FootprintError {
    /// What the system said.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Units belong to root.
    #[error("not allowed: run this with sudo")]
    NotAllowed,
    /// Two of us at once.
    #[error("another gapless add or remove is at work; wait until that is done")]
    Busy,
    /// No systemd.
    #[error("this machine is not run by systemd; without it: gapless --app {0} run -- CMD")]
    NotBooted(InstanceName),
}

impl FootprintError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotAllowed => Exit::NotAllowed,
            Self::Busy => Exit::Locked,
            Self::Io { .. } | Self::NotBooted(_) => Exit::Failed,
        }
    }
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FootprintError + 'a {
    move |source| FootprintError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Footprint {
    pub root: PathBuf,
    pub name: InstanceName,
}

impl Footprint {
    pub fn of(name: &InstanceName) -> Self {
        Self {
            root: instance::root(),
            name: name.clone(),
        }
    }

    /// `gapless@NAME`, also in the names of its directories.
    fn stem(&self) -> String {
        let unit = self.name.unit();
        unit.trim_end_matches(".service").to_owned()
    }

    /// It is more than what was left: the default one is installed, another has addresses or is
    /// enabled.
    pub fn has_units(&self) -> bool {
        let socket = self.name.socket_unit();
        let is_installed = unit::named(&self.root, &socket).next().is_some();
        is_installed || unit::is_enabled_socket(&self.root, &socket) || self.drop_in().exists()
    }

    /// Who runs its app.
    pub fn user(&self) -> String {
        self.name.user()
    }

    /// The file that has systemd-sysusers make the user.
    pub fn user_file(&self) -> PathBuf {
        let file = format!("{}.conf", self.user());
        self.root.join("etc/sysusers.d").join(file)
    }

    pub fn user_text(&self) -> String {
        let (user, name, state) = (self.user(), &self.name, format!("/var/lib/{}", self.stem()));
        format!("{MARK}\nu {user} - \"gapless app {name}\" {state}\n")
    }

    /// Its number, when it is there.
    pub fn uid(&self) -> Option<u32> {
        let users = std::fs::read_to_string(self.root.join("etc/passwd")).ok()?;
        let begins = format!("{}:", self.user());
        let line = users.lines().find(|line| line.starts_with(&begins))?;
        line.split(':').nth(2)?.parse().ok()
    }

    /// userdel deletes it together with the user only where login.defs says so.
    pub fn has_group(&self) -> bool {
        let groups = std::fs::read_to_string(self.root.join("etc/group")).unwrap_or_default();
        let begins = format!("{}:", self.user());
        groups.lines().any(|line| line.starts_with(&begins))
    }

    pub fn configuration(&self) -> PathBuf {
        config_file(&self.name)
    }

    pub fn configuration_text(&self) -> String {
        format!(
            "{MARK} Not without --purge.\n\
             # The configuration of {}; all keys: gapless.toml(5). Nothing is needed here where the\n\
             # app says what it is run by: gapless --app {} deploy ./myapp\n",
            self.name.unit(),
            self.name
        )
    }

    /// Variables of the service, on Debian and elsewhere.
    pub fn variables(&self) -> [PathBuf; 2] {
        ["etc/default", "etc/sysconfig"].map(|it| self.root.join(it).join(self.stem()))
    }

    /// Where the addresses are said.
    pub fn drop_in(&self) -> PathBuf {
        self.drop_ins(&self.name.socket_unit()).join("listen.conf")
    }

    fn drop_ins(&self, unit: &str) -> PathBuf {
        self.root
            .join("etc/systemd/system")
            .join(format!("{unit}.d"))
    }

    /// The socket for load balancers.
    pub fn admin_unit(&self) -> String {
        self.name
            .socket_unit()
            .replacen("gapless", "gapless-admin", 1)
    }

    /// All units there can be, the service first.
    pub fn units(&self) -> [String; 4] {
        let name = &self.name;
        let (http, admin) = (name.socket_unit(), self.admin_unit());
        [name.unit(), http, admin, name.control_unit()]
    }

    /// Drop-ins of the administrator: all but ours.
    pub fn foreign_drop_ins(&self) -> Vec<PathBuf> {
        let own = self.drop_in();
        let directories = self.units().map(|unit| self.drop_ins(&unit));
        let files = directories.iter().flat_map(|directory| {
            let entries = std::fs::read_dir(directory).into_iter().flatten();
            entries.flatten().map(|entry| entry.path())
        });
        let mut files: Vec<_> = files.filter(|path| *path != own).collect();
        files.sort();
        files
    }

    /// Where its socket unit listens, by the files of units.
    pub fn addresses(&self) -> Vec<String> {
        unit::listen_streams(&self.root, &self.name.socket_unit())
    }

    pub fn store(&self) -> Store {
        instance::store(&self.name)
    }

    /// What the app keeps, and what it could make again.
    pub fn data(&self) -> [PathBuf; 2] {
        ["var/lib", "var/cache"].map(|it| self.root.join(it).join(self.stem()))
    }

    /// Nobody else adds or removes while this is held. No file is made for it.
    pub fn lock(&self) -> Result<Directory, FootprintError> {
        let units = self.root.join("etc/systemd/system");
        if !self.root.join("run/systemd/system").is_dir() {
            return Err(FootprintError::NotBooted(self.name.clone()));
        }
        match access(&units, Access::WRITE_OK) {
            Err(Errno::ACCESS | Errno::PERM) => return Err(FootprintError::NotAllowed),
            other => other.map_err(|error| failed("write to", &units)(error.into()))?,
        }
        let opened = beneath::open_directory(&units).map_err(failed("open", &units))?;
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(opened),
            Err(Errno::WOULDBLOCK) => Err(FootprintError::Busy),
            Err(error) => Err(failed("lock", &units)(error.into())),
        }
    }
}

/// What the drop-in says.
pub(super) fn drop_in_text(addresses: &[Address]) -> String {
    let lines = addresses.iter().map(|it| format!("ListenStream={it}\n"));
    format!("{MARK}\n[Socket]\n{}", lines.collect::<String>())
}

/// Every instance that has left a trace on this machine, the default one first.
pub(super) fn all() -> Vec<InstanceName> {
    let root = instance::root();
    let mut found: BTreeSet<InstanceName> = unit::entries(&root)
        .filter_map(|entry| of_unit(&entry))
        .collect();
    for target in ["sockets", "multi-user"] {
        let wants = format!("etc/systemd/system/{target}.target.wants");
        found.extend(names_in(&root.join(wants)).filter_map(|it| of_unit(&it)));
    }
    for directory in ["run", "var/lib"] {
        found.extend(names_in(&root.join(directory)).filter_map(|it| of_directory(&it)));
    }
    let configurations = names_in(&root.join("etc/gapless"));
    found.extend(configurations.filter_map(|it| it.strip_suffix(".toml")?.parse().ok()));
    let default = Footprint::of(&InstanceName::default());
    let stores = default.store().root().parent().map(Path::to_owned);
    let stores = stores.iter().flat_map(|stores| names_in(stores));
    found.extend(stores.filter_map(|it| it.parse().ok()));
    found.extend(unit::loaded("gapless*").iter().filter_map(|it| of_unit(it)));
    let is_default = |name: &&InstanceName| **name == default.name;
    let first: Vec<_> = found.iter().filter(is_default).cloned().collect();
    first
        .into_iter()
        .chain(found.iter().filter(|it| !is_default(it)).cloned())
        .collect()
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// `gapless@shop.socket.d`, `gapless-admin@shop.socket`, `gapless.service`.
fn of_unit(entry: &str) -> Option<InstanceName> {
    let unit = entry.strip_suffix(".d").unwrap_or(entry);
    let stem = unit
        .strip_suffix(".socket")
        .or_else(|| unit.strip_suffix(".service"))?;
    let of_another = || {
        let prefixes = ["gapless-admin@", "gapless-control@", "gapless-tmp@"];
        prefixes.iter().find_map(|prefix| stem.strip_prefix(prefix))
    };
    of_directory(stem).or_else(|| of_another()?.parse().ok())
}

/// `gapless@shop`, `gapless`
fn of_directory(entry: &str) -> Option<InstanceName> {
    match entry {
        DEFAULT => Some(InstanceName::default()),
        other => other.strip_prefix("gapless@")?.parse().ok(),
    }
}

/// That of a file, and those above; the lowest, if it had to be made.
pub(super) fn make_directory(of: &Path) -> Result<Option<PathBuf>, FootprintError> {
    let directory = of.parent().unwrap_or(Path::new("/"));
    if directory.is_dir() {
        return Ok(None);
    }
    beneath::make_directories(directory, 0o755).map_err(failed("create", directory))?;
    directory.parent().map(sync).transpose()?;
    Ok(Some(directory.to_owned()))
}

/// Readers, and whoever comes after a power cut, see all of it or nothing.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), FootprintError> {
    let fresh = beside(path);
    beneath::write_whole(&fresh, text.as_bytes(), 0o644)
        .and_then(|()| beneath::rename(&fresh, path))
        .map_err(failed("write", path))?;
    sync(path.parent().unwrap_or(Path::new("/")))
}

/// Neither systemd nor systemd-sysusers reads a file that ends so.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// With what a write that was killed left beside it, and its directory if that is empty then. True:
/// it was there.
pub(super) fn remove_file(path: &Path) -> Result<bool, FootprintError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Mostly there is none.
    drop(beneath::unlink_if_there(&beside(path)));
    let was_there = beneath::unlink_if_there(path).map_err(failed("delete", path))?;
    if was_there {
        sync(directory)?;
    }
    Ok(was_there)
}

/// What is not empty stays: it is somebody else's, too.
pub(super) fn remove_if_empty(directory: &Path) {
    drop(beneath::remove_empty(directory));
}

/// Follows no link. True: it was there.
pub(super) fn remove_tree(path: &Path) -> Result<bool, FootprintError> {
    beneath::remove_if_there(path).map_err(failed("delete", path))
}

/// A rename is on disk when its directory is.
fn sync(directory: &Path) -> Result<(), FootprintError> {
    beneath::sync(directory).map_err(failed("write to disk", directory))
}
