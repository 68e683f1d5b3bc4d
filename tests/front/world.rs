//! Fronts on threads, a keeper's end of their links, apps of a few lines, and strict raw clients.

use gapless::config::{AccessConfig, AccessWanted, HttpConfig};
use gapless::front::trustee::Trustee;
use gapless::front::{self, FrontError, FrontFds, Listening, Spool};
use gapless::id::{FrontId, GenerationId, Slot};
use gapless::link::{
    self, Backend, Cell, Endpoint, FromFront, FrontSettings, KeeperEnd, Orphaned, Report, Target,
    ToFront,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

/// Nothing in these tests takes longer, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

pub fn http() -> HttpConfig {
    HttpConfig {
        lanes: NonZeroU32::new(2),
        hold: Duration::from_secs(10),
        held_max: 100,
        connections_max: 10_000,
        connections_per_address_max: None,
        head_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        rate_min: 100,
        idle_timeout: Duration::from_secs(30),
        response_timeout: Duration::from_secs(10),
        tunnels: Duration::from_secs(10),
        connect: false,
        odd_field_names: false,
        forwarded: false,
        upgrade_drain: None,
        head_bytes_max: 16 * 1024,
        headers_max: 100,
        body_bytes_max: 8 * 1024 * 1024,
        buffer_requests: 0,
        buffer_responses: 0,
        trusted_proxies: Vec::new(),
        proxy_protocol: gapless::config::ProxyProtocol::Off,
        retry_after_seconds: 3,
    }
}

/// The socket that systemd would hold.
pub struct Port {
    listener: std::net::TcpListener,
    pub address: SocketAddr,
}

impl Port {
    pub fn open() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }
}

/// A front, and the keeper's end of its link.
pub struct Front {
    pub keeper: KeeperEnd,
    thread: std::thread::JoinHandle<Result<(), FrontError>>,
    pub probes: Vec<SocketAddr>,
    pub acknowledged: u64,
    pub report: Report,
    reports: u64,
}

impl Front {
    pub async fn start(port: &Port) -> Self {
        Self::start_with(port, http(), Orphaned::ServeOn).await
    }

    pub async fn start_with(port: &Port, http: HttpConfig, orphaned: Orphaned) -> Self {
        let lanes = http.lanes.map_or(1, NonZeroU32::get);
        let probes: Vec<_> = (0..lanes)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses = probes
            .iter()
            .map(|probe| probe.local_addr().unwrap())
            .collect();
        let (keeper, front) = link::pair().unwrap();
        let spool = Spool::open(http.buffer_requests.max(http.buffer_responses)).unwrap();
        let settings = FrontSettings {
            name: "test".into(),
            id: FrontId(1),
            http,
            log_level: "debug".into(),
            access: AccessConfig {
                wanted: AccessWanted::Off,
                ..AccessConfig::default()
            },
            orphaned,
        };
        let fds = FrontFds {
            link: front,
            listeners: vec![Listening {
                fd: port.listener.try_clone().unwrap().into(),
                is_closing: false,
            }],
            probes: probes.into_iter().map(OwnedFd::from).collect(),
            trustee: Trustee::default(),
            spool,
        };
        let thread = std::thread::spawn(move || front::run(fds, settings, None));
        let mut front = Self {
            keeper: KeeperEnd::new(keeper).unwrap(),
            thread,
            probes: addresses,
            acknowledged: 0,
            report: Report::default(),
            reports: 0,
        };
        while front.hear().await != FromFront::Ready {}
        front
    }

    pub async fn hear(&mut self) -> FromFront {
        let (message, _) = soon("a word of the front", self.keeper.receive())
            .await
            .unwrap();
        match &message {
            FromFront::Acknowledged { seq } => self.acknowledged = *seq,
            FromFront::Report(report) => {
                self.report = report.clone();
                self.reports += 1;
            }
            FromFront::Ready => {}
        }
        message
    }

    pub async fn tell(&self, message: ToFront) {
        self.keeper.send(&message, &[]).await.unwrap();
    }

    pub async fn serve(&mut self, seq: u64, target: Target) {
        self.tell(ToFront::Serve(Cell {
            seq,
            target,
            is_bare: false,
        }))
        .await;
        while self.acknowledged < seq {
            self.hear().await;
        }
    }

    /// A report that is newer than this call.
    pub async fn ask(&mut self) -> Report {
        self.tell(ToFront::Ask).await;
        let before = self.reports;
        while self.reports == before {
            self.hear().await;
        }
        self.report.clone()
    }

    /// Asks until a report is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let asking = async {
            loop {
                let report = self.ask().await;
                if wanted(&report) {
                    return report;
                }
            }
        };
        soon(what, asking).await
    }

    /// Retires this front in favour of `next`; ends when it has ended.
    pub async fn hand_over_to(self, next: &Front) {
        self.begin_hand_over(next).await;
        self.ended().await;
    }

    pub async fn begin_hand_over(&self, next: &Front) {
        let (sending, receiving) = link::pair().unwrap();
        next.keeper
            .send(&ToFront::Inherit, &[receiving.as_fd()])
            .await
            .unwrap();
        self.keeper
            .send(&ToFront::Retire, &[sending.as_fd()])
            .await
            .unwrap();
    }

    pub async fn ended(self) -> Report {
        let Self {
            keeper,
            thread,
            mut report,
            ..
        } = self;
        soon("the end of the front", async {
            while let Ok((message, _)) = keeper.receive().await {
                if let FromFront::Report(last) = message {
                    report = last;
                }
            }
        })
        .await;
        tokio::task::spawn_blocking(|| thread.join().unwrap().unwrap())
            .await
            .unwrap();
        report
    }

    /// Its keeper is gone; until it is, too.
    pub async fn orphan(self) {
        drop(self.keeper);
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(|| thread.join().unwrap().unwrap());
        soon("the end of the front", ended).await.unwrap();
    }

    pub async fn end(self) {
        self.tell(ToFront::End).await;
        self.ended().await;
    }
}

pub fn live(generation: u64, apps: &[SocketAddr]) -> Target {
    let backends = apps.iter().zip(0..).map(|(address, slot)| Backend {
        slot: Slot(slot),
        endpoint: Endpoint::Tcp(*address),
        life: 1,
        pid: 0,
    });
    Target::Live {
        generation: GenerationId(generation),
        backends: backends.collect(),
    }
}

/// An app that answers by path; `release` lets what waits go on, one at a time.
pub struct App {
    pub address: SocketAddr,
    pub release: Arc<Notify>,
    pub requests: Arc<AtomicU64>,
}

impl App {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, name)
    }

    pub fn start_on(listener: TcpListener, name: &'static str) -> Self {
        let address = listener.local_addr().unwrap();
        let app = Self {
            address,
            release: Arc::default(),
            requests: Arc::default(),
        };
        let (release, requests) = (Arc::clone(&app.release), Arc::clone(&app.requests));
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (release, requests) = (Arc::clone(&release), Arc::clone(&requests));
                let service = hyper::service::service_fn(move |request| {
                    requests.fetch_add(1, Ordering::SeqCst);
                    respond(name, Arc::clone(&release), request)
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(serving);
            }
        });
        app
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

type AppBody = BoxBody<Bytes, hyper::Error>;

fn text(text: impl Into<Bytes>) -> AppBody {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

async fn respond(
    name: &'static str,
    release: Arc<Notify>,
    request: Request<Incoming>,
) -> Result<Response<AppBody>, Infallible> {
    let mut response = Response::builder();
    let body = match request.uri().path() {
        "/echo" => request.into_body().boxed(),
        "/count" => {
            let body = request.into_body().collect().await;
            text(body.map_or_else(|e| e.to_string(), |body| body.to_bytes().len().to_string()))
        }
        "/head" => {
            let mut lines = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                lines.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            response = response.header("connection", "x-hop").header("x-hop", "1");
            response = response
                .header("keep-alive", "timeout=5")
                .header("x-end", "2");
            text(lines)
        }
        "/wait" => {
            release.notified().await;
            text(name)
        }
        "/early" => {
            response = response.status(StatusCode::UNAUTHORIZED);
            text("no")
        }
        "/stream" => {
            let (frames, received) = mpsc::channel(1);
            tokio::spawn(async move {
                for part in ["one", "two", "three"] {
                    let frame = Frame::data(Bytes::from(part));
                    if frames.send(Ok(frame)).await.is_err() {
                        return;
                    }
                    release.notified().await;
                }
            });
            channel(received)
        }
        "/trailers" => {
            response = response.header("trailer", "x-sum");
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let (frames, received) = mpsc::channel(2);
            frames
                .send(Ok(Frame::data(Bytes::from("body"))))
                .await
                .unwrap();
            frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
            channel(received)
        }
        _ => text(name),
    };
    Ok(response.body(body).unwrap())
}

fn channel(received: mpsc::Receiver<Result<Frame<Bytes>, hyper::Error>>) -> AppBody {
    Frames { received }.boxed()
}

struct Frames {
    received: mpsc::Receiver<Result<Frame<Bytes>, hyper::Error>>,
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.received.poll_recv(cx)
    }
}

/// An app that treats each connection as `script` says.
pub async fn raw_app<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(u64, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(script(number, socket));
        }
    });
    address
}

/// Reads up to the end of one head.
pub async fn read_head(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => return String::from_utf8(bytes).unwrap(),
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// What a client got.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    pub trailers: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A client that takes nothing but well-formed, complete responses.
pub struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(port: &Port) -> Self {
        Self::try_connect(port).await.unwrap()
    }

    pub async fn try_connect(port: &Port) -> std::io::Result<Self> {
        Ok(Self {
            socket: TcpStream::connect(port.address).await?,
            read: Vec::new(),
        })
    }

    /// From another address of the loopback network.
    pub async fn connect_from(port: &Port, address: &str) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(address.parse().unwrap(), 0))
            .unwrap();
        Self {
            socket: socket.connect(port.address).await.unwrap(),
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &str) {
        soon("a write", self.socket.write_all(bytes.as_bytes()))
            .await
            .unwrap();
    }

    /// Whether the other end still takes bytes.
    pub async fn try_send(&mut self, bytes: &str) -> bool {
        soon("a write", self.socket.write_all(bytes.as_bytes()))
            .await
            .is_ok()
    }

    /// Whether there is room for these, now or in a moment.
    pub async fn takes_at_once(&mut self, bytes: &str) -> bool {
        let writing = self.socket.write_all(bytes.as_bytes());
        matches!(
            tokio::time::timeout(Duration::from_millis(300), writing).await,
            Ok(Ok(()))
        )
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// The next bytes; empty at the end of the connection.
    pub async fn more(&mut self) -> std::io::Result<usize> {
        soon("a read", self.socket.read_buf(&mut self.read)).await
    }

    async fn must_read(&mut self, what: &str) {
        let count = self.more().await;
        let so_far = String::from_utf8_lossy(&self.read).into_owned();
        assert!(
            matches!(count, Ok(1..)),
            "{what} ends with {count:?} after {so_far:?}"
        );
    }

    pub async fn until(&mut self, end: &str) -> String {
        loop {
            let at = self
                .read
                .windows(end.len())
                .position(|bytes| bytes == end.as_bytes());
            if let Some(at) = at {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            self.must_read(&format!("a connection before {end:?}"))
                .await;
        }
    }

    pub async fn exactly(&mut self, count: usize) -> String {
        while self.read.len() < count {
            self.must_read("a body").await;
        }
        let rest = self.read.split_off(count);
        String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap()
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub async fn chunk(&mut self) -> String {
        let size = self.until("\r\n").await;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return String::new();
        }
        let chunk = self.exactly(size).await;
        assert_eq!(self.exactly(2).await, "\r\n");
        chunk
    }

    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        self.answer_after(head).await
    }

    pub async fn answer_after(&mut self, head: String) -> Answer {
        let status = head.get(9..12).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
            trailers: String::new(),
        };
        if let Some(length) = answer.field("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.exactly(length).await;
        } else if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    break;
                }
                answer.body.push_str(&chunk);
            }
            loop {
                let line = self.until("\r\n").await;
                if line == "\r\n" {
                    break;
                }
                answer.trailers.push_str(&line);
            }
        }
        answer
    }

    /// One whose kernel holds little for it.
    pub async fn connect_with_small_window(port: &Port) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self {
            socket: socket.connect(port.address).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// Takes the next bytes, not more than so many; none at the end.
    pub async fn takes_up_to(&mut self, count: u64) -> std::io::Result<usize> {
        let mut part = (&mut self.socket).take(count);
        soon("a read", part.read_buf(&mut self.read)).await
    }

    /// Whether no byte came, and no end either, for so long.
    pub async fn gets_nothing_for(&mut self, time: Duration) -> bool {
        let reading = self.socket.read_buf(&mut self.read);
        tokio::time::timeout(time, reading).await.is_err()
    }

    pub fn has_unread(&self) -> bool {
        !self.read.is_empty()
    }

    /// The connection ends, with or without a reset; what came before that.
    pub async fn ends(&mut self) -> String {
        while matches!(self.more().await, Ok(1..)) {}
        String::from_utf8_lossy(&self.read).into_owned()
    }

    pub fn is_open(&self) -> bool {
        let mut byte = [0];
        matches!(self.socket.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
