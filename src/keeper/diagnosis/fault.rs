//! What can be wrong with an app: the finding, which ends the sentence of the cause, and the cure,
//! which begins what to do next.

use crate::diagnosis::Diagnosis;
use std::net::SocketAddr;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It listens on another port than it was told to.
    WrongPort {
        /// Where.
        at: SocketAddr,
        /// Where it was to listen, if that was a port.
        port: Option<u16>,
        /// By `listen = "port:…"`.
        is_fixed: bool,
    },
    /// It listens on its port, where nobody on this machine comes by loopback.
    WrongAddress {
        /// Where.
        at: SocketAddr,
    },
    /// It listens on nothing.
    Nowhere {
        /// Where it was to listen, if that was a port.
        port: Option<u16>,
    },
    /// Another program has its port.
    Taken(String),
    /// It says itself that its port is taken.
    PortInUse,
    /// A port below 1024.
    PortDenied,
    /// Another status than the wanted ones.
    Status {
        /// The `Host` that was asked for it.
        host: String,
        /// What was asked for.
        path: String,
        /// What came.
        status: u16,
        /// In words.
        seen: String,
    },
    /// No answer in time.
    Mute {
        /// What was asked for.
        path: String,
        /// In words.
        seen: String,
    },
    /// Something else than HTTP.
    NoHttp(String),
    /// It speaks to us, but READY=1 never came.
    Unready,
    /// There is no such program.
    NoProgram(String),
    /// The program that its first line asks for is not there.
    NoInterpreter(String),
    /// A shared library is not there.
    NoLibrary(String),
    /// It was built on a newer system.
    OldLibrary(String),
    /// A module, package or class of its language is not there.
    NoModule(String),
    /// The Java is older than the one it was built for.
    OldJava,
    /// Built for another kind of machine.
    Foreign {
        /// The file.
        program: String,
        /// What it is for.
        built_for: String,
    },
    /// execve(2) refused.
    NotExecutable(String),
    /// It may not read or write something.
    Denied(Option<String>),
    /// It wants to write where everything is read-only.
    ReadOnly(Option<String>),
    /// It needs more memory than there is.
    Memory,
    /// It ended, with success.
    Left,
}

impl Fault {
    /// Its name.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::WrongPort { .. } => Diagnosis::WrongPort,
            Self::WrongAddress { .. } => Diagnosis::WrongAddress,
            Self::Nowhere { port: Some(_) } => Diagnosis::NotListening,
            Self::Nowhere { port: None } => Diagnosis::NotAccepting,
            Self::Taken(_) | Self::PortInUse => Diagnosis::PortInUse,
            Self::PortDenied => Diagnosis::PortDenied,
            Self::Status { status: 404, .. } => Diagnosis::WrongPath,
            Self::Status { .. } => Diagnosis::HealthStatus,
            Self::Mute { .. } => Diagnosis::HealthTimeout,
            Self::NoHttp(_) => Diagnosis::NoHttp,
            Self::Unready => Diagnosis::NeverReady,
            Self::NoProgram(_) => Diagnosis::MissingProgram,
            Self::NoInterpreter(_) => Diagnosis::MissingInterpreter,
            Self::NoLibrary(_) => Diagnosis::MissingLibrary,
            Self::OldLibrary(_) => Diagnosis::OldSystem,
            Self::NoModule(_) => Diagnosis::MissingModule,
            Self::OldJava => Diagnosis::OldRuntime,
            Self::Foreign { .. } => Diagnosis::WrongMachine,
            Self::NotExecutable(_) => Diagnosis::NotExecutable,
            Self::Denied(_) => Diagnosis::PermissionDenied,
            Self::ReadOnly(_) => Diagnosis::ReadOnly,
            Self::Memory => Diagnosis::OutOfMemory,
            Self::Left => Diagnosis::NotInForeground,
        }
    }

    /// What is wrong, as the end of a sentence. Empty where the ending of the worker says it.
    pub fn finding(&self) -> String {
        match self {
            Self::WrongPort { at, port, is_fixed } => {
                format!("it listens on {at} instead of {}", told(*port, *is_fixed))
            }
            Self::WrongAddress { at } => {
                format!("it listens on {at}, where 127.0.0.1 does not reach it")
            }
            Self::Nowhere { port: Some(port) } => {
                format!("it listens nowhere, though $PORT is {port}")
            }
            Self::Nowhere { port: None } => "it does not listen where it was told to".into(),
            Self::Taken(seen)
            | Self::NoHttp(seen)
            | Self::Status { seen, .. }
            | Self::Mute { seen, .. } => seen.clone(),
            Self::PortInUse => "the port that it wants is taken".into(),
            Self::PortDenied => "it may not listen on the port that it wants".into(),
            Self::Unready => "it spoke over its NOTIFY_SOCKET, but never said READY=1".into(),
            Self::NoProgram(name) => format!("there is no program {name} for it"),
            Self::NoInterpreter(name) => {
                format!("its first line asks for {name}, which is not there")
            }
            Self::NoLibrary(name) => format!("the library {name} is not on this machine"),
            Self::OldLibrary(version) => {
                format!("it was built for {version}, which is newer than this machine")
            }
            Self::NoModule(name) => format!("{name} is not in the release"),
            Self::OldJava => "it was built for a newer Java than the one here".into(),
            Self::Foreign { program, built_for } => format!(
                "{program} is built for {built_for}, and this machine is {}",
                std::env::consts::ARCH
            ),
            Self::NotExecutable(name) => format!("{name} cannot be executed"),
            Self::Denied(Some(path)) => format!("it has no permission for {path}"),
            Self::Denied(None) => "it has no permission for what it wants".into(),
            Self::ReadOnly(Some(path)) => format!("it wants to write {path}, which is read-only"),
            Self::ReadOnly(None) => "it wants to write where all is read-only".into(),
            Self::Memory => "it needs more memory than there is for it".into(),
            Self::Left => "it has to stay, and listen".into(),
        }
    }

    /// What is likely to mend it.
    pub fn cure(&self) -> String {
        match self {
            Self::WrongPort { at, port, is_fixed } => right_port(*at, *port, *is_fixed),
            Self::WrongAddress { .. } => {
                "let it listen on 127.0.0.1, or on all addresses (0.0.0.0)".into()
            }
            Self::Nowhere { port: Some(_) } => "let it listen on 127.0.0.1 at $PORT; if it only \
                                                needs longer, raise boot in [app]"
                .into(),
            Self::Nowhere { port: None } => {
                "let it use the socket that it is given, or set listen = \"auto\" in [app]".into()
            }
            Self::Taken(_) => "end that program, or choose another port".into(),
            Self::PortInUse => "let it use $PORT: two generations run at the same time, each with \
                                its own; or set listen = \"port:N\" in [app]"
                .into(),
            Self::PortDenied => {
                "let it use $PORT: gapless itself is what listens below 1024".into()
            }
            Self::Status {
                host, path, status, ..
            } => right_answer(host, path, *status),
            Self::Mute { .. } => {
                "see in its output what it waits for, or raise timeout in [health]".into()
            }
            Self::NoHttp(_) => "let it speak plain HTTP/1.1 there, without TLS".into(),
            Self::Unready => "let it say READY=1 when it is ready, or raise boot in [app]".into(),
            Self::NoProgram(name) | Self::NoInterpreter(name) => {
                format!("install {name} where the service finds it, or name it by its full path")
            }
            Self::NoLibrary(name) => format!("install the package that has {name}"),
            Self::OldLibrary(_) => {
                "build it on a system as old as this one, or link it statically".into()
            }
            Self::NoModule(_) => {
                "install the dependencies into the release before it is deployed".into()
            }
            Self::OldJava => "install a newer Java, or build it for the one here".into(),
            Self::Foreign { .. } => format!("build it for {}", std::env::consts::ARCH),
            Self::NotExecutable(_) => "check that it is executable for the user of the service, \
                                       and on no file system mounted noexec"
                .into(),
            Self::Denied(_) => "put it into the release, or let the user of the service read it; \
                                what the app writes belongs into a directory of shared in [app]"
                .into(),
            Self::ReadOnly(_) => "let it write into a directory of shared in [app] or into /tmp, \
                                  or name the place by ReadWritePaths= of the unit"
                .into(),
            Self::Memory => "give it more (MemoryMax= of the unit, memory in [limits], or the \
                             machine), or let it take less"
                .into(),
            Self::Left => "let it stay in the foreground: what it leaves in the background is \
                           ended with it"
                .into(),
        }
    }
}

fn told(port: Option<u16>, is_fixed: bool) -> String {
    match port {
        Some(port) if is_fixed => format!("port {port}"),
        Some(port) => format!("$PORT, which is {port}"),
        None => "the socket that it is given".into(),
    }
}

fn right_port(at: SocketAddr, port: Option<u16>, is_fixed: bool) -> String {
    let ip = at.ip().to_canonical();
    let first = match port {
        Some(port) if is_fixed => format!("let it listen on port {port}"),
        Some(_) => "let it use $PORT".into(),
        None => "let it use that socket".into(),
    };
    if ip.is_loopback() || ip.is_unspecified() {
        format!("{first}, or set listen = \"port:{}\" in [app]", at.port())
    } else {
        format!("{first}, on 127.0.0.1")
    }
}

fn right_answer(host: &str, path: &str, status: u16) -> String {
    let right_host = || {
        format!(
            "set host in [health] to a name that the app takes: the health check says Host: {host}"
        )
    };
    match status {
        400 | 421 => right_host(),
        401 => format!("let {path} be asked without a login"),
        403 => format!("{}; or let {path} be asked without a login", right_host()),
        300..=399 => format!("let {path} answer itself, or widen status in [health]"),
        500..=599 => "see in its output why it is not well".into(),
        _ => format!("let the app answer {path}, or set path in [health] to what it has"),
    }
}
