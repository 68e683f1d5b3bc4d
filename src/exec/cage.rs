//! The cage of an app's process: Landlock, between what it may do and the processes beside it.
//!
//! App, front and keeper have the same user. In a Landlock domain a process may not trace, nor read the memory or the
//! environment of, what is not in the domain as well (landlock(7), "Ptrace restrictions"): so neither a front nor the
//! keeper, not even in the moment of execve(2) in which they are dumpable. From ABI 6 (Linux 6.12) on it may not
//! signal them either, nor connect to abstract unix sockets of others.
//!
//! A domain must restrict something. Where there are scopes, these are all that it does: rights to files would forbid
//! mount(2) to an app with namespaces of its own. Before, it is the making of block devices, which no app may
//! anyhow, together with the right to link and rename across directories, which every domain with rights to files
//! loses that does not ask for it. ABI 1 (before Linux 5.19) does not know that right, and would break apps: no cage.
//!
//! # Why one user, and not two
//!
//! Apart by user, keeper, front and app would be apart on every kernel. That was weighed and not done.
//! Whoever starts the app as another user needs a capability or root. A helper with CAP_SETUID is what the
//! app would then attack. Transient units started by root put a second lifecycle beside the keeper's, which
//! must adopt, end and move their processes over a bus that is gone at shutdown. Files that both use
//! (sockets, the state directory) would need a common group, and an instance that runs since 0.1.0 would
//! change the owner of its data.
//!
//! The chain loader enters the domain last before the exec. It suffices on Linux from 5.19 for memory and
//! from 6.12 for signals. It does not suffice before 5.19, nor where Landlock is not among the modules
//! (`lsm=`). There, non-dumpable processes are what is left. Fronts are born non-dumpable, from a sealed
//! copy of the image (`keeper/spawn/image.rs`), which takes as much memory as the program has code: 8 MB
//! for an instance. For the keeper itself this is not possible without breaking the way back of an upgrade,
//! which must read the image.

use landlock::{
    AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::process::geteuid;
use rustix::thread::no_new_privs;
use serde::{Deserialize, Serialize};

/// How much of a cage there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cage {
    /// No memory of others, no signals to them, no abstract sockets of theirs.
    Whole,
    /// No memory of others; the kernel cannot do more.
    Memory,
    /// None: the kernel has no Landlock, or an old one, or something forbids it.
    None,
    /// Not wanted.
    Off,
}

/// A process cannot be put into a cage.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// The kernel, or a filter of system calls.
    #[error(
        "this kernel has no Landlock of ABI 2, or SystemCallFilter= forbids it; the app runs without a cage"
    )]
    Unsupported,
    /// landlock_restrict_self(2).
    #[error("no cage without NoNewPrivileges=yes; the app runs without one")]
    Refused(#[source] RulesetError),
}

/// What can be had here: of a process with our rights.
pub fn possible() -> Cage {
    let may = geteuid().is_root() || no_new_privs().unwrap_or(false);
    match (may, scopes(), memory()) {
        (true, Some(_), _) => Cage::Whole,
        (true, None, Some(_)) => Cage::Memory,
        (true, None, None) | (false, _, _) => Cage::None,
    }
}

/// From here on, for this process, which has one thread, and for all that it becomes and starts.
///
/// # Errors
/// [`CageError`]: nothing has changed then.
pub fn enter() -> Result<(), CageError> {
    let ruleset = scopes().or_else(memory).ok_or(CageError::Unsupported)?;
    enter_by(ruleset)
}

/// An administrator who says NoNewPrivileges=no wants set-user-ID programs to work: that counts.
fn enter_by(ruleset: RulesetCreated) -> Result<(), CageError> {
    let entered = ruleset.no_new_privs(false).restrict_self();
    entered.map(drop).map_err(CageError::Refused)
}

fn scopes() -> Option<RulesetCreated> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal | Scope::AbstractUnixSocket)
        .and_then(Ruleset::create)
        .ok()
}

fn memory() -> Option<RulesetCreated> {
    let rights: BitFlags<AccessFs> = AccessFs::MakeBlock | AccessFs::Refer;
    let root = PathFd::new("/").ok()?;
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(rights)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, rights)))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    /// What a shell comes to that runs in a cage of this kind: started by a thread that is in it, and ends there.
    fn in_cage(script: &str, make: fn() -> Option<RulesetCreated>) -> Output {
        std::thread::scope(|threads| {
            let caged = threads.spawn(|| {
                make().unwrap().no_new_privs(true).restrict_self().unwrap();
                Command::new("/bin/sh").args(["-c", script]).output()
            });
            caged.join().unwrap().unwrap()
        })
    }

    /// On a kernel that can do the whole, both kinds can be had.
    fn kinds() -> Vec<fn() -> Option<RulesetCreated>> {
        let all: [fn() -> Option<RulesetCreated>; 2] = [memory, scopes];
        all.into_iter().filter(|make| make().is_some()).collect()
    }

    #[test]
    fn either_cage_lets_an_app_rename_and_link_across_directories() {
        for make in kinds() {
            let script = "set -e; d=$(mktemp -d); mkdir $d/a $d/b; : >$d/a/x; mv $d/a/x $d/b/y; \
                          ln $d/b/y $d/a/z; python3 -c \"import os; os.rename('$d/a/z', '$d/b/w')\"; \
                          ls $d/b; rm -r $d; sleep 60 & kill $!";
            let output = in_cage(script, make);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout, b"w\ny\n");
        }
    }

    /// The test itself is outside, and as much the same user as a front would be.
    #[test]
    fn either_cage_closes_the_memory_of_others() {
        let pid = std::process::id();
        for make in kinds() {
            // Not maps and environ: CAP_PERFMON opens these, and the tests run as root.
            for name in ["mem", "fd/0", "exe", "cwd/."] {
                let open = in_cage(&format!("head -c 1 /proc/{pid}/{name}"), make);
                assert!(!open.status.success(), "{name}: {open:?}");
            }
            let own = in_cage("head -c 1 /proc/self/environ", make);
            assert!(own.status.success(), "{own:?}");
        }
    }

    #[test]
    fn a_whole_cage_holds_signals_back() {
        if scopes().is_none() {
            return;
        }
        let output = in_cage(&format!("kill -0 {}", std::process::id()), scopes);
        assert!(!output.status.success(), "{output:?}");
        if geteuid().is_root() {
            assert_eq!(possible(), Cage::Whole);
        }
    }
}
