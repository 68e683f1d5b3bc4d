//! What is wrong with a start or a deploy, by a name that never changes: `gapless explain NAME` says
//! more. The sentence beside it is for people, and may say more than the name.

/// The names. What the keeper finds out travels as its [`Diagnosis::code`], so that an older command
/// line understands a newer keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// A worker ended by itself.
    Exited,
    /// It ended with success, as one that goes to the background.
    NotInForeground,
    /// A signal that somebody sent.
    Killed,
    /// A signal that a fault of the program raised.
    Crashed,
    /// By the kernel, or it said so itself.
    OutOfMemory,
    /// The program, or the runtime, is not on this machine.
    MissingProgram,
    /// The program is there, what is to run it is not.
    MissingInterpreter,
    /// It is there, but must not be executed.
    NotExecutable,
    /// A shared library.
    MissingLibrary,
    /// Something that the app imports.
    MissingModule,
    /// It was built on a newer system than this one.
    OldSystem,
    /// It was built for a newer runtime than the one here.
    OldRuntime,
    /// It was built for another kind of machine.
    WrongMachine,
    /// The app may not do what it tried.
    PermissionDenied,
    /// It wants to write where everything is read-only.
    ReadOnly,
    /// Nothing can be started in the directory of the app.
    DirectoryUnusable,
    /// No process, for want of fds, tasks or memory.
    NotStarted,
    /// Somebody else has the port.
    PortInUse,
    /// A port below 1024 is not for the app.
    PortDenied,
    /// Nothing was listened on.
    NotListening,
    /// It listens on another port than the one it was given.
    WrongPort,
    /// It listens on an address that is not loopback.
    WrongAddress,
    /// It has the socket, and takes no connection from it.
    NotAccepting,
    /// The health check found no such path.
    WrongPath,
    /// The health check was answered by a status that is not wanted.
    HealthStatus,
    /// The health check was answered by something else than HTTP.
    NoHttp,
    /// The health check was not answered in time.
    HealthTimeout,
    /// It speaks to NOTIFY_SOCKET, and did not say READY=1.
    NeverReady,
    /// A worker that served was replaced because it hung.
    WorkerHung,
    /// The app keeps dying.
    Degraded,
    /// The release command.
    ReleaseCommandFailed,
    /// What was to be deployed cannot be staged.
    NotStaged,
    /// Nothing says how to run it.
    NotDetected,
    /// The configuration says where the app is.
    DirectoryConfigured,
    /// The configuration and the command line both say what to run.
    CommandConfigured,
    /// A shared directory has files in the release.
    SharedNotEmpty,
    /// The directory of releases cannot be used.
    StoreUnusable,
    /// systemctl could not start the service.
    ServiceNotStarted,
    /// No release to go back to.
    NothingBefore,
    /// Something newer came between.
    Superseded,
    /// gapless ended before it was decided.
    Undecided,
    /// It failed more than the release before, and was taken back.
    BakedWorse,
    /// The installed gapless cannot take over.
    UpgradeRefused,
}

impl Diagnosis {
    /// All of them, in the order of the list.
    pub const ALL: [Self; 43] = [
        Self::Exited,
        Self::NotInForeground,
        Self::Killed,
        Self::Crashed,
        Self::OutOfMemory,
        Self::MissingProgram,
        Self::MissingInterpreter,
        Self::NotExecutable,
        Self::MissingLibrary,
        Self::MissingModule,
        Self::OldSystem,
        Self::OldRuntime,
        Self::WrongMachine,
        Self::PermissionDenied,
        Self::ReadOnly,
        Self::DirectoryUnusable,
        Self::NotStarted,
        Self::PortInUse,
        Self::PortDenied,
        Self::NotListening,
        Self::WrongPort,
        Self::WrongAddress,
        Self::NotAccepting,
        Self::WrongPath,
        Self::HealthStatus,
        Self::NoHttp,
        Self::HealthTimeout,
        Self::NeverReady,
        Self::WorkerHung,
        Self::Degraded,
        Self::ReleaseCommandFailed,
        Self::NotStaged,
        Self::NotDetected,
        Self::DirectoryConfigured,
        Self::CommandConfigured,
        Self::SharedNotEmpty,
        Self::StoreUnusable,
        Self::ServiceNotStarted,
        Self::NothingBefore,
        Self::Superseded,
        Self::Undecided,
        Self::BakedWorse,
        Self::UpgradeRefused,
    ];

    /// The name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::NotInForeground => "not-in-foreground",
            Self::Killed => "killed",
            Self::Crashed => "crashed",
            Self::OutOfMemory => "out-of-memory",
            Self::MissingProgram => "missing-program",
            Self::MissingInterpreter => "missing-interpreter",
            Self::NotExecutable => "not-executable",
            Self::MissingLibrary => "missing-library",
            Self::MissingModule => "missing-module",
            Self::OldSystem => "old-system",
            Self::OldRuntime => "old-runtime",
            Self::WrongMachine => "wrong-machine",
            Self::PermissionDenied => "permission-denied",
            Self::ReadOnly => "read-only",
            Self::DirectoryUnusable => "directory-unusable",
            Self::NotStarted => "not-started",
            Self::PortInUse => "port-in-use",
            Self::PortDenied => "port-denied",
            Self::NotListening => "not-listening",
            Self::WrongPort => "wrong-port",
            Self::WrongAddress => "wrong-address",
            Self::NotAccepting => "not-accepting",
            Self::WrongPath => "wrong-path",
            Self::HealthStatus => "health-status",
            Self::NoHttp => "no-http",
            Self::HealthTimeout => "health-timeout",
            Self::NeverReady => "never-ready",
            Self::WorkerHung => "worker-hung",
            Self::Degraded => "degraded",
            Self::ReleaseCommandFailed => "release-command-failed",
            Self::NotStaged => "not-staged",
            Self::NotDetected => "not-detected",
            Self::DirectoryConfigured => "directory-configured",
            Self::CommandConfigured => "command-configured",
            Self::SharedNotEmpty => "shared-not-empty",
            Self::StoreUnusable => "store-unusable",
            Self::ServiceNotStarted => "service-not-started",
            Self::NothingBefore => "nothing-before",
            Self::Superseded => "superseded",
            Self::Undecided => "undecided",
            Self::BakedWorse => "baked-worse",
            Self::UpgradeRefused => "upgrade-refused",
        }
    }

    /// Of a worker that a signal ended, other than for want of memory.
    pub fn of_signal(signal: i32) -> Self {
        // SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: signal(7).
        if matches!(signal, 4 | 5 | 6 | 7 | 8 | 11 | 31) {
            Self::Crashed
        } else {
            Self::Killed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_kebab_case_and_differ() {
        let names: BTreeSet<_> = Diagnosis::ALL.iter().map(|it| it.code()).collect();
        assert_eq!(names.len(), Diagnosis::ALL.len());
        for name in names {
            let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            assert!(is_plain, "{name}");
        }
    }

    #[test]
    fn a_signal_is_a_fault_of_the_program_or_somebodys_wish() {
        assert_eq!(Diagnosis::of_signal(11), Diagnosis::Crashed);
        assert_eq!(Diagnosis::of_signal(9), Diagnosis::Killed);
    }
}
