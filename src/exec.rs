//! The chain loader: `gapless exec … -- COMMAND`, what runs between fork and the app.
//!
//! LISTEN_PID must be the app's own pid and its cgroup must be joined before its first instruction;
//! between fork and exec in the keeper nothing may allocate, so this small single-threaded program
//! does it in its own image and then becomes the app. It never returns to the caller's code: every
//! path ends in exec or in one line on stderr and an exit code.

pub mod cage;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod relay;
mod terminal;

use crate::systemd::given::close_strays;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The running image. Not its path: after a package upgrade that names another binary, and a loader
/// of another version might read our arguments differently.
pub const OWN_IMAGE: &str = "/proc/self/exe";

/// The first of the passed fds, SD_LISTEN_FDS_START.
pub const FIRST_FD: i32 = 3;

/// The word that selects this program.
pub const VERB: &str = "exec";

/// The kernel looks no further for the interpreter of a script.
const HEAD_BYTES: u64 = 256;

const NAMES: &str = "--names";
const CGROUP: &str = "--cgroup";
const DIE_WITH: &str = "--die-with";
const BORN_OF: &str = "--born-of";
const CAGED: &str = "--caged";
const YES: &str = "yes";
const TTY: &str = "--tty";
const END_OF_OPTIONS: &str = "--";

/// What to do on the way to `command`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Names of the fds 3, 4, …, in order: LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID say so to the
    /// command, if there are any. It gets no others.
    pub fd_names: Vec<String>,
    /// cgroup directory to join. A failure to join is said and survived: the app matters more.
    pub cgroup: Option<PathBuf>,
    /// The process whose end must end the command (SIGKILL): the parent's pid.
    pub die_with: Option<u32>,
    /// The parent's pid: a command whose parent is gone before it begins is not started. Nobody
    /// could write it down.
    pub born_of: Option<u32>,
    /// In a cage ([`cage`]): apart from the processes of gapless, which have the same user. Where it cannot be had,
    /// that is said and survived.
    pub is_caged: bool,
    /// The terminal that the command gets as its controlling terminal and as its standard streams.
    pub tty: Option<PathBuf>,
    /// Program (looked up in the PATH of the environment it will run in) and arguments.
    pub command: Vec<OsString>,
}

/// The command was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The arguments of the loader itself are wrong.
    #[error("cannot read the arguments of `gapless exec`: {0}; it is not meant to be run by hand")]
    Arguments(String),
    /// The terminal of a console is gone, or it is not ours.
    #[error("cannot take the terminal {}", tty.display())]
    Terminal {
        /// Its path.
        tty: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
    /// The parent ended before the command began.
    #[error("not starting {command:?}: the gapless that wanted it (pid {parent}) is gone")]
    Orphaned {
        /// Who was to be our parent.
        parent: u32,
        /// What would have been started.
        command: OsString,
    },
    /// There is no such program.
    #[error(
        "cannot start {command:?}: {what}; set `command` in the [app] section to an installed \
         program, by its full path or by a name that is found in the PATH of the app"
    )]
    NotFound {
        /// As configured.
        command: OsString,
        /// Program, script interpreter or directory.
        what: String,
    },
    /// It is there, but cannot be executed.
    #[error(
        "cannot start {command:?}; check that the file is executable for the user of the service \
         and built for this machine"
    )]
    NotExecutable {
        /// As configured.
        command: OsString,
        /// What execve(2) said.
        #[source]
        source: io::Error,
    },
}

impl ExecError {
    /// 127 not found, 126 not executable, as every shell has it; 125 for a failure of our own.
    pub fn code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Arguments(_) | Self::Terminal { .. } | Self::Orphaned { .. } => 125,
        }
    }
}

impl Chain {
    /// The arguments behind the program name, beginning with [`VERB`].
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = vec![VERB.into()];
        let mut option = |name: &str, value: OsString| {
            args.push(name.into());
            args.push(value);
        };
        if !self.fd_names.is_empty() {
            option(NAMES, self.fd_names.join(":").into());
        }
        if let Some(cgroup) = &self.cgroup {
            option(CGROUP, cgroup.into());
        }
        if let Some(parent) = self.die_with {
            option(DIE_WITH, parent.to_string().into());
        }
        if let Some(parent) = self.born_of {
            option(BORN_OF, parent.to_string().into());
        }
        if self.is_caged {
            option(CAGED, YES.into());
        }
        if let Some(tty) = &self.tty {
            option(TTY, tty.into());
        }
        args.push(END_OF_OPTIONS.into());
        args.extend(self.command.iter().cloned());
        args
    }

    /// Reads what [`Chain::to_args`] wrote, without the [`VERB`]. Not clap: the loader runs for
    /// every worker, and its arguments are no interface for people.
    ///
    /// # Errors
    /// [`ExecError::Arguments`].
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, ExecError> {
        let mut args = args.into_iter();
        let mut chain = Self::default();
        while let Some(option) = args.next() {
            if option == END_OF_OPTIONS {
                chain.command = args.collect();
                break;
            }
            let value = args.next().ok_or_else(|| wrong("a value is missing"))?;
            chain.set(&option, value)?;
        }
        if chain.command.is_empty() {
            return Err(wrong("no command after --"));
        }
        Ok(chain)
    }

    fn set(&mut self, option: &OsStr, value: OsString) -> Result<(), ExecError> {
        let text = || value.to_str().ok_or_else(|| wrong("not UTF-8"));
        match option.to_str() {
            Some(NAMES) => self.fd_names = text()?.split(':').map(str::to_owned).collect(),
            Some(CGROUP) => self.cgroup = Some(PathBuf::from(value)),
            Some(TTY) => self.tty = Some(PathBuf::from(value)),
            Some(option @ (DIE_WITH | BORN_OF)) => {
                let parent = text()?.parse().map_err(|_| wrong("not a pid"))?;
                if option == DIE_WITH {
                    self.die_with = Some(parent);
                } else {
                    self.born_of = Some(parent);
                }
            }
            Some(CAGED) => self.is_caged = text()? == YES,
            Some(_) | None => {
                return Err(ExecError::Arguments(format!(
                    "unknown option {}",
                    option.display()
                )));
            }
        }
        Ok(())
    }

    /// Does everything and becomes the command; returns only the reason why it could not.
    pub fn run(&self) -> ExecError {
        match self.prepare() {
            Ok(mut command) => {
                let error = command.exec();
                explain(command.get_program(), error)
            }
            Err(error) => error,
        }
    }

    fn prepare(&self) -> Result<Command, ExecError> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| wrong("no command"))?;
        close_strays(self.first_stray());
        // The new session makes the worker the head of all it starts: the keeper ends it by that.
        // It fails only when we lead a group already, that is when somebody runs this by hand.
        setsid().ok();
        if let Some(tty) = &self.tty {
            terminal::take(tty)?;
        }
        if let Some(cgroup) = &self.cgroup {
            join(cgroup);
        }
        self.follow_parent(program)?;
        // After all that belongs to the keeper was opened, and the last of it all.
        if self.is_caged
            && let Err(error) = cage::enter()
        {
            say(&error.to_string());
        }
        // `exec` empties the signal mask and resets SIGPIPE; handlers of ours there are none.
        let mut command = Command::new(program);
        command.args(arguments);
        if program == OWN_IMAGE {
            // A front: process lists should show a name, not a link.
            command.arg0("gapless");
        }
        if !self.fd_names.is_empty() {
            command.env("LISTEN_PID", std::process::id().to_string());
            command.env("LISTEN_FDS", self.fd_names.len().to_string());
            command.env("LISTEN_FDNAMES", self.fd_names.join(":"));
        }
        Ok(command)
    }

    fn first_stray(&self) -> i32 {
        i32::try_from(self.fd_names.len()).map_or(i32::MAX, |fds| fds.saturating_add(FIRST_FD))
    }

    /// PDEATHSIG follows the parent *thread*: the keeper spawns on its main thread only.
    fn follow_parent(&self, program: &OsStr) -> Result<(), ExecError> {
        if self.die_with.is_some()
            && let Err(error) = set_parent_process_death_signal(Some(Signal::KILL))
        {
            say(&format!("cannot follow the parent: {error}, continuing"));
        }
        // It may have died before the call, and then no signal comes. Asked after the control group
        // was joined, so that who lives on is found there.
        let Some(parent) = self.die_with.or(self.born_of) else {
            return Ok(());
        };
        let ours = getppid().map(Pid::as_raw_pid);
        if ours.and_then(|pid| u32::try_from(pid).ok()) == Some(parent) {
            return Ok(());
        }
        Err(ExecError::Orphaned {
            parent,
            command: program.to_owned(),
        })
    }
}

/// `gapless exec ARGS`: with `args` behind the [`VERB`]. Comes back only on failure, with what was
/// wrong said on stderr.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let error = match Chain::parse(args) {
        Ok(chain) => chain.run(),
        Err(error) => error,
    };
    let mut line = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        line = format!("{line}: {source}");
    }
    say(&line);
    ExitCode::from(error.code())
}

fn wrong(what: &str) -> ExecError {
    ExecError::Arguments(what.to_owned())
}

/// "0" means the writer itself, cgroups(7).
fn join(cgroup: &std::path::Path) {
    if let Err(error) = std::fs::write(cgroup.join("cgroup.procs"), "0") {
        let place = cgroup.display();
        say(&format!(
            "cannot join the cgroup {place}: {error}, continuing without"
        ));
    }
}

fn explain(program: &OsStr, error: io::Error) -> ExecError {
    let command = program.to_owned();
    if error.kind() != io::ErrorKind::NotFound {
        return ExecError::NotExecutable {
            command,
            source: error,
        };
    }
    let is_path = program.as_bytes().contains(&b'/');
    let what = if is_path && std::path::Path::new(program).exists() {
        absent_interpreter(program)
    } else if is_path {
        "there is no such file".into()
    } else {
        "there is no such program in the PATH of the app".into()
    };
    ExecError::NotFound { command, what }
}

fn absent_interpreter(program: &OsStr) -> String {
    match interpreter_of(std::path::Path::new(program)) {
        // A carriage return at its end is seen here, too.
        Some(interpreter) => {
            let interpreter = interpreter.escape_default();
            format!("its first line asks for {interpreter}, which is not there")
        }
        None => "the file is there, but its ELF loader is not".into(),
    }
}

/// What the first line of a script asks for; none: it is no script, or cannot be read.
pub fn interpreter_of(program: &std::path::Path) -> Option<String> {
    let mut head = Vec::new();
    let file = std::fs::File::open(program).ok()?;
    file.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.strip_prefix("#!")?;
    let interpreter = line.trim_matches([' ', '\t']).split([' ', '\t']).next();
    Some(interpreter.unwrap_or_default().to_owned())
}

/// One line on stderr, which is the app's output by now: the keeper shows it as the app's last
/// words. A closed stderr is no reason to fail.
#[expect(
    clippy::print_stderr,
    reason = "there is no log in the loader: stderr is how it speaks"
)]
fn say(line: &str) {
    eprintln!("gapless: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Chain {
        Chain {
            fd_names: vec!["http".into(), "probe".into()],
            cgroup: Some("/sys/fs/cgroup/x/g7".into()),
            die_with: Some(77),
            born_of: Some(77),
            is_caged: true,
            tty: Some("/dev/pts/7".into()),
            command: vec!["node".into(), "--names".into(), "--".into()],
        }
    }

    #[test]
    fn arguments_survive_the_way_through_argv() {
        for chain in [
            full(),
            Chain {
                command: vec!["x".into()],
                ..Chain::default()
            },
            Chain {
                fd_names: vec![String::new(), String::new()],
                ..full()
            },
        ] {
            let args = chain.to_args();
            assert_eq!(args[0], VERB);
            assert_eq!(Chain::parse(args.into_iter().skip(1)).unwrap(), chain);
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for args in [
            &["--"][..],
            &["--names"],
            &["--tty"],
            &["--what", "x", "--", "y"],
            &[],
        ] {
            let args = args.iter().map(OsString::from);
            assert!(matches!(Chain::parse(args), Err(ExecError::Arguments(_))));
        }
    }

    #[test]
    fn a_missing_program_is_told_from_a_missing_interpreter() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let nowhere = explain(OsStr::new("nodejs"), missing());
        assert!(nowhere.to_string().contains("in the PATH"));
        let script = std::env::temp_dir().join(format!("gl-script-{}", std::process::id()));
        std::fs::write(&script, "#!/no/such -x\r\n").unwrap();
        let script = explain(script.as_os_str(), missing());
        assert!(
            script
                .to_string()
                .contains("its first line asks for /no/such, which")
        );
        let loaded = explain(OsStr::new("/etc/passwd"), missing());
        assert!(loaded.to_string().contains("ELF loader"));
        assert_eq!((nowhere.code(), script.code()), (127, 127));
        let refused = explain(OsStr::new("/etc"), io::ErrorKind::PermissionDenied.into());
        assert_eq!(refused.code(), 126);
    }
}
