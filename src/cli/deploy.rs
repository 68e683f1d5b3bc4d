//! `gapless deploy`: from a directory, an archive or a program to production, or to the reason why
//! not.

mod service;

pub(super) use service::running;

use super::absence;
use super::instance::{self, Instance, InstanceName, config_file, system_directory};
use super::output::printable;
use super::progress::{self, Site, plural, size, unix_seconds};
use super::telling::Telling;
use super::{CliError, DeployArgs, Exit};
use crate::api::Status;
use crate::config::{self, Config, ConfigError, ConfigSource, ReleaseSource};
use crate::diagnosis::Diagnosis;
use crate::release::detection::{self, DetectionError};
use crate::release::staging::{self, Limits, SharedError, Staged, StagingError};
use crate::release::{Lock, LockError, Manifest, ReleaseId, State, Store, StoreError};
use crate::steps::{Step, reached};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{Gid, Mode};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::time::Instant;

/// Nothing was deployed, or it is not known.
#[derive(Debug, Error)]
pub enum DeployError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Only root writes there.
    #[error("not allowed: run this with sudo")]
    NotAllowed(#[source] StoreError),
    /// What was given cannot be staged.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// Nobody knows how to run it.
    #[error(transparent)]
    Detection(#[from] DetectionError),
    /// The configuration, with that of the release.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `[app] directory`
    #[error(
        "[app] directory in {} says where the app is, so a release would never run; remove that \
         line to deploy",
        file.display()
    )]
    Elsewhere {
        /// Of the instance.
        file: PathBuf,
    },
    /// `-- CMD` beside `[app] command`.
    #[error(
        "[app] command in {} says what to run; remove that line, or leave out -- CMD",
        file.display()
    )]
    Commanded {
        /// Of the instance.
        file: PathBuf,
    },
    /// What is shared cannot be so in this release.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// The service was not running, and does not start.
    #[error("{unit} is not running, and systemctl start {unit} failed: {said}")]
    Start {
        /// What was started.
        unit: String,
        /// What systemctl said.
        said: String,
    },
    /// There is none before.
    #[error("there is no release to go back to; gapless{app} releases shows what is there")]
    NothingBefore {
        /// ` --app NAME`
        app: String,
    },
    /// Something newer came between.
    #[error(
        "it was superseded before it was live, by a reload or restart{}; deploy again",
        if .0.is_empty() { String::new() } else { format!(" of release {}", .0) }
    )]
    Superseded(String),
    /// It is live, and the store could not be told.
    #[error(
        "{id} serves, but the next start would begin with another release; once that is solved: \
         sudo gapless{app} rollback {id}"
    )]
    Unmoved {
        /// What serves.
        id: ReleaseId,
        /// ` --app NAME`
        app: String,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// The keeper ended in the middle.
    #[error("gapless ended before it was decided; gapless status shows what became of it")]
    Undecided,
}

impl DeployError {
    /// What is wrong, by its name.
    pub(super) fn code(&self) -> Option<&'static str> {
        let diagnosis = match self {
            Self::Store(StoreError::Lock(LockError::Held { .. })) => {
                return Some(Exit::Locked.name());
            }
            Self::NotAllowed(_) => return Some(Exit::NotAllowed.name()),
            // They say it all already.
            Self::Config(_) | Self::Store(StoreError::Exists(_) | StoreError::Missing(_)) => {
                return None;
            }
            Self::Store(_) | Self::Unmoved { .. } => Diagnosis::StoreUnusable,
            Self::Staging(_) => Diagnosis::NotStaged,
            Self::Detection(_) => Diagnosis::NotDetected,
            Self::Elsewhere { .. } => Diagnosis::DirectoryConfigured,
            Self::Commanded { .. } => Diagnosis::CommandConfigured,
            Self::Shared(_) => Diagnosis::SharedNotEmpty,
            Self::Start { .. } => Diagnosis::ServiceNotStarted,
            Self::NothingBefore { .. } => Diagnosis::NothingBefore,
            Self::Superseded(_) => Diagnosis::Superseded,
            Self::Undecided => Diagnosis::Undecided,
        };
        Some(diagnosis.code())
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Store(StoreError::Lock(LockError::Held { .. })) => Exit::Locked,
            Self::NotAllowed(_) => Exit::NotAllowed,
            Self::Staging(error) if error.is_about_room() => Exit::Failed,
            Self::Staging(_)
            | Self::Detection(_)
            | Self::Config(_)
            | Self::Elsewhere { .. }
            | Self::Commanded { .. }
            | Self::Shared(_) => Exit::ConfigInvalid,
            Self::Store(_)
            | Self::Superseded(_)
            | Self::Unmoved { .. }
            | Self::Undecided
            | Self::NothingBefore { .. } => Exit::Failed,
            Self::Start { .. } => Exit::NotRunning,
        }
    }
}

/// Blocks until it is decided.
pub(super) fn run(args: &DeployArgs) -> Result<Exit, CliError> {
    let telling = Telling::new("deploy", args.name.to_string(), args.json);
    let result = deploy(args, &telling);
    telling.conclude(result, &instance::store(&args.name))
}

fn deploy(args: &DeployArgs, telling: &Telling) -> Result<Exit, CliError> {
    telling.note(|report| report.from = Some(args.path.clone()));
    let what = format!("gapless deploy {}", args.path.display());
    let (store, lock) = open(&args.name, &what)?;
    let id = match &args.release {
        Some(id) => id.clone(),
        None => next_id(&store).map_err(DeployError::from)?,
    };
    let is_first = matches!(store.current(), Ok(None));
    let found = running(&args.name, &store, telling)?;
    telling.note(|report| report.release = Some(id.clone()));
    let previous = store.previous().unwrap_or(None);
    let arrival = Arrival {
        args,
        store: &store,
        instance: &found.instance,
        status: &found.status,
        id: &id,
    };
    let keep = arrival
        .stage(telling)
        .inspect_err(|_refused| found.give_up())?;
    let site = Site {
        instance: found.instance,
        store,
        verb: "deploy",
        keep,
        bake: args.bake,
        back: None,
        before: found.status,
        previous,
        is_first,
    };
    progress::bring_live(&site, &id, lock, telling)
}

/// The store, ours alone until the lock is dropped.
pub(super) fn open(name: &InstanceName, what: &str) -> Result<(Store, Lock), CliError> {
    // Else a store is made for it, and systemd told of a service that listens nowhere.
    absence::expect_app(name)?;
    // Whatever the shell of root says: the service has to read what is made here.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let store = instance::store(name);
    store.create().map_err(denied)?;
    let lock = store.lock(&who(what)).map_err(denied)?;
    // For the order in which releases go; a full disk is told where it matters.
    drop(store.remember(unix_seconds()));
    Ok((store, lock))
}

pub(super) fn denied(error: StoreError) -> DeployError {
    match &error {
        StoreError::Io { source, .. } | StoreError::Lock(LockError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            DeployError::NotAllowed(error)
        }
        StoreError::Io { .. }
        | StoreError::Full(_)
        | StoreError::Lock(_)
        | StoreError::Exists(_)
        | StoreError::Missing(_)
        | StoreError::Malformed { .. }
        | StoreError::Stray { .. } => error.into(),
    }
}

/// A release that comes in.
struct Arrival<'a> {
    args: &'a DeployArgs,
    store: &'a Store,
    instance: &'a Instance,
    status: &'a Status,
    id: &'a ReleaseId,
}

impl Arrival<'_> {
    /// It is in the store then, and it is known how to run it. Returns how many stay there.
    fn stage(&self, telling: &Telling) -> Result<u32, DeployError> {
        let began = Instant::now();
        telling.await_step("staging");
        let file = configuration(&self.args.name);
        let fixed = config::fixed(&file);
        if fixed.directory {
            return Err(DeployError::Elsewhere { file });
        }
        if fixed.command && !self.args.command.is_empty() {
            return Err(DeployError::Commanded { file });
        }
        let staging = self.store.begin(self.id)?;
        let arrived = self.fill(&staging, &file).and_then(|arrived| {
            // First, so that what is a release has all the room that it needs to become live.
            self.store.prepare(self.id)?;
            self.store.publish(&arrived.0)?;
            Ok(arrived)
        });
        if arrived.is_err() {
            // The message is what counts; what stays is removed by the next deploy.
            drop(self.store.sweep());
        }
        let (manifest, config, left_out) = arrived?;
        let (files, size) = (plural(manifest.files, "file"), size(manifest.bytes));
        let text = format!("{}, {files}, {size}", self.id);
        telling.step("staged", &text, began.elapsed());
        if let (Some(by), Some(command)) = (&manifest.detected, &manifest.command) {
            let command = printable(&command.join(" "));
            telling.line(&format!("            by {by}: {command}"));
        }
        if !left_out.is_empty() {
            let left_out = printable(&left_out.join(", "));
            telling.line(&format!(
                "            not run: {left_out} of the Procfile; what runs for long is a service of its own, and \
                 what runs before a release is live is release_command in [app]"
            ));
        }
        telling.note(|report| {
            report.kind = Some(manifest.kind);
            report.detected = manifest.detected;
            report.run = manifest.command;
        });
        Ok(config.app.keep)
    }

    /// With the processes of its Procfile that are not run.
    fn fill(
        &self,
        staging: &Path,
        file: &Path,
    ) -> Result<(Manifest, Config, Vec<String>), DeployError> {
        let staged = self.copy(staging)?;
        let given = (!self.args.command.is_empty()).then(|| self.args.command.clone());
        let load = |command: Option<Vec<String>>, may_be_bare| {
            config::load(&ConfigSource {
                file: Some(file.to_owned()),
                release: Some(ReleaseSource {
                    id: self.id.to_string(),
                    directory: staging.to_owned(),
                    command,
                }),
                may_be_bare,
                ..ConfigSource::default()
            })
            .map_err(|error| self.as_given(error))
        };
        let (mut command, mut detected, mut left_out) = (given, None, Vec::new());
        let mut config = load(command.clone(), true)?;
        if config.app.command.is_empty() {
            let mut found = detection::detect(staging);
            if found == Err(DetectionError::Nothing)
                && staged.kind.is_archive()
                && staging::lift(staging)?
            {
                config = load(None, true)?;
                found = detection::detect(staging);
            }
            if config.app.command.is_empty() {
                let found = found?;
                left_out = found.left_out;
                (command, detected) = (Some(found.command), Some(found.by.to_owned()));
                config = load(command.clone(), false)?;
            }
        }
        self.share(staging, &config)?;
        reached(Step::SharedLinked);
        let manifest = Manifest {
            id: self.id.clone(),
            digest: staged.digest,
            staged_unix_seconds: unix_seconds(),
            by: user(),
            from: self.args.path.display().to_string(),
            kind: staged.kind.word().to_owned(),
            files: staged.files,
            bytes: staged.bytes,
            command,
            detected,
            state: State::Staged,
            taken_back: None,
        };
        Ok((manifest, config, left_out))
    }

    /// Problems are where the file of the release came from, not in our staging.
    fn as_given(&self, mut error: ConfigError) -> ConfigError {
        if let Some((file, _)) = &mut error.beside {
            *file = match self.args.path.as_path() {
                stream if stream == Path::new("-") => PathBuf::from("gapless.toml"),
                path => path.join("gapless.toml"),
            };
        }
        error
    }

    fn copy(&self, staging: &Path) -> Result<Staged, DeployError> {
        let limits = Limits::of(staging)
            .map_err(|source| StoreError::of("look for room at", staging, source))?;
        // systemd made it for the group that the app runs as.
        let runtime = system_directory(&self.instance.name).symlink_metadata();
        let group = runtime.ok().map(|it| Gid::from_raw(it.gid()));
        Ok(if self.args.path == Path::new("-") {
            staging::stage_stream(io::stdin().lock(), staging, group, limits)?
        } else {
            staging::stage_path(&self.args.path, staging, group, limits)?
        })
    }

    /// Links to what the app keeps, in place of what the release has there.
    fn share(&self, staging: &Path, config: &Config) -> Result<(), DeployError> {
        let Some(state) = &self.status.state_directory else {
            return Ok(());
        };
        let kept = state.join("shared");
        staging::share(staging, &config.app.shared, &kept).map_err(|error| match error {
            SharedError::Io { path, source } => {
                StoreError::of("link", &staging.join(path), source).into()
            }
            refused @ (SharedError::NotEmpty { .. } | SharedError::BelowLink { .. }) => {
                DeployError::Shared(refused)
            }
        })
    }
}

/// `$CONFIGURATION_DIRECTORY` when a command of the unit runs us.
pub(super) fn configuration(name: &InstanceName) -> PathBuf {
    let directory = std::env::var_os("CONFIGURATION_DIRECTORY").filter(|value| !value.is_empty());
    directory.map_or_else(
        || config_file(name),
        |directory| PathBuf::from(directory).join(format!("{name}.toml")),
    )
}

/// For the lock: `pid 7, admin, since 2026-11-21 10:00:00 UTC: gapless deploy x`.
pub(super) fn who(what: &str) -> String {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let since = now.strftime("%Y-%m-%d %H:%M:%S");
    let pid = std::process::id();
    format!("pid {pid}, {}, since {since} UTC: {what}", user())
}

/// Who asked, also through sudo.
fn user() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty());
    let uid = rustix::process::getuid();
    named.unwrap_or_else(|| {
        if uid.is_root() {
            "root".to_owned()
        } else {
            format!("uid {}", uid.as_raw())
        }
    })
}

fn next_id(store: &Store) -> Result<ReleaseId, StoreError> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC);
    let today = today.strftime("%Y%m%d").to_string();
    let taken = store.list()?;
    Ok(ReleaseId::next(&today, taken.iter().map(|(id, _)| id)))
}
