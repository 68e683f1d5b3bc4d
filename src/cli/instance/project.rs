//! What `gapless run` is called, and which one is meant in a directory: it has the name of its project, or the
//! next free one, so that two projects run beside each other without a word about it.

use super::{CONTROL_SOCKET, DEFAULT, Instance, InstanceName, Places};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// In the runtime directory: a link to where `gapless run` was started.
const PROJECT: &str = "project";

/// For a project whose directory gives no name, or that of the service.
const UNNAMED: &str = "run";

/// Longer names would leave no room for the sockets below, unix(7).
const DERIVED_MAX: usize = 32;

/// Nobody starts one project so often.
const BESIDE_MAX: u32 = 99;

/// The runtime directory of a foreground instance, its own as long as this lives.
pub(in crate::cli) struct Claim {
    pub name: InstanceName,
    pub directory: PathBuf,
    /// Another of the same project has the name that this one would have had.
    pub is_beside: bool,
    /// Locked, so that of two that start at once only one gets the name. After an upgrade, which closes it,
    /// the control socket says that the name is taken.
    _lock: File,
}

impl InstanceName {
    /// Of what runs in this directory.
    fn of_project(directory: &Path) -> Self {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let allowed = |c: char| match c {
            '_' | '.' | '-' => c,
            c if c.is_ascii_alphanumeric() => c,
            _ => '-',
        };
        let name: String = name.chars().map(allowed).collect();
        let name: String = name
            .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
            .chars()
            .take(DERIVED_MAX)
            .collect();
        Self(match name.as_str() {
            "" | DEFAULT => UNNAMED.to_owned(),
            _ => name,
        })
    }

    fn beside(&self, number: u32) -> Self {
        Self(format!("{}-{number}", self.0))
    }
}

/// The name that was given, or else the first free one of the project in `here`.
pub(in crate::cli) fn claim(
    name: Option<&InstanceName>,
    here: &Path,
) -> Result<Claim, (PathBuf, io::Error)> {
    claim_in(name, here, &Places::of_this_process())
}

fn claim_in(
    name: Option<&InstanceName>,
    here: &Path,
    places: &Places,
) -> Result<Claim, (PathBuf, io::Error)> {
    let first = name.map_or_else(|| InstanceName::of_project(here), InstanceName::clone);
    let beside = if name.is_some() { 1 } else { BESIDE_MAX };
    let others = (2..=beside).map(|number| first.beside(number));
    for name in std::iter::once(first.clone()).chain(others) {
        let directory = places.foreground(&name);
        let lock = take(&directory, here).map_err(|error| (directory.clone(), error))?;
        if let Some(lock) = lock {
            return Ok(Claim {
                is_beside: name != first,
                name,
                directory,
                _lock: lock,
            });
        }
    }
    let why = "another gapless of this name runs; stop it, or choose another --app";
    let error = io::Error::new(io::ErrorKind::AddrInUse, why);
    Err((places.foreground(&first), error))
}

/// None: somebody has it.
fn take(directory: &Path, here: &Path) -> io::Result<Option<File>> {
    make_private(directory)?;
    let lock = File::open(directory)?;
    let is_locked = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    if !is_locked || UnixStream::connect(directory.join(CONTROL_SOCKET)).is_ok() {
        return Ok(None);
    }
    let link = directory.join(PROJECT);
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(here, &link)?;
    Ok(Some(lock))
}

/// Sockets that command the app belong to one user; in /tmp anybody could have made the directory
/// first.
fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let metadata = std::fs::symlink_metadata(directory)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && is_ours && metadata.mode().trailing_zeros() >= 6 {
        return Ok(());
    }
    let why = "it must be a directory of this user with mode 0700; remove it, or choose --app";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Those of them that were started in `here`, or in the nearest directory above it.
pub(super) fn of_project(running: &[Instance], here: &Path) -> Vec<Instance> {
    let project = |instance: &Instance| {
        let directory = instance.socket.parent()?;
        std::fs::read_link(directory.join(PROJECT)).ok()
    };
    let projects: Vec<_> = running
        .iter()
        .filter_map(|instance| Some((project(instance)?, instance)))
        .collect();
    let of = |directory: &Path| {
        let own = projects.iter().filter(|(project, _)| project == directory);
        let own: Vec<_> = own.map(|(_, instance)| (*instance).clone()).collect();
        (!own.is_empty()).then_some(own)
    };
    here.ancestors().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::instance::find_from;
    use std::os::unix::net::UnixListener;

    fn places(root: &Path) -> Places {
        Places {
            own: None,
            services: root.join("run"),
            session: Some(root.join("session")),
            temporary: root.join("tmp"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// One that answers.
    fn run(here: &Path, places: &Places) -> (Claim, UnixListener) {
        let claim = claim_in(None, here, places).map_err(|(_, error)| error);
        let claim = claim.unwrap();
        let socket = UnixListener::bind(claim.directory.join(CONTROL_SOCKET)).unwrap();
        (claim, socket)
    }

    #[test]
    fn a_project_gives_its_name_as_far_as_it_is_one() {
        for (directory, name) in [
            ("/home/a/shop", "shop"),
            ("/home/a/My Shop (2)", "My-Shop--2-"),
            ("/srv/.hidden", "hidden"),
            ("/srv/läden", "l-den"),
            ("/srv/gapless", "run"),
            ("/srv/---", "run"),
            ("/", "run"),
        ] {
            let derived = InstanceName::of_project(Path::new(directory));
            assert_eq!(derived.as_str(), name, "{directory}");
            assert!(derived.as_str().parse::<InstanceName>().is_ok());
        }
        let long = PathBuf::from(format!("/{}", "x".repeat(200)));
        assert_eq!(InstanceName::of_project(&long).as_str().len(), DERIVED_MAX);
    }

    #[test]
    fn two_projects_and_two_of_one_project_have_names_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let (shop, _answers) = run(Path::new("/a/shop"), &places);
        let (blog, _answers) = run(Path::new("/a/blog"), &places);
        let (again, _answers) = run(Path::new("/b/shop"), &places);
        let names = [&shop, &blog, &again].map(|it| (it.name.to_string(), it.is_beside));
        let expected = [("shop", false), ("blog", false), ("shop-2", true)];
        assert_eq!(names, expected.map(|(name, is)| (name.to_owned(), is)));
        drop(shop);
        // Its socket still answers, as after an upgrade, which closes the lock.
        let third = claim_in(None, Path::new("/a/shop"), &places).map_err(|(_, error)| error);
        assert_eq!(third.unwrap().name.as_str(), "shop-3");
        let given = "blog".parse().unwrap();
        let (_, taken) = claim_in(Some(&given), Path::new("/a/shop"), &places)
            .err()
            .unwrap();
        assert!(
            taken.to_string().contains("choose another --app"),
            "{taken}"
        );
    }

    #[test]
    fn in_a_project_and_below_its_own_is_meant_and_elsewhere_a_name_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let _shop = run(Path::new("/a/shop"), &places);
        let _blog = run(Path::new("/a/shop/blog"), &places);
        let found = |here: &str| {
            let found = find_from(None, Path::new(here), &places);
            found
                .map(|it| it.name.to_string())
                .map_err(|it| it.to_string())
        };
        assert_eq!(found("/a/shop"), Ok("shop".into()));
        assert_eq!(found("/a/shop/src/deep"), Ok("shop".into()));
        assert_eq!(found("/a/shop/blog/src"), Ok("blog".into()));
        let several = "several run: blog, shop; name one of them".to_owned();
        assert_eq!(found("/a"), Err(several));
        let _twice = run(Path::new("/a/shop"), &places);
        let several = "several run: shop, shop-2; name one of them".to_owned();
        assert_eq!(found("/a/shop"), Err(several));
    }

    #[test]
    fn in_a_project_its_own_is_meant_before_the_service() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let service = places.service(&InstanceName::default());
        std::fs::create_dir_all(&service).unwrap();
        let _socket = UnixListener::bind(service.join(CONTROL_SOCKET)).unwrap();
        let _shop = run(Path::new("/a/shop"), &places);
        let found = |here: &str| find_from(None, Path::new(here), &places).unwrap().name;
        assert_eq!(found("/a/shop").as_str(), "shop");
        assert_eq!(found("/a").as_str(), DEFAULT);
    }
}
