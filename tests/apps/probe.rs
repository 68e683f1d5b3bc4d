//! The test app: answers so that a strict client can check every byte, and misbehaves on demand.
//!
//! Behaviour comes from the environment, and from the file named by `$PROBE_FILE` (lines of
//! `KEY=VALUE`, read once at the start; they win), so that a test changes what the next generation
//! does without touching the configuration. Flags are off when absent, empty or `0`.
//!
//! | key | meaning |
//! |---|---|
//! | `PROBE_VERSION` | in the header `X-App-Version` and in every body; `v1` |
//! | `PROBE_BOOT_MS` | wait so long before listening |
//! | `PROBE_DELAY_MS` | answer so much later, where the path says nothing else |
//! | `PROBE_EXIT_BEFORE_READY`, `PROBE_EXIT_AFTER_READY` | exit with this status |
//! | `PROBE_EXIT_AFTER_MS` | how long after READY; 0 |
//! | `PROBE_HANG` | hang at boot, for ever |
//! | `PROBE_NEVER_LISTEN` | run, but neither listen nor say READY |
//! | `PROBE_STATUS`, `PROBE_HEALTH_STATUS` | answer everything, or only `/health`, with it |
//! | `PROBE_HOST` | take only this `Host`, and answer 403 to any other |
//! | `PROBE_SEGV_AFTER_MS` | SIGSEGV so long after READY |
//! | `PROBE_IGNORE_TERM` | ignore SIGTERM |
//! | `PROBE_GRANDCHILD` | leave a child (`sleep`) in a session of its own |
//! | `PROBE_FLOOD` | write so many lines to stdout, as fast as they are taken |
//! | `PROBE_SAY` | say this on stderr at the start |
//! | `PROBE_LISTEN` | `auto`, `fd`, `unix` or `port`: what to take of what is offered |
//! | `PROBE_MUTE` | never speak to `$NOTIFY_SOCKET` |
//! | `PROBE_WATCHDOG_MS` | feed the watchdog for so long, then stop |
//!
//! `/block?ms=` blocks the event loop, `/sicken` and `/cure` change what `/health` answers.

#[path = "digest.rs"]
mod digest;
#[path = "../../examples/hello/listen.rs"]
mod listen;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use listen::{Listener, Stream};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The keys of the table above.
struct Behaviour(BTreeMap<String, String>);

impl Behaviour {
    fn read() -> io::Result<Self> {
        let mut keys: BTreeMap<_, _> = std::env::vars()
            .filter(|(key, _)| key.starts_with("PROBE_"))
            .collect();
        if let Some(path) = keys.get("PROBE_FILE").filter(|path| !path.is_empty()) {
            let text = std::fs::read_to_string(path)?;
            keys.extend(text.lines().filter_map(|line| {
                line.split_once('=')
                    .map(|(key, value)| (key.trim().into(), value.trim().into()))
            }));
        }
        Ok(Self(keys))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    fn number<N: FromStr>(&self, key: &str) -> Option<N> {
        self.text(key)?.parse().ok()
    }

    fn is_on(&self, key: &str) -> bool {
        self.text(key).is_some_and(|text| text != "0")
    }

    fn wait(&self, key: &str) -> Option<Duration> {
        self.number(key).map(Duration::from_millis)
    }
}

struct App {
    behaviour: Behaviour,
    /// `/health` answers 500 from now on.
    is_sick: AtomicBool,
    version: String,
    generation: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let behaviour = Behaviour::read()?;
    let mut terminated = signal(SignalKind::terminate())?;
    misbehave_at_boot(&behaviour).await?;
    let listener = listener(&behaviour).await?;
    say_ready(&behaviour)?;
    let version = behaviour.text("PROBE_VERSION").unwrap_or("v1").to_owned();
    let generation = std::env::var("GAPLESS_GENERATION").unwrap_or_default();
    let app = Arc::new(App {
        behaviour,
        is_sick: AtomicBool::new(false),
        version,
        generation,
    });
    tokio::spawn(misbehave_when_ready(Arc::clone(&app)));

    let ending = CancellationToken::new();
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            stream = listener.accept() => {
                connections.spawn(serve(Arc::clone(&app), stream?, ending.clone()));
            }
            _ = terminated.recv() => {
                if !app.behaviour.is_on("PROBE_IGNORE_TERM") {
                    break;
                }
            }
        }
    }
    drop(listener);
    ending.cancel();
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn misbehave_at_boot(behaviour: &Behaviour) -> io::Result<()> {
    if let Some(text) = behaviour.text("PROBE_SAY") {
        say(io::stderr(), text);
    }
    if let Some(boot) = behaviour.wait("PROBE_BOOT_MS") {
        sleep(boot).await;
    }
    if behaviour.is_on("PROBE_GRANDCHILD") {
        // A session of its own: ending the process group of the app does not reach it.
        std::process::Command::new("setsid")
            .args(["sleep", "1000"])
            .spawn()?;
    }
    if let Some(lines) = behaviour.number::<u64>("PROBE_FLOOD") {
        std::thread::spawn(move || {
            for line in 0..lines {
                say(
                    io::stdout(),
                    &format!("flood {line} of {lines} {}", "x".repeat(60)),
                );
            }
        });
    }
    if let Some(code) = behaviour.number("PROBE_EXIT_BEFORE_READY") {
        say(
            io::stderr(),
            &format!("<3>exiting with {code} before ready, as asked"),
        );
        leave(code);
    }
    if behaviour.is_on("PROBE_HANG") {
        say(io::stderr(), "hanging at boot, as asked");
        std::future::pending::<()>().await;
    }
    if behaviour.is_on("PROBE_NEVER_LISTEN") {
        say(io::stderr(), "never listening, as asked");
        signal(SignalKind::terminate())?.recv().await;
        leave(0);
    }
    Ok(())
}

async fn misbehave_when_ready(app: Arc<App>) {
    let behaviour = &app.behaviour;
    if let Some(code) = behaviour.number("PROBE_EXIT_AFTER_READY") {
        sleep(behaviour.wait("PROBE_EXIT_AFTER_MS").unwrap_or_default()).await;
        say(
            io::stderr(),
            &format!("<3>exiting with {code} after ready, as asked"),
        );
        leave(code);
    }
    if let Some(wait) = behaviour.wait("PROBE_SEGV_AFTER_MS") {
        sleep(wait).await;
        say(io::stderr(), "<2>dying of SIGSEGV, as asked");
        loop {
            // The first one only takes Rust's own handler (for stack overflows) off.
            kill_self(rustix::process::Signal::SEGV);
        }
    }
    if let Some(feeding) = behaviour.wait("PROBE_WATCHDOG_MS") {
        let end = tokio::time::Instant::now() + feeding;
        while tokio::time::Instant::now() < end {
            notify(behaviour, &[NotifyState::Watchdog]);
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn kill_self(signal: rustix::process::Signal) {
    if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), signal) {
        say(io::stderr(), &format!("<3>cannot signal myself: {error}"));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread that sleeps is what the test asks for"
)]
fn block(time: Duration) {
    std::thread::sleep(time);
}

#[expect(
    clippy::exit,
    reason = "leaving without cleaning up is what the test asks for"
)]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

/// A line for the log. Nobody reading is no reason to end.
fn say(mut to: impl io::Write, text: &str) {
    if writeln!(to, "{text}").is_err() {
        std::hint::black_box(text);
    }
}

fn say_ready(behaviour: &Behaviour) -> io::Result<()> {
    notify(
        behaviour,
        &[NotifyState::Ready, NotifyState::Status("probe is up")],
    );
    io::stdout().flush()
}

fn notify(behaviour: &Behaviour, states: &[NotifyState<'_>]) {
    if !behaviour.is_on("PROBE_MUTE")
        && let Err(error) = sd_notify::notify(states)
    {
        say(io::stderr(), &format!("<4>cannot notify: {error}"));
    }
}

async fn listener(behaviour: &Behaviour) -> io::Result<Listener> {
    let chosen = behaviour.text("PROBE_LISTEN").unwrap_or("auto");
    let takes = |kind| chosen == "auto" || chosen == kind;
    if takes("fd")
        && let Some(listener) = listen::given()?
    {
        return Ok(listener);
    }
    if takes("unix")
        && let Some(listener) = listen::unix()?
    {
        return Ok(listener);
    }
    if takes("port")
        && let Some(listener) = listen::port().await?
    {
        return Ok(listener);
    }
    Err(io::Error::other(format!(
        "PROBE_LISTEN={chosen}: nothing of that kind is offered"
    )))
}

async fn serve(app: Arc<App>, stream: Box<dyn Stream>, ending: CancellationToken) {
    let answer = service_fn(|request| {
        let app = Arc::clone(&app);
        async move { answer(&app, request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .pipeline_flush(true)
        .serve_connection(hyper_util::rt::TokioIo::new(stream), answer)
        .with_upgrades();
    tokio::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        say(io::stderr(), &format!("<7>connection ended: {error}"));
    }
}

/// What every answer is about.
struct Asked {
    path: String,
    query: String,
    /// The client's `X-Client-Id`, or what `gapless verify` sends.
    id: String,
    /// The `Host`.
    host: String,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        let id = request
            .headers()
            .get("x-client-id")
            .or_else(|| request.headers().get("x-gapless-verify"))
            .and_then(|id| id.to_str().ok());
        Self {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            id: id.unwrap_or_default().to_owned(),
            host: request
                .headers()
                .get(HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
        }
    }

    fn number(&self, key: &str) -> Option<u64> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key)?.1.parse().ok()
    }
}

async fn answer(app: &App, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let asked = Asked::of(&request);
    if asked.path == "/upgrade" {
        return Ok(upgrade(app, request));
    }
    let headers = format!("{:#?}", request.headers());
    let (received, bytes) = take(request).await?;
    let mut response = match asked.path.as_str() {
        "/slow" => {
            sleep(Duration::from_millis(asked.number("ms").unwrap_or(1000))).await;
            echo(app, &asked)
        }
        "/dribble" => dribble(app, &asked),
        "/stream" => stream(app, &asked),
        "/fds" => whole(fds().unwrap_or_else(|error| error.to_string())),
        "/env" => whole(environment()),
        "/headers" => whole(headers),
        "/pid" => whole(std::process::id().to_string()),
        "/crash" => {
            kill_self(rustix::process::Signal::KILL);
            std::future::pending().await
        }
        "/hang" => std::future::pending().await,
        "/block" => {
            // The event loop with it: that is what is asked for.
            block(Duration::from_millis(asked.number("ms").unwrap_or(1000)));
            echo(app, &asked)
        }
        "/sicken" | "/cure" => {
            app.is_sick.store(asked.path == "/sicken", Relaxed);
            echo(app, &asked)
        }
        _ => {
            if let Some(delay) = app.behaviour.wait("PROBE_DELAY_MS") {
                sleep(delay).await;
            }
            echo(app, &asked)
        }
    };
    if let Some(status) = status(app, &asked) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    };
    set("x-app-version", &app.version);
    set("x-app-pid", &std::process::id().to_string());
    set("x-app-generation", &app.generation);
    set("x-client-id", &asked.id);
    set("x-received-digest", &digest::text(received));
    set("x-received-bytes", &bytes.to_string());
    Ok(response)
}

/// Switches to whatever is asked for, and echoes from then on.
fn upgrade(app: &App, request: Request<Incoming>) -> Response<Body> {
    let mut response = whole(String::new());
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return response;
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(version) = app.version.parse() {
        headers.insert("x-app-version", version);
    }
    // Ends with the process at SIGTERM, as nobody waits for it.
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(request).await {
            Ok(upgraded) => hyper_util::rt::TokioIo::new(upgraded),
            Err(error) => return say(io::stderr(), &format!("<4>no upgrade: {error}")),
        };
        let (mut read, mut write) = tokio::io::split(upgraded);
        if let Err(error) = tokio::io::copy(&mut read, &mut write).await {
            say(io::stderr(), &format!("<7>tunnel ended: {error}"));
        }
        if let Err(error) = write.shutdown().await {
            say(io::stderr(), &format!("<7>tunnel was closed: {error}"));
        }
    });
    response
}

/// The digest and the length of a request body.
async fn take(request: Request<Incoming>) -> Result<(u64, usize), hyper::Error> {
    let (mut sum, mut bytes) = (digest::OFFSET, 0);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(piece) = frame?.data_ref() {
            sum = digest::add(sum, piece);
            bytes += piece.len();
        }
    }
    Ok((sum, bytes))
}

fn status(app: &App, asked: &Asked) -> Option<StatusCode> {
    let only = app.behaviour.text("PROBE_HOST");
    if only.is_some_and(|host| host != asked.host) {
        return Some(StatusCode::FORBIDDEN);
    }
    let sick = || app.is_sick.load(Relaxed).then_some(500);
    let only_health = app
        .behaviour
        .number("PROBE_HEALTH_STATUS")
        .or_else(sick)
        .filter(|_| asked.path == "/health");
    StatusCode::from_u16(only_health.or_else(|| app.behaviour.number("PROBE_STATUS"))?).ok()
}

/// A sized body with its digest in the header.
fn whole(text: String) -> Response<Body> {
    let sum = digest::text(digest::add(digest::OFFSET, text.as_bytes()));
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    if let Ok(sum) = sum.parse() {
        response.headers_mut().insert("x-body-digest", sum);
    }
    response
}

/// `version id`, filled up to `bytes` of the query.
fn echo(app: &App, asked: &Asked) -> Response<Body> {
    let mut text = format!("{} {}\n", app.version, asked.id);
    let bytes = usize::try_from(asked.number("bytes").unwrap_or(0))
        .unwrap_or(0)
        .min(64 << 20);
    while text.len() < bytes {
        text.push_str("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n");
    }
    whole(text)
}

/// A chunked body, `chunks` pieces within about `ms`, each naming the version; the last line is the
/// digest of all before.
fn dribble(app: &App, asked: &Asked) -> Response<Body> {
    let chunks = asked.number("chunks").unwrap_or(10).clamp(1, 100_000);
    let pause = Duration::from_millis(asked.number("ms").unwrap_or(1000) / chunks);
    let (mut pieces, body) = Channel::<Bytes, Infallible>::new(1);
    let (version, id) = (app.version.clone(), asked.id.clone());
    tokio::spawn(async move {
        let mut sum = digest::OFFSET;
        for chunk in 0..chunks {
            sleep(pause).await;
            let line = format!("{version} {id} {chunk}\n");
            sum = digest::add(sum, line.as_bytes());
            if pieces.send_data(line.into()).await.is_err() {
                return;
            }
        }
        let last = format!("{}\n", digest::text(sum));
        if let Err(error) = pieces.send_data(last.into()).await {
            say(
                io::stderr(),
                &format!("<7>the client of {id} is gone: {error}"),
            );
        }
    });
    Response::new(body.boxed_unsync())
}

/// A chunked body without an end: a line every 100 ms.
fn stream(app: &App, asked: &Asked) -> Response<Body> {
    let (mut pieces, body) = Channel::<Bytes, Infallible>::new(1);
    let line = Bytes::from(format!("{} {}\n", app.version, asked.id));
    tokio::spawn(async move {
        while pieces.send_data(line.clone()).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    Response::new(body.boxed_unsync())
}

/// Our open fds, one a line: number and target.
fn fds() -> io::Result<String> {
    let mut targets = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let fd = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        // The fd by which this very list is read has no target any more.
        if let (Some(fd), Ok(target)) = (fd, std::fs::read_link(entry.path())) {
            targets.insert(fd, target);
        }
    }
    let lines: Vec<_> = targets
        .iter()
        .map(|(fd, target)| format!("{fd} {}", target.display()))
        .collect();
    Ok(lines.join("\n"))
}

/// Our environment, one variable a line.
fn environment() -> String {
    let sorted: BTreeMap<_, _> = std::env::vars().collect();
    let lines: Vec<_> = sorted
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    lines.join("\n")
}
