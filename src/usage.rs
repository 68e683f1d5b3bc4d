//! What a process uses, from /proc/PID/stat (proc_pid_stat(5)) and /proc/PID/fd.
//!
//! The keeper reads it of itself and of its workers. A front is not dumpable, so with
//! ProtectProc=invisible only it can see its own entry; it tells the keeper over the link.
//!
//! The keeper asks at each of its rounds.

use rustix::param::{clock_ticks_per_second, page_size};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident set.
    pub memory_bytes: u64,
    /// User and system time since it began.
    pub cpu: Duration,
    /// Threads.
    pub threads: u64,
    /// Open fds; none when they are not ours to count.
    pub fds: Option<u64>,
}

/// None when the process is gone or not ours to see.
pub fn of(pid: u32) -> Option<Usage> {
    let usage = parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    // In our own there is the one that we read it with.
    let reading = usize::from(pid == std::process::id());
    let fds = fds.ok().map(|count| count.saturating_sub(reading));
    Some(Usage {
        fds: fds.and_then(|count| u64::try_from(count).ok()),
        ..usage
    })
}

fn parse(stat: &str) -> Option<Usage> {
    // The name (field 2) may hold anything, so fields are counted from the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
    let ticks = field(14)?.checked_add(field(15)?)?;
    let page = u64::try_from(page_size()).ok()?;
    Some(Usage {
        memory_bytes: field(24)?.saturating_mul(page),
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / clock_ticks_per_second().max(1)),
        threads: field(20)?,
        fds: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn our_own_usage_is_plausible() {
        let usage = of(std::process::id()).unwrap();
        assert!(usage.memory_bytes > 100_000 && usage.threads >= 1);
        assert!(usage.fds.unwrap() >= 3);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let rest = (3..=52)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(
            parse(&format!("7 (a) b) S {}", &rest[2..]))
                .unwrap()
                .threads,
            20
        );
    }

    proptest! {
        #[test]
        fn junk_is_no_usage_and_no_panic(junk in ".*") {
            let _ = parse(&junk);
        }
    }
}
