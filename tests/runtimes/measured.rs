//! What is told at the end.

use std::fmt::Write;
use std::time::Duration;

/// Of one example.
pub struct Measured {
    /// As the runtime says it.
    pub runtime: String,
    /// From the command that deploys v2 until v2 serves.
    pub swapped: Duration,
    /// By the load of the deploy and that of the kill.
    pub requests: u64,
    pub lost: u64,
    /// From SIGKILL until the next process is ready.
    pub healed: Duration,
    /// From the start of the service until it serves, while all the others start.
    pub boot: Duration,
}

impl Measured {
    pub fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a Self)>) -> String {
        let mut table = format!(
            "\n{:<14} {:<44} {:>9} {:>9} {:>5} {:>10} {:>8}\n",
            "APP", "RUNTIME", "v1→v2 ms", "REQUESTS", "LOST", "HEALED ms", "BOOT ms"
        );
        for (name, it) in rows {
            let row = writeln!(
                table,
                "{name:<14} {:<44.44} {:>9} {:>9} {:>5} {:>10} {:>8}",
                it.runtime,
                it.swapped.as_millis(),
                it.requests,
                it.lost,
                it.healed.as_millis(),
                it.boot.as_millis()
            );
            row.unwrap();
        }
        table
    }
}
