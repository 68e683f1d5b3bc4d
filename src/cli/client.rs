//! Asks a keeper over its control socket: HTTP/1.1, one request per connection.
//!
//! Never waits without a limit, but for an answer whose limits the keeper itself keeps (a reload).

mod connect;
mod lines;

pub use connect::Distrust;
pub(super) use lines::{Heard, Lines, follow};

use super::Exit;
use super::instance::{Instance, InstanceName};
use super::output::printable;
use connect::connect;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// A keeper accepts at once, or it hangs.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// For answers that need no work.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// systemd starts the next keeper within milliseconds, on a busy machine within seconds.
const BACK_LIMIT: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// A larger answer is none of a keeper's.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("{name} is not running")]
    NotRunning {
        /// The instance.
        name: InstanceName,
    },
    /// The socket is not for the caller.
    #[error(
        "not allowed to use {}; run this with sudo, or let a group of administrators use it: \
         SocketGroup= of {unit}",
        socket.display()
    )]
    NotAllowed {
        /// The control socket.
        socket: PathBuf,
        /// What makes it.
        unit: String,
    },
    /// Somebody else may be behind it.
    #[error(
        "the control socket {} was not used: {why}; somebody may have replaced it: look at the directory, and \
         restart {unit}, for which systemd then makes a socket that only root can replace",
        socket.display()
    )]
    Distrusted {
        /// The control socket.
        socket: PathBuf,
        /// The service.
        unit: String,
        /// What is wrong with it.
        why: Distrust,
    },
    /// The socket cannot be used for another reason.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not within the time that was given.
    #[error("no answer to {what} within {}", crate::config::AsDuration(*limit))]
    TimedOut {
        /// Whose units may say why; none: in the foreground, or they would not.
        service: Option<InstanceName>,
        /// `POST /reload`
        what: String,
        /// The time.
        limit: Duration,
    },
    /// The connection ended before the answer, as it does when gapless is stopped or restarted.
    #[error("the connection ended before {what} was answered; see gapless status")]
    Broken {
        /// `POST /reload`
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer that we do not understand.
    #[error("{what} was answered with {status}: {body}")]
    Refused {
        /// `POST /reload`
        what: String,
        /// The status.
        status: StatusCode,
        /// The beginning of what was said.
        body: String,
    },
    /// This machine is out of something.
    #[error("cannot start the client")]
    Runtime(#[source] io::Error),
}

impl ClientError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            ClientError::NotRunning { .. } => Exit::NotRunning,
            ClientError::NotAllowed { .. } => Exit::NotAllowed,
            ClientError::TimedOut { .. } => Exit::TimedOut,
            ClientError::Connect { .. }
            | ClientError::Broken { .. }
            | ClientError::Distrusted { .. }
            | ClientError::Refused { .. }
            | ClientError::Runtime(_) => Exit::Failed,
        }
    }
}

/// Why an exchange ended early.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What a keeper answered.
#[derive(Debug)]
pub(super) struct Answer {
    what: String,
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// Reads the answer. Its status does not matter where its body says more: a refused reload is
    /// an outcome, too.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        understand(&self.body).map_err(|_| {
            let text = String::from_utf8_lossy(&self.body);
            let body = printable(&text.chars().take(300).collect::<String>());
            ClientError::Refused {
                what: self.what.clone(),
                status: self.status,
                body,
            }
        })
    }

    /// As it came, for programs: a newer keeper may say more than we know.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let lines: Vec<String> = text.trim_end().lines().map(printable).collect();
        lines.join("\n")
    }
}

/// Reads JSON that a keeper said.
pub(super) fn understand<T: serde::de::DeserializeOwned>(said: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(said)
        .map(scrubbed)
        .and_then(serde_json::from_value)
}

/// Every text in it without control characters, before anybody can print one: the app has a say in some of
/// them, and in all of them whoever took the keeper over.
fn scrubbed(said: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match said {
        Value::String(text) => Value::String(printable(&text)),
        Value::Array(items) => items.into_iter().map(scrubbed).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name, scrubbed(value)))
                    .collect(),
            )
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// Asks once, and blocks. `limit` is for the answer; none: the keeper's own limits hold.
pub(super) fn ask(
    instance: &Instance,
    method: Method,
    path: &str,
    limit: Option<Duration>,
) -> Result<Answer, ClientError> {
    runtime()?.block_on(ask_async(instance, method, path, limit))
}

/// Blocks until somebody answers again, at most for a while.
pub(super) fn wait_until_back(instance: &Instance) -> Result<(), ClientError> {
    let ask = || ask_async(instance, Method::GET, "/status", Some(ANSWER_LIMIT));
    let back = async {
        // Nobody tells when the next keeper listens, and a dying one still takes connections.
        while ask().await.is_err() {
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    };
    let waited = runtime()?.block_on(async { timeout(BACK_LIMIT, back).await });
    waited.map_err(|_| ClientError::TimedOut {
        service: instance.service(),
        what: "GET /status".to_owned(),
        limit: BACK_LIMIT,
    })
}

/// For commands that ask more than once.
pub(super) fn runtime() -> Result<Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClientError::Runtime)
}

/// As [`ask`]. What changes nothing is asked again if the connection breaks: an upgrade that began in
/// this very moment breaks it, and the next image answers.
pub(super) async fn ask_async(
    instance: &Instance,
    method: Method,
    path: &str,
    limit: Option<Duration>,
) -> Result<Answer, ClientError> {
    let first = ask_once(instance, method.clone(), path, limit).await;
    match first {
        Err(ClientError::Broken { .. }) if method.is_safe() => {
            ask_once(instance, method, path, limit).await
        }
        answered => answered,
    }
}

async fn ask_once(
    instance: &Instance,
    method: Method,
    path: &str,
    limit: Option<Duration>,
) -> Result<Answer, ClientError> {
    let what = format!("{method} {path}");
    let out_of_time = |limit| ClientError::TimedOut {
        service: instance.service(),
        what: what.clone(),
        limit,
    };
    let connect_limit = limit.map_or(CONNECT_LIMIT, |limit| limit.min(CONNECT_LIMIT));
    let stream = connect(instance, &what, connect_limit).await?;
    let exchange = exchange(stream, method, path);
    let answered = match limit {
        Some(limit) => timeout(limit, exchange)
            .await
            .map_err(|_| out_of_time(limit))?,
        None => exchange.await,
    };
    let broken = |source| ClientError::Broken {
        what: what.clone(),
        source,
    };
    let (status, body) = answered.map_err(broken)?;
    Ok(Answer { what, status, body })
}

fn request(method: Method, path: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "gapless")
        .body(Empty::new())
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), Broken> {
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    let request = request(method, path)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    // The answer needs the connection to be driven; a connection that ends first leaves the answer
    // to say what that means for it.
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        _ended = connection => answer.await,
    }
}

#[cfg(test)]
mod tests;
