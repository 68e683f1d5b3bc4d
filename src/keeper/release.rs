//! What to run: a release, resolved once and immutable.

use super::deposits::Owner;
use super::plan::Terms;
use crate::config::{AppConfig, Config, HealthConfig, LimitsConfig, Listen, RestartConfig};
use crate::id::{GenerationId, Slot};
use serde::{Deserialize, Serialize};

/// One release. Written down with the state, so that the next keeper respawns its workers exactly
/// as they were, whatever the configuration file says by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its name in the store, or that of its directory.
    pub label: String,
    /// argv, directory, environment, limits.
    pub app: AppConfig,
    /// When its workers count as ready.
    pub health: HealthConfig,
    /// How often they may be respawned.
    pub restart: RestartConfig,
    /// What all its processes may take together. Absent from what a keeper without it wrote down.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Lines a second that a worker may write to the log.
    pub lines_per_second_max: u32,
}

impl Release {
    /// The release that this configuration describes.
    pub fn new(config: &Config) -> Self {
        let directory = config.app.directory.file_name();
        let name = directory.map_or("/".into(), |name| name.to_string_lossy().into_owned());
        Self {
            label: config.app.release.clone().unwrap_or(name),
            app: config.app.clone(),
            health: config.health.clone(),
            restart: config.restart.clone(),
            limits: config.limits.clone(),
            lines_per_second_max: config.log.app_lines_per_second_max,
        }
    }

    /// As GAPLESS_WORKER: a substitute is the same worker, apps divide work by this number.
    pub fn worker_number(&self, slot: Slot) -> u32 {
        let number = slot.0.checked_rem(self.app.workers.get());
        number.unwrap_or_default()
    }

    /// Whose deposits the worker of a slot gets.
    pub fn owner(&self, generation: GenerationId, slot: Slot) -> Owner {
        let worker = self.worker_number(slot);
        Owner { generation, worker }
    }

    /// What the plan has to know of it.
    pub fn terms(&self, release: u64, is_trial: bool) -> Terms {
        Terms {
            release,
            is_trial,
            workers: self.app.workers.get(),
            fixed_port: match self.app.listen {
                Listen::FixedPort(port) => Some(port),
                Listen::Auto | Listen::Port | Listen::Fd | Listen::Unix => None,
            },
            boot: self.app.boot,
            settle: self.app.settle,
            drain: self.app.drain,
            stop: self.app.stop,
            burst: self.restart.burst,
            interval: self.restart.interval,
            delay_min: self.restart.delay_min,
            delay_max: self.restart.delay_max,
        }
    }
}
