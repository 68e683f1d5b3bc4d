//! `gapless remove`.

use super::*;

#[test]
fn remove_stops_and_disables_and_names_what_it_leaves_and_add_brings_it_back() {
    let world = World::new();
    let add = format!("add blog --listen {}", free_port());
    world.run(&add).expect_success();
    with_data(&world);
    let mine = "etc/systemd/system/gapless@blog.service.d/limits.conf";
    world.write(mine, "[Service]\nMemoryMax=1G\n");
    world.told();
    let said = world.run("remove blog").expect_success();
    assert_eq!(
        world.told(),
        [
            "disable gapless@blog.service gapless@blog.socket",
            "stop gapless@blog.socket",
            "reset-failed gapless@blog.service gapless@blog.socket gapless-admin@blog.socket \
             gapless-control@blog.socket",
            "daemon-reload",
        ]
    );
    for gone in [DROP_IN, "etc/sysusers.d/gapless-blog.conf"] {
        assert!(!world.path(gone).exists());
        assert!(
            said.contains(&format!("deleted  {}", world.path(gone).display())),
            "{said}"
        );
    }
    let (_, left) = said.split_once("blog is gone.  Left:\n").unwrap();
    for stays in [
        "etc/gapless/blog.toml",
        "etc/default/gapless@blog",
        "srv/gapless/blog",
        "var/lib/gapless@blog",
        "var/cache/gapless@blog",
        mine,
    ] {
        assert!(world.path(stays).exists(), "{stays}");
        assert!(
            left.contains(&world.path(stays).display().to_string()),
            "{stays}: {left}"
        );
    }
    for part in [
        "1 release",
        "the user gapless-blog",
        "sudo gapless remove blog --purge",
    ] {
        assert!(left.contains(part), "{left}");
    }
    assert!(world.read("etc/passwd").contains("gapless-blog:"));
    // Told again, it says the same.
    let again = world.json("remove blog");
    assert_eq!(again["done"], Value::Array(Vec::new()));
    assert_eq!(again["left"].as_array().unwrap().len(), 7, "{again}");
    let back = world.run(&add).expect_success();
    assert!(
        back.contains("; r1 starts with the first request"),
        "{back}"
    );
}

#[test]
fn purge_deletes_all_but_what_somebody_else_wrote() {
    let world = World::new();
    let before = world.everything();
    world
        .run(&format!("add blog --listen {}", free_port()))
        .expect_success();
    with_data(&world);
    let purged = world.run("remove blog --purge").expect_success();
    assert!(
        purged.ends_with("blog is gone, and nothing of it is left.\n"),
        "{purged}"
    );
    assert!(
        purged.contains("the user gapless-blog: uid 998"),
        "{purged}"
    );
    let mut after = world.everything();
    // Directories that others use, too.
    for shared in ["srv", "var", "var/lib", "var/cache", "etc/default"] {
        after.remove(&world.path(shared));
    }
    assert_eq!(after, before);

    world
        .run(&format!("add blog --listen {}", free_port()))
        .expect_success();
    world.write("srv/gapless/blog/notes", "mine");
    let said = world.json("remove blog --purge");
    assert_eq!(world.read("srv/gapless/blog/notes"), "mine");
    let left = said["left"].to_string();
    assert!(left.contains("srv/gapless/blog"), "{left}");
    assert!(
        left.contains("the user gapless-blog"),
        "there is data: {left}"
    );
}

#[test]
fn remove_refuses_the_default_what_is_not_there_and_what_is_being_deployed() {
    let world = World::new();
    for (line, code, why) in [
        ("remove", 2, "gapless list shows all"),
        ("remove gapless", 2, "sudo apt remove gapless"),
        ("remove nothing", 1, "there is no nothing on this machine"),
    ] {
        let refused = world.run(line);
        assert_eq!(refused.code(), code, "{line}: {refused}");
        assert!(refused.stderr.contains(why), "{line}: {refused}");
    }
    world
        .run(&format!("add blog --listen {}", free_port()))
        .expect_success();
    with_data(&world);
    let lock = std::fs::File::create(world.path("srv/gapless/blog/lock")).unwrap();
    lock.lock().unwrap();
    std::io::Write::write_all(&mut &lock, b"pid 7, admin: gapless deploy ./x").unwrap();
    let before = world.everything();
    let refused = world.run("remove blog --purge");
    assert_eq!(refused.code(), 8, "{refused}");
    let holder = "pid 7, admin: gapless deploy ./x is at work here";
    assert!(refused.stderr.contains(holder), "{refused}");
    assert_eq!(world.everything(), before);
    assert!(world.is_active(SOCKET));
    drop(lock);
    world.run("remove blog").expect_success();
}

#[test]
fn a_remove_that_fails_or_is_killed_is_completed_by_the_next() {
    let world = World::new();
    let before = world.everything();
    let add = format!("add blog --listen {}", free_port());
    for step in ["disable", "stop", "daemon-reload", "userdel"] {
        world.run(&add).expect_success();
        world.arm("fail", step);
        let failed = world.run("remove blog --purge");
        assert_eq!(failed.code(), 1, "{step}: {failed}");
        assert!(
            failed.stderr.contains(&format!("no {step} today")),
            "{failed}"
        );
        world.run("remove blog --purge").expect_success();
        assert_eq!(world.everything(), before, "{step}");
        world.run(&add).expect_success();
        world.arm("kill", &format!("{step}.after"));
        assert_eq!(world.run("remove blog --purge").code(), 137, "{step}");
        let last = world.run("remove blog --purge");
        let is_nothing_left = last.stderr.contains("there is no blog");
        assert!(last.status.success() || is_nothing_left, "{step}: {last}");
        assert_eq!(world.everything(), before, "{step}");
    }
}
