//! Bad versions: each reload fails with the true cause, and the old version never notices.

use crate::world::process::Finished;
use crate::world::service::Service;
use crate::world::{Behaviour, alone, version};
use crate::{QUICK, the_version, wait_settled};
use gapless::api::Verdict;

struct Bad {
    behaviour: Behaviour,
    keys: &'static str,
    more: &'static str,
    verdict: Verdict,
    /// Part of the cause.
    cause: &'static str,
}

impl Bad {
    fn new(behaviour: Behaviour, cause: &'static str) -> Self {
        let (keys, more) = ("boot = \"1500ms\"\nstop = \"1s\"", "");
        Self {
            behaviour,
            keys,
            more,
            verdict: Verdict::Unhealthy,
            cause,
        }
    }

    fn too_slow(behaviour: Behaviour) -> Self {
        Self {
            verdict: Verdict::TimedOut,
            ..Self::new(behaviour, "1.5")
        }
    }

    fn expect_refused(self) {
        let _alone = alone();
        let service = Service::probe(&version("good"), self.keys, self.more);
        let before = service.processes();
        let load = service.load(&["--idle", "20"]);
        service.behave(&self.behaviour);
        let reload = service.reload();
        self.expect_refusal(&service, &reload);
        load.finish().expect_nothing_lost().expect_nothing_closed();
        assert_eq!(the_version(&service), "good");
        wait_settled(&service);
        assert_eq!(
            service.processes(),
            before,
            "nothing is left behind, nothing was replaced"
        );
    }

    fn expect_refusal(&self, service: &Service, reload: &Finished) {
        assert_eq!(reload.code(), 6, "{reload}");
        assert!(
            reload.output().contains(self.cause),
            "no {:?} in {reload}",
            self.cause
        );
        let outcome = service.status().last_outcome.unwrap();
        assert_eq!(outcome.verdict, self.verdict, "{outcome:#?}");
        assert!(outcome.cause.contains(self.cause), "{outcome:#?}");
    }
}

#[test]
fn a_version_that_exits_at_once_is_refused_with_its_last_lines() {
    let behaviour = version("bad")
        .with("EXIT_BEFORE_READY", "1")
        .with("SAY", "no such table");
    Bad::new(behaviour, "exited with status 1").expect_refused();
}

#[test]
fn a_version_that_exits_after_ready_is_refused() {
    let behaviour = version("bad")
        .with("EXIT_AFTER_READY", "3")
        .with("EXIT_AFTER_MS", "200");
    Bad::new(behaviour, "exited with status 3").expect_refused();
}

#[test]
fn a_version_that_hangs_is_refused() {
    Bad::too_slow(version("bad").with("HANG", "1")).expect_refused();
}

#[test]
fn a_version_that_answers_500_is_refused() {
    let more = "[health]\npath = \"/health\"";
    let bad = Bad::too_slow(version("bad").with("STATUS", "500"));
    Bad {
        more,
        cause: "500",
        ..bad
    }
    .expect_refused();
}

#[test]
fn an_app_that_takes_only_its_own_name_is_asked_by_it() {
    let takes = |version_is: &str| version(version_is).with("HOST", "shop.example");
    let quick = "boot = \"1500ms\"\nsettle = \"100ms\"";
    let service = Service::probe(&version("good"), quick, "[health]\npath = \"/health\"");
    service.behave(&takes("bad"));
    let reload = service.reload();
    assert_eq!(reload.code(), 6, "{reload}");
    let hint =
        "set host in [health] to a name that the app takes: the health check says Host: localhost";
    assert!(reload.output().contains(hint), "{reload}");
    let health = "[health]\npath = \"/health\"\nhost = \"shop.example\"\nevery = \"1s\"";
    service.configure_probe(quick, health);
    service.behave(&takes("named"));
    let reload = service.reload();
    assert_eq!(reload.code(), 0, "{reload}");
}

#[test]
fn a_version_that_never_listens_is_refused() {
    Bad::too_slow(version("bad").with("NEVER_LISTEN", "1")).expect_refused();
}

#[test]
fn a_version_that_crashes_within_a_second_of_ready_is_refused() {
    Bad::new(version("bad").with("SEGV_AFTER_MS", "700"), "SIGSEGV").expect_refused();
}

#[test]
fn a_command_that_does_not_exist_is_refused() {
    let service = Service::probe(&version("good"), "", "");
    service.configure("[app]\ncommand = [\"/nonexistent/app\"]\ndirectory = \"/\"\n");
    let reload = service.reload();
    assert_eq!(reload.code(), 5, "{reload}");
    assert!(reload.output().contains("/nonexistent/app"), "{reload}");
    assert_eq!(the_version(&service), "good");
}

#[test]
fn a_configuration_that_is_wrong_is_refused_before_anything_starts() {
    let service = Service::probe(&version("good"), QUICK, "");
    let before = service.processes();
    service.configure("[app]\ncomand = [\"/bin/true\"]\n");
    let reload = service.reload();
    assert_eq!(reload.code(), 5, "{reload}");
    assert!(reload.output().contains("comand"), "{reload}");
    assert_eq!(
        (the_version(&service).as_str(), service.processes()),
        ("good", before)
    );
}
