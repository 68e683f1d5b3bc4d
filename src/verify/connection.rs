//! One client connection, HTTP/1.1 written and read by hand, so that nothing below can retry,
//! reconnect or forgive.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

/// Of a body, so much is kept; of the rest, length and digest.
const BODY_KEPT_MAX: usize = 1 << 20;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the server is: `127.0.0.1:8888` or `unix:/run/x.sock`.
#[derive(Clone, Debug)]
pub struct Address(pub String);

/// Why an exchange did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// No connection.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The server closed it where it should not.
    #[error("end of the connection {0}")]
    Eof(&'static str),
    /// The connection failed.
    #[error("{doing}: {error}")]
    Socket {
        /// While.
        doing: &'static str,
        /// With.
        error: io::Error,
    },
    /// What came is no HTTP.
    #[error("not HTTP/1.1: {0}")]
    Malformed(String),
    /// Nothing, or not all, came in time.
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
    /// Another status than the wanted one.
    #[error("status {status}: {text}")]
    Status {
        /// Which.
        status: u16,
        /// The beginning of its body.
        text: String,
    },
    /// A whole answer that does not prove what it must.
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
    /// Its number.
    pub status: u16,
    is_old: bool,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn parse(text: &str) -> Result<Self, Broken> {
        let malformed = || Broken::Malformed(text.chars().take(120).collect());
        let mut lines = text.split("\r\n");
        let status_line = lines.next().ok_or_else(malformed)?;
        let (version, rest) = status_line.split_once(' ').ok_or_else(malformed)?;
        let is_old = match version {
            "HTTP/1.1" => false,
            "HTTP/1.0" => true,
            _ => return Err(malformed()),
        };
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
        Ok(Self {
            status,
            is_old,
            headers,
        })
    }

    /// The values of all headers.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(_, value)| value.as_str())
    }

    /// The first header of this name, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The server will close after this answer.
    pub fn closes(&self) -> bool {
        let connection = self.get("connection").unwrap_or_default();
        let says = |word| {
            connection
                .split(',')
                .any(|it| it.trim().eq_ignore_ascii_case(word))
        };
        says("close") || (self.is_old && !says("keep-alive"))
    }

    fn is_chunked(&self) -> bool {
        self.get("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// By what the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// Content-Length.
    Sized,
    /// Its last chunk.
    Chunked,
    /// The end of the connection: nobody can tell whether it is whole.
    UntilClose,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    /// Its status and headers.
    pub head: Head,
    /// Its beginning, of most bodies the whole.
    pub body: Vec<u8>,
    /// Of all of it.
    pub bytes: u64,
    /// Of all of it.
    pub digest: u64,
    /// How its end was known.
    pub framing: Framing,
    /// When its first byte was here.
    pub began: Instant,
}

/// A body as it comes.
#[derive(Default)]
struct Body {
    kept: Vec<u8>,
    bytes: u64,
    hasher: DefaultHasher,
}

impl Body {
    fn add(&mut self, piece: &[u8]) {
        let room = BODY_KEPT_MAX.saturating_sub(self.kept.len());
        self.kept.extend(piece.iter().take(room));
        self.bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.hasher.write(piece);
    }
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
    /// When.
    pub opened: Instant,
}

impl Connection {
    /// Connects, once.
    ///
    /// # Errors
    /// [`Broken::Connect`].
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

    /// Writes all of it.
    ///
    /// # Errors
    /// [`Broken::Socket`].
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
    ///
    /// # Errors
    /// [`Broken`]; the connection is good for nothing then.
    pub async fn answer(&mut self) -> Result<Answer, Broken> {
        self.bytes_seen = 0;
        loop {
            let (head, began) = self.head().await?;
            if head.status >= 200 {
                let mut body = Body::default();
                let framing = self.body(&head, &mut body).await?;
                self.answers += 1;
                return Ok(Answer {
                    head,
                    bytes: body.bytes,
                    digest: body.hasher.finish(),
                    body: body.kept,
                    framing,
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

    async fn body(&mut self, head: &Head, body: &mut Body) -> Result<Framing, Broken> {
        if matches!(head.status, 204 | 304) {
            return Ok(Framing::Empty);
        }
        if head.is_chunked() {
            self.chunks(body).await?;
            return Ok(Framing::Chunked);
        }
        let Some(length) = head.get("content-length") else {
            return self.until_close(body).await;
        };
        let length = length
            .parse()
            .map_err(|_| Broken::Malformed(format!("Content-Length: {length}")))?;
        self.take(length, body, "in a sized body").await?;
        Ok(Framing::Sized)
    }

    async fn until_close(&mut self, body: &mut Body) -> Result<Framing, Broken> {
        loop {
            body.add(&std::mem::take(&mut self.buffer));
            match self.more("in a body").await {
                Ok(()) => {}
                Err(Broken::Eof(_)) => return Ok(Framing::UntilClose),
                Err(broken) => return Err(broken),
            }
        }
    }

    async fn chunks(&mut self, body: &mut Body) -> Result<(), Broken> {
        loop {
            let line = self.until(b"\r\n", "in a chunk size").await?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size.trim(), 16)
                .map_err(|_| Broken::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                // Trailers, up to the empty line.
                while !self.until(b"\r\n", "in the trailers").await?.is_empty() {}
                return Ok(());
            }
            self.take(size, body, "in a chunked body").await?;
            if !self.until(b"\r\n", "after a chunk").await?.is_empty() {
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

    async fn take(
        &mut self,
        bytes: u64,
        body: &mut Body,
        place: &'static str,
    ) -> Result<(), Broken> {
        let mut left = bytes;
        while left > 0 {
            if self.buffer.is_empty() {
                self.more(place).await?;
            }
            let here = usize::try_from(left).unwrap_or(usize::MAX);
            let here = here.min(self.buffer.len());
            let piece: Vec<u8> = self.buffer.drain(..here).collect();
            body.add(&piece);
            left -= u64::try_from(here).unwrap_or(left);
        }
        Ok(())
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
