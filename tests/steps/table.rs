//! Which step belongs to which handover.

use gapless::steps::Step;

/// How connections, or all of gapless, pass from one process to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// `systemctl restart`.
    Restart,
    /// `gapless upgrade`.
    Upgrade,
    /// A reload with changed `[http]`.
    Settings,
    /// SIGKILL of the front.
    FrontCrash,
    /// SIGKILL of the keeper.
    KeeperCrash,
    /// Of both.
    Crash,
}

use Handover::{Crash, FrontCrash, KeeperCrash, Restart, Settings, Upgrade};

/// Not a `matches!`, and without a wildcard: who adds a step must say where it belongs.
pub fn handovers(step: Step) -> &'static [Handover] {
    match step {
        // A front is born.
        Step::FrontSpawned
        | Step::FrontKept
        | Step::FrontRemembered
        | Step::FrontReady
        | Step::HeirTold
        | Step::Begun
        | Step::Trusted
        | Step::LanesStarted
        | Step::ReadySaid
        | Step::InheritBegun
        | Step::ParcelReceived
        | Step::ParcelShared
        | Step::LaneAdopted => &[Restart, Upgrade, Settings, FrontCrash, Crash],
        // One retires.
        Step::RetireTold
        | Step::RetireBegun
        | Step::ConnectionTaken
        | Step::ConnectionQueued
        | Step::ParcelSent
        | Step::ParcelClosed
        | Step::Emptied
        | Step::LastWordsSaid
        | Step::TrusteeDismissed => &[Restart, Upgrade, Settings],
        Step::FrontExited | Step::FrontBuried => &[Restart, Upgrade, Settings, FrontCrash],
        // One has died.
        Step::EstatePassed
        | Step::EstateClosed
        | Step::TrusteeWoken
        | Step::TrusteeSorted
        | Step::EstateSent
        | Step::TrusteeDone => &[FrontCrash, Crash],
        Step::SettingsTaken => &[Settings],
        Step::ReleaseSaved | Step::KeeperLeft | Step::GenerationBegun => &[Restart],
        Step::CellServed | Step::GenerationGone => &[Restart, Settings],
        Step::StateRead | Step::Adopted | Step::StrangersEnded => {
            &[Restart, Upgrade, KeeperCrash, Crash]
        }
        Step::UpgradeAsked
        | Step::UpgradeChecked
        | Step::ImageKept
        | Step::UpgradeSaved
        | Step::RelayPlaced
        | Step::UpgradeArriving
        | Step::UpgradeDecided => &[Upgrade],
        // Only a stop gets there: OF_A_STOP. The rest is in tests/deploy_steps.rs.
        Step::AllGone
        | Step::StoreLocked
        | Step::StoreSwept
        | Step::StagingMade
        | Step::FileWritten
        | Step::FilesStaged
        | Step::SharedLinked
        | Step::FilesSynced
        | Step::ManifestWritten
        | Step::ManifestPlaced
        | Step::ReleasePlaced
        | Step::LinksPrepared
        | Step::KeeperAsked
        | Step::ErrandHeard
        | Step::StartHeard
        | Step::HealthHeard
        | Step::SwapHeard
        | Step::PreviousMoved
        | Step::CurrentMoved
        | Step::ReleaseMarked
        | Step::ReleaseUnnamed
        | Step::ReleaseEmptied
        | Step::ReleaseForgotten
        | Step::DrainHeard
        | Step::FailureSeen
        | Step::BackMoved
        | Step::BackMarked => &[],
    }
}

/// A stop gets there, and its keeper has something to end yet.
pub const OF_A_STOP: [Step; 4] = [
    Step::FrontExited,
    Step::FrontBuried,
    Step::GenerationGone,
    Step::AllGone,
];

/// Whose end costs the connections that it was to pass on.
pub fn is_of_trustee(step: Step) -> bool {
    step.name().starts_with("trustee.")
}

pub fn is_of_front(step: Step) -> bool {
    step.name().starts_with("front.")
}
