//! The small app behind every server that is measured: it must cost little, so that what is measured
//! is the server, and speak all that is measured.
//!
//! `/N` answers N bytes, whatever the method; how many bytes of a body came is in `X-Received`. What
//! asks for an upgrade gets it, and its own bytes back from then on. Listens on `$PORT`.

#[path = "../../examples/hello/listen.rs"]
#[allow(
    dead_code,
    reason = "only the port of it, as nginx and HAProxy have it"
)]
mod listen;

use listen::Stream;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// More is no head of ours.
const HEAD_BYTES_MAX: usize = 65_536;
/// The accepted key is that of `bench-load`, always the same; `HAProxy` looks at it.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let Some(listener) = listen::port().await? else {
        return Err(io::Error::other("PORT is not set"));
    };
    loop {
        // A client that is gone already is no reason to end.
        if let Ok(stream) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    }
}

/// What counts of a request's head.
struct Head {
    answer_bytes: usize,
    body_bytes: usize,
    is_upgrade: bool,
    closes: bool,
}

impl Head {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let target = lines.next()?.split(' ').nth(1)?;
        let mut head = Self {
            answer_bytes: target.trim_start_matches('/').parse().unwrap_or(0),
            body_bytes: 0,
            is_upgrade: false,
            closes: false,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.body_bytes = value.parse().ok()?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return None;
            } else if name.eq_ignore_ascii_case("upgrade") {
                head.is_upgrade = true;
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            }
        }
        Some(head)
    }
}

async fn serve(mut stream: Box<dyn Stream>) {
    let mut buffer = Vec::with_capacity(HEAD_BYTES_MAX);
    let mut answer = Vec::new();
    loop {
        match exchange(&mut stream, &mut buffer, &mut answer).await {
            Ok(true) => {}
            // The server in front closed it, or broke it off: that is counted there.
            Ok(false) | Err(_) => return,
        }
    }
}

/// One request and its answer; false when there is to be no other.
async fn exchange(
    stream: &mut Box<dyn Stream>,
    buffer: &mut Vec<u8>,
    answer: &mut Vec<u8>,
) -> io::Result<bool> {
    let Some(end) = read_head(stream, buffer).await? else {
        return Ok(false);
    };
    let text = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default());
    let Some(head) = Head::parse(&text) else {
        stream
            .write_all(b"HTTP/1.1 411 Length Required\r\nConnection: close\r\n\r\n")
            .await?;
        return Ok(false);
    };
    drop(text);
    buffer.drain(..end);
    if head.is_upgrade {
        echo(stream, buffer).await?;
        return Ok(false);
    }
    take(stream, buffer, head.body_bytes).await?;
    answer.clear();
    answer.extend_from_slice(
        format!(
            "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\n\
             X-Received: {}\r\nContent-Length: {}\r\n\r\n",
            head.body_bytes, head.answer_bytes
        )
        .as_bytes(),
    );
    answer.resize(answer.len() + head.answer_bytes, b'x');
    stream.write_all(answer).await?;
    Ok(!head.closes)
}

/// Where the head ends; none at the end of the connection.
async fn read_head(
    stream: &mut Box<dyn Stream>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        if buffer.len() >= HEAD_BYTES_MAX || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Reads the body and forgets it.
async fn take(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    let mut missing = bytes;
    loop {
        let here = missing.min(buffer.len());
        buffer.drain(..here);
        missing -= here;
        if missing == 0 {
            return Ok(());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn echo(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(SWITCHING).await?;
    loop {
        stream.write_all(buffer).await?;
        buffer.clear();
        if stream.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}
