//! Whose SIGKILL came from the kernel for want of memory: known by the counter of memory.events.
//!
//! An OOM kill is told by a count, not by a pid, because the kernel tells nobody whom it killed.
//! memory.events of the unit's control group counts kills below it, also those on a machine that is out of
//! memory altogether, before the signal is sent. So a worker that dies by SIGKILL, when the count has
//! risen, was killed for that. Each count explains one death. Where the kernel killed another process of
//! the unit, the next SIGKILL of a worker takes its place, until a new generation begins.

use super::death::Death;
use super::reaper::Ending;
use rustix::process::Signal;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// OOM kills that were seen so far, for every group that counts them. Shared by all crews: they
/// may be counted by the same group, and each kill explains one death only.
#[derive(Debug, Default)]
pub struct OomKills(RefCell<BTreeMap<PathBuf, u64>>);

impl OomKills {
    /// A generation begins in `group` or is adopted there: what was counted before is not about it.
    pub fn watch(&self, group: &Path) {
        if let Some((file, count)) = counted(group) {
            self.0.borrow_mut().insert(file, count);
        }
    }

    /// How a worker in `group` ended, and in words.
    pub fn explain(&self, group: Option<&Path>, ending: Ending) -> (Death, String) {
        let kill = Signal::KILL.as_raw();
        let is_killed = match ending {
            Ending::Signaled { signal, .. } => signal == kill,
            Ending::Unknown => true,
            Ending::Exited(_) => false,
        };
        if is_killed && group.is_some_and(|group| self.claim(group)) {
            return (Death::Oom, "was killed: out of memory".into());
        }
        (ending.into(), ending.to_string())
    }

    /// The kernel counts before it kills, so that the count is there when the death is known.
    fn claim(&self, group: &Path) -> bool {
        let Some((file, count)) = counted(group) else {
            return false;
        };
        let mut all_seen = self.0.borrow_mut();
        let seen = all_seen.entry(file).or_insert(count);
        let is_new = count > *seen;
        *seen = if is_new { *seen + 1 } else { count };
        is_new
    }
}

/// The count of the group, or of the one above it: that is the unit's, which systemd counts for
/// unless memory accounting is off, and which includes the groups below.
fn counted(group: &Path) -> Option<(PathBuf, u64)> {
    [Some(group), group.parent()]
        .into_iter()
        .flatten()
        .find_map(|group| {
            let file = group.join("memory.events");
            let count = oom_kills(&std::fs::read_to_string(&file).ok()?)?;
            Some((file, count))
        })
}

fn oom_kills(events: &str) -> Option<u64> {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    events.lines().find_map(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Ending = Ending::Signaled {
        signal: 9,
        core: false,
    };
    const OOM: &str = "was killed: out of memory";

    /// A unit's directory with a generation's in it, as the kernel shows them.
    struct Unit(PathBuf);

    impl Unit {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gl-oom-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("g1")).unwrap();
            Self(path)
        }

        fn count(&self, below: &str, kills: u32) {
            let text = format!("low 0\nhigh 0\nmax 7\noom 3\noom_kill {kills}\noom_group_kill 0\n");
            std::fs::write(self.0.join(below).join("memory.events"), text).unwrap();
        }
    }

    impl Drop for Unit {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn each_oom_kill_of_the_unit_names_one_death() {
        let unit = Unit::new("unit");
        let (group, kills) = (unit.0.join("g1"), OomKills::default());
        unit.count("", 2);
        kills.watch(&group);
        let explain = |ending| kills.explain(Some(&group), ending).1;
        assert_eq!(explain(KILLED), "was killed by SIGKILL");
        unit.count("", 4);
        assert_eq!(explain(Ending::Exited(1)), "exited with status 1");
        assert_eq!(explain(KILLED), OOM);
        assert_eq!(explain(Ending::Unknown), OOM);
        assert_eq!(explain(KILLED), "was killed by SIGKILL");
    }

    #[test]
    fn the_count_of_the_generation_itself_comes_first() {
        let unit = Unit::new("own");
        let (group, kills) = (unit.0.join("g1"), OomKills::default());
        unit.count("", 0);
        unit.count("g1", 0);
        kills.watch(&group);
        unit.count("", 1);
        assert_ne!(kills.explain(Some(&group), KILLED).1, OOM);
        unit.count("g1", 1);
        assert_eq!(kills.explain(Some(&group), KILLED).1, OOM);
    }

    #[test]
    fn kills_before_a_generation_say_nothing_of_its_deaths() {
        let unit = Unit::new("before");
        let (group, kills) = (unit.0.join("g1"), OomKills::default());
        unit.count("", 0);
        kills.watch(&group);
        unit.count("", 5);
        kills.watch(&group);
        assert_ne!(kills.explain(Some(&group), KILLED).1, OOM);
    }

    #[test]
    fn without_a_count_a_kill_is_only_a_kill() {
        let unit = Unit::new("none");
        let kills = OomKills::default();
        for group in [None, Some(unit.0.join("g1"))] {
            let told = kills.explain(group.as_deref(), KILLED).1;
            assert_eq!(told, "was killed by SIGKILL");
        }
        assert_eq!(oom_kills("oom 3\noom_kill many\n"), None);
    }
}
