//! Requests that are under way while something happens.

use crate::instance::Instance;
use crate::table::Slow;
use crate::world::service::{Reply, receive};
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More than all buffers between the app and a client that does not read.
pub const DOWNLOAD_BYTES: usize = 32 << 20;

const COUNT: usize = 2;
const ANSWERED_WITHIN: Duration = Duration::from_mins(1);

pub struct InFlight {
    slow: Slow,
    readers: Vec<JoinHandle<(Reply, Instant)>>,
    gates: Vec<Sender<()>>,
}

impl InFlight {
    /// A few, each for so long; the app has them when this returns.
    pub fn begin(instance: &Instance<'_>, long: Duration) -> Self {
        let slow = instance.example.slow;
        let path = match slow {
            Slow::Path => format!("/slow?ms={}", long.as_millis()),
            Slow::Download => "/download".to_owned(),
        };
        let (mut readers, mut gates) = (Vec::new(), Vec::new());
        for _ in 0..COUNT {
            let connection = instance.ask(&path);
            let (gate, opened) = channel();
            readers.push(std::thread::spawn(move || read(connection, slow, &opened)));
            gates.push(gate);
        }
        instance.until("requests are in flight", |scrape| {
            let at_the_app =
                scrape.value("requests_in_flight", &[])? - scrape.value("requests_waiting", &[])?;
            (at_the_app >= 2.0).then_some(())
        });
        Self {
            slow,
            readers,
            gates,
        }
    }

    /// Downloads are read from now on.
    pub fn go_on(&mut self) {
        self.gates.clear();
    }

    /// Each had its whole answer, by this version; when the first was there.
    #[track_caller]
    pub fn expect_answers(mut self, version: &str) -> Instant {
        self.go_on();
        let mut ended = Vec::new();
        for reader in self.readers {
            let (reply, at) = reader.join().unwrap();
            assert!(
                reply.status == 200 && reply.is_whole,
                "{} and {} bytes: {:.300}",
                reply.head,
                reply.body.len(),
                reply.body
            );
            let mut words = reply.body.split_whitespace();
            let said = match self.slow {
                Slow::Path => words.next_back(),
                Slow::Download => words.next(),
            };
            assert_eq!(said, Some(version));
            ended.push(at);
        }
        ended.into_iter().min().unwrap()
    }
}

fn read(connection: TcpStream, slow: Slow, opened: &Receiver<()>) -> (Reply, Instant) {
    if slow == Slow::Download {
        // Told by the end of the channel.
        opened.recv().unwrap_err();
    }
    connection.set_read_timeout(Some(ANSWERED_WITHIN)).unwrap();
    let reply = receive(connection);
    (reply, Instant::now())
}

/// The head of a request that is the only one of its connection.
pub fn send(mut connection: &TcpStream, path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).unwrap();
}
