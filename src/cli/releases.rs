//! `gapless releases`: what is in the store.

use super::deploy::DeployError;
use super::output::{printable, say};
use super::progress::size;
use super::status::minute;
use super::{CliError, Exit, ReleasesArgs, absence, instance};
use crate::release::{Manifest, ReleaseId, State};
use comfy_table::{Table, presets};
use serde::Serialize;

/// The answer for programs.
#[derive(Serialize)]
struct Stored {
    current: Option<ReleaseId>,
    previous: Option<ReleaseId>,
    /// Newest first.
    releases: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    id: ReleaseId,
    #[serde(flatten)]
    manifest: Option<Manifest>,
}

/// Asks nobody: it works also when nothing runs.
pub(super) fn run(args: &ReleasesArgs) -> Result<Exit, CliError> {
    let store = instance::store(&args.name);
    let all = store.list().map_err(DeployError::from)?;
    if all.is_empty() {
        absence::expect_app(&args.name)?;
    }
    let found = Stored {
        current: store.current().map_err(DeployError::from)?,
        previous: store.previous().map_err(DeployError::from)?,
        releases: all
            .into_iter()
            .map(|(id, manifest)| Listed { id, manifest })
            .collect(),
    };
    if args.json {
        let text = serde_json::to_string(&found).map_err(|error| CliError::Internal {
            what: "write JSON",
            source: error.into(),
        })?;
        say(&text);
    } else if found.releases.is_empty() {
        let app = args.name.option();
        say(&format!(
            "no releases yet; next: sudo gapless{app} deploy ./myapp"
        ));
    } else {
        say(&render(&found));
    }
    Ok(Exit::Done)
}

fn render(found: &Stored) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["RELEASE", "", "STATE", "STAGED", "BY", "SIZE", "FROM"]);
    for Listed { id, manifest } in &found.releases {
        let place = match (
            Some(id) == found.current.as_ref(),
            Some(id) == found.previous.as_ref(),
        ) {
            (true, _) => "current",
            (false, true) => "previous",
            (false, false) => "",
        };
        let Some(manifest) = manifest else {
            table.add_row([id.as_str(), place, "unknown"]);
            continue;
        };
        table.add_row([
            id.to_string(),
            place.to_owned(),
            manifest.word().to_owned(),
            minute(manifest.staged_unix_seconds),
            printable(&manifest.by),
            size(manifest.bytes),
            printable(&manifest.from),
        ]);
    }
    let mut lines: Vec<_> = table
        .lines()
        .map(|line| format!(" {}", line.trim_end()))
        .collect();
    for Listed { id, manifest } in &found.releases {
        let Some(manifest) = manifest else {
            continue;
        };
        if let State::Failed(why) = &manifest.state {
            lines.push(format!("  {id} failed: {}", printable(why)));
        }
        if let Some(why) = &manifest.taken_back {
            lines.push(format!("  {id} was taken back: {}", printable(why)));
        }
    }
    lines.join("\n")
}
