//! Addresses that are taken out of the socket unit.

use super::{QUICK, SOON, the_version, wait_settled};
use crate::world::load::Load;
use crate::world::service::{Service, get, get_unix};
use crate::world::{eventually, version};
use gapless::api::Status;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// On one address that stays and one that does not.
fn on_two_addresses() -> (Service, String) {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = second.local_addr().unwrap().to_string();
    service.give("http", second.into());
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    (service, address)
}

fn wait_closed(address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    eventually("the address is closed", SOON, || {
        let connected = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        let error = connected.err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
}

fn addresses(status: &Status) -> Vec<&str> {
    status
        .listeners
        .iter()
        .map(|it| it.address.as_str())
        .collect()
}

#[test]
fn an_address_that_is_taken_out_closes_with_the_restart_and_who_is_connected_stays() {
    let (mut service, second) = on_two_addresses();
    let elsewhere = service.load(&[]);
    let load = Load::start(&second, &["--idle", "20"]);
    service.take_out(&second);
    service.restart();
    wait_closed(&second);
    let counted = load.finish();
    // Whoever came later was told at once; nobody who was connected was reset.
    assert_eq!(counted.lost, counted.refused, "{counted:#?}");
    counted.expect_nothing_closed();
    elsewhere
        .finish()
        .expect_nothing_lost()
        .expect_nothing_closed();
    let status = wait_settled(&service);
    assert_eq!(addresses(&status), [service.address()]);

    // Nor does it come back with what the store or the process has.
    service.kill_keeper();
    service.cli(&["upgrade"]).expect_success();
    service.restart();
    wait_closed(&second);
    assert_eq!(addresses(&service.status()), [service.address()]);
}

/// A socket unit of its own was stopped; the service did not restart for it.
#[test]
fn the_front_that_outlives_its_keeper_does_not_keep_the_address_open() {
    let (mut service, second) = on_two_addresses();
    get(&second, "/").expect_ok();
    service.take_out(&second);
    service.kill_keeper();
    wait_closed(&second);
    assert_eq!(the_version(&service), "v1");
}

#[test]
fn of_a_path_that_is_bound_again_the_older_socket_goes() {
    let mut service = Service::new("gapless");
    service.listen_tcp("http");
    let path = service.scratch.0.join("unit.sock");
    let bind = || UnixListener::bind(&path).unwrap().into();
    service.give("http", bind());
    service.behave(&version("v1"));
    service.configure_probe(QUICK, "");
    service.start();
    service.wait_ready();
    for _ in 0..3 {
        std::fs::remove_file(&path).unwrap();
        service.take_out(&path.display().to_string());
        service.give("http", bind());
        service.restart();
        get_unix(&path, "/").expect_ok();
    }
    let kept = service.heard(crate::world::service::Heard::stored);
    let kept = kept.iter().filter(|name| *name == "gapless-listener");
    assert_eq!(kept.count(), 2);
}

/// `FileDescriptorName=admin` instead of http.
#[test]
fn an_address_for_load_balancers_now_shows_no_app() {
    let (mut service, second) = on_two_addresses();
    assert!(get(&second, "/").header("x-app-version").is_some());
    let admin = service.take_out(&second).unwrap();
    service.give("admin", admin);
    service.restart();
    eventually("no app is there", SOON, || {
        get(&second, "/")
            .header("x-app-version")
            .is_none()
            .then_some(())
    });
    get(&second, "/readyz").expect_ok();
}
