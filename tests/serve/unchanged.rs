//! Apps that were not written for gapless.

use crate::QUICK;
use crate::world::service::{SOON, Service};
use crate::world::{alone, eventually, repository, skip, version};
use std::process::Command;
use std::time::Duration;

fn runs_unchanged(program: &str, script: &str, listen: &str) {
    let installed = Command::new(program).arg("--version").output().is_ok();
    if !installed {
        return skip(&format!(
            "{program} is missing; apt-get install {program}, as `make test` does"
        ));
    }
    let _alone = alone();
    let path = repository(&format!("tests/apps/{script}"))
        .display()
        .to_string();
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.set("PATH", &std::env::var("PATH").unwrap());
    let config = |version: &str| {
        format!(
            "[app]\ncommand = [\"{program}\", \"{path}\"]\ndirectory = \"/\"\n\
             listen = \"{listen}\"\nenv = {{ APP_VERSION = \"{version}\" }}\n"
        )
    };
    service.configure(&config("first"));
    service.start();
    service.wait_ready();
    let load = service.load(&[
        "--clients",
        "16",
        "--idle",
        "20",
        "--kinds",
        "get,post16k,pipelined,new",
    ]);
    service.configure(&config("second"));
    service.reload().expect_success();
    load.run_for(Duration::from_secs(1));
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    assert_eq!(
        counted.versions.keys().collect::<Vec<_>>(),
        ["first", "second"]
    );
}

#[test]
fn a_python_app_on_port_runs_unchanged() {
    runs_unchanged("python3", "python_port.py", "auto");
}

#[test]
fn a_python_app_on_a_given_socket_runs_unchanged() {
    runs_unchanged("python3", "python_given.py", "auto");
}

#[test]
fn a_node_app_on_port_runs_unchanged() {
    runs_unchanged("node", "node_port.js", "auto");
}

#[test]
fn limits_that_are_not_in_force_are_told_by_check_and_status_until_they_are_gone() {
    let mut service = Service::probe(&version("v1"), QUICK, "[limits]\ntasks = 1000");
    let told = |service: &Service| {
        let why = service.status().limits_not_in_force.unwrap();
        let shown = service.cli(&["status"]).expect_success();
        assert!(
            shown.contains(&format!("limits     not in force: {why}")),
            "{shown}"
        );
        assert!(
            why.contains("[Service]") || why.contains("Delegate=yes"),
            "{why}"
        );
    };
    told(&service);
    let checked = service.check().expect_success();
    assert!(checked.contains("[limits] tasks  1000"), "{checked}");
    assert!(
        checked.contains("[limits] will not be in force: "),
        "{checked}"
    );
    // Also by a keeper that did not begin the generation.
    service.kill_keeper();
    eventually("the next keeper answers", SOON, || service.try_status());
    told(&service);
    service.configure_probe(QUICK, "");
    let checked = service.check().expect_success();
    assert!(!checked.contains("in force"), "{checked}");
    service.reload().expect_success();
    assert_eq!(service.status().limits_not_in_force, None);
    let shown = service.cli(&["status"]).expect_success();
    assert!(!shown.contains("in force"), "{shown}");
}
