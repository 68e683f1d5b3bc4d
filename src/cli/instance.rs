//! Which gapless is meant, and where its control socket is.
//!
//! systemd makes those of services, in `/run/gapless-control`, which belongs to root. Services whose units
//! know no control socket (those of 0.1.0) have theirs in their runtime directory, which belongs to the
//! app's user; those in the foreground have theirs with the other files of the user's session.

mod project;

pub(super) use project::{Claim, claim};

use super::Exit;
use crate::keeper::control::socket;
use crate::release::store::{self, Store};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// The instance of gapless.service.
pub(super) const DEFAULT: &str = "gapless";

/// The name of a socket that the keeper made itself, in its runtime directory.
const CONTROL_SOCKET: &str = socket::SOCKET;

/// Where systemd makes them: `ListenStream=` of the control socket units, below `/run`.
const CONTROL_DIRECTORY: &str = "gapless-control";

/// The name of an instance: letters, digits, `_`, `.` and `-`, so that it can be part of a unit's
/// name and of a path; at most 64, so that socket paths stay below their 108 bytes (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceName(String);

/// Not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("use up to 64 letters, digits, _, . and -, and begin with a letter or a digit")]
pub struct NameError;

impl InstanceName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What comes behind `gapless` on a command line that means this one: nothing, or ` --app NAME`.
    pub fn option(&self) -> String {
        if self.0 == DEFAULT {
            String::new()
        } else {
            format!(" --app {}", self.0)
        }
    }

    /// Who runs its app; the group may use its control socket.
    pub fn user(&self) -> String {
        if self.0 == DEFAULT {
            DEFAULT.to_owned()
        } else {
            format!("{DEFAULT}-{}", self.0)
        }
    }

    /// The systemd service of this instance.
    pub fn unit(&self) -> String {
        if self.0 == DEFAULT {
            "gapless.service".to_owned()
        } else {
            format!("gapless@{}.service", self.0)
        }
    }

    /// The systemd socket that clients of this instance connect to.
    pub fn socket_unit(&self) -> String {
        self.unit().replace(".service", ".socket")
    }
}

impl InstanceName {
    /// The systemd socket that commands for this instance come in by.
    pub fn control_unit(&self) -> String {
        let socket = self.socket_unit();
        socket.replacen(DEFAULT, CONTROL_DIRECTORY, 1)
    }
}

impl Default for InstanceName {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl FromStr for InstanceName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins_well && name.len() <= 64 && name.chars().all(is_allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where runtime directories are.
#[derive(Clone, Debug)]
struct Places {
    /// `/run`
    services: PathBuf,
    /// `$RUNTIME_DIRECTORY`, when it is that of an instance: a command of its unit means that one.
    own: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, when there is one.
    session: Option<PathBuf>,
    /// For those without a session.
    temporary: PathBuf,
    /// Who may own a foreground instance of ours.
    uid: u32,
}

impl Places {
    fn of_this_process() -> Self {
        let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let own = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
        Self {
            services: root().join("run"),
            own: own.filter(|directory| directory.join(CONTROL_SOCKET).exists()),
            session: session.filter(|directory| directory.is_absolute()),
            temporary: PathBuf::from("/tmp"),
            uid: rustix::process::getuid().as_raw(),
        }
    }

    fn control(&self, name: &InstanceName) -> PathBuf {
        let file = format!("{name}.sock");
        self.services.join(CONTROL_DIRECTORY).join(file)
    }

    /// That of systemd, where there is one: the other directory belongs to the app's user, who may put
    /// there what it likes.
    fn of_service(&self, name: &InstanceName) -> Instance {
        let control = self.control(name);
        let socket = if may_exist(&control) {
            control
        } else {
            self.service(name).join(CONTROL_SOCKET)
        };
        Instance {
            name: name.clone(),
            socket,
        }
    }

    fn is_of_service(&self, instance: &Instance) -> bool {
        let Instance { name, socket } = instance;
        *socket == self.control(name) || socket.starts_with(self.service(name))
    }

    fn service(&self, name: &InstanceName) -> PathBuf {
        if let Some(own) = &self.own {
            own.clone()
        } else if name.as_str() == DEFAULT {
            self.services.join(DEFAULT)
        } else {
            self.services.join(format!("gapless@{name}"))
        }
    }

    /// The directory that holds one directory per foreground instance, and what these begin with.
    fn foreground_parent(&self) -> (PathBuf, &'static str) {
        match &self.session {
            Some(session) => (session.clone(), "gapless@"),
            None => (self.temporary.join(format!("gapless-{}", self.uid)), ""),
        }
    }

    /// Where `gapless --app NAME run` has its runtime directory: in `$XDG_RUNTIME_DIR`, else under
    /// `/tmp/gapless-UID`.
    fn foreground(&self, name: &InstanceName) -> PathBuf {
        let (parent, prefix) = self.foreground_parent();
        parent.join(format!("{prefix}{name}"))
    }

    /// Foreground instances that answer, by name. Somebody else's directory in /tmp is not ours,
    /// whatever it is called.
    fn running_foreground(&self) -> Vec<Instance> {
        let (parent, prefix) = self.foreground_parent();
        let is_ours = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|it| it.is_dir() && it.uid() == self.uid)
        };
        let entries = if is_ours(&parent) {
            std::fs::read_dir(&parent).ok()
        } else {
            None
        };
        let mut running: Vec<_> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let directory = entry.ok()?.path();
                let name = directory
                    .file_name()?
                    .to_str()?
                    .strip_prefix(prefix)?
                    .parse()
                    .ok()?;
                let socket = directory.join(CONTROL_SOCKET);
                let answers = is_ours(&directory) && UnixStream::connect(&socket).is_ok();
                answers.then_some(Instance { name, socket })
            })
            .collect();
        running.sort_by(|a, b| a.name.cmp(&b.name));
        running
    }
}

/// `/run/gapless` or `/run/gapless@NAME`.
pub fn system_directory(name: &InstanceName) -> PathBuf {
    Places::of_this_process().service(name)
}

/// The service of this name, whether it runs or not.
pub(super) fn of_service(name: &InstanceName) -> Instance {
    Places::of_this_process().of_service(name)
}

/// `/etc/gapless/NAME.toml`
pub fn config_file(name: &InstanceName) -> PathBuf {
    root().join("etc/gapless").join(format!("{name}.toml"))
}

/// What is below this is the system: `/`, or `$GAPLESS_ROOT` where tests play one.
pub(super) fn root() -> PathBuf {
    let root = std::env::var_os("GAPLESS_ROOT").filter(|value| !value.is_empty());
    root.map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Where the releases of an instance are: below `/srv/gapless`, or `$GAPLESS_STORE`.
pub(super) fn store(name: &InstanceName) -> Store {
    let stores = std::env::var_os("GAPLESS_STORE").filter(|value| !value.is_empty());
    let stores = stores.map_or_else(
        || root().join(store::ROOT.trim_start_matches('/')),
        PathBuf::from,
    );
    Store::new(&stores, name.as_str())
}

/// An instance to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub name: InstanceName,
    pub socket: PathBuf,
}

impl Instance {
    /// As it is to be reached now: the socket of systemd comes and goes with the service.
    pub fn now(&self) -> Self {
        let places = Places::of_this_process();
        if places.is_of_service(self) {
            places.of_service(&self.name)
        } else {
            self.clone()
        }
    }

    /// Whose service it is.
    pub fn service(&self) -> Option<InstanceName> {
        (!self.is_in_foreground()).then(|| self.name.clone())
    }

    /// Of `gapless run`: it has no unit, no entries in the journal, and no file below `/etc`.
    pub fn is_in_foreground(&self) -> bool {
        !Places::of_this_process().is_of_service(self)
    }

    /// Where all that it wrote is.
    pub fn log(&self) -> String {
        if self.is_in_foreground() {
            "in its terminal".to_owned()
        } else {
            format!("journalctl -u {}", self.name.unit())
        }
    }
}

/// What the next command says, too, where this one named its app.
pub(super) fn option(name: Option<&InstanceName>) -> String {
    name.map(InstanceName::option).unwrap_or_default()
}

/// No instance to talk to, or too many.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FindError {
    /// No control socket anywhere.
    #[error("{name} is not running")]
    NotRunning {
        /// The one that was asked for.
        name: InstanceName,
    },
    /// No name was given, and it is not clear.
    #[error("several run: {}; name one of them", list(names))]
    Several {
        /// Those that run in the foreground.
        names: Vec<InstanceName>,
    },
}

/// Only systemd's services have units and a journal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0} runs in the foreground, its log is in its terminal, and Ctrl-C there ends it; a service \
     is meant by its name: gapless, or NAME of gapless@NAME.service"
)]
pub struct InForeground(InstanceName);

impl FindError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            FindError::NotRunning { .. } => Exit::NotRunning,
            FindError::Several { .. } => Exit::Usage,
        }
    }
}

/// Those of this user that run in the foreground.
pub(super) fn foreground() -> Vec<Instance> {
    Places::of_this_process().running_foreground()
}

fn list(names: &[InstanceName]) -> String {
    names
        .iter()
        .map(InstanceName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The instance of this name; without a name, the foreground one of the directory, gapless.service, or the
/// only foreground one.
pub(super) fn find(name: Option<&InstanceName>) -> Result<Instance, FindError> {
    find_in(name, &Places::of_this_process())
}

/// The service of this name, whether it runs or not. Without a name, gapless.service; unless one in the
/// foreground is what other commands would mean.
pub(super) fn service(name: Option<&InstanceName>) -> Result<InstanceName, InForeground> {
    let places = Places::of_this_process();
    match find_in(name, &places) {
        Ok(found) if !places.is_of_service(&found) => Err(InForeground(found.name)),
        Ok(_) | Err(_) => Ok(name.cloned().unwrap_or_default()),
    }
}

fn find_in(name: Option<&InstanceName>, places: &Places) -> Result<Instance, FindError> {
    let here = std::env::current_dir().unwrap_or_default();
    find_from(name, &here, places)
}

/// In the directory of a project, what runs there in the foreground comes first.
fn find_from(
    name: Option<&InstanceName>,
    here: &Path,
    places: &Places,
) -> Result<Instance, FindError> {
    let wanted = name.cloned().unwrap_or_default();
    let running = || places.running_foreground();
    // A command of a unit means that unit.
    if name.is_none() && places.own.is_none() {
        let own = project::of_project(&running(), here);
        if !own.is_empty() {
            return only(own, wanted);
        }
    }
    let service = places.of_service(&wanted);
    if may_exist(&service.socket) {
        return Ok(service);
    }
    let running = running();
    if let Some(name) = name {
        let found = running.into_iter().find(|instance| instance.name == *name);
        return found.ok_or(FindError::NotRunning { name: wanted });
    }
    only(running, wanted)
}

fn only(mut running: Vec<Instance>, wanted: InstanceName) -> Result<Instance, FindError> {
    match (running.pop(), running.is_empty()) {
        (None, _) => Err(FindError::NotRunning { name: wanted }),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            let names = running
                .into_iter()
                .chain([last])
                .map(|instance| instance.name)
                .collect();
            Err(FindError::Several { names })
        }
    }
}

/// Also true when we may not look: then connecting says so, which is the better answer.
fn may_exist(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A `/run` and a session of their own.
    struct World {
        root: PathBuf,
        listeners: Vec<UnixListener>,
    }

    impl World {
        fn new(test: &str) -> Self {
            let name = format!("gapless-find-{}-{test}", std::process::id());
            let root = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&root).unwrap();
            Self {
                root,
                listeners: Vec::new(),
            }
        }

        fn places(&self) -> Places {
            Places {
                own: None,
                services: self.root.join("run"),
                session: Some(self.root.join("session")),
                temporary: self.root.join("tmp"),
                uid: rustix::process::getuid().as_raw(),
            }
        }

        fn start(&mut self, directory: &str) {
            let directory = self.root.join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            self.listeners
                .push(UnixListener::bind(directory.join(CONTROL_SOCKET)).unwrap());
        }

        fn find(&self, name: Option<&str>) -> Result<Instance, FindError> {
            let name = name.map(|name| name.parse().unwrap());
            find_in(name.as_ref(), &self.places())
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.root).unwrap();
        }
    }

    #[test]
    fn without_a_name_the_service_is_meant() {
        let mut world = World::new("service");
        world.start("run/gapless");
        world.start("session/gapless@run");
        assert_eq!(
            world.find(None).unwrap().socket,
            world.root.join("run/gapless/control.sock")
        );
    }

    #[test]
    fn without_a_service_the_only_foreground_one_is_meant() {
        let mut world = World::new("only");
        world.start("session/gapless@run");
        assert_eq!(world.find(None).unwrap().name.as_str(), "run");
    }

    #[test]
    fn several_foreground_ones_are_listed() {
        let mut world = World::new("several");
        world.start("session/gapless@b");
        world.start("session/gapless@a");
        let error = world.find(None).unwrap_err();
        assert_eq!(error.to_string(), "several run: a, b; name one of them");
        assert_eq!(error.exit(), Exit::Usage);
        assert_eq!(world.find(Some("b")).unwrap().name.as_str(), "b");
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_not_running() {
        let mut world = World::new("stale");
        world.start("session/gapless@run");
        world.listeners.clear();
        let error = world.find(None).unwrap_err();
        assert_eq!(error.exit(), Exit::NotRunning);
    }

    #[test]
    fn a_directory_in_tmp_is_used_without_a_session() {
        let mut world = World::new("tmp");
        let uid = rustix::process::getuid().as_raw();
        world.start(&format!("tmp/gapless-{uid}/shop"));
        let places = Places {
            session: None,
            ..world.places()
        };
        assert_eq!(find_in(None, &places).unwrap().name.as_str(), "shop");
    }

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for name in ["", "..", "a/b", "-x", ".x", "a b", "a@b"] {
            assert_eq!(name.parse::<InstanceName>(), Err(NameError), "{name}");
        }
        assert!("shop-2.eu_west".parse::<InstanceName>().is_ok());
    }
}
