//! That a deployed app is there after a reboot, too: the first deploy enables its units, as `gapless add` does.
//! Later ones only say so where neither is enabled, because somebody may have wanted that.

use super::instance::InstanceName;
use super::telling::Telling;
use crate::systemd::job::perform;
use crate::systemd::unit::{self, UnitState};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// systemd only makes links, but may be busy.
const LIMIT: Duration = Duration::from_secs(30);

/// There with a systemd that runs: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

/// What there is to do about units in these states.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    /// These.
    Enable(Vec<String>),
    /// This one, by a person.
    Tell(String),
}

/// After a release became live. A failure is told, and is none of the deploy's.
pub(super) fn see_to_it(name: &InstanceName, is_first: bool, telling: &Telling) {
    // Who says where the store is plays with another one than that of the unit.
    if std::env::var_os("GAPLESS_STORE").is_some() || !Path::new(BOOTED).exists() {
        return;
    }
    let units = [name.unit(), name.socket_unit()];
    let Ok(states) = unit::states(&units) else {
        return;
    };
    let began = Instant::now();
    match next(&units, &states, is_first) {
        Next::Nothing => {}
        Next::Enable(units) => {
            let names = units.join(", ");
            let arguments: Vec<_> = ["enable", "--quiet", "--"]
                .into_iter()
                .chain(units.iter().map(String::as_str))
                .collect();
            match perform("systemctl", &arguments, LIMIT) {
                Ok(_) => telling.step("enabled", &format!("{names}: at boot"), began.elapsed()),
                Err(error) => telling.line(&format!("  not enabled, so not at boot: {error}")),
            }
        }
        Next::Tell(unit) => telling.line(&format!(
            "  it does not start at boot; next: sudo systemctl enable {unit}"
        )),
    }
}

/// A unit that is masked, or made by hand, is as somebody wants it.
fn next(units: &[String; 2], states: &BTreeMap<String, UnitState>, is_first: bool) -> Next {
    let is_off = |unit: &&String| {
        let state = states.get(*unit);
        state.is_some_and(|state| state.file == "disabled")
    };
    let off: Vec<String> = units.iter().filter(is_off).cloned().collect();
    match &units {
        _ if off.is_empty() => Next::Nothing,
        _ if is_first => Next::Enable(off),
        // The socket alone is enough: the first request starts the service.
        [service, _socket] if off.len() == units.len() => Next::Tell(service.clone()),
        _ => Next::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_deploy_enables_what_is_disabled_and_a_later_one_only_says_that_nothing_starts() {
        let units = ["gapless.service".to_owned(), "gapless.socket".to_owned()];
        let given = |service: &str, socket: &str, is_first| {
            let state = |file: &str| UnitState {
                file: file.to_owned(),
                ..UnitState::default()
            };
            let states = [state(service), state(socket)];
            let states = units.iter().cloned().zip(states).collect();
            next(&units, &states, is_first)
        };
        let enable = |units: &[&str]| Next::Enable(units.iter().map(|it| (*it).into()).collect());
        for (service, socket, first, later) in [
            ("enabled", "enabled", Next::Nothing, Next::Nothing),
            // As the packages leave it.
            (
                "disabled",
                "enabled",
                enable(&["gapless.service"]),
                Next::Nothing,
            ),
            (
                "disabled",
                "disabled",
                enable(&["gapless.service", "gapless.socket"]),
                Next::Tell("gapless.service".into()),
            ),
            ("masked", "enabled", Next::Nothing, Next::Nothing),
            ("", "", Next::Nothing, Next::Nothing),
        ] {
            let both = (given(service, socket, true), given(service, socket, false));
            assert_eq!(both, (first, later), "{service}, {socket}");
        }
    }
}
