//! Questions over plain HTTP, each on a connection of its own, and their answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What came back, as far as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0 when not even a head came.
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Up to the length or the last chunk that the head promised.
    pub is_whole: bool,
}

impl Reply {
    /// The body of a whole 200.
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert!(self.status == 200 && self.is_whole, "{self:?}");
        self.body
    }

    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// GET, on a connection of its own.
#[track_caller]
pub fn get(address: &str, path: &str) -> Reply {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    ask(stream, "GET", path)
}

/// The same over a unix socket.
#[track_caller]
pub fn get_unix(socket: &Path, path: &str) -> Reply {
    ask(UnixStream::connect(socket).unwrap(), "GET", path)
}

#[track_caller]
pub(super) fn ask(stream: impl Read + Write, method: &str, path: &str) -> Reply {
    try_ask(stream, method, path).expect("who listens takes a request")
}

/// None when the other end is gone.
pub(super) fn try_ask(mut stream: impl Read + Write, method: &str, path: &str) -> Option<Reply> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    Some(receive(stream))
}

/// What comes until the end of the connection, as one answer.
pub fn receive(mut stream: impl Read) -> Reply {
    let mut bytes = Vec::new();
    // A reset says as much as an end: what came so far is judged by its length.
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or(("", ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let mut reply = Reply {
        status,
        head: head.into(),
        body: rest.into(),
        is_whole: false,
    };
    if reply.header("transfer-encoding") == Some("chunked") {
        (reply.body, reply.is_whole) = unchunk(rest);
    } else {
        let length = reply
            .header("content-length")
            .and_then(|length| length.parse().ok());
        reply.is_whole = length == Some(rest.len());
    }
    reply
}

/// The body so far, and whether the last chunk came.
fn unchunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        body.push_str(after.get(..size).unwrap_or(after));
        rest = after.get(size + 2..).unwrap_or("");
    }
    (body, false)
}
