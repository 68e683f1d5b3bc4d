//! Starting the process of a front.
//!
//! Fronts are started with `GLIBC_TUNABLES=glibc.malloc.tcache_count=127`, unless the service has some of
//! its own: a lane makes and frees the same small pieces for each request, and glibc keeps seven of a size
//! at hand.

use super::estate::Bequest;
use crate::config::{AccessConfig, HttpConfig};
use crate::exec::OWN_IMAGE;
use crate::id::FrontId;
use crate::keeper::lane_probe;
use crate::keeper::plan::Moment;
use crate::keeper::spawn::{self, Child, Environment, Orphan, Spawn, SpawnError};
use crate::link::settings::{CLOSING, ESTATE, HTTP, LINK, PROBE, SETTINGS, SLOTS};
use crate::link::{self, FrontSettings, Orphaned};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Everything that a front is born with.
pub struct Birth<'a> {
    /// The instance.
    pub name: &'a str,
    /// Limits and timeouts.
    pub http: &'a HttpConfig,
    /// As RUST_LOG.
    pub log_level: &'a str,
    /// Which requests it logs.
    pub access: AccessConfig,
    /// Clients connect to these.
    pub listeners: Vec<&'a OwnedFd>,
    /// No more; it serves who is in their queues, and closes them.
    pub closing: Vec<&'a OwnedFd>,
    /// For the probe sockets.
    pub runtime_directory: &'a Path,
    /// Where to put the process, if the control group is delegated.
    pub cgroup: Option<&'a Path>,
    /// What becomes of it when the keeper ends.
    pub orphaned: Orphaned,
    /// It replaces only the binary: the tunnels of those that retire for it go on.
    pub is_upgrade: bool,
    /// Environment of the keeper.
    pub env: &'a Environment,
    /// Now.
    pub now: Moment,
}

/// A front could not be born.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// No process.
    #[error("cannot start a front")]
    Spawn(#[from] SpawnError),
    /// No fds, or no runtime directory to put the probe sockets into.
    #[error("cannot prepare a front in {}", .0.display())]
    Prepare(PathBuf, #[source] io::Error),
}

impl Birth<'_> {
    pub(super) fn failed(&self, error: io::Error) -> FrontError {
        FrontError::Prepare(self.runtime_directory.to_path_buf(), error)
    }
}

/// Of glibc: each thread keeps so many freed pieces of a size for itself, instead of 7. A lane makes and
/// frees the same small pieces for every request, of as many connections as are busy.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=127");

/// A process, our end of its link, and what it would leave.
pub(super) struct Born {
    pub child: Child,
    pub link: OwnedFd,
    pub lanes: usize,
    pub bequest: Bequest,
}

pub(super) fn bear(id: FrontId, birth: &Birth<'_>) -> Result<Born, FrontError> {
    let prepare = |error| birth.failed(error);
    let lanes = lanes(birth.http);
    let probes = lane_probe::listen(birth.runtime_directory, id, lanes).map_err(prepare)?;
    let (link, theirs) = link::pair().map_err(prepare)?;
    let settings = settings_fd(id, birth).map_err(prepare)?;
    let (bequest, estate) = Bequest::new().map_err(prepare)?;
    let mut fds = vec![(LINK, theirs.as_fd()), (SETTINGS, settings.as_fd())];
    fds.extend([(SLOTS, bequest.slots().as_fd()), (ESTATE, estate.as_fd())]);
    fds.extend(birth.listeners.iter().map(|fd| (HTTP, fd.as_fd())));
    fds.extend(birth.closing.iter().map(|fd| (CLOSING, fd.as_fd())));
    fds.extend(probes.iter().map(|fd| (PROBE, fd.as_fd())));
    let env = environment(birth.env);
    let child = spawn::spawn(&Spawn {
        command: [OWN_IMAGE, "front"].map(OsString::from).to_vec(),
        env: &env,
        directory: Path::new("/"),
        fds,
        output: None,
        tty: None,
        cgroup: birth.cgroup,
        orphan: Orphan::LivesOn,
        is_caged: false,
    })?;
    Ok(Born {
        child,
        link,
        lanes,
        bequest,
    })
}

fn environment(of_keeper: &Environment) -> Environment {
    let mut env = of_keeper.clone();
    // What an operator set is meant for us, too.
    let (name, value) = TUNABLES;
    env.entry(name.into()).or_insert_with(|| value.into());
    env
}

fn lanes(http: &HttpConfig) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    http.lanes
        .map_or_else(cores, |lanes| usize::try_from(lanes.get()).unwrap_or(1))
}

fn settings_fd(id: FrontId, birth: &Birth<'_>) -> io::Result<OwnedFd> {
    let settings = FrontSettings {
        name: birth.name.into(),
        id,
        http: birth.http.clone(),
        log_level: birth.log_level.into(),
        access: birth.access,
        orphaned: birth.orphaned,
    };
    let fd = rustix::fs::memfd_create("gapless-front-settings", rustix::fs::MemfdFlags::CLOEXEC)?;
    let bytes = serde_json::to_vec(&settings)?;
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, &bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_has_the_environment_of_its_keeper_and_tunables_unless_the_operator_set_some() {
        let given = Environment::from([("LANG".into(), "C".into())]);
        let mut tuned = given.clone();
        tuned.insert(TUNABLES.0.into(), TUNABLES.1.into());
        assert_eq!(environment(&given), tuned);
        let own = Environment::from([(TUNABLES.0.into(), "glibc.malloc.arena_max=1".into())]);
        assert_eq!(environment(&own), own);
    }
}
