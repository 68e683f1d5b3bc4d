//! A deploy to a service that does not run.

use super::*;

/// A systemctl that is only heard: who plays systemd starts the service then.
fn with_systemctl(site: &Site, arguments: &[&str]) -> Command {
    let asked = site.service.scratch.0.join("asked");
    let script = format!("#!/bin/sh\necho \"$*\" >{}\n", asked.display());
    let systemctl = site.service.scratch.write("bin/systemctl", &script);
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", systemctl.parent().unwrap().display());
    let mut command = site.service.command(arguments);
    command.env("PATH", path).stdout(Stdio::piped());
    command
}

fn start_when_asked(site: &mut Site) {
    let asked = site.service.scratch.0.join("asked");
    eventually("systemctl is asked", SOON, || asked.is_file().then_some(()));
    assert_eq!(
        fs::read_to_string(&asked).unwrap().trim(),
        "start --no-block gapless.service"
    );
    fs::remove_file(asked).unwrap();
    site.service.start();
}

#[test]
fn a_deploy_to_a_stopped_service_starts_the_new_release_and_not_the_old_one() {
    let mut site = Site::bare();
    site.deploy("v1").expect_success();
    site.service.stop(SOON);
    let began = |site: &Site, version: &str| {
        let journal = site.service.journal();
        journal
            .matches(&format!("begins: release {version}"))
            .count()
    };
    let app = site.app("v2", "");
    let deploy = ["deploy", app.to_str().unwrap(), "--release", "v2"];
    let deploy = with_systemctl(&site, &deploy).spawn().unwrap();
    start_when_asked(&mut site);
    let done = deploy.wait_with_output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}");
    assert!(
        said.contains("gapless.service, by systemctl start"),
        "{said}"
    );
    assert_eq!(site.version(), "v2");
    assert_eq!((began(&site, "v1"), began(&site, "v2")), (1, 1));
    // So does a rollback; and what it goes back to is all that starts.
    site.service.stop(SOON);
    let rollback = with_systemctl(&site, &["rollback"]).spawn().unwrap();
    start_when_asked(&mut site);
    assert!(rollback.wait_with_output().unwrap().status.success());
    assert_eq!(site.version(), "v1");
    assert_eq!((began(&site, "v1"), began(&site, "v2")), (2, 1));
    assert!(!site.store().join("starting").exists());
}

#[test]
fn a_deploy_to_a_stopped_service_that_fails_leaves_the_old_release_serving() {
    let mut site = Site::bare();
    site.deploy("v1").expect_success();
    for (more, code) in [
        ("\nPROBE_EXIT_BEFORE_READY = \"3\"\n", 6),
        ("\nnonsense = [1\n", 5),
    ] {
        site.service.stop(SOON);
        let version = format!("bad{code}");
        let app = site.app(&version, "");
        let file = app.join("gapless.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + more).unwrap();
        let deploy = ["deploy", app.to_str().unwrap(), "--release", &version];
        let deploy = with_systemctl(&site, &deploy).spawn().unwrap();
        start_when_asked(&mut site);
        let done = deploy.wait_with_output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(done.status.code(), Some(code), "{said}");
        eventually("the old one serves", SOON, || {
            (site.version() == "v1").then_some(())
        });
        assert_eq!(site.current().as_deref(), Some("v1"));
    }
}
