//! One GET to a worker, as the front would send it.

use crate::link::Endpoint;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nobody accepts connections there.
    Refused(io::Error),
    /// Accepted, but what came is no HTTP response.
    Broken(String),
    /// Nothing came in time.
    Late,
}

/// Asks `host` for `path` and gives back the status. The connection is new, as a client's would be, and
/// ends with the answer's head: the body is not wanted.
pub(super) async fn get(
    endpoint: &Endpoint,
    host: &str,
    path: &str,
    timeout: Duration,
) -> Result<StatusCode, NoAnswer> {
    let answer = async {
        match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await;
                exchange(stream.map_err(NoAnswer::Refused)?, host, path).await
            }
            Endpoint::Unix(socket) => {
                let stream = UnixStream::connect(socket).await;
                exchange(stream.map_err(NoAnswer::Refused)?, host, path).await
            }
        }
    };
    tokio::time::timeout(timeout, answer)
        .await
        .unwrap_or(Err(NoAnswer::Late))
}

async fn exchange<S>(stream: S, host: &str, path: &str) -> Result<StatusCode, NoAnswer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "gapless-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| NoAnswer::Broken(error.to_string()))?;
    let broken = |error: hyper::Error| NoAnswer::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    // Together in one task: nothing is left running when the caller gives up.
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        // The end of the connection settles the answer, one way or the other.
        _ended = connection => answer.await,
    };
    Ok(response.map_err(broken)?.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Reads a head, writes `answer`, closes.
    fn serve(answer: &'static [u8]) -> (Endpoint, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && peer.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            peer.write_all(answer).unwrap();
            String::from_utf8(head).unwrap()
        });
        (endpoint, server)
    }

    #[tokio::test]
    async fn the_status_comes_back_and_the_question_is_polite() {
        let (endpoint, server) = serve(b"HTTP/1.1 204 No Content\r\n\r\n");
        let status = get(&endpoint, "shop.example", "/up?x=1", LIMIT)
            .await
            .unwrap();
        assert_eq!(status, 204);
        let head = server.join().unwrap();
        assert!(head.starts_with("GET /up?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: shop.example\r\n"), "{head}");
    }

    #[tokio::test]
    async fn what_is_no_http_is_told_from_a_refusal_and_from_silence() {
        let (endpoint, server) = serve(b"hello there, friend\r\n\r\n");
        let odd = get(&endpoint, "localhost", "/", LIMIT).await;
        assert!(matches!(odd, Err(NoAnswer::Broken(_))), "{odd:?}");
        server.join().unwrap();
        let gone = get(&endpoint, "localhost", "/", LIMIT).await;
        assert!(matches!(gone, Err(NoAnswer::Refused(_))), "{gone:?}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(silent.local_addr().unwrap());
        let late = get(&endpoint, "localhost", "/", Duration::from_millis(20)).await;
        assert!(matches!(late, Err(NoAnswer::Late)), "{late:?}");
    }
}
