//! An answer that grows, read line by line: that of a deploy.

use super::{ANSWER_BYTES_MAX, Broken, CONNECT_LIMIT, ClientError, connect, request, runtime};
use crate::cli::instance::Instance;
use crate::cli::output::printable;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// An answer that grows: one line after the other.
pub(in crate::cli) struct Lines {
    what: String,
    runtime: Runtime,
    /// The connection ends with it.
    _sender: SendRequest<Empty<Bytes>>,
    body: Incoming,
    rest: Vec<u8>,
}

/// Asks once, without a limit for the answer: the keeper's own hold.
pub(in crate::cli) fn follow(instance: &Instance, path: &str) -> Result<Lines, ClientError> {
    let runtime = runtime()?;
    let what = format!("{} {path}", Method::POST);
    let (sender, response) = runtime.block_on(async {
        let stream = connect(instance, &what, CONNECT_LIMIT).await?;
        let broken = |source| ClientError::Broken {
            what: what.clone(),
            source,
        };
        begin(stream, path).await.map_err(broken)
    })?;
    let status = response.status();
    let mut lines = Lines {
        what: what.clone(),
        runtime,
        _sender: sender,
        body: response.into_body(),
        rest: Vec::new(),
    };
    if status.is_success() {
        return Ok(lines);
    }
    let body = printable(&lines.next()?.unwrap_or_default());
    Err(ClientError::Refused { what, status, body })
}

async fn begin(
    stream: UnixStream,
    path: &str,
) -> Result<(SendRequest<Empty<Bytes>>, Response<Incoming>), Broken> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // An error shows where the answer is read.
    tokio::spawn(connection);
    let response = sender.send_request(request(Method::POST, path)?).await?;
    Ok((sender, response))
}

/// What came first.
pub(in crate::cli) enum Heard<T> {
    /// The next line.
    Line(String),
    /// There are no more lines.
    End,
    /// What ends the wait.
    Stop(T),
}

impl Lines {
    /// Blocks until it is done; the connection waits meanwhile.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Blocks until there is a line, or until `stop` is done.
    pub fn next_unless<T>(
        &mut self,
        stop: impl Future<Output = T>,
    ) -> Result<Heard<T>, ClientError> {
        let Self {
            runtime,
            body,
            rest,
            what,
            ..
        } = self;
        let heard = runtime.block_on(async {
            tokio::select! {
                biased;
                line = next_line(body, rest) => line.map(|line| line.map_or(Heard::End, Heard::Line)),
                stopped = stop => Ok(Heard::Stop(stopped)),
            }
        });
        heard.map_err(|source| ClientError::Broken {
            what: what.clone(),
            source,
        })
    }

    /// Blocks until there is one; none at the end.
    pub fn next(&mut self) -> Result<Option<String>, ClientError> {
        let Self {
            runtime,
            body,
            rest,
            what,
            ..
        } = self;
        let line = runtime.block_on(next_line(body, rest));
        line.map_err(|source| ClientError::Broken {
            what: what.clone(),
            source,
        })
    }
}

async fn next_line(body: &mut Incoming, rest: &mut Vec<u8>) -> Result<Option<String>, Broken> {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        if rest.len() > ANSWER_BYTES_MAX {
            return Err("a line without an end".into());
        }
        match body.frame().await {
            Some(frame) => rest.extend_from_slice(&frame?.into_data().unwrap_or_default()),
            None => return Ok(None),
        }
    }
}
