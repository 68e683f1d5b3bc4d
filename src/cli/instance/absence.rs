//! Why nobody answers, and what to do: systemd knows.

use super::{InstanceName, root, start_command};
use crate::cli::footprint;
use crate::systemd::unit::{self, UnitState};
use std::path::Path;

/// How to have the instance run, for who was told that it does not. Blocks while systemd is asked.
pub(in crate::cli) fn next_step(name: &InstanceName) -> String {
    let is_booted = root() == Path::new("/") && Path::new("/run/systemd/system").is_dir();
    if !is_booted {
        return start_command(name);
    }
    let (socket, service) = (name.socket_unit(), name.unit());
    let states = unit::states(&[socket.clone(), service.clone()]).unwrap_or_default();
    let state = |unit: &str| states.get(unit).cloned().unwrap_or_default();
    let known = footprint::all();
    advice(name, &state(&socket), &state(&service), &known)
}

/// The app exists on this machine, whether it runs or not.
pub(in crate::cli) fn is_known(name: &InstanceName) -> bool {
    *name == InstanceName::default() || footprint::all().contains(name)
}

/// What there is instead, and how to make it.
fn unknown(name: &InstanceName, known: &[InstanceName]) -> String {
    let known: Vec<_> = known.iter().map(InstanceName::as_str).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    format!(
        "there is no app of this name (apps here: {known}); make it: sudo gapless add {name} --listen PORT, \
         or gapless --app {name} run -- CMD"
    )
}

fn advice(
    name: &InstanceName,
    socket: &UnitState,
    service: &UnitState,
    known: &[InstanceName],
) -> String {
    let unit = name.unit();
    if *name != InstanceName::default() && !known.contains(name) {
        return unknown(name, known);
    }
    match (service.active.as_str(), service.sub.as_str()) {
        ("activating", "auto-restart") | ("failed", _) => format!(
            "{unit} does not start{}; see why: journalctl -u {unit} -n 20",
            ended(service)
        ),
        ("activating" | "deactivating" | "reloading", sub) => {
            format!(
                "systemd says of {unit}: {sub}; it answers in a moment, see journalctl -fu {unit}"
            )
        }
        ("active", _) => {
            format!("{unit} is active and does not answer; see journalctl -u {unit} -n 20")
        }
        _ if socket.is_up() => format!(
            "{} listens, and the first request starts it; start it now: sudo systemctl start {unit}",
            name.socket_unit()
        ),
        _ => start_command(name),
    }
}

/// `(exit-code, status 243/CREDENTIALS)`: systemd.exec(5), "Process Exit Codes".
fn ended(service: &UnitState) -> String {
    let name = match service.exit_status.as_str() {
        "200" => "200/CHDIR, its directory",
        "203" => "203/EXEC, its program",
        "217" => "217/USER, its user",
        "226" => "226/NAMESPACE, its sandbox",
        "243" => "243/CREDENTIALS, its LoadCredential=",
        "" | "0" => return format!(" ({})", service.result),
        other => other,
    };
    format!(" ({}, status {name})", service.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, sub: &str) -> UnitState {
        UnitState {
            active: active.into(),
            sub: sub.into(),
            result: "exit-code".into(),
            exit_status: "243".into(),
            ..UnitState::default()
        }
    }

    #[test]
    fn what_to_do_depends_on_what_systemd_says() {
        let (gapless, shop) = (InstanceName::default(), "shop".parse().unwrap());
        let known = [gapless.clone(), "blog".parse().unwrap()];
        let down = state("inactive", "dead");
        let of = |name: &InstanceName, socket: &UnitState, service: &UnitState| {
            advice(name, socket, service, &known)
        };
        for (socket, service, words) in [
            (&down, &down, "sudo systemctl start gapless.socket"),
            (
                &state("active", "listening"),
                &down,
                "gapless.socket listens, and the first request starts it",
            ),
            (
                &down,
                &state("activating", "auto-restart"),
                "does not start (exit-code, status 243/CREDENTIALS, its LoadCredential=)",
            ),
            (
                &down,
                &state("failed", "failed"),
                "journalctl -u gapless.service",
            ),
            (
                &down,
                &state("activating", "start"),
                "it answers in a moment",
            ),
            (
                &down,
                &state("deactivating", "stop-sigterm"),
                "stop-sigterm",
            ),
            (&down, &state("active", "running"), "does not answer"),
        ] {
            let advice = of(&gapless, socket, service);
            assert!(advice.contains(words), "{service:?}: {advice}");
        }
        let advice = of(&shop, &down, &down);
        assert!(advice.contains("apps here: gapless, blog"), "{advice}");
        assert!(advice.contains("sudo gapless add shop"), "{advice}");
    }
}
