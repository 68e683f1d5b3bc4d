//! What an administrator is told of an app that is not there, does not answer, or cannot be reached.

use super::*;

#[test]
fn a_mistyped_name_makes_no_app_and_is_told_with_those_that_are_there() {
    let world = World::new();
    let port = free_port();
    world
        .run(&format!("add blog --listen {port}"))
        .expect_success();
    let before = world.everything();
    for line in [
        "--app blgo deploy /bin/true",
        "--app blgo rollback",
        "--app blgo releases",
        "--app blgo status",
        "--app blgo reload",
        "start blgo",
        "stop blgo",
        "restart blgo",
    ] {
        let refused = world.run(line);
        assert_eq!(refused.code(), 3, "{line}: {refused}");
        let expected = "gapless: there is no app blgo; apps here: gapless, blog; to add it: sudo gapless \
                        add blgo --listen ADDRESS, or gapless --app blgo run -- CMD";
        assert_eq!(refused.stderr.trim(), expected, "{line}");
        assert_eq!(refused.stdout, "", "{line}");
        assert_eq!(world.everything(), before, "{line}");
    }
    let json = world.run("--app blgo deploy /bin/true --json");
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let cause = json["cause"].as_str().unwrap();
    assert!(cause.starts_with("there is no app blgo"), "{json}");
}

#[test]
fn an_app_that_does_not_answer_is_told_as_systemd_sees_it() {
    let world = World::new();
    let said = |line: &str| {
        let refused = world.run(line);
        assert_eq!(refused.code(), 3, "{refused}");
        refused.stderr
    };
    let stopped = said("status");
    assert!(
        stopped.contains("gapless is not running; start it: sudo gapless start, or"),
        "{stopped}"
    );
    world.scratch.write("play/active/gapless.socket", "");
    let bare = said("status");
    assert!(
        bare.contains("nothing is deployed; gapless.socket is active; next: sudo gapless deploy"),
        "{bare}"
    );
    world.write(
        "etc/gapless/gapless.toml",
        "[app]\ndirectory = \"/srv/app\"\n",
    );
    for line in ["status", "reload", "drain", "upgrade"] {
        let waits = said(line);
        let expected = "gapless.socket is active, and the next request starts gapless.service";
        assert!(waits.contains(expected), "{line}: {waits}");
    }
    world.scratch.write("play/active/gapless.service", "");
    let mute = said("status");
    assert!(
        mute.contains("gapless.service is active, and nobody answers"),
        "{mute}"
    );
}

/// The mode of each file or directory of the app, and what `check` says when it is the given one.
#[test]
fn check_says_which_part_of_a_path_refuses_the_user_of_the_service() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can try what another user may do");
    }
    let world = World::new();
    let mode = |path: &str, mode: u32| {
        std::fs::set_permissions(world.path(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    let shown = |path: &str| world.path(path).display().to_string();
    let (script, interpreter) = ("srv/home/app/run", "srv/tools/sh");
    world.write(script, &format!("#!{} -e\n", shown(interpreter)));
    world.write(interpreter, "");
    std::os::unix::fs::symlink(world.path("srv/home/app"), world.path("srv/app")).unwrap();
    let config = format!(
        "[app]\ndirectory = \"{}\"\ncommand = [\"./run\"]\n",
        shown("srv/app")
    );
    world.write("etc/gapless/blog.toml", &config);
    let open = || {
        for path in ["srv/home", "srv/home/app", script, "srv/tools", interpreter] {
            mode(path, 0o755);
        }
    };
    open();
    world.run("--app blog check").expect_success();
    for (path, closed, says, right) in [
        ("srv/home", 0o700, "cannot enter the directory", "o+x"),
        ("srv/home/app", 0o750, "cannot enter the directory", "o+x"),
        (script, 0o754, "cannot execute", "o+x"),
        (script, 0o711, "cannot read the script", "o+r"),
        ("srv/tools", 0o700, "cannot execute the interpreter", "o+x"),
        (interpreter, 0o744, "cannot execute the interpreter", "o+x"),
    ] {
        open();
        mode(path, closed);
        let refused = world.run("--app blog check --json");
        assert_eq!(refused.code(), 5, "{path}: {refused}");
        let json: Value = serde_json::from_str(&refused.stdout).unwrap();
        let text = |key: &str| json["problems"][0][key].as_str().unwrap();
        let said = format!("{} {}", text("message"), text("remedy"));
        let part = format!("{} refuses it (mode {closed:o}, owner 0:0)", shown(path));
        let remedy = format!("sudo chmod {right} {}", shown(path));
        for expected in ["the user gapless-blog", says, &part, &remedy] {
            assert!(said.contains(expected), "{path}: {expected}: {said}");
        }
        assert_eq!(json["is_valid"], false, "{json}");
        assert_eq!(json["problems"].as_array().unwrap().len(), 1, "{json}");
    }
    open();
    std::fs::remove_file(world.path(interpreter)).unwrap();
    let refused = world.run("--app blog check");
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.stderr.contains("which is not there"), "{refused}");
}
