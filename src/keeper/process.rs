//! The process table as /proc tells it: who descends from whom.
//!
//! A snapshot and nothing more: a process may be gone, and its pid be another's, before the caller
//! looks at the list. Whoever signals by it must hold something that keeps the pid (a pidfd, or the
//! zombie of the session's leader).

use std::collections::HashSet;

/// One line of the table, proc_pid_stat(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Of its parent; 0 for none in our pid namespace.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// `R`, `S`, `Z`, …
    pub state: char,
}

impl Process {
    /// Ended, but not yet waited for.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Every process that we may see. Empty where /proc is not mounted.
pub fn table() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// One process; none when it is gone (or hidden from us).
pub fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&stat)
}

/// `12 (a name) S 1 12 12 …`; the name may hold anything, also parentheses and spaces.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    Some(Process {
        pid: pid.parse().ok()?,
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        session: fields.next()?.parse().ok()?,
    })
}

/// Processes in whose environment `assignment` (`KEY=value…`) begins an entry: those that were
/// started by one that had it, however they have moved since. Only processes of our user show theirs.
pub fn with_environment(assignment: &str) -> Vec<u32> {
    let pids = table().into_iter().map(|process| process.pid);
    pids.filter(|pid| has_environment(*pid, assignment))
        .collect()
}

/// Whether [`with_environment`] would find this process.
pub fn has_environment(pid: u32, assignment: &str) -> bool {
    has_entry(&environment(pid), assignment)
}

/// Empty of one that has ended, or is about to.
fn environment(pid: u32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn has_entry(environment: &[u8], assignment: &str) -> bool {
    let mut entries = environment.split(|byte| *byte == 0);
    entries.any(|entry| entry.starts_with(assignment.as_bytes()))
}

/// Children of ours that were started, by whomever, with an entry of the environment that begins with
/// `assignment`; those that are ending show nothing of it any more and count, too.
pub fn children_with(assignment: &str) -> Vec<u32> {
    let own = std::process::id();
    let children = table().into_iter().filter(|child| child.parent == own);
    let has_it = |child: &Process| {
        let environment = environment(child.pid);
        environment.is_empty() || has_entry(&environment, assignment)
    };
    children.filter(has_it).map(|child| child.pid).collect()
}

/// Every process below `pid`, and every member of the session that `pid` leads (also when its
/// parent has died meanwhile), without `pid` itself. Zombies included.
pub fn descendants(pid: u32) -> Vec<u32> {
    descendants_in(&table(), pid)
}

/// [`descendants`] in a table that was read before.
pub fn descendants_in(table: &[Process], root: u32) -> Vec<u32> {
    let mut found = HashSet::from([root]);
    let mut order = Vec::new();
    loop {
        let next: Vec<u32> = table
            .iter()
            .filter(|process| !found.contains(&process.pid))
            .filter(|process| process.session == root || found.contains(&process.parent))
            .map(|process| process.pid)
            .collect();
        if next.is_empty() {
            return order;
        }
        found.extend(&next);
        order.extend(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pid: u32, parent: u32, session: u32) -> Process {
        Process {
            pid,
            parent,
            group: session,
            session,
            state: 'S',
        }
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let process = parse("12 (a) R 9 (b) Z 3 4 5 0 -1").unwrap();
        assert_eq!((process.pid, process.parent), (12, 3));
        assert_eq!((process.group, process.session), (4, 5));
        assert!(process.is_zombie());
        assert_eq!(parse("12 (cut"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn descendants_are_children_of_children_and_the_rest_of_the_session() {
        let table = [
            line(13, 12, 99),
            line(10, 1, 10),
            line(11, 10, 10),
            line(12, 11, 12),
            line(14, 1, 10),
            line(15, 1, 15),
        ];
        let mut found = descendants_in(&table, 10);
        found.sort_unstable();
        assert_eq!(found, [11, 12, 13, 14]);
    }

    #[test]
    fn a_circle_of_parents_has_an_end() {
        let table = [line(10, 11, 1), line(11, 10, 1)];
        assert_eq!(descendants_in(&table, 10), [11]);
    }

    #[test]
    fn the_table_holds_ourselves() {
        let own = std::process::id();
        assert!(table().iter().any(|process| process.pid == own));
        assert_eq!(process(own).unwrap().pid, own);
    }
}
