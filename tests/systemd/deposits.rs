//! A Python app that stores a memfd and a listening socket gets both back, from a real fd store.

use crate::world::container::Container;
use crate::{SOON, eventually, next_keeper};
use serde::Deserialize;

/// See tests/apps/keeps.py.
#[derive(Debug, Deserialize)]
struct Kept {
    count: u64,
    door: u16,
    note: u64,
    pid: u32,
}

fn ask(container: &Container) -> Kept {
    serde_json::from_str(&container.get("/")).unwrap()
}

/// In a container where nothing runs, and the scripts are in /srv/apps.
pub fn what_it_keeps_outlives_everything_but_a_stop(container: &Container) {
    container.install("tests/apps/keeps.py", "/srv/apps/keeps.py");
    let app = "[app]\ncommand = [\"/usr/bin/python3\", \"/srv/apps/keeps.py\"]\n\
               directory = \"/srv/apps\"\nsettle = \"100ms\"\n";
    container.serve(app);
    let mut before = ask(container);
    for event in ["respawn", "reload", "upgrade", "restart", "keeper killed"] {
        let keeper = container.main_pid().unwrap();
        match event {
            "respawn" => container.kill("KILL", before.pid),
            "reload" => drop(container.systemctl("reload gapless.service")),
            "upgrade" => drop(container.sh("gapless upgrade")),
            "restart" => drop(container.systemctl("restart gapless.service")),
            _ => {
                container.kill("KILL", keeper);
                next_keeper(container, keeper);
            }
        }
        let is_another = !["upgrade", "keeper killed"].contains(&event);
        let after = eventually(event, SOON, || {
            let after = ask(container);
            (is_another == (after.pid != before.pid)).then_some(after)
        });
        assert!(after.count > before.count, "{event}: {before:?}, {after:?}");
        assert_eq!(
            (after.note, after.door),
            (after.count, before.door),
            "{event}"
        );
        before = after;
    }
    // What the last keeper adopted is given on, too.
    container.systemctl("reload gapless.service");
    let after = eventually("reloaded", SOON, || {
        let after = ask(container);
        (after.pid != before.pid).then_some(after)
    });
    assert_eq!(after.door, before.door);
    container.systemctl("stop gapless.socket gapless.service");
    assert_eq!(container.property("NFileDescriptorStore"), "0");
    container.serve(app);
    assert_eq!(ask(container).count, 1);
    container.systemctl("stop gapless.socket gapless.service");
}
