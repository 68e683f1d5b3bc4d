//! The example app of `make run`: a page that says which version and which process answered.
//!
//! It shows all that an app needs to be at home behind gapless, and none of it is ours: it listens
//! where it is told ([`listen`]), says READY=1 to `$NOTIFY_SOCKET`, and finishes on SIGTERM what it
//! has begun.

mod listen;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use listen::{Listener, Stream};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the page shows.
struct App {
    version: String,
    generation: String,
    requests: AtomicU64,
    /// Cancelled when the app is to end; idle connections end with it.
    ending: CancellationToken,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let listener = listener().await?;
    let ending = CancellationToken::new();
    let app = Arc::new(App {
        version: std::env::var("HELLO_VERSION").unwrap_or_else(|_| started()),
        generation: std::env::var("GAPLESS_GENERATION")
            .map_or_else(|_| "none: not behind gapless".into(), |id| format!("g{id}")),
        requests: AtomicU64::new(0),
        ending: ending.clone(),
    });
    sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&app.version),
    ])?;
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            stream = listener.accept() => {
                connections.spawn(serve(Arc::clone(&app), stream?));
            }
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
        }
    }
    drop(listener);
    ending.cancel();
    connections.close();
    connections.wait().await;
    Ok(())
}

/// The best of what we are offered: a socket that outlives us, a path, a port.
async fn listener() -> io::Result<Listener> {
    if let Some(listener) = listen::given()? {
        return Ok(listener);
    }
    if std::env::var_os("PORT").is_none()
        && let Some(listener) = listen::unix()?
    {
        return Ok(listener);
    }
    listen::port().await?.ok_or_else(|| {
        io::Error::other("nowhere to listen: set $PORT, or start this behind gapless (make run)")
    })
}

/// The time of the start, as a version that changes with every reload.
fn started() -> String {
    jiff::Timestamp::now()
        .strftime("started at %H:%M:%S%.3f UTC")
        .to_string()
}

/// One connection, until the client is done or we are ending and it is idle.
async fn serve(app: Arc<App>, stream: Box<dyn Stream>) {
    let ending = app.ending.clone();
    let answer = service_fn(|request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(answer(&app, &request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        complain(&format!("<7>connection ended: {error}"));
    }
}

#[expect(
    clippy::print_stderr,
    reason = "stderr is where an app speaks; gapless passes it on"
)]
fn complain(line: &str) {
    eprintln!("{line}");
}

async fn answer(app: &Arc<App>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let count = app.requests.fetch_add(1, Ordering::Relaxed) + 1;
    match request.uri().path() {
        "/" => reply(StatusCode::OK, "text/html; charset=utf-8", page(app, count)),
        "/version" => reply(StatusCode::OK, "text/plain", format!("{}\n", app.version)),
        "/health" => reply(StatusCode::OK, "text/plain", "ok\n".into()),
        "/slow" => {
            let wait = wait_asked(request.uri().query().unwrap_or_default());
            tokio::time::sleep(wait).await;
            reply(
                StatusCode::OK,
                "text/plain",
                format!("{} after {wait:?}\n", app.version),
            )
        }
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "no such page\n".into()),
    }
}

/// `ms` of `/slow?ms=1500`, a second when it does not say.
fn wait_asked(query: &str) -> Duration {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
    Duration::from_millis(
        asked
            .and_then(|ms| ms.parse().ok())
            .unwrap_or(1000)
            .min(60_000),
    )
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// The page: what answered, what to try next, and a client that counts what fails on the way. It asks
/// again and again, and is no endless stream: that would keep every old generation to its drain limit.
fn page(app: &App, count: u64) -> String {
    let (version, generation, pid) = (&app.version, &app.generation, std::process::id());
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>gapless: hello</title>
<style>
  body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem }}
  code {{ background: #8882; padding: .1rem .3rem; border-radius: .2rem }}
  td {{ padding-right: 2rem }}
</style>
<h1>Hello from behind gapless</h1>
<table>
  <tr><td>version<td><b>{version}</b>
  <tr><td>generation<td>{generation}
  <tr><td>process<td>{pid}
  <tr><td>requests answered by it<td>{count}
  <tr><td>answers now<td id="now">…
  <tr><td>asked by this page<td><b id="asked">0</b> times, <b id="failed">0</b> failed
</table>
<h2>Try next</h2>
<ol>
  <li>Run <code>target/release/gapless reload</code> in another terminal and watch the last two lines:
      another version answers, and nothing failed.
  <li>Do it while <a href="/slow?ms=8000" target="_blank">a slow request</a> is running: it ends on
      the version it began on.
  <li>Kill the app (<code>kill -9 {pid}</code>): the next requests wait for another process.
  <li><code>target/release/gapless status</code> says what gapless did.
</ol>
<script>
  const ask = async () => {{
    try {{
      const answer = await fetch("/version", {{ cache: "no-store" }})
      if (!answer.ok) throw new Error(answer.status)
      now.textContent = await answer.text()
    }} catch {{
      failed.textContent++
    }}
    asked.textContent++
    setTimeout(ask, 100)
  }}
  ask()
</script>
</html>
"#
    )
}
