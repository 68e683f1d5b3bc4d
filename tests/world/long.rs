//! What is under way for as long as a test likes: WebSockets, an upload and a download, with a message
//! on each every 100 ms. A connection that breaks, falls silent or says something else fails the test.

use super::eventually;
use super::service::SOON;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BETWEEN: Duration = Duration::from_millis(100);
/// More than `[http] rate_min` wants in that time.
const UPLOADED: usize = 64;

/// See the module. Dropped, it is left to itself.
pub struct Long {
    messages: Arc<AtomicUsize>,
    stop: Sender<()>,
    thread: JoinHandle<Seen>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Messages on every connection.
    pub messages: usize,
    /// The longest that all of them took for one.
    pub longest: Duration,
}

struct Connections {
    tunnels: Vec<TcpStream>,
    upload: BufReader<TcpStream>,
    download: BufReader<TcpStream>,
}

impl Long {
    /// So many WebSockets, an upload and a download to the probe app; all are open when this returns.
    pub fn begin(address: &str, tunnels: usize) -> Self {
        Self::start(address.to_owned(), tunnels, None)
    }

    /// The same in a network namespace.
    pub fn begin_in(namespace: &Path, address: &str, tunnels: usize) -> Self {
        let namespace = File::open(namespace).unwrap();
        Self::start(address.to_owned(), tunnels, Some(namespace))
    }

    fn start(address: String, tunnels: usize, namespace: Option<File>) -> Self {
        let (stop, stopped) = channel();
        let (opened, are_open) = channel();
        let messages = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&messages);
        let thread = std::thread::spawn(move || {
            if let Some(namespace) = namespace {
                // Of this thread alone.
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network).unwrap();
            }
            let connections = Connections::open(&address, tunnels);
            opened.send(()).unwrap();
            connections.run(&stopped, &counted)
        });
        let long = Self {
            messages,
            stop,
            thread,
        };
        are_open.recv_timeout(SOON).unwrap();
        long
    }

    /// Waits until on each connection a whole message went there and back from now on.
    pub fn wait_for_another(&self) {
        let now = self.messages.load(Relaxed);
        eventually("another message on each connection", SOON, || {
            (self.messages.load(Relaxed) > now + 1).then_some(())
        });
    }

    /// Ends all of it, which has not been broken until now.
    pub fn finish(self) -> Seen {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

impl Connections {
    fn open(address: &str, tunnels: usize) -> Self {
        let tunnel = |_| open_tunnel(address).into_inner();
        let mut upload = connect(address);
        let head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        upload.write_all(head.as_bytes()).unwrap();
        Self {
            tunnels: (0..tunnels).map(tunnel).collect(),
            upload: BufReader::new(upload),
            download: open(
                address,
                "GET /stream HTTP/1.1\r\nHost: t\r\nX-Client-Id: long\r\n\r\n",
            ),
        }
    }

    fn run(mut self, stopped: &Receiver<()>, counted: &AtomicUsize) -> Seen {
        let mut seen = Seen::default();
        while stopped.recv_timeout(BETWEEN) == Err(RecvTimeoutError::Timeout) {
            let began = Instant::now();
            self.say(seen.messages);
            seen.messages += 1;
            counted.store(seen.messages, Relaxed);
            seen.longest = seen.longest.max(began.elapsed());
        }
        self.finish_upload(seen.messages * UPLOADED);
        seen
    }

    fn say(&mut self, number: usize) {
        let frame = frame(number);
        for tunnel in &mut self.tunnels {
            tunnel.write_all(&frame).unwrap();
        }
        for tunnel in &mut self.tunnels {
            let mut back = vec![0; frame.len()];
            tunnel.read_exact(&mut back).unwrap();
            assert_eq!(back, frame, "a WebSocket said something else");
        }
        let piece = format!("{UPLOADED:x}\r\n{}\r\n", "x".repeat(UPLOADED));
        self.upload.get_mut().write_all(piece.as_bytes()).unwrap();
        // The line, between its size and its end.
        let lines: Vec<_> = (0..3).map(|_| line(&mut self.download)).collect();
        assert_eq!(lines, ["8\r\n", "v1 long\n", "\r\n"]);
    }

    fn finish_upload(&mut self, bytes: usize) {
        self.upload.get_mut().write_all(b"0\r\n\r\n").unwrap();
        let head = head(&mut self.upload);
        let received = format!("x-received-bytes: {bytes}\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains(&received), "not {bytes} bytes: {head}");
    }
}

/// A number as a text frame of the server, which the probe app sends back as it is.
fn frame(number: usize) -> Vec<u8> {
    let text = format!("{number:08}");
    [&[0x81, 8], text.as_bytes()].concat()
}

fn connect(address: &str) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Sends a request and reads the head of the answer.
pub fn open(address: &str, request: &str) -> BufReader<TcpStream> {
    let mut socket = connect(address);
    socket.write_all(request.as_bytes()).unwrap();
    let mut socket = BufReader::new(socket);
    head(&mut socket);
    socket
}

/// A WebSocket to the probe app, as far as frames go.
pub fn open_tunnel(address: &str) -> BufReader<TcpStream> {
    let request =
        "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    open(address, request)
}

fn head(socket: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push_str(&line(socket));
    }
    head
}

fn line(socket: &mut impl BufRead) -> String {
    let mut line = String::new();
    let read = socket.read_line(&mut line).unwrap();
    assert!(read > 0, "the connection ended");
    line
}
