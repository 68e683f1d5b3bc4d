//! Why a unit ended, in words, and where to look.

use crate::systemd::unit::UnitState;

/// How a unit ended, as systemd has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Ending {
    /// `Result=`
    result: String,
    /// `ExecMainStatus=`, where it is an exit status.
    status: Option<u8>,
}

/// Steps before the program runs that systemd reports by an exit status (systemd.exec(5)), what failed
/// there, and which setting says it.
const STEPS: [(u8, &str, &str); 11] = [
    (
        200,
        "its working directory is not there",
        "WorkingDirectory=",
    ),
    (203, "its program cannot be executed", "ExecStart="),
    (216, "its group is not there", "Group="),
    (217, "its user is not there", "User="),
    (
        226,
        "its sandbox cannot be set up",
        "ReadWritePaths=, BindPaths= and the like",
    ),
    (
        233,
        "its runtime directory cannot be made",
        "RuntimeDirectory=",
    ),
    (238, "its state directory cannot be made", "StateDirectory="),
    (239, "its cache directory cannot be made", "CacheDirectory="),
    (240, "its log directory cannot be made", "LogsDirectory="),
    (
        241,
        "its configuration directory cannot be made",
        "ConfigurationDirectory=",
    ),
    (
        243,
        "its credentials cannot be loaded",
        "LoadCredential= and the like",
    ),
];

impl Ending {
    pub fn of(state: &UnitState) -> Self {
        let status = state.exit_status.parse().ok().filter(|it| *it != 0);
        Self {
            result: state.result.clone(),
            status: status.filter(|_| state.result == "exit-code"),
        }
    }

    /// The end of a sentence.
    pub fn why(&self) -> String {
        match (self.step(), self.status) {
            (Some((what, _)), _) => what.to_owned(),
            (None, Some(status)) => format!("it exits with status {status}"),
            (None, None) => match self.result.as_str() {
                "" | "success" => "systemd does not say why".to_owned(),
                result => format!("systemd says Result={result}"),
            },
        }
    }

    /// The settings of the unit to look at, if it is known that it is them.
    fn step(&self) -> Option<(&'static str, &'static str)> {
        let step = STEPS
            .iter()
            .find(|(status, ..)| Some(*status) == self.status);
        step.map(|(_, what, settings)| (*what, *settings))
    }

    /// What to type.
    pub fn cure(&self, unit: &str) -> String {
        match self.step() {
            Some((_, settings)) => format!(
                "see {settings} in systemctl cat {unit}, and which one it is: journalctl -u {unit} -n 20"
            ),
            None => format!("see journalctl -u {unit} -n 20"),
        }
    }
}
