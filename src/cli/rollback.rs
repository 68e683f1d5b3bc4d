//! `gapless rollback`: a deploy of what is there already.

use super::deploy::{self, DeployError};
use super::progress::{self, Site};
use super::{CliError, Exit, RollbackArgs};
use crate::release::{ReleaseId, State, Store};
use tokio::time::Instant;

/// Blocks until it is decided.
pub(super) fn run(args: &RollbackArgs) -> Result<Exit, CliError> {
    let began = Instant::now();
    let (store, lock) = deploy::open(&args.name, "gapless rollback")?;
    let id = match &args.release {
        Some(id) => id.clone(),
        None => before(&store)?,
    };
    // That it is there is asked first: what is not needs no service.
    store.manifest(&id).map_err(DeployError::from)?;
    let (instance, before) = deploy::running(&args.name)?;
    let site = Site {
        instance,
        store,
        verb: "rollback",
        // What a deploy made room for is enough.
        keep: u32::MAX,
        bake: None,
        began,
        before,
    };
    progress::bring_live(&site, &id, lock)
}

/// What ran before the current one; if that is not known, the newest other that was live once.
fn before(store: &Store) -> Result<ReleaseId, DeployError> {
    let current = store.current()?;
    let is_other = |id: &ReleaseId| Some(id) != current.as_ref();
    if let Some(previous) = store.previous().unwrap_or(None).filter(is_other) {
        return Ok(previous);
    }
    let healthy = store.list()?.into_iter().find(|(id, manifest)| {
        let state = manifest.as_ref().map(|manifest| &manifest.state);
        is_other(id) && matches!(state, Some(State::Healthy(_)))
    });
    healthy.map(|(id, _)| id).ok_or(DeployError::NothingBefore)
}
