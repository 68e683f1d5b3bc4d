//! How the processes of a worker are told to end, and killed.

use super::{Worker, offer};
use crate::config::{AppConfig, KillMode, StopSignal};
use crate::id::{GenerationId, Slot};
use crate::keeper::kin::{Extent, Kin, Told};
use crate::keeper::reaper;
use crate::keeper::yard::Yard;
use crate::systemd::given;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// How the processes of the worker in a place are known.
pub(super) fn kin(pid: u32, generation: GenerationId, slot: Slot, yard: &Yard) -> Kin {
    let notify = offer::notify_path(yard, generation, slot);
    Kin {
        pid,
        mark: format!("NOTIFY_SOCKET={}", notify.display()),
        mark_of_crew: mark_of(yard, generation),
    }
}

/// What the NOTIFY_SOCKET of every worker of a generation begins with: it names the instance, too.
pub fn mark_of(yard: &Yard, generation: GenerationId) -> String {
    let stem = yard.runtime_directory.join(generation.to_string());
    format!("NOTIFY_SOCKET={}-", stem.display())
}

/// What that of every worker of the instance begins with.
pub fn mark_of_all(yard: &Yard) -> String {
    format!("NOTIFY_SOCKET={}/g", yard.runtime_directory.display())
}

/// What an earlier keeper told it. Where its processes are is said by [`Worker::end_again`].
pub(super) fn told_before(is_ending: bool) -> Told {
    if is_ending {
        Told::ToEnd(Extent {
            cgroup: None,
            is_whole: false,
        })
    } else {
        Told::Nothing
    }
}

/// Tells workers to end, as `app` wants it: each process once, whoever of them it may belong to.
pub fn end(workers: &[&Worker], app: &AppConfig, extent: &Extent) {
    let signal = Signal::from(app.stop_signal);
    let mut relatives = BTreeMap::new();
    match app.kill_mode {
        KillMode::Mixed => {}
        // Found before anyone is told: children of who has ended are somebody else's.
        KillMode::ControlGroup => {
            for worker in workers {
                let found = worker.kin.find(extent, worker.is_held());
                relatives.extend(found.into_iter().map(|found| (found.pid, found)));
                worker.told.send_replace(Told::ToEnd(extent.clone()));
            }
        }
    }
    for worker in workers {
        relatives.remove(&worker.pid);
        worker.signal(signal);
    }
    for relative in relatives.values() {
        relative.signal(signal);
    }
}

impl Worker {
    /// Its pid is still its own: it runs, or nobody has reaped it.
    fn is_held(&self) -> bool {
        given::pid_of_pidfd(&self.pidfd).is_some()
    }

    /// All of its processes were told to end.
    pub fn is_ending(&self) -> bool {
        matches!(*self.told.borrow(), Told::ToEnd(_))
    }

    /// An earlier keeper told them to end; they still have their time.
    pub fn end_again(&self, extent: &Extent) {
        if self.is_ending() {
            self.told.send_replace(Told::ToEnd(extent.clone()));
        }
    }

    /// To the main process alone.
    fn signal(&self, signal: Signal) {
        if let Err(error) = reaper::signal(&self.pidfd, signal) {
            let (pid, name) = (self.pid, reaper::signal_name(signal.as_raw()));
            tracing::error!(pid, signal = name, %error, "cannot send {name} to worker process {pid}: {error}");
        }
    }

    /// SIGKILL to all of its processes.
    pub fn kill(&self, cgroup: Option<&Path>) {
        let extent = Extent {
            cgroup: cgroup.map(Path::to_owned),
            is_whole: false,
        };
        self.kin.kill(&extent, self.is_held());
        let killed = reaper::signal(&self.pidfd, Signal::KILL);
        self.told.send_replace(match killed {
            Ok(_) => Told::Killed,
            Err(error) => {
                self.tell_out_of_reach(&error);
                Told::OutOfReach
            }
        });
    }

    /// It has another user than the keeper. A stop must not wait for it for ever.
    fn tell_out_of_reach(&self, error: &io::Error) {
        let pid = self.pid;
        tracing::error!(pid, %error, "cannot kill worker process {pid}, it counts as ended: {error}; it belongs to another user than gapless, end it: sudo kill -9 {pid}");
    }
}

impl From<StopSignal> for Signal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::SigTerm => Self::TERM,
            StopSignal::SigInt => Self::INT,
            StopSignal::SigQuit => Self::QUIT,
            StopSignal::SigHup => Self::HUP,
            StopSignal::SigUsr1 => Self::USR1,
            StopSignal::SigUsr2 => Self::USR2,
            StopSignal::SigWinch => Self::WINCH,
        }
    }
}
