//! `gapless add`.

use super::*;

#[test]
fn add_makes_what_an_instance_needs_names_every_file_and_says_what_is_next() {
    let world = World::new();
    let (port, socket) = (free_port(), world.path("run/blog.sock"));
    let said = world
        .run(&format!("add blog --listen {port} {}", socket.display()))
        .expect_success();
    for (file, text) in [
        (
            "etc/sysusers.d/gapless-blog.conf",
            "u gapless-blog - \"gapless app blog\" /var/lib/gapless@blog\n",
        ),
        (
            "etc/gapless/blog.toml",
            "gapless --app blog deploy ./myapp\n",
        ),
        (
            DROP_IN,
            &format!(
                "[Socket]\nListenStream={port}\nListenStream={}\n",
                socket.display()
            ),
        ),
    ] {
        assert!(
            said.contains(&world.path(file).display().to_string()),
            "{said}"
        );
        let written = world.read(file);
        assert!(written.starts_with("# Written by gapless add"), "{written}");
        assert!(written.ends_with(text), "{written}");
        let mode = world.path(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{file}");
    }
    let next = format!(
        "blog listens on {port}, {}, and waits for an app.  Next: sudo gapless --app blog deploy ./myapp",
        socket.display()
    );
    assert_eq!(said.lines().last(), Some(next.as_str()), "{said}");
    let sysusers = world.path("etc/sysusers.d/gapless-blog.conf");
    assert_eq!(
        world.told(),
        [
            format!("systemd-sysusers {}", sysusers.display()),
            "daemon-reload".to_owned(),
            format!("enable {SOCKET} gapless@blog.service"),
            format!("start {SOCKET}"),
        ]
    );
    world.run("--app blog check").expect_success();
}

#[test]
fn add_told_again_changes_nothing_and_other_addresses_are_refused_with_what_to_do() {
    let world = World::new();
    let port = free_port();
    let first = world.json(&format!("add blog --listen {port}"));
    assert_eq!(
        (&first["has_changed"], &first["name"]),
        (&true.into(), &"blog".into())
    );
    assert_eq!(first["done"][0]["did"], "wrote");
    let (before, _) = (world.everything(), world.told());
    // The same place, written otherwise.
    let again = world
        .run(&format!("add blog --listen [::]:{port}"))
        .expect_success();
    assert!(again.ends_with("nothing was changed.\n"), "{again}");
    assert_eq!(world.told(), [""; 0]);
    let other = world.run("add blog --listen 127.0.0.1:9");
    assert_eq!(other.code(), 1, "{other}");
    for part in [
        format!("listens on {port};"),
        "sudo systemctl edit gapless@blog.socket".to_owned(),
    ] {
        assert!(other.stderr.contains(&part), "{other}");
    }
    assert_eq!(world.everything(), before);
    // What the administrator said in a drop-in of his own counts.
    let edited = "etc/systemd/system/gapless@blog.socket.d/override.conf";
    world.write(
        edited,
        "[Socket]\nListenStream=\nListenStream=127.0.0.1:9\n",
    );
    world.run("add blog --listen 127.0.0.1:9").expect_success();
}

#[test]
fn what_somebody_wrote_stays_as_it_is() {
    let world = World::new();
    let (config, user) = ("[app]\ncommand = [\"/bin/true\"]\n", "u gapless-blog 950\n");
    world.write("etc/gapless/blog.toml", config);
    world.write("etc/sysusers.d/gapless-blog.conf", user);
    let added = world.json(&format!("add blog --listen {}", free_port()));
    assert_eq!(added["done"][0]["did"], "kept");
    assert_eq!(world.read("etc/gapless/blog.toml"), config);
    assert_eq!(world.read("etc/sysusers.d/gapless-blog.conf"), user);
}

#[test]
fn what_cannot_be_added_is_refused_with_the_reason_and_nothing_is_changed() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let shop = free_port();
    world
        .run(&format!("add shop --listen {shop}"))
        .expect_success();
    world.write("etc/occupied", "mine");
    let occupied = world.path("etc/occupied").display().to_string();
    let before = world.everything();
    for (line, code, why) in [
        ("add --listen 80", 2, "which app?"),
        ("add blog", 2, "--listen"),
        (
            "add gapless --listen 80",
            2,
            "systemctl edit gapless.socket",
        ),
        ("add a.b --listen 80", 2, "its user is gapless-a.b"),
        (
            "add a-name-that-is-much-too-long --listen 80",
            2,
            "it may have 23 letters",
        ),
        ("add ../x --listen 80", 2, "begin with a letter"),
        ("add blog --listen 0", 2, "a port from 1 to 65535"),
        ("add blog --listen localhost:80", 2, "127.0.0.1:8080"),
        ("add blog --listen ::1", 2, "into brackets"),
        ("add blog --listen 9 [::]:9", 1, "are the same place"),
        (
            &format!("add blog --listen {taken}"),
            1,
            &format!("is in use by pid {} (", std::process::id()),
        ),
        (
            &format!("add blog --listen 127.0.0.1:{shop}"),
            1,
            "is where gapless@shop.socket listens",
        ),
        (&format!("add blog --listen {occupied}"), 1, "is no socket"),
        (
            "add blog --listen 192.0.2.1:9",
            1,
            "no interface of this machine",
        ),
    ] {
        let refused = world.run(line);
        assert_eq!(refused.code(), code, "{line}: {refused}");
        assert!(
            refused.stderr.contains(why),
            "{line}: {why:?} not in {refused}"
        );
        assert_eq!(world.everything(), before, "{line}");
    }
    // As long as nobody enables it, port 8888 is not that of gapless.socket.
    std::os::unix::fs::symlink(
        "/x",
        world.path("etc/systemd/system/sockets.target.wants/gapless.socket"),
    )
    .unwrap();
    let refused = world.run("add blog --listen 127.0.0.1:8888");
    assert!(
        refused.stderr.contains("is where gapless.socket listens"),
        "{refused}"
    );
    std::fs::remove_dir(world.path("run/systemd/system")).unwrap();
    let refused = world.run(&format!("add blog --listen {}", free_port()));
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(
        refused.stderr.contains("gapless --app blog run -- CMD"),
        "{refused}"
    );
}

#[test]
fn who_is_not_root_is_told_to_use_sudo_and_who_comes_second_to_wait() {
    let world = World::new();
    let units = world.path("etc/systemd/system");
    let lines = [
        format!("add blog --listen {}", free_port()),
        "remove blog".to_owned(),
    ];
    let opened = std::fs::File::open(&units).unwrap();
    opened.lock().unwrap();
    for line in &lines {
        let refused = world.run(line);
        assert_eq!(refused.code(), 8, "{refused}");
        assert!(
            refused.stderr.contains("another gapless add or remove"),
            "{refused}"
        );
    }
    drop(opened);
    std::fs::set_permissions(&units, PermissionsExt::from_mode(0o555)).unwrap();
    for line in &lines {
        let mut command = world.command(line);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY);
        }
        let refused = process::run(command, SOON);
        assert_eq!(refused.code(), 4, "{refused}");
        assert!(refused.stderr.contains("run this with sudo"), "{refused}");
    }
    std::fs::set_permissions(&units, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Where whoever adds can be ended: with none, some and all of the files written and told.
const STEPS: [&str; 5] = [
    "systemd-sysusers",
    "systemd-sysusers.after",
    "daemon-reload",
    "enable.after",
    "start.after",
];

#[test]
fn whoever_is_killed_while_adding_is_completed_by_a_second_add_and_undone_by_remove() {
    let add = format!("add blog --listen {}", free_port());
    let world = World::new();
    let before = world.everything();
    world.run(&add).expect_success();
    let whole = world.everything();
    world.run("remove blog --purge").expect_success();
    assert_eq!(world.everything(), before);
    for step in STEPS {
        world.arm("kill", step);
        assert_eq!(world.run(&add).code(), 137, "{step}");
        assert!(!world.is_armed("kill"), "{step}");
        world.run(&add).expect_success();
        assert_eq!(world.everything(), whole, "{step}");
        world.run("remove blog --purge").expect_success();

        world.arm("kill", step);
        assert_eq!(world.run(&add).code(), 137, "{step}");
        // What a write leaves that is ended before its rename.
        let half = world.path(DROP_IN).with_extension("new");
        if half.parent().unwrap().exists() {
            std::fs::write(half, "half").unwrap();
        }
        world.run("remove blog --purge").expect_success();
        assert_eq!(world.everything(), before, "{step}");
    }
}

#[test]
fn a_step_that_fails_undoes_all_of_them_and_says_why() {
    let world = World::new();
    let before = world.everything();
    for step in ["systemd-sysusers", "daemon-reload", "enable", "start"] {
        world.arm("fail", step);
        let failed = world.run(&format!("add blog --listen {}", free_port()));
        assert_eq!(failed.code(), 1, "{failed}");
        for part in [
            "blog was not added: ",
            &format!("failed: no {step} today"),
            "what was done for it is undone",
        ] {
            assert!(failed.stderr.contains(part), "{step}: {failed}");
        }
        assert_eq!(world.everything(), before, "{step}: {failed}");
    }
}
