//! What one keeper leaves to the next: fds by name, and the written-down state.
//!
//! # A crash of the keeper
//!
//! After SIGKILL, OOM or the watchdog, fronts and workers go on (`KillMode=process`). systemd starts the
//! next keeper with the same sockets and the fd store. It reads the state, takes pidfds, links, notify
//! sockets and output pipes by name, and goes on. What nobody remembers (killed between fork and store) is
//! found by its control group or its kept pidfd and ended. A child whose keeper is gone before it became
//! the app does not become it.
//!
//! # A crash of a front
//!
//! The keeper starts another front at once; the app is not touched. Settled connections move to it as a
//! parcel, see `front::trustee`.
//!
//! # A stop
//!
//! Fronts finish requests (to the drain limit), then workers are ended, then the fd store is emptied.
//! `ExecStopPost=+gapless sweep` ends what a killed keeper could not. On disk stay the store, the last
//! generation number and the counters (`keeper::lifetime`), with which the next start goes on, also after a
//! reboot.
//!
//! A soft-reboot is a stop and a start. It ends every process, fronts and workers too, and no connection is
//! worth its descriptor without them; so `FileDescriptorStorePreserve=` is not set.

use super::crew::{Crew, RememberedCrew};
use super::deposits::{self, RememberedDeposits};
use super::fronts::{Fronts, RememberedFront};
use super::plan::{Moment, Plan};
use super::reaper;
use super::release::Release;
use super::standing::Standing;
use super::stored;
use super::totals::{Milestone, Totals};
use super::upgrade::{IMAGE, Upgrade};
use crate::api::ReloadOutcome;
use crate::causes::chain;
use crate::config::{AccessConfig, HttpConfig};
use crate::id::FrontId;
use crate::link::Cell;
use crate::state::StateFile;
use crate::systemd::given::{self, Given};
use crate::systemd::message_id;
use rustix::process::Signal;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A keeper that was told of a restart of the unit, but was not ended within this time, is a
/// normal keeper again.
pub const RELEASE_HOLDS: Duration = Duration::from_mins(1);

/// All that the next keeper must know: one JSON object, in which older versions find what they know.
#[derive(Clone, Debug, Serialize)]
pub struct Remembered {
    /// The keeper's own facts.
    #[serde(flatten)]
    pub memory: Memory,
    /// What others of its parts know.
    #[serde(flatten)]
    pub owned: Owned,
}

/// Plain facts that outlive a keeper. A new one is a line here, with a default: an older gapless wrote none
/// down, and understands a newer state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Every decision so far.
    pub plan: Plan,
    /// What runs, by the number that the plan knows it by.
    pub releases: BTreeMap<u64, Release>,
    /// The next such number.
    pub next_release: u64,
    /// What fronts are born with.
    pub http: HttpConfig,
    /// As RUST_LOG.
    pub log_level: String,
    /// Which requests new fronts log.
    #[serde(default)]
    pub access: AccessConfig,
    /// The unit is being restarted: at SIGTERM, leave everything to the next keeper.
    pub released: Option<Moment>,
    /// What became of the newest request for a generation.
    #[serde(default)]
    pub last_outcome: Option<ReloadOutcome>,
    /// When the newest live generation became live.
    #[serde(default)]
    pub milestone: Option<Milestone>,
    /// What an operator told.
    #[serde(default)]
    pub standing: Standing,
    /// Why the limits of the newest generation are not in force.
    #[serde(default)]
    pub unlimited: Option<String>,
    /// The newest upgrade.
    #[serde(default)]
    pub upgrade: Option<Upgrade>,
}

/// What the fronts, the crews and the deposits leave to those of the next keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Owned {
    /// What the lanes serve from.
    pub cell: Cell,
    /// The number of the next front.
    pub next_front: u64,
    /// Workers.
    pub crews: Vec<RememberedCrew>,
    /// Fronts.
    pub fronts: Vec<RememberedFront>,
    /// Fronts that are gone, and whose connections wait for the next.
    #[serde(default)]
    pub estates: Vec<FrontId>,
    /// Counters of the fronts that are gone.
    pub totals: Totals,
    /// What is to be known of the app's kept fds.
    #[serde(default)]
    pub deposits: RememberedDeposits,
}

impl Memory {
    /// Of the first keeper.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            releases: BTreeMap::new(),
            next_release: 1,
            http: HttpConfig::default(),
            log_level: "info".into(),
            access: AccessConfig::default(),
            released: None,
            last_outcome: None,
            milestone: None,
            standing: Standing::default(),
            unlimited: None,
            upgrade: None,
        }
    }
}

/// Each takes its own fields. Not by serde's flatten, which cannot read the numbers that are keys of maps.
impl<'de> Deserialize<'de> for Remembered {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let all = serde_json::Value::deserialize(from)?;
        Ok(Self {
            memory: Memory::deserialize(&all).map_err(D::Error::custom)?,
            owned: Owned::deserialize(&all).map_err(D::Error::custom)?,
        })
    }
}

/// What systemd passed, sorted.
#[derive(Debug, Default)]
pub struct Kept {
    sockets: Vec<Given>,
    listeners: Vec<OwnedFd>,
    things: BTreeMap<String, OwnedFd>,
}

/// Tells what the socket units gave from what the store kept, by name.
pub fn sort(given: Vec<Given>) -> Kept {
    let mut kept = Kept::default();
    for Given { name, fd } in given {
        if name == stored::LISTENER {
            stored::copy(&name, &fd);
            kept.listeners.push(fd);
        } else if name.starts_with(stored::PREFIX) {
            // The store passes the newest first; an older one of the same name is obsolete.
            if let Entry::Vacant(vacant) = kept.things.entry(name) {
                stored::copy(vacant.key(), &fd);
                vacant.insert(fd);
            }
        } else {
            kept.sockets.push(Given { name, fd });
        }
    }
    kept
}

impl Kept {
    /// Given by socket units.
    pub fn sockets(&mut self) -> Vec<Given> {
        std::mem::take(&mut self.sockets)
    }

    /// Kept copies of listening sockets.
    pub fn listeners(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.listeners)
    }

    /// A thing of a front or worker, once.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.things.remove(name)
    }

    /// Whether the state of the image before is here and understood: one that took this process over
    /// must not begin anew, it can go back.
    pub fn has_state(&self) -> bool {
        let state = self.things.get(stored::STATE);
        let state = state.and_then(|fd| StateFile::from_fd(fd.try_clone().ok()?).load().ok());
        state.is_some_and(|remembered: Option<Remembered>| remembered.is_some())
    }

    /// What the app keeps.
    pub fn deposits(&mut self) -> Vec<(String, OwnedFd)> {
        let of_app = |name: &String, _: &mut OwnedFd| deposits::is_of_the_app(name);
        self.things.extract_if(.., of_app).collect()
    }

    /// What nobody asked for belongs to nothing that is known: out of the store with it. A process
    /// was started by a keeper that died before it could write it down; another is there by now, or
    /// will be.
    pub fn forget_rest(self) {
        for (name, fd) in &self.things {
            if name.ends_with("-pidfd") {
                end_stranger(fd);
            }
            tracing::warn!(
                fd.name = name,
                "kept fd {name} belongs to nothing that runs, forgotten"
            );
            stored::forget(name);
        }
    }
}

fn end_stranger(pidfd: &OwnedFd) {
    let Some(pid) = given::pid_of_pidfd(pidfd) else {
        return;
    };
    reaper::kill_session(pid);
    if let Err(error) = reaper::signal(pidfd, Signal::KILL) {
        tracing::warn!(pid, %error, "cannot end process {pid}, which no keeper remembers: {error}");
    }
}

/// The written-down state of the previous keeper, and where to write the next. A state that cannot
/// be read is as good as none: what runs is ended and begun anew, and never is a start refused.
pub fn open_state(kept: &mut Kept) -> (Option<StateFile>, Option<Remembered>) {
    if let Some(fd) = kept.take(stored::STATE) {
        let file = StateFile::from_fd(fd);
        match file.load() {
            Ok(remembered) => return (Some(file), remembered),
            Err(error) => {
                tracing::error!(name: message_id::STATE_DAMAGED.name, error = %chain(&error), "the state of the previous keeper cannot be read, beginning anew: {}", chain(&error));
                stored::forget(stored::STATE);
            }
        }
    }
    match StateFile::create("gapless-state") {
        Ok(file) => {
            stored::keep(stored::STATE, &file);
            (Some(file), None)
        }
        Err(error) => {
            tracing::error!(name: message_id::STATE_DAMAGED.name, error = %chain(&error), "no state will be kept, a crash of the keeper would restart the app: {}", chain(&error));
            (None, None)
        }
    }
}

/// Takes everything out of the store, for a real stop.
pub fn forget<'a>(fronts: &Fronts, crews: impl Iterator<Item = &'a Crew>) {
    fronts.forget();
    crews.for_each(Crew::forget);
    stored::forget(stored::LISTENER);
    stored::forget(stored::STATE);
    stored::forget(IMAGE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Target;
    use serde_json::json;

    fn remembered() -> Remembered {
        Remembered {
            memory: Memory::new(Plan::new(7, 1)),
            owned: Owned {
                cell: Cell {
                    seq: 5,
                    target: Target::Hold,
                    is_bare: false,
                },
                next_front: 3,
                crews: Vec::new(),
                fronts: Vec::new(),
                estates: vec![FrontId(2)],
                totals: Totals::default(),
                deposits: RememberedDeposits::default(),
            },
        }
    }

    #[test]
    fn the_state_is_one_object_as_version_0_1_0_wrote_it() {
        let written = serde_json::to_value(remembered()).unwrap();
        for key in ["plan", "releases", "cell", "crews", "totals", "next_front"] {
            assert!(written.get(key).is_some(), "{key} in {written}");
        }
        let read: Remembered = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), written);
    }

    #[test]
    fn what_an_older_version_did_not_write_has_a_default_and_what_a_later_one_adds_is_passed_over()
    {
        let mut written = serde_json::to_value(remembered()).unwrap();
        let fields = written.as_object_mut().unwrap();
        for key in ["access", "standing", "upgrade", "estates", "deposits"] {
            assert!(fields.remove(key).is_some(), "{key}");
        }
        fields.insert("of_tomorrow".into(), json!({"1": [2]}));
        let bytes = serde_json::to_vec(&written).unwrap();
        let read: Remembered = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read.owned.next_front, 3);
        written.as_object_mut().unwrap().remove("plan");
        let lacking: Result<Remembered, _> = serde_json::from_value::<Remembered>(written);
        assert!(lacking.unwrap_err().to_string().contains("plan"));
    }
}
