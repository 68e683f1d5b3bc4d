//! One client connection, HTTP/1.1 written and read by hand, so that nothing below can retry,
//! reconnect or forgive.

use crate::digest;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the server is: `127.0.0.1:8888` or `unix:/run/x.sock`.
#[derive(Clone, Debug)]
pub struct Address(pub String);

/// Why an exchange did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("end of the connection {0}")]
    Eof(&'static str),
    #[error("{doing}: {error}")]
    Socket {
        doing: &'static str,
        error: io::Error,
    },
    #[error("not HTTP/1.1: {0}")]
    Malformed(String),
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
    #[error("status {status}: {text}")]
    Status { status: u16, text: String },
    #[error("wrong answer: {0}")]
    Wrong(String),
}

/// What the server did to a connection that was idle.
#[derive(Debug, PartialEq, Eq)]
pub enum Idle {
    /// Nothing, for the whole time.
    Quiet,
    /// It closed it.
    Eof,
    /// It reset it.
    Reset,
    /// It sent something nobody asked for.
    Spoke,
}

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Result<Self, Broken> {
        let malformed = || Broken::Malformed(text.chars().take(120).collect());
        let mut lines = text.split("\r\n");
        let status_line = lines.next().ok_or_else(malformed)?;
        let rest = status_line
            .strip_prefix("HTTP/1.1 ")
            .ok_or_else(malformed)?;
        let status = rest
            .get(..3)
            .and_then(|code| code.parse().ok())
            .ok_or_else(malformed)?;
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or_else(malformed)?;
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_, Broken>>()?;
        Ok(Self { status, headers })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The server will close after this answer.
    pub fn closes(&self) -> bool {
        self.get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn is_chunked(&self) -> bool {
        self.get("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    pub is_chunked: bool,
    /// When its first byte was here.
    pub began: Instant,
}

/// See the module.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// Read, but not yet understood.
    buffer: Vec<u8>,
    /// Of the answer that is being read.
    pub bytes_seen: usize,
    /// Answers so far.
    pub answers: u64,
    pub opened: Instant,
}

impl Connection {
    pub async fn open(address: &Address) -> Result<Self, Broken> {
        let stream: Box<dyn Stream> = if let Some(path) = address.0.strip_prefix("unix:") {
            Box::new(UnixStream::connect(path).await.map_err(Broken::Connect)?)
        } else {
            let stream = TcpStream::connect(&address.0)
                .await
                .map_err(Broken::Connect)?;
            stream.set_nodelay(true).map_err(Broken::Connect)?;
            Box::new(stream)
        };
        let (buffer, bytes_seen, answers, opened) = (Vec::new(), 0, 0, Instant::now());
        Ok(Self {
            stream,
            buffer,
            bytes_seen,
            answers,
            opened,
        })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let sent = self.stream.write_all(bytes).await;
        sent.map_err(|error| Broken::Socket {
            doing: "sending",
            error,
        })
    }

    /// Watches a connection that should say nothing.
    pub async fn idle(&mut self, pause: Duration) -> Idle {
        if !self.buffer.is_empty() {
            return Idle::Spoke;
        }
        match timeout(pause, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => Idle::Quiet,
            Ok(Ok(0)) => Idle::Eof,
            Ok(Ok(_)) => Idle::Spoke,
            Ok(Err(_)) => Idle::Reset,
        }
    }

    /// The next answer, interim ones (1xx) passed over.
    pub async fn answer(&mut self) -> Result<Answer, Broken> {
        self.bytes_seen = 0;
        loop {
            let (head, began) = self.head().await?;
            if head.status >= 200 {
                let is_chunked = head.is_chunked();
                let body = self.body(&head).await?;
                self.answers += 1;
                return Ok(Answer {
                    head,
                    body,
                    is_chunked,
                    began,
                });
            }
        }
    }

    async fn head(&mut self) -> Result<(Head, Instant), Broken> {
        if self.buffer.is_empty() {
            self.more("before an answer").await?;
        }
        let began = Instant::now();
        let text = self.until(b"\r\n\r\n", "in a head").await?;
        let text = String::from_utf8(text).map_err(|error| Broken::Malformed(error.to_string()))?;
        Ok((Head::parse(&text)?, began))
    }

    async fn body(&mut self, head: &Head) -> Result<Vec<u8>, Broken> {
        if head.is_chunked() {
            return self.chunks().await;
        }
        let length = head
            .get("content-length")
            .and_then(|length| length.parse().ok());
        let length = length.ok_or_else(|| Broken::Malformed("a body without a length".into()))?;
        self.exactly(length, "in a sized body").await
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n", "in a chunk size").await?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16)
                .map_err(|_| Broken::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                // Trailers, up to the empty line.
                while !self.until(b"\r\n", "in the trailers").await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(size, "in a chunked body").await?);
            if self.exactly(2, "after a chunk").await? != b"\r\n" {
                return Err(Broken::Malformed("no line end after a chunk".into()));
            }
        }
    }

    /// What comes before `mark`, which is taken away too.
    async fn until(&mut self, mark: &[u8], place: &'static str) -> Result<Vec<u8>, Broken> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(mark.len())
                .position(|window| window == mark)
            {
                let text = self.buffer.drain(..at + mark.len()).take(at).collect();
                return Ok(text);
            }
            if self.buffer.len() > 65_536 {
                return Err(Broken::Malformed(format!("no end {place}")));
            }
            self.more(place).await?;
        }
    }

    async fn exactly(&mut self, bytes: usize, place: &'static str) -> Result<Vec<u8>, Broken> {
        while self.buffer.len() < bytes {
            self.more(place).await?;
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    async fn more(&mut self, place: &'static str) -> Result<(), Broken> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Broken::Eof(place)),
            Ok(bytes) => {
                self.bytes_seen += bytes;
                Ok(())
            }
            Err(error) => Err(Broken::Socket {
                doing: place,
                error,
            }),
        }
    }
}

/// What a good answer tells.
pub struct Checked {
    pub version: String,
    pub pid: String,
    pub closes: bool,
}

/// What the client knows and the answer must prove.
pub struct Expected<'a> {
    pub id: &'a str,
    /// Digest and length of the request body.
    pub sent: (u64, usize),
}

/// Holds an answer to everything it must prove: the request it belongs to, one version from head to
/// end, and every byte of both bodies.
pub fn check(answer: &Answer, expected: &Expected<'_>) -> Result<Checked, Broken> {
    let head = &answer.head;
    if head.status != 200 {
        let text = String::from_utf8_lossy(&answer.body)
            .chars()
            .take(100)
            .collect();
        return Err(Broken::Status {
            status: head.status,
            text,
        });
    }
    let header = |name| {
        head.get(name)
            .ok_or_else(|| Broken::Wrong(format!("the header {name} is missing")))
    };
    same("request id", header("x-client-id")?, expected.id)?;
    same(
        "digest of the request",
        header("x-received-digest")?,
        &digest::text(expected.sent.0),
    )?;
    same(
        "length of the request",
        header("x-received-bytes")?,
        &expected.sent.1.to_string(),
    )?;
    let version = header("x-app-version")?.to_owned();
    let proof = if answer.is_chunked {
        chunked(&answer.body, &version, expected.id)?
    } else {
        let begin = format!("{version} {}\n", expected.id);
        same(
            "begin of the body",
            &text(&answer.body, begin.len()),
            &begin,
        )?;
        (
            header("x-body-digest")?.to_owned(),
            digest::add(digest::OFFSET, &answer.body),
        )
    };
    same("digest of the answer", &digest::text(proof.1), &proof.0)?;
    Ok(Checked {
        version,
        pid: header("x-app-pid")?.to_owned(),
        closes: head.closes(),
    })
}

fn text(body: &[u8], bytes: usize) -> String {
    String::from_utf8_lossy(body.get(..bytes).unwrap_or(body)).into_owned()
}

/// Every line but the last names version and id; the last is the digest of the others.
fn chunked(body: &[u8], version: &str, id: &str) -> Result<(String, u64), Broken> {
    let end = body.len().saturating_sub(17);
    let (lines, last) = body.split_at(end);
    let begin = format!("{version} {id} ");
    for line in String::from_utf8_lossy(lines).lines() {
        if !line.starts_with(&begin) {
            return Err(Broken::Wrong(format!(
                "a line of another answer or version: {line:?}"
            )));
        }
    }
    let last = String::from_utf8_lossy(last).trim_end().to_owned();
    Ok((last, digest::add(digest::OFFSET, lines)))
}

fn same(what: &str, got: &str, wanted: &str) -> Result<(), Broken> {
    if got == wanted {
        return Ok(());
    }
    Err(Broken::Wrong(format!("{what} is {got:?}, not {wanted:?}")))
}
