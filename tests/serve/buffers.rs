//! `[http] buffer_requests` in a front that may not open files any more.

use crate::QUICK;
use crate::world::service::Service;
use crate::world::version;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn a_large_body_is_collected_while_others_are_answered() {
    let service = Service::probe(
        &version("v1"),
        QUICK,
        "[http]\nbuffer_requests = \"8MiB\"\nbuffer_responses = \"8MiB\"\n",
    );
    let body = vec![b'z'; 3_000_000];
    let (first, second) = body.split_at(2_000_000);
    let mut stream = TcpStream::connect(service.address()).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(first).unwrap();
    assert_eq!(service.get("/").status, 200);
    stream.write_all(second).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let journal = service.journal();
    assert!(!journal.contains("no file for buffers"), "{journal}");
}
