//! Where it listens, and which socket unit says so.

use crate::api::ListenerStatus;
use crate::cli::instance::Instance;
use crate::cli::output::printable;
use crate::systemd::unit;
use std::collections::BTreeMap;

/// Socket units by address; none in the foreground, or where systemd does not answer.
pub(in crate::cli) fn units_of(instance: &Instance) -> BTreeMap<String, String> {
    if instance.is_in_foreground() {
        return BTreeMap::new();
    }
    unit::listening_for(&instance.name.unit()).unwrap_or_else(|error| {
        tracing::debug!(%error, "the units of the sockets are not known: {error}");
        BTreeMap::new()
    })
}

/// `[::]:8888 (http, gapless.socket)`
pub(super) fn shown(listeners: &[ListenerStatus], units: &BTreeMap<String, String>) -> String {
    let shown = listeners.iter().map(|it| {
        let unit = units
            .get(&it.address)
            .map(|unit| format!(", {}", printable(unit)));
        let (name, unit) = (printable(&it.name), unit.unwrap_or_default());
        format!("{} ({name}{unit})", printable(&it.address))
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_shown_with_its_unit_where_one_names_it() {
        let at = |address: &str, name: &str| ListenerStatus {
            name: name.into(),
            address: address.into(),
        };
        let listeners = [at("[::]:8888", "http"), at("/run/x.sock", "http")];
        let units = BTreeMap::from([("[::]:8888".into(), "gapless.socket".into())]);
        assert_eq!(
            shown(&listeners, &units),
            "[::]:8888 (http, gapless.socket), /run/x.sock (http)"
        );
    }
}
