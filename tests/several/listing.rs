//! `gapless list`.

use super::*;

/// The entry of an app in the list, and its line for people.
fn listed(world: &World, name: &str) -> Value {
    let apps = world.json("list")["apps"].clone();
    let found = apps
        .as_array()
        .unwrap()
        .iter()
        .find(|app| app["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {apps}"))
        .clone()
}

#[test]
fn list_shows_every_instance_how_it_is_and_what_to_do() {
    let world = World::new();
    let names = || {
        let apps = world.json("list")["apps"].clone();
        let names = apps
            .as_array()
            .unwrap()
            .iter()
            .map(|app| app["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(), ["gapless"]);
    let gapless = listed(&world, "gapless");
    assert_eq!(gapless["state"], "stopped");
    assert_eq!(gapless["next"], "sudo gapless start gapless");
    assert_eq!(gapless["addresses"][0], "8888");
    let port = free_port();
    world
        .run(&format!("add blog --listen {port}"))
        .expect_success();
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["unit"]),
        (&"waits-for-an-app".into(), &"gapless@blog.service".into())
    );
    assert_eq!(blog["next"], "sudo gapless --app blog deploy ./myapp");
    assert_eq!(blog["addresses"][0], port.to_string());
    with_data(&world);
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["release"]),
        (&"waits-for-a-request".into(), &"r1".into())
    );
    std::fs::remove_dir_all(world.scratch.0.join("play/active")).unwrap();
    assert_eq!(listed(&world, "blog")["state"], "stopped");
    world.write("var/lib/gapless@old/x", "");
    let old = listed(&world, "old");
    assert_eq!(
        (&old["state"], &old["healthy"]),
        (&"removed".into(), &Value::Null)
    );
    assert!(
        old["next"]
            .as_str()
            .unwrap()
            .contains("sudo gapless remove old --purge")
    );
    assert_eq!(names(), ["gapless", "blog", "old"]);
    let said = world.run("list").expect_success();
    let mut lines = said.lines();
    assert!(
        lines.next().unwrap().trim_start().starts_with("APP"),
        "{said}"
    );
    assert!(lines.next().unwrap().starts_with("○ gapless"), "{said}");
    assert!(
        said.contains("\n  old: its configuration or data is left; next: "),
        "{said}"
    );
}

#[test]
fn list_asks_what_runs_and_says_what_it_may_not_see() {
    let world = World::new();
    let mut service = Service::new("blog");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe("settle = \"100ms\"", "");
    service.start();
    service.wait_ready();
    service.get("/");
    eventually("the front has reported it", SOON, || {
        (service.status().requests.total == 1).then_some(())
    });
    // There for the commands, and where the service knows it.
    let place = world.path("run/gapless@blog");
    std::fs::rename(service.runtime_directory(), &place).unwrap();
    std::os::unix::fs::symlink(&place, service.runtime_directory()).unwrap();
    let blog = listed(&world, "blog");
    assert_eq!(
        (&blog["state"], &blog["healthy"]),
        (&"healthy".into(), &true.into())
    );
    assert_eq!(
        (&blog["requests"]["lost"], &blog["requests"]["total"]),
        (&0.into(), &1.into())
    );
    assert_eq!(blog["addresses"][0], service.address());
    let said = world.run("list").expect_success();
    assert!(said.contains("\n● blog "), "{said}");
    assert!(said.contains("0 of 1"), "{said}");

    service.behave(&version("bad").with("EXIT_BEFORE_READY", "1"));
    let bad = service.control("POST", "/reload");
    assert!(
        bad.body.contains("\"verdict\":\"unhealthy\""),
        "{}",
        bad.body
    );
    // The old version serves as before.
    assert_eq!(listed(&world, "blog")["state"], "healthy");
    service.behave(&version("errors").with("STATUS", "503"));
    let bad = service.control("POST", "/reload");
    assert!(bad.body.contains("\"verdict\":\"live\""), "{}", bad.body);
    for _ in 0..5 {
        assert_eq!(service.get("/").status, 503);
    }
    let blog = eventually("it is seen", SOON, || {
        Some(listed(&world, "blog")).filter(|blog| blog["state"] == "failing")
    });
    assert_eq!(blog["healthy"], false);
    let because = blog["because"].as_str().unwrap();
    assert!(because.starts_with("all 5 answers"), "{blog}");
    assert_eq!(blog["next"], "gapless --app blog status");

    if rustix::process::geteuid().is_root() {
        let socket = service.runtime_directory().join("control.sock");
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600)).unwrap();
        let mut command = world.command("list");
        command.uid(NOBODY);
        let said = process::run(command, SOON).expect_success();
        assert!(
            said.contains("blog: you may not ask it; next: sudo gapless list"),
            "{said}"
        );
    }
}

#[test]
fn list_shows_what_the_user_runs_in_the_foreground() {
    let world = World::new();
    let mut service = Service::new("dev");
    service.listen_tcp("http");
    service.behave(&version("v1"));
    service.configure_probe("settle = \"100ms\"", "");
    service.start();
    service.wait_ready();
    let session = world.scratch.0.join("session");
    std::fs::create_dir(&session).unwrap();
    std::fs::rename(service.runtime_directory(), session.join("gapless@dev")).unwrap();
    let dev = listed(&world, "dev");
    assert_eq!(
        (&dev["state"], &dev["unit"]),
        (&"healthy".into(), &Value::Null)
    );
    assert!(
        world
            .run("list")
            .expect_success()
            .contains("● dev (foreground) ")
    );
    std::fs::rename(session.join("gapless@dev"), service.runtime_directory()).unwrap();
}
