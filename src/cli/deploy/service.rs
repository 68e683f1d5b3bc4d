//! The service that is deployed to: as it runs, or started for the release that comes.

use super::DeployError;
use crate::api::Status;
use crate::cli::absence::Absent;
use crate::cli::instance::{self, Instance, InstanceName};
use crate::cli::output::printable;
use crate::cli::telling::Telling;
use crate::cli::{CliError, ClientError, client, progress};
use crate::release::Store;
use hyper::Method;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

/// To ask for something without hearing what becomes of it.
const GIVING_UP: Duration = Duration::from_secs(1);

/// A service that answers.
pub(in crate::cli) struct Found {
    pub instance: Instance,
    pub status: Status,
    /// By this command, for a release that is still to come.
    pub is_started: bool,
}

impl Found {
    /// No release comes: the service shall begin with what is current.
    pub fn give_up(&self) {
        if self.is_started {
            // Its answer is nobody's concern: that there is nothing to deploy is said already.
            let limit = Some(GIVING_UP);
            drop(client::ask(&self.instance, Method::POST, "/reload", limit));
        }
    }
}

/// The instance; started if it was not, and then it waits for our release.
pub(in crate::cli) fn running(
    name: &InstanceName,
    store: &Store,
    telling: &Telling,
) -> Result<Found, CliError> {
    let instance = instance::of_service(name);
    match progress::status(&instance) {
        Ok(status) => Ok(Found {
            instance,
            status,
            is_started: false,
        }),
        Err(CliError::Client(ClientError::NotRunning { .. })) => {
            // Without it the service begins with what is current, which is only a waste.
            drop(store.announce());
            let status = start(&name.unit(), &instance, telling);
            drop(store.withdraw());
            Ok(Found {
                status: status?,
                instance,
                is_started: true,
            })
        }
        Err(error) => Err(error),
    }
}

/// Returns when it answers; what it begins with is not decided then.
fn start(unit: &str, instance: &Instance, telling: &Telling) -> Result<Status, CliError> {
    let failed = |said: String| DeployError::Start {
        unit: unit.to_owned(),
        said,
    };
    let began = Instant::now();
    telling.await_step("starting the service");
    let done = Command::new("systemctl")
        .args(["start", "--no-block", unit])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(failed(printable(&said.trim().replace('\n', " "))).into());
    }
    if client::wait_until_back(instance).is_err() {
        return Err(Absent::now(&instance.name).into());
    }
    let text = format!("{unit}, by systemctl start");
    telling.step("began", &text, began.elapsed());
    progress::status(instance)
}
