//! Sends a case and tells what came back.

use super::cases::{After, RequestCase};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// A final answer that came whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// `name: value`, names in small letters.
    pub head: Vec<String>,
    pub body: Vec<u8>,
}

/// How a wait for bytes ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// The connection is at its end, or reset.
    Closed,
    /// Nothing more came in time.
    Silent,
}

/// A raw connection.
pub struct Wire {
    socket: TcpStream,
    pub read: Vec<u8>,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            read: Vec::new(),
        }
    }

    /// What the other end does not take any more is its decision.
    pub async fn send(&mut self, bytes: &[u8]) {
        drop(self.socket.write_all(bytes).await);
    }

    pub async fn send_case(&mut self, case: &RequestCase) {
        for piece in &case.send.0 {
            self.send(piece).await;
            tokio::task::yield_now().await;
        }
        match case.client {
            After::Stays => {}
            After::Shuts => drop(self.socket.shutdown().await),
            After::Resets => self.socket.set_zero_linger().unwrap(),
        }
    }

    /// Nothing more comes from this side.
    pub async fn shut(&mut self) {
        drop(self.socket.shutdown().await);
    }

    /// The next final answer; `is_head`: it has no body.
    pub async fn answer(&mut self, is_head: bool, patience: Duration) -> Result<Answer, End> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some((answer, length)) = parsed(&self.read, is_head, false) {
                self.read.drain(..length);
                if answer.status >= 200 {
                    return Ok(answer);
                }
                continue;
            }
            let end = match timeout_at(deadline, self.socket.read_buf(&mut self.read)).await {
                Ok(Ok(1..)) => continue,
                Ok(_) => End::Closed,
                Err(_) => End::Silent,
            };
            return match parsed(&self.read, is_head, end == End::Closed) {
                Some((answer, length)) => {
                    self.read.drain(..length);
                    Ok(answer)
                }
                None => Err(end),
            };
        }
    }

    /// Sends a good request, and says whether its own answer, and nothing else, came back.
    pub async fn gets_its_own(&mut self, path: &str, patience: Duration) -> Result<(), String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: corpus\r\n\r\n");
        self.send(request.as_bytes()).await;
        match self.answer(false, patience).await {
            Ok(answer)
                if answer.status == 200 && answer.body == format!("GET {path}").as_bytes() =>
            {
                Ok(())
            }
            Ok(other) => Err(format!(
                "{path} got {} {:?}",
                other.status,
                String::from_utf8_lossy(&other.body)
            )),
            Err(end) => Err(format!(
                "{path}: {end:?}, {:?}",
                String::from_utf8_lossy(&self.read)
            )),
        }
    }
}

/// The first answer in `read` and its length, if it is whole.
fn parsed(read: &[u8], is_head: bool, is_end: bool) -> Option<(Answer, usize)> {
    let end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut lines = text.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut head: Vec<String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{}: {}", name.to_ascii_lowercase(), value.trim()))
        .collect();
    let field = |wanted: &str| {
        let found = head.iter().filter_map(|line| line.split_once(": "));
        found
            .filter(|(name, _)| *name == wanted)
            .map(|(_, value)| value.to_owned())
            .next()
    };
    let is_bodiless = is_head || status < 200 || status == 204 || status == 304;
    let (body, length) = if is_bodiless {
        (Vec::new(), end)
    } else if field("transfer-encoding").is_some() {
        let (body, length) = dechunked(&read[end..], &mut head)?;
        (body, end + length)
    } else if let Some(length) = field("content-length") {
        let length: usize = length.parse().ok()?;
        (read.get(end..end + length)?.to_vec(), end + length)
    } else if is_end {
        (read[end..].to_vec(), read.len())
    } else {
        return None;
    };
    Some((Answer { status, head, body }, length))
}

/// Trailers become lines of `head` that begin with `trailer`.
fn dechunked(read: &[u8], head: &mut Vec<String>) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = read[at..].windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = std::str::from_utf8(&read[at..at + line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        if size == 0 {
            // Trailers, and the empty line.
            let mut rest = &read[at..];
            loop {
                let line = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
                let text = String::from_utf8_lossy(&rest[..line]).to_ascii_lowercase();
                at += line + 2;
                rest = &rest[line + 2..];
                if line == 0 {
                    return Some((body, at));
                }
                head.push(format!("trailer {text}"));
            }
        }
        body.extend_from_slice(read.get(at..at + size)?);
        at += size + 2;
        if read.len() < at {
            return None;
        }
    }
}
