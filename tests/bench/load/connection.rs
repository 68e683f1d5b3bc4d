//! One connection, HTTP/1.1 written and read by hand: nothing is asked twice.

use crate::Kind;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer's head, and pieces of its body, at a time.
const BUFFER_BYTES: usize = 65_536;

/// What is asked, the same each time.
pub struct Asking {
    address: SocketAddr,
    /// Asked first on a connection that becomes a tunnel.
    upgrade: Option<Vec<u8>>,
    request: Vec<u8>,
    answer_bytes: usize,
    body_bytes: usize,
}

impl Asking {
    pub fn new(address: SocketAddr, kind: Kind, bytes: usize) -> Self {
        let head = |method: &str, path: usize, more: &str| {
            format!("{method} /{path} HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n{more}\r\n")
                .into_bytes()
        };
        let mut asking = Self {
            address,
            upgrade: None,
            request: Vec::new(),
            answer_bytes: bytes,
            body_bytes: 0,
        };
        match kind {
            Kind::Get => asking.request = head("GET", bytes, ""),
            Kind::Fresh => asking.request = head("GET", bytes, "Connection: close\r\n"),
            Kind::Post => {
                let length = format!("Content-Length: {bytes}\r\n");
                asking.request = head("POST", 2, &length);
                asking.request.resize(asking.request.len() + bytes, b'y');
                asking.body_bytes = bytes;
                asking.answer_bytes = 2;
            }
            Kind::Echo => {
                let more = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
                asking.upgrade = Some(head("GET", 0, more));
                asking.request = frame(bytes);
            }
        }
        asking
    }
}

/// A masked text frame; its mask is zero.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x81];
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(few @ 0..126), _) => frame.push(0x80 | few),
        (_, Ok(some)) => {
            frame.push(0x80 | 0x7e);
            frame.extend(some.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 0x7f);
            frame.extend(u64::try_from(bytes).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.resize(frame.len() + bytes, b'z');
    frame
}

/// Why a request is lost.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("connect: {0}")]
    Connect(std::io::Error),
    #[error("socket: {0}")]
    Socket(std::io::Error),
    #[error("end of the connection")]
    Eof,
    #[error("status: {0}")]
    Status(String),
    #[error("not the answer: {0}")]
    Wrong(&'static str),
    #[error("no whole answer in time")]
    TimedOut,
}

/// See the module.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    is_tunnel: bool,
}

impl Connection {
    pub async fn open(asking: &Asking) -> Result<Self, Broken> {
        let stream = TcpStream::connect(asking.address)
            .await
            .map_err(Broken::Connect)?;
        stream.set_nodelay(true).map_err(Broken::Connect)?;
        let mut connection = Self {
            stream,
            buffer: Vec::new(),
            is_tunnel: false,
        };
        if let Some(upgrade) = &asking.upgrade {
            connection.send(upgrade).await?;
            connection.switched().await?;
            connection.is_tunnel = true;
        }
        Ok(connection)
    }

    /// Nothing was heard of its end.
    pub fn is_open(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Asks, and reads the answer to its end; whether it is the last one.
    pub async fn exchange(&mut self, asking: &Asking) -> Result<bool, Broken> {
        self.send(&asking.request).await?;
        if self.is_tunnel {
            self.read_rest(asking.request.len()).await?;
            return Ok(false);
        }
        let end = self.read_head().await?;
        let here = self.buffer.len() - end;
        let head = Head::parse(self.buffer.get(..end).unwrap_or_default());
        if !head.status.starts_with("HTTP/1.1 200") {
            return Err(Broken::Status(head.status));
        }
        if head.length != Some(asking.answer_bytes) {
            return Err(Broken::Wrong("its length"));
        }
        if head.received != Some(asking.body_bytes) {
            return Err(Broken::Wrong("the length of the request's body"));
        }
        self.buffer.clear();
        let missing = asking.answer_bytes.checked_sub(here);
        self.read_rest(missing.ok_or(Broken::Wrong("too long"))?)
            .await?;
        Ok(head.closes)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.stream.write_all(bytes).await.map_err(Broken::Socket)
    }

    async fn switched(&mut self) -> Result<(), Broken> {
        let end = self.read_head().await?;
        let head = Head::parse(self.buffer.get(..end).unwrap_or_default());
        if !head.status.starts_with("HTTP/1.1 101") {
            return Err(Broken::Status(head.status));
        }
        self.buffer.clear();
        Ok(())
    }

    /// Where it ends.
    async fn read_head(&mut self) -> Result<usize, Broken> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                return Ok(at + 4);
            }
            self.read().await?;
        }
    }

    async fn read_rest(&mut self, bytes: usize) -> Result<(), Broken> {
        let mut missing = bytes;
        while missing > 0 {
            self.read().await?;
            let more = missing.checked_sub(self.buffer.len());
            missing = more.ok_or(Broken::Wrong("too long"))?;
            self.buffer.clear();
        }
        // As small as an idle one can be: there are thousands of them.
        self.buffer = Vec::new();
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Broken> {
        self.buffer.reserve(BUFFER_BYTES);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Broken::Eof),
            Ok(_) => Ok(()),
            Err(error) => Err(Broken::Socket(error)),
        }
    }
}

/// What counts of an answer's head.
struct Head {
    status: String,
    length: Option<usize>,
    received: Option<usize>,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let mut head = Self {
            status: lines.next().unwrap_or_default().to_owned(),
            length: None,
            received: None,
            closes: false,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().ok();
            } else if name.eq_ignore_ascii_case("x-received") {
                head.received = value.parse().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            }
        }
        head
    }
}
