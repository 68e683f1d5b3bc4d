//! `--json` of what deploys and goes back, by value.

use crate::world::process::Finished;
use crate::world::site::Site;
use serde_json::{Value, json};
use std::fs;

/// The one object on standard output.
fn object(finished: &Finished) -> Value {
    assert_eq!(finished.stdout.lines().count(), 1, "{finished}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

/// Without what differs from time to time, and the names of its steps.
fn stable(mut object: Value) -> (Value, Vec<String>) {
    assert!(object["seconds"].as_f64().unwrap() > 0.0, "{object}");
    assert!(object["requests"].is_u64() || object["requests"].is_null());
    let steps = object["steps"].take();
    let steps = steps.as_array().unwrap();
    assert!(
        steps
            .iter()
            .all(|it| it["seconds"].is_f64() && it["text"].is_string())
    );
    let names = steps
        .iter()
        .map(|it| it["step"].as_str().unwrap().to_owned());
    let names = names.collect();
    for key in ["seconds", "steps", "requests"] {
        object.as_object_mut().unwrap().remove(key).unwrap();
    }
    (object, names)
}

#[test]
fn a_deploy_and_a_rollback_say_it_all_in_one_object() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let app = site.app("v2", "");
    let path = app.to_str().unwrap();
    let deployed = site.cli(&["deploy", path, "--release", "v2", "--json"]);
    assert_eq!(deployed.code(), 0, "{deployed}");
    let (said, steps) = stable(object(&deployed));
    let expected = json!({
        "command": "deploy", "name": "gapless", "outcome": "live", "exit": 0, "cause": null,
        "release": "v2", "from": path, "kind": "directory", "detected": null, "run": null,
        "generation": 2, "live": 2, "current": "v2", "previous": "v1", "lost": 0,
        "last_lines": [],
    });
    assert_eq!(said, expected);
    for step in ["staged", "started", "healthy", "swapped"] {
        assert!(steps.contains(&step.to_owned()), "{steps:?}");
        assert!(deployed.stderr.contains(&format!("  {step}")), "{deployed}");
    }
    let back = site.cli(&["rollback", "--json"]);
    let (said, _) = stable(object(&back));
    let expected = json!({
        "command": "rollback", "name": "gapless", "outcome": "live", "exit": 0, "cause": null,
        "release": "v1", "from": null, "kind": null, "detected": null, "run": null,
        "generation": 3, "live": 3, "current": "v1", "previous": "v2", "lost": 0,
        "last_lines": [],
    });
    assert_eq!(said, expected);
}

#[test]
fn what_goes_wrong_is_an_object_too() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let app = site.app("v2", "");
    let file = app.join("gapless.toml");
    let text = fs::read_to_string(&file).unwrap();
    let more = "PROBE_EXIT_BEFORE_READY = \"3\"\nPROBE_SAY = \"no database\"\n";
    fs::write(&file, text + more).unwrap();
    let path = app.to_str().unwrap();
    let failed = site.cli(&["deploy", path, "--release", "v2", "--json"]);
    assert_eq!(failed.code(), 6, "{failed}");
    let (said, _) = stable(object(&failed));
    assert_eq!(said["outcome"], "unhealthy");
    assert_eq!((&said["exit"], &said["live"]), (&json!(6), &json!(1)));
    assert_eq!(said["last_lines"][0], "no database");
    let cause = said["cause"].as_str().unwrap();
    assert!(cause.contains("exited with status 3"), "{cause}");
    assert_eq!(said["current"], "v1");

    let refused = site.cli(&["deploy", "/nonexistent", "--json"]);
    let (said, steps) = stable(object(&refused));
    assert_eq!((&said["outcome"], refused.code()), (&json!("refused"), 5));
    let cause = said["cause"].as_str().unwrap();
    assert!(cause.starts_with("cannot read /nonexistent"), "{cause}");
    assert!(
        refused.stderr.contains(cause) && steps.is_empty(),
        "{refused}"
    );

    let nowhere = site.cli(&["rollback", "--json"]);
    let (said, _) = stable(object(&nowhere));
    assert_eq!((&said["outcome"], nowhere.code()), (&json!("refused"), 1));
}

#[test]
fn what_is_taken_back_is_an_object_too() {
    let site = Site::bare();
    site.deploy("v1").expect_success();
    let app = site.app("v2", "");
    let file = app.join("gapless.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "PROBE_SEGV_AFTER_MS = \"2500\"\n").unwrap();
    let path = app.to_str().unwrap();
    let back = site.cli(&[
        "deploy",
        path,
        "--release",
        "v2",
        "--bake",
        "1min",
        "--json",
    ]);
    let (said, steps) = stable(object(&back));
    assert_eq!(
        (&said["outcome"], back.code()),
        (&json!("taken-back"), 6),
        "{back}"
    );
    assert_eq!(
        (&said["release"], &said["current"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!(said["previous"], Value::Null);
    assert!(
        said["cause"].as_str().unwrap().contains("1 crash"),
        "{said}"
    );
    assert!(steps.contains(&"failing".to_owned()), "{steps:?}");
    let listed = site.cli(&["releases", "--json"]).expect_success();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["releases"][0]["taken_back"], said["cause"]);
}
