//! What a package leaves behind: every file of a container, compared with those before, as piuparts
//! does it; but after upgrades, apps and reboots of a running system.

use crate::world::container::Container;
use std::collections::BTreeMap;

/// Kind, mode, owner, size and target of each; of those in /etc the digest, too.
pub type Files = BTreeMap<String, String>;

/// Each with its reason; "/x" stands for all that begins so.
const NOT_COMPARED: [&str; 25] = [
    // Of the kernel, or gone with the next boot.
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    // The apps and the packages of the tests.
    "/srv/ask.py",
    "/srv/next.",
    "/srv/probe",
    "/srv/system.",
    "/srv/this.",
    "/root/myapp",
    // What happened stays known.
    "/var/log",
    // Packagers remember what they did.
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/cache/apt",
    "/var/cache/debconf/tmp.ci",
    "/var/lib/rpm",
    "/var/lib/dnf",
    "/var/cache/dnf",
    "/var/cache/libdnf",
    // systemd writes there at a boot: random seed, what is updated, caches, the private /tmp of others.
    "/var/lib/systemd",
    "/var/.updated",
    "/etc/.updated",
    "/etc/ld.so.cache",
    "/var/tmp",
];
/// The users stay, as Debian has it: what belongs to them elsewhere must not become somebody else's.
const USERS: [&str; 5] = ["passwd", "group", "shadow", "gshadow", ".pwd.lock"];

pub fn every_file(container: &Container) -> Files {
    let pruned = NOT_COMPARED
        .map(|path| format!("-path {path}"))
        .join(" -o ");
    let found = container.sh(&format!(
        "find / -xdev \\( {pruned} \\) -prune -o -type d -printf '%p\\t%y %m %u:%g\\n' \
         -o -printf '%p\\t%y %m %u:%g %s %l\\n'; \
         find /etc -type f -exec md5sum {{}} + | sed 's/^\\([^ ]*\\)  \\(.*\\)/\\2 content\\t\\1/'"
    ));
    let is_of_users = |path: &str| {
        let name = path.strip_prefix("/etc/").unwrap_or_default();
        USERS.iter().any(|user| name.starts_with(user))
    };
    let entries = found.lines().filter_map(|line| line.split_once('\t'));
    let entries = entries.filter(|(path, _)| !is_of_users(path) && !is_excepted(path));
    entries.map(|(path, is)| (path.into(), is.into())).collect()
}

/// Python, with which the tests ask, keeps what it has compiled.
fn is_excepted(path: &str) -> bool {
    path.contains("/__pycache__")
        || NOT_COMPARED
            .iter()
            .any(|excepted| path.starts_with(excepted))
}

pub fn difference(before: &Files, after: &Files) -> Vec<String> {
    let gone = before.iter().filter(|(path, _)| !after.contains_key(*path));
    let gone = gone.map(|(path, is)| format!("gone: {path}: {is}"));
    let came = after
        .iter()
        .filter(|(path, is)| before.get(*path) != Some(is));
    let came = came.map(|(path, is)| format!("{path}: {:?} became {is}", before.get(path)));
    gone.chain(came).collect()
}
