//! Refusals and losses by their causes.

use crate::connections::expect_closed;
use crate::requests::booting;
use crate::world::service::{SOON, Service};
use crate::world::{eventually, process, skip, version};
use crate::{QUICK, front, get, head, post, send};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

#[test]
fn what_a_client_does_wrong_is_refused_by_its_cause_and_no_loss() {
    let service = Service::probe(
        &version("v1"),
        QUICK,
        "[http]\nlanes = 1\nbody_bytes_max = \"10B\"",
    );
    let refused = |request: &str, status: &str| {
        let (_, head) = send(&service, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    };
    refused("GET / HTTP/1.1\r\n\r\n", "400");
    refused("GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n", "400");
    refused("CONNECT t:1 HTTP/1.1\r\nHost: t:1\r\n\r\n", "501");
    refused("get / HTTP/1.1\r\nHost: t\r\n\r\n", "501");
    let posted = |more: &str| format!("POST / HTTP/1.1\r\nHost: t\r\n{more}");
    refused(
        &posted("Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx"),
        "417",
    );
    refused(&posted("Content-Length: 11\r\n\r\n"), "413");
    refused(&posted("Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), "400");
    refused("GET / HTTP/1.1\r\nHost : t\r\n\r\n", "400");
    service.until("requests_total", &[("class", "4xx")], 5.0);
    service.until("requests_total", &[("class", "5xx")], 2.0);
    let text = service.until("refusals_total", &[("cause", "malformed_head")], 1.0);
    text.expect("refusals_total", &[("cause", "bad_host")], 1.0);
    text.expect("refusals_total", &[("cause", "bad_target")], 1.0);
    text.expect("refusals_total", &[("cause", "connect_unsupported")], 1.0);
    text.expect("refusals_total", &[("cause", "bad_method")], 1.0);
    text.expect("refusals_total", &[("cause", "expectation_unknown")], 1.0);
    text.expect("refusals_total", &[("cause", "body_too_large")], 1.0);
    text.expect("refusals_total", &[("cause", "body_broken")], 1.0);
    assert_eq!(service.status().requests.lost, 0);
}

#[test]
fn an_app_that_is_a_proxy_is_asked_for_a_host_and_a_port_only() {
    let service = Service::probe(&version("v1"), QUICK, "[http]\nconnect = true");
    let (_, head) = send(&service, "CONNECT b HTTP/1.1\r\nHost: b\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    service.until("refusals_total", &[("cause", "bad_connect")], 1.0);
}

/// The path of the worker's, which is free now.
fn remove_socket(service: &Service) -> String {
    let endpoint = service.status().generations[0].workers[0].endpoint.clone();
    let endpoint = endpoint.unwrap();
    let socket = endpoint.strip_prefix("unix:").unwrap_or(&endpoint);
    std::fs::remove_file(socket).unwrap();
    socket.to_owned()
}

/// Takes the place of the worker: its socket, and whoever comes there. The first of them gets this
/// answer, and nothing follows.
fn answer_instead(listener: &UnixListener, answer: &str) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    stream.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn what_the_app_does_wrong_is_a_loss_by_its_cause() {
    let unix = format!("{QUICK}\nlisten = \"unix\"");
    let service = Service::probe(
        &version("v1").with("LISTEN", "unix"),
        &unix,
        "[http]\nlanes = 1\nhold = \"1s\"\nresponse_timeout = \"1s\"",
    );
    let lost = |request: &str, status: &str| {
        let (_, head) = send(&service, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    };
    lost(&get("/hang"), "504");
    let socket = remove_socket(&service);
    lost(&get("/"), "502");
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::scope(|scope| {
        let app = |answer: &'static str| {
            let listener = &listener;
            scope.spawn(move || answer_instead(listener, answer))
        };
        let played = app("what is HTTP?\r\n\r\n");
        lost(&get("/"), "502");
        played.join().unwrap();
        let played = app("");
        // What is not safe to send twice is not.
        lost(
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n",
            "502",
        );
        played.join().unwrap();
        let played = app("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhalf");
        let (stream, head) = send(&service, &get("/"));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        expect_closed(stream);
        played.join().unwrap();
    });
    let text = service.until(
        "requests_lost_total",
        &[("cause", "app_died_mid_response")],
        1.0,
    );
    text.expect("requests_lost_total", &[("cause", "app_timed_out")], 1.0);
    text.expect("requests_lost_total", &[("cause", "app_refused")], 1.0);
    text.expect("requests_lost_total", &[("cause", "app_malformed")], 1.0);
    text.expect("requests_lost_total", &[("cause", "app_died")], 1.0);
    text.expect("refusals_total", &[("cause", "app_timed_out")], 1.0);
    text.expect("refusals_total", &[("cause", "app_refused")], 1.0);
    text.expect("refusals_total", &[("cause", "app_malformed")], 1.0);
    text.expect("refusals_total", &[("cause", "app_died")], 1.0);
    text.expect("retries_total", &[], 0.0);
}

#[test]
fn what_gapless_or_its_administrator_does_is_a_loss_by_its_cause() {
    let http = "[http]\nlanes = 1\nhold = \"1s\"\nheld_max = 1";
    let (service, pid) = booting(http);
    // Whichever comes first waits in vain, and the other one cannot even wait.
    for mut stream in [(); 2].map(|()| post(&service, &get("/"))) {
        let head = head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    let text = service.until("requests_lost_total", &[("cause", "held_too_long")], 1.0);
    text.expect("requests_lost_total", &[("cause", "hold_full")], 1.0);
    text.expect("refusals_total", &[("cause", "hold_full")], 1.0);
    text.expect("refusals_total", &[("cause", "no_live_generation")], 1.0);
    assert!(process::signal(pid, Signal::CONT));
    eventually("it is live", SOON, || {
        (service.get("/").status == 200).then_some(())
    });
    let mut cut = post(&service, &get("/hang"));
    service.until("generation_requests_in_flight", &[("generation", "1")], 1.0);
    service.configure_probe(QUICK, http);
    service.reload().expect_success();
    let head = head(&mut cut);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let text = service.until("requests_lost_total", &[("cause", "cut")], 1.0);
    text.expect("refusals_total", &[("cause", "cut")], 1.0);
    let _dropped = post(&service, &get("/hang"));
    service.until("requests_in_flight", &[], 1.0);
    process::end(front(&service), Signal::KILL);
    service.until("requests_lost_total", &[("cause", "front_died")], 1.0);
}

/// The file in which the front keeps what its buffers hold: it has no name.
fn spool(service: &Service) -> PathBuf {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", front(service))).unwrap();
    let is_spool = |fd: &PathBuf| {
        let target = std::fs::read_link(fd).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        target.starts_with('/') && target.ends_with(" (deleted)") && !target.contains("memfd:")
    };
    fds.map(|fd| fd.unwrap().path()).find(is_spool).unwrap()
}

#[test]
fn an_answer_whose_buffer_cannot_be_read_is_a_loss_by_a_cause_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root may spoil a file of a front");
    }
    let unix = format!("{QUICK}\nlisten = \"unix\"");
    let service = Service::probe(
        &version("v1").with("LISTEN", "unix"),
        &unix,
        "[http]\nlanes = 1\nbuffer_responses = \"64MiB\"",
    );
    let listener = UnixListener::bind(remove_socket(&service)).unwrap();
    // More than the sockets hold.
    let body = "z".repeat(30_000_000);
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    let mut client = post(&service, &get("/"));
    // All of it is with the front.
    answer_instead(&listener, &answer);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(spool(&service));
    file.unwrap().set_len(0).unwrap();
    let mut came = Vec::new();
    drop(client.read_to_end(&mut came));
    assert!(came.starts_with(b"HTTP/1.1 200 OK"));
    assert!(came.len() < length, "{} bytes", came.len());
    service.until("requests_lost_total", &[("cause", "buffer_lost")], 1.0);
}
