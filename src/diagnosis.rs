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
    /// It ran, but could not be asked before its time was over.
    NotReady,
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
    pub const ALL: [Self; 44] = [
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
        Self::NotReady,
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
            Self::NotReady => "not-ready",
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

    /// Of a worker that exited with this status, by what it wrote last: runtimes name the reason in
    /// words of their own, oldest and newest versions alike.
    pub fn of_exit(status: i32, last_lines: &[String]) -> Self {
        let says = |word: &str| last_lines.iter().any(|line| line.contains(word));
        // The loader's own words (`exec.rs`), with the statuses that every shell has for them.
        let is_loader = says("gapless: cannot start");
        match status {
            126 if is_loader => return Self::NotExecutable,
            127 if is_loader && says("the interpreter in its first line") => {
                return Self::MissingInterpreter;
            }
            127 if is_loader || says("not found") => return Self::MissingProgram,
            _ => {}
        }
        let otherwise = if status == 0 {
            Self::NotInForeground
        } else {
            Self::Exited
        };
        SAID.iter()
            .find(|(word, _)| says(word))
            .map_or(otherwise, |(_, diagnosis)| *diagnosis)
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

/// What the loaders and runtimes of the world say before they exit; the first that is found counts.
const SAID: [(&str, Diagnosis); 17] = [
    // ld.so(8)
    (
        "error while loading shared libraries",
        Diagnosis::MissingLibrary,
    ),
    // dlopen(3), by any runtime
    ("cannot open shared object file", Diagnosis::MissingLibrary),
    ("Cannot find module", Diagnosis::MissingModule),
    ("Cannot find package", Diagnosis::MissingModule),
    ("ModuleNotFoundError", Diagnosis::MissingModule),
    ("cannot load such file", Diagnosis::MissingModule),
    (
        "Could not find or load main class",
        Diagnosis::MissingModule,
    ),
    ("ClassNotFoundException", Diagnosis::MissingModule),
    ("OutOfMemoryError", Diagnosis::OutOfMemory),
    ("heap out of memory", Diagnosis::OutOfMemory),
    ("Cannot allocate memory", Diagnosis::OutOfMemory),
    ("EADDRINUSE", Diagnosis::PortInUse),
    ("ddress already in use", Diagnosis::PortInUse),
    ("EACCES", Diagnosis::PermissionDenied),
    ("ermission denied", Diagnosis::PermissionDenied),
    ("EROFS", Diagnosis::ReadOnly),
    ("ead-only file system", Diagnosis::ReadOnly),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn of(status: i32, last: &str) -> Diagnosis {
        Diagnosis::of_exit(status, &["starting".to_owned(), last.to_owned()])
    }

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
    fn an_exit_is_named_by_what_the_app_wrote_last() {
        let loader = "gapless: cannot start \"node\": there is no such program in the PATH";
        assert_eq!(of(127, loader), Diagnosis::MissingProgram);
        let script = "gapless: cannot start \"x\": the file is there, but the interpreter in its \
                      first line (or its ELF loader) is not";
        assert_eq!(of(127, script), Diagnosis::MissingInterpreter);
        let denied = "gapless: cannot start \"x\"; check that: Permission denied (os error 13)";
        assert_eq!(of(126, denied), Diagnosis::NotExecutable);
        let library = "app: error while loading shared libraries: libpq.so.5: cannot open";
        assert_eq!(of(127, library), Diagnosis::MissingLibrary);
        assert_eq!(of(127, "sh: 1: bun: not found"), Diagnosis::MissingProgram);
        assert_eq!(
            of(1, "Error: Cannot find module './server'"),
            Diagnosis::MissingModule
        );
        assert_eq!(
            of(1, "OSError: [Errno 98] Address already in use"),
            Diagnosis::PortInUse
        );
        assert_eq!(
            of(1, "PermissionError: [Errno 13] Permission denied: '/x'"),
            Diagnosis::PermissionDenied
        );
        assert_eq!(of(3, "no database"), Diagnosis::Exited);
        assert_eq!(of(0, "started"), Diagnosis::NotInForeground);
    }

    #[test]
    fn a_signal_is_a_fault_of_the_program_or_somebodys_wish() {
        assert_eq!(Diagnosis::of_signal(11), Diagnosis::Crashed);
        assert_eq!(Diagnosis::of_signal(9), Diagnosis::Killed);
    }
}
