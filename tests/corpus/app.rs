//! An app that takes nothing but requests of one reading, and tells what it saw.

use super::cases::{AnswerCase, AppThen};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A request that came whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// `METHOD target`
    pub line: String,
    /// `name: value`, names in small letters.
    pub head: Vec<String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Told {
    seen: Vec<Seen>,
    faults: Vec<String>,
    answer: Option<AnswerCase>,
}

/// See the module.
#[derive(Clone)]
pub struct StrictApp {
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
    /// The client has its answer: now what is late.
    pub late: Arc<Notify>,
    /// It is sent.
    pub late_sent: Arc<Notify>,
}

impl StrictApp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            told: Arc::default(),
            late: Arc::default(),
            late_sent: Arc::default(),
        };
        let accepting = app.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                tokio::spawn(accepting.clone().serve(socket));
            }
        });
        app
    }

    /// What came whole since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.told.lock().unwrap().seen)
    }

    /// What should never come, since the last time.
    pub fn faults(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap().faults)
    }

    /// `/case` is answered so from now on.
    pub fn answer(&self, case: AnswerCase) {
        self.told.lock().unwrap().answer = Some(case);
    }

    async fn serve(self, socket: TcpStream) {
        let mut stream = Stream {
            socket,
            read: Vec::new(),
        };
        loop {
            match stream.request().await {
                Ok(Some(seen)) => {
                    let line = seen.line.clone();
                    self.told.lock().unwrap().seen.push(seen);
                    if !self.respond(&mut stream.socket, &line).await {
                        return;
                    }
                }
                // The front broke it off.
                Ok(None) => return,
                Err(fault) => {
                    self.told.lock().unwrap().faults.push(fault);
                    return;
                }
            }
        }
    }

    async fn respond(&self, socket: &mut TcpStream, line: &str) -> bool {
        if line.ends_with(" /case") {
            let case = self.told.lock().unwrap().answer.clone().unwrap();
            return self.respond_badly(socket, case).await;
        }
        let body = if line.starts_with("HEAD ") { "" } else { line };
        let length = line.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        socket.write_all(answer.as_bytes()).await.is_ok()
    }

    async fn respond_badly(&self, socket: &mut TcpStream, case: AnswerCase) -> bool {
        for piece in &case.answer.0 {
            // The front may have had enough.
            if socket.write_all(piece).await.is_err() {
                return false;
            }
            tokio::task::yield_now().await;
        }
        if let Some(late) = &case.late {
            self.late.notified().await;
            let written = socket.write_all(&super::cases::bytes(late)).await;
            self.late_sent.notify_one();
            if written.is_err() {
                return false;
            }
        }
        match case.app {
            AppThen::Stays => true,
            AppThen::Closes => false,
            AppThen::Resets => {
                socket.set_zero_linger().unwrap();
                false
            }
        }
    }
}

struct Stream {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Stream {
    async fn more(&mut self) -> bool {
        matches!(self.socket.read_buf(&mut self.read).await, Ok(1..))
    }

    async fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(at) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=at).collect();
                let text = String::from_utf8_lossy(&line).into_owned();
                let bare = text
                    .strip_suffix("\r\n")
                    .filter(|text| !text.contains(|c: char| c.is_ascii_control() && c != '\t'));
                return match bare {
                    Some(bare) => Ok(Some(bare.to_owned())),
                    None => Err(format!("no plain line: {text:?}")),
                };
            }
            if !self.more().await {
                return Ok(None);
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// None when it does not come whole.
    async fn request(&mut self) -> Result<Option<Seen>, String> {
        let Some(first) = self.line().await? else {
            return Ok(None);
        };
        let line = first
            .strip_suffix(" HTTP/1.1")
            .filter(|line| line.split(' ').count() == 2)
            .ok_or(format!("no request line: {first:?}"))?
            .to_owned();
        let mut head = Vec::new();
        loop {
            let Some(field) = self.line().await? else {
                return Ok(None);
            };
            if field.is_empty() {
                break;
            }
            head.push(plain(&field)?);
        }
        let body = match framing(&head)? {
            Framing::Length(length) => self.exactly(length).await,
            Framing::Chunked => self.chunks(&mut head).await?,
        };
        Ok(body.map(|body| Seen { line, head, body }))
    }

    /// Trailers become lines of `head` that begin with `trailer`.
    async fn chunks(&mut self, head: &mut Vec<String>) -> Result<Option<Vec<u8>>, String> {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.line().await? else {
                return Ok(None);
            };
            if size.len() > 1 && size.starts_with('0') {
                return Err(format!("a padded size: {size:?}"));
            }
            let size = usize::from_str_radix(&size, 16).map_err(|_| format!("size {size:?}"))?;
            if size == 0 {
                break;
            }
            let Some(chunk) = self.exactly(size + 2).await else {
                return Ok(None);
            };
            let chunk = chunk.strip_suffix(b"\r\n").ok_or("a chunk without end")?;
            body.extend_from_slice(chunk);
        }
        loop {
            match self.line().await? {
                None => return Ok(None),
                Some(end) if end.is_empty() => return Ok(Some(body)),
                Some(trailer) => head.push(format!("trailer {}", digest(&trailer)?)),
            }
        }
    }
}

/// The only trailers that a client may send.
fn digest(trailer: &str) -> Result<String, String> {
    let field = plain(trailer)?;
    let is_digest = field.starts_with("digest:") || field.starts_with("x-checksum-");
    if is_digest {
        Ok(field)
    } else {
        Err(format!("a trailer: {trailer:?}"))
    }
}

fn plain(field: &str) -> Result<String, String> {
    let (name, value) = field
        .split_once(':')
        .ok_or(format!("no field: {field:?}"))?;
    let is_token = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_token {
        return Err(format!("no name: {field:?}"));
    }
    let value = value.trim_matches([' ', '\t']);
    Ok(format!("{}: {value}", name.to_ascii_lowercase())
        .trim_end()
        .to_owned())
}

enum Framing {
    Length(usize),
    Chunked,
}

/// Exactly one host, at most one length, and no second way to tell where it ends.
fn framing(head: &[String]) -> Result<Framing, String> {
    let all = |name: &str| -> Vec<&str> {
        let found = head.iter().filter_map(|line| line.split_once(':'));
        found
            .filter(|(found, _)| *found == name)
            .map(|(_, value)| value.trim())
            .collect()
    };
    if all("host").len() != 1 {
        return Err(format!("hosts: {head:?}"));
    }
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy",
        "content_length",
    ] {
        if !all(name).is_empty() {
            return Err(format!("{name}: {head:?}"));
        }
    }
    match (&*all("content-length"), &*all("transfer-encoding")) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let is_padded = length.len() > 1 && length.starts_with('0');
            let is_plain = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let is_plain = is_plain && !is_padded;
            let length = length.parse().ok().filter(|_| is_plain);
            Ok(Framing::Length(length.ok_or(format!("length: {head:?}"))?))
        }
        ([], ["chunked"]) => Ok(Framing::Chunked),
        _ => Err(format!("two readings: {head:?}")),
    }
}
