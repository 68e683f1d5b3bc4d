//! `gapless rollback`: a deploy of what is there already.

use super::deploy::{self, DeployError};
use super::progress::{self, Site};
use super::telling::Telling;
use super::{CliError, Exit, RollbackArgs, instance};
use crate::release::{Manifest, ReleaseId, Store};

/// Blocks until it is decided.
pub(super) fn run(args: &RollbackArgs) -> Result<Exit, CliError> {
    let telling = Telling::new("rollback", args.name.to_string(), args.json);
    let result = go_back(args, &telling);
    telling.conclude(result, &instance::store(&args.name))
}

fn go_back(args: &RollbackArgs, telling: &Telling) -> Result<Exit, CliError> {
    let (store, lock) = deploy::open(&args.name, "gapless rollback")?;
    let id = match &args.release {
        Some(id) => id.clone(),
        None => before(&store)?.ok_or_else(|| DeployError::NothingBefore {
            app: args.name.option(),
        })?,
    };
    telling.note(|report| report.release = Some(id.clone()));
    // That it is there is asked first: what is not needs no service.
    store.manifest(&id).map_err(DeployError::from)?;
    let found = deploy::running(&args.name, &store, telling)?;
    let previous = store.previous().unwrap_or(None);
    let site = Site {
        instance: found.instance,
        store,
        verb: "rollback",
        // What a deploy made room for is enough.
        keep: u32::MAX,
        bake: None,
        back: None,
        before: found.status,
        previous,
        is_first: false,
    };
    progress::bring_live(&site, &id, lock, telling)
}

/// What ran before the current one; if that is not known, the newest other that was live once. Not
/// what was taken back: who wants that says its name.
fn before(store: &Store) -> Result<Option<ReleaseId>, DeployError> {
    let current = store.current()?;
    let all = store.list()?;
    let is_good = |id: &ReleaseId| {
        let listed = all.iter().find(|(other, _)| other == id);
        let manifest = listed.and_then(|(_, manifest)| manifest.as_ref());
        Some(id) != current.as_ref() && manifest.is_none_or(|it| it.taken_back.is_none())
    };
    if let Some(previous) = store.previous().unwrap_or(None).filter(is_good) {
        return Ok(Some(previous));
    }
    let good = all
        .iter()
        .find(|(id, manifest)| is_good(id) && manifest.as_ref().is_some_and(Manifest::is_good));
    Ok(good.map(|(id, _)| id.clone()))
}
