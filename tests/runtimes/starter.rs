//! The starter file of examples/bun, at the desk: many files are edited, then the one that says which of
//! them run, and `gapless run --watch starter.ts` follows that one.

use crate::in_flight::send;
use crate::instance::Instance;
use crate::world::container::Container;
use crate::world::eventually;
use crate::world::service::{Reply, receive};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const AT: &str = "127.0.0.1:9800";
const SOON: Duration = Duration::from_mins(1);
/// It outlasts the swap, and not the drain.
const FLIGHT: Duration = Duration::from_secs(8);

struct Desk<'a>(&'a Container);

/// Under load, with requests in flight that the old code answers. What is half written does not matter,
/// and a version that does not start never serves.
pub fn bun_runs_what_its_starter_file_names(instance: &Instance<'_>) {
    let desk = Desk::open(instance.container);
    let (v2, began) = (desk.read("version1.ts"), Instant::now());
    let kinds = ["--kinds", "get,slow,pipelined,new", "--slow-ms", "1000"];
    let amount = ["--plain", "--clients", "8", "--idle", "16"];
    let arguments = [amount.as_slice(), kinds.as_slice()].concat();
    let load = desk.0.load_at(AT, &arguments);
    let in_flight = desk.ask(&format!("/slow?ms={}", FLIGHT.as_millis()));
    let v3 = v2.replace("v2", "v3");
    desk.write("version3.ts", &v3[..v3.len() / 2]);
    desk.write("version3.ts", &v3);
    assert_eq!(desk.version(), "v2");
    desk.name_in_starter("version3");
    until("v3 serves", || desk.version() == "v3");
    assert!(began.elapsed() < FLIGHT, "a swap took as long as that");
    assert_eq!(last_word(&receive(in_flight)), "v2");
    desk.write("version4.ts", "}");
    desk.name_in_starter("version4");
    until("v4 failed", || desk.says("g3 failed to start"));
    let counted = load.finish();
    counted.expect_nothing_lost().expect_nothing_closed();
    let seen: Vec<_> = counted.versions.keys().map(String::as_str).collect();
    assert_eq!(seen, ["v2", "v3"], "{counted:#?}");
    desk.0.systemctl("stop desk.service");
}

impl<'a> Desk<'a> {
    /// Whoever sits there has a PATH.
    fn open(container: &'a Container) -> Self {
        container.sh("cp -r /srv/bun /srv/desk");
        container.sh(
            "systemd-run --quiet --unit=desk --working-directory=/srv/desk \
             --setenv=PATH=/usr/local/bin:/usr/bin:/bin \
             gapless run --watch starter.ts --port 9800 -- bun starter.ts",
        );
        let desk = Self(container);
        until("it listens", || desk.0.connect(AT).is_ok());
        assert_eq!(desk.version(), "v2");
        desk
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.reach(&format!("/srv/desk/{file}"))).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        self.0
            .push(&format!("/srv/desk/{file}"), text.as_bytes(), 0o644);
    }

    fn name_in_starter(&self, version: &str) {
        self.write("starter.ts", &format!("import \"./{version}.ts\";\n"));
    }

    fn ask(&self, path: &str) -> TcpStream {
        let connection = self.0.connect(AT).unwrap();
        send(&connection, path);
        connection.set_read_timeout(Some(SOON)).unwrap();
        connection
    }

    fn version(&self) -> String {
        last_word(&receive(self.ask("/")))
    }

    fn says(&self, words: &str) -> bool {
        self.0.journal("-u desk.service").contains(words)
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    eventually(&format!("at the desk, {what}"), SOON, || {
        is_so().then_some(())
    });
}

#[track_caller]
fn last_word(reply: &Reply) -> String {
    assert!(reply.is_whole, "{}", reply.head);
    let last = reply.body.split_whitespace().next_back();
    last.unwrap_or_default().to_owned()
}
