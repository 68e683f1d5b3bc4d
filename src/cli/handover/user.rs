//! Whether what runs of a unit belongs to another user than `User=` names by now.
//!
//! A keeper may not signal processes of another user: it could neither end nor replace what it would
//! adopt. So nothing is handed over then; root ends what is left.
//!
//! The old keeper stops as at a stop, and `sweep` ends what is left, also after a crash.

use super::{Family, families};
use crate::cli::CliError;
use crate::systemd::job::{self, JobError};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// For a name server that may have to be asked.
const NAME_LIMIT: Duration = Duration::from_secs(10);

/// Another `User=` than that of what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct ChangedUser {
    /// As the unit names it.
    name: String,
    uid: u32,
    was: u32,
}

impl fmt::Display for ChangedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, uid, was } = self;
        write!(
            f,
            "User= is {name} (uid {uid}) now, and what runs belongs to uid {was}"
        )
    }
}

/// None when the user is the same, or cannot be found out: then systemd cannot start the unit either,
/// and what serves should go on.
pub(in crate::cli) fn changed_user(
    unit: &str,
    group: &Path,
) -> Result<Option<ChangedUser>, CliError> {
    let name = job::property(unit, "User")?;
    match uid_of(&name) {
        Ok(uid) => Ok(differing(&families(group), name, uid)),
        Err(error) => {
            tracing::warn!(%error, "the user of {unit} is not known: {error}");
            Ok(None)
        }
    }
}

fn differing(families: &[Family], name: String, uid: u32) -> Option<ChangedUser> {
    let owners = families.iter().map(|family| family.owner.0);
    let was = owners.into_iter().find(|owner| *owner != uid)?;
    Some(ChangedUser { name, uid, was })
}

/// Of what `User=` holds: nothing, a number or a name.
fn uid_of(name: &str) -> Result<u32, JobError> {
    if name.is_empty() {
        return Ok(0);
    }
    if let Ok(uid) = name.parse() {
        return Ok(uid);
    }
    let said = job::perform("id", &["-u", "--", name], NAME_LIMIT)?;
    said.trim().parse().map_err(|_| JobError::Failed {
        command: format!("id -u -- {name}"),
        said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(uid: u32) -> Family {
        Family {
            name: "g1".into(),
            owner: (uid, uid),
            pids: vec![7],
            limits: Vec::new(),
        }
    }

    #[test]
    fn a_user_is_nothing_a_number_or_a_name() {
        assert_eq!(uid_of("").unwrap(), 0);
        assert_eq!(uid_of("4711").unwrap(), 4711);
        assert_eq!(uid_of("root").unwrap(), 0);
        let error = uid_of("gapless-nobody-has-this-name").unwrap_err();
        assert!(error.to_string().contains("gapless-nobody-has-this-name"));
    }

    #[test]
    fn one_process_of_another_user_is_a_change() {
        let of = |uids: &[u32]| {
            let families: Vec<_> = uids.iter().copied().map(family).collect();
            differing(&families, "web".into(), 30)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[30, 30]), None);
        let said = of(&[30, 20]).unwrap().to_string();
        assert!(
            said.contains("web (uid 30)") && said.ends_with("uid 20"),
            "{said}"
        );
    }
}
