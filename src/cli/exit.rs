//! What the exit code says. One table, for people, scripts and systemd.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or healthy.
    Done,
    /// 1: failed, or not healthy.
    Failed,
    /// 2: the command line is wrong; nothing was tried.
    Usage,
    /// 3: not running, as `systemctl status` has it.
    NotRunning,
    /// 4: the caller may not.
    NotAllowed,
    /// 5: the configuration is invalid; nothing was started.
    ConfigInvalid,
    /// 6: the new generation, or the new gapless, is unhealthy; the old one serves.
    Unhealthy,
    /// 7: not decided in time.
    TimedOut,
    /// 8: another deploy or rollback is at work.
    Locked,
    /// As the console ended: by exit(3) with this code, or 128 and the number of a signal.
    Command(u8),
}

impl Exit {
    /// Every way to end, by code, but that of the console.
    pub const ALL: [Exit; 9] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotRunning,
        Exit::NotAllowed,
        Exit::ConfigInvalid,
        Exit::Unhealthy,
        Exit::TimedOut,
        Exit::Locked,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::NotAllowed => 4,
            Exit::ConfigInvalid => 5,
            Exit::Unhealthy => 6,
            Exit::TimedOut => 7,
            Exit::Locked => 8,
            Exit::Command(code) => code,
        }
    }

    /// Its name, for `gapless explain`.
    pub fn name(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::NotRunning => "not-running",
            Exit::NotAllowed => "not-allowed",
            Exit::ConfigInvalid => "config-invalid",
            Exit::Unhealthy => "unhealthy",
            Exit::TimedOut => "timed-out",
            Exit::Locked => "locked",
            Exit::Command(_) => "command",
        }
    }

    /// The line of the table.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done, or healthy",
            Exit::Failed => "failed, or not healthy",
            Exit::Usage => "the command line is wrong",
            Exit::NotRunning => "not running",
            Exit::NotAllowed => "not allowed",
            Exit::ConfigInvalid => "the configuration is invalid; nothing was started",
            Exit::Unhealthy => "the new generation or gapless is unhealthy, the old one serves",
            Exit::TimedOut => "out of time; gapless status shows what became of it",
            Exit::Locked => "another deploy is at work; its holder is named",
            Exit::Command(_) => "as the console ended",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain;

    #[test]
    fn every_exit_code_has_a_text_that_is_found_by_name_and_number() {
        for exit in Exit::ALL {
            let topic = explain::find(exit.name()).unwrap();
            assert_eq!(explain::find(&exit.code().to_string()).unwrap(), topic);
            let title = format!("Exit code {}: ", exit.code());
            assert!(topic.title.starts_with(&title), "{}", topic.title);
        }
    }
}
