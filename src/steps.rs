//! The steps of every handover and of every deploy, by name: at each of them the tests end a process.
//!
//! A step is armed by a file of its name in the directory that `GAPLESS_STEPS` names, for the first
//! process that gets there; that removes the file, so it happens once, and the test sees that it
//! did. In a release build a step is nothing.
//!
//! # What the tests of handovers taught
//!
//! `tests/steps.rs` ends keeper, front and trustee at every step of every handover. That taught, beside the
//! slots of connections on their way (`front::trustee`):
//!
//! * The heir has its end of the parcel before the old front is told to retire: it says so by the answer to
//!   a Hello that follows `Inherit`. Otherwise what is sent first dies with a keeper or an heir that dies.
//! * A keeper that adopts tells all older fronts to retire once more. Its state says what the last one
//!   decided, never what that had told.
//! * What a dead front left stays in the fd store until the state says that it is dead.
//! * A front accepts when it was told what to serve from, which is after it was written down. A front that
//!   was not told ends with its link, as no keeper will ever know it.
//! * A front that was told of a generation and has not said what it serves from since may have leases on
//!   it, whatever its last report says: a drain waits for it.

/// Where armed steps are; see the module.
pub const DIRECTORY: &str = "GAPLESS_STEPS";

/// What an armed step says if its process is to stop there, until it is continued, and not to die.
pub const STOP: &str = "stop";

macro_rules! steps {
    ($($step:ident $name:literal)*) => {
        /// Named for what has just happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their names are what there is to say")]
        pub enum Step { $($step),* }

        impl Step {
            /// All.
            pub const ALL: &[Self] = &[$(Self::$step),*];

            /// Also of the file that arms it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$step => $name),* }
            }
        }
    };
}

steps! {
    // The keeper brings a front.
    FrontSpawned "keeper.front.spawned"
    FrontKept "keeper.front.kept"
    FrontRemembered "keeper.front.remembered"
    FrontReady "keeper.front.ready"
    HeirTold "keeper.heir.told"
    RetireTold "keeper.retire.told"
    // And sees one end.
    FrontExited "keeper.front.exited"
    FrontBuried "keeper.front.buried"
    EstatePassed "keeper.estate.passed"
    EstateClosed "keeper.estate.closed"
    // Changed settings of fronts.
    SettingsTaken "keeper.settings.taken"
    // One keeper leaves, the next adopts.
    ReleaseSaved "keeper.release.saved"
    KeeperLeft "keeper.left"
    // One ends with all that it has.
    GenerationGone "keeper.generation.gone"
    AllGone "keeper.all-gone"
    StateRead "keeper.adopt.read"
    Adopted "keeper.adopt.taken"
    StrangersEnded "keeper.adopt.swept"
    GenerationBegun "keeper.generation.begun"
    CellServed "keeper.cell.served"
    // An upgrade.
    UpgradeAsked "keeper.upgrade.asked"
    UpgradeChecked "keeper.upgrade.checked"
    ImageKept "keeper.upgrade.image-kept"
    UpgradeSaved "keeper.upgrade.saved"
    RelayPlaced "keeper.upgrade.relayed"
    UpgradeArriving "keeper.upgrade.arriving"
    UpgradeDecided "keeper.upgrade.decided"
    // A front begins, and inherits.
    Begun "front.begun"
    Trusted "front.trusted"
    LanesStarted "front.lanes.started"
    ReadySaid "front.ready.said"
    InheritBegun "front.inherit.begun"
    ParcelReceived "front.parcel.received"
    ParcelShared "front.parcel.shared"
    LaneAdopted "front.lane.adopted"
    // And hands over.
    RetireBegun "front.retire.begun"
    ConnectionTaken "front.connection.taken"
    ConnectionQueued "front.connection.queued"
    ParcelSent "front.parcel.sent"
    ParcelClosed "front.parcel.closed"
    Emptied "front.emptied"
    LastWordsSaid "front.last-words.said"
    TrusteeDismissed "front.trustee.dismissed"
    // One has died.
    TrusteeWoken "trustee.woken"
    TrusteeSorted "trustee.sorted"
    EstateSent "trustee.parcel.sent"
    TrusteeDone "trustee.done"
    // A release comes in.
    StoreLocked "store.locked"
    StoreSwept "store.swept"
    StagingMade "store.staging.made"
    FileWritten "store.file.written"
    FilesStaged "store.files.staged"
    SharedLinked "store.shared.linked"
    LinksPrepared "store.links.prepared"
    FilesSynced "store.files.synced"
    ManifestWritten "store.manifest.written"
    ManifestPlaced "store.manifest.placed"
    ReleasePlaced "store.release.placed"
    // It is to be live.
    KeeperAsked "store.keeper.asked"
    ErrandHeard "store.errand.heard"
    StartHeard "store.start.heard"
    HealthHeard "store.health.heard"
    SwapHeard "store.swap.heard"
    PreviousMoved "store.previous.moved"
    CurrentMoved "store.current.moved"
    ReleaseMarked "store.release.marked"
    // Room is made.
    ReleaseUnnamed "store.release.unnamed"
    ReleaseEmptied "store.release.emptied"
    ReleaseForgotten "store.release.forgotten"
    DrainHeard "store.drain.heard"
    // It is taken back.
    FailureSeen "store.failure.seen"
    BackMoved "store.back.moved"
    BackMarked "store.back.marked"
}

/// If this step is armed, this process dies or stops here.
#[cfg(debug_assertions)]
pub fn reached(step: Step) {
    use rustix::process::{Signal, getpid, kill_process};
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let armed = std::path::PathBuf::from(directory).join(step.name());
    let Ok(what) = std::fs::read_to_string(&armed) else {
        return;
    };
    // Of two that come at the same time, one.
    if std::fs::remove_file(&armed).is_err() {
        return;
    }
    let signal = if what == STOP {
        Signal::STOP
    } else {
        Signal::KILL
    };
    // To oneself it cannot fail.
    let _sent = kill_process(getpid(), signal);
}

/// Nothing, and a `const fn`: it can do nothing.
#[cfg(not(debug_assertions))]
pub const fn reached(_step: Step) {}
