//! Start, and the ways in which an app is reached.

use crate::world::service::{SOON, Service, get, get_unix};
use crate::world::{eventually, version};
use crate::{QUICK, the_version};

#[test]
fn ready_goes_up_when_the_first_generation_is_live() {
    let service = Service::probe(&version("v1").with("BOOT_MS", "300"), QUICK, "");
    assert_eq!(the_version(&service), "v1");
    let status = service.status();
    assert!(status.healthy, "{status:#?}");
    assert_eq!(service.said(), Some(status.summary));
}

#[test]
fn a_first_start_that_fails_is_said_and_tried_again_and_does_not_fail_the_unit() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    service.behave(
        &version("v1")
            .with("EXIT_BEFORE_READY", "1")
            .with("SAY", "no database"),
    );
    service.configure_probe(QUICK, "[http]\nhold = \"500ms\"");
    service.start();
    service.wait_ready();
    let said = service.said().unwrap();
    assert!(said.contains("exited with status 1"), "{said}");
    let refusal = service.get("/");
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    service.behave(&version("v2"));
    eventually("it heals by itself", SOON, || {
        (the_version(&service) == "v2").then_some(())
    });
}

#[test]
fn without_a_socket_it_refuses_to_start_and_names_the_unit_to_look_at() {
    let mut service = Service::new("gapless");
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    assert!(!service.wait_end(SOON).success());
    assert!(
        service.journal().contains("gapless.socket"),
        "{}",
        service.journal()
    );
}

#[test]
fn it_answers_on_every_socket_it_is_given_and_closes_one_it_does_not_know() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let unix = service.listen_unix("http");
    let second = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = second.local_addr().unwrap().to_string();
    service.give("http", second.into());
    let strange = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    service.give("mystery", strange.into());
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    assert_eq!(the_version(&service), "v1");
    get_unix(&unix, "/").expect_ok();
    get(&address, "/").expect_ok();
    assert_eq!(service.status().listeners.len(), 3);
    assert!(
        service.journal().contains("mystery"),
        "{}",
        service.journal()
    );
}

#[test]
fn an_app_is_reached_by_whatever_it_takes() {
    for (listen, takes) in [
        ("auto", "auto"),
        ("auto", "port"),
        ("auto", "unix"),
        ("port", "port"),
        ("fd", "fd"),
        ("unix", "unix"),
    ] {
        let keys = format!("listen = \"{listen}\"\n{QUICK}");
        let service = Service::probe(&version("v1").with("LISTEN", takes), &keys, "");
        assert_eq!(the_version(&service), "v1", "{listen}, taking {takes}");
    }
}

#[test]
fn an_app_that_never_notifies_is_ready_when_it_answers() {
    let behaviour = version("v1").with("MUTE", "1").with("BOOT_MS", "300");
    let service = Service::probe(&behaviour, &format!("listen = \"port\"\n{QUICK}"), "");
    assert_eq!(the_version(&service), "v1");
}
