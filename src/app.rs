//! The app's side: what a web app in Rust needs to be replaced without a lost request. Under gapless
//! it takes the socket that gapless gives, under systemd that of the socket unit, and by hand it binds.
//!
//! It is the same three conversations that gapless has with systemd (LISTEN_FDS, sd_notify(3), the fd
//! store), and knows nothing of gapless beyond them. In Cargo.toml, without the server:
//!
//! ```toml
//! gapless = { version = "0.1", default-features = false, features = ["app"] }
//! ```
//!
//! A hyper service:
//!
//! ```no_run
//! use gapless::app::App;
//! use hyper::service::service_fn;
//! use hyper::{Request, Response, body::Incoming};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), gapless::app::AppError> {
//!     let app = App::new()?;
//!     let visits = app.keep("visits", || 0_u64)?;
//!     let listener = app.listener("127.0.0.1:8888")?;
//!     let hello = service_fn(move |_: Request<Incoming>| {
//!         let number = visits.update(|visits| {
//!             *visits += 1;
//!             *visits
//!         });
//!         async move { number.map(|number| Response::new(format!("visit {number}\n"))) }
//!     });
//!     app.serve(listener, hello).await
//! }
//! ```
//!
//! An axum Router is a tower service, see [`Tower`]; `examples/counter.rs` is one with all there is.
//!
//! A timer ends at SIGTERM, before the last requests are finished; hooks run when those are. `on_reload`
//! runs in the process that ends: what is new needs no hook, it has `main`.

mod keep;
mod listener;

pub use hyper_util::service::TowerToHyperService as Tower;
pub use keep::{KeepError, Kept};
pub use listener::{ListenError, Listener};

use crate::systemd::given::{self, Given, GivenError};
use crate::systemd::notify;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use listener::Stream;
use serde::{Serialize, de::DeserializeOwned};
use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// Less than the `stop` of gapless, 10 s, after which comes SIGKILL.
const WAIT: Duration = Duration::from_secs(8);
/// Hooks have it also when requests took all of the time.
const HOOKS_AT_LEAST: Duration = Duration::from_secs(1);
/// Out of fds, mostly: one that is closed meanwhile is enough to go on.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The app cannot begin, or did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// What was given cannot be taken.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// Nowhere to listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A value cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// No signals, or a NOTIFY_SOCKET that takes nothing.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    /// Told to end, and something was still under way.
    #[error(
        "{0} connections or timers were still at work {1:?} after SIGTERM and were cut; let \
         requests end sooner, or give them longer with App::wait and [app] stop"
    )]
    Cut(usize, Duration),
    /// Hooks that hang.
    #[error("the hooks of the end did not end within {0:?}; let them do less, or see App::wait")]
    Hooks(Duration),
}

type Hook = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// This process: one life of one worker of one generation. Clones are the same.
#[derive(Clone)]
pub struct App(Arc<Shared>);

struct Shared {
    given: Mutex<Vec<Given>>,
    /// True from SIGTERM on.
    ending: watch::Sender<bool>,
    timers: Mutex<JoinSet<()>>,
    hooks: Mutex<Vec<Hook>>,
    wait: Mutex<Duration>,
}

impl App {
    /// Takes what gapless or systemd gave to this process. First thing in `main`, once: it removes
    /// LISTEN_FDS from the environment, so that no child takes it for its own.
    ///
    /// # Errors
    /// [`AppError::Given`]: the environment announces what is not there.
    pub fn new() -> Result<Self, AppError> {
        Ok(Self::with(given::take()?))
    }

    fn with(given: Vec<Given>) -> Self {
        Self(Arc::new(Shared {
            given: Mutex::new(given),
            ending: watch::Sender::new(false),
            timers: Mutex::default(),
            hooks: Mutex::default(),
            wait: Mutex::new(WAIT),
        }))
    }

    /// So long requests and timers may take to end after SIGTERM, and then the hooks; 8 s unless said.
    #[must_use]
    pub fn wait(self, limit: Duration) -> Self {
        *lock(&self.0.wait) = limit;
        self
    }

    /// The listening socket that was given; else 127.0.0.1 with `$PORT`; else `address`. Within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`AppError::Listen`].
    pub fn listener(&self, address: &str) -> Result<Listener, AppError> {
        Ok(Listener::choose(&mut lock(&self.0.given), address)?)
    }

    /// What the process before this one kept under this name, after a reload, a crash or a restart
    /// of gapless; else what `init` makes, kept from now on. A stop ends it.
    ///
    /// ```
    /// let app = gapless::app::App::new()?;
    /// let visits = app.keep("visits", || 41_u64)?;
    /// let next = visits.update(|visits| { *visits += 1; *visits })?;
    /// assert_eq!((next, visits.get()?), (42, 42));
    /// # Ok::<(), gapless::app::AppError>(())
    /// ```
    ///
    /// Old and new generation share it while both are there; of several workers each has its own, by
    /// its GAPLESS_WORKER. Its type must be able to read what the
    /// release before wrote: add fields with `#[serde(default)]`, or take another name.
    ///
    /// # Errors
    /// [`AppError::Keep`]; then better fail: gapless lets the generation before serve on.
    pub fn keep<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        init: impl FnOnce() -> T,
    ) -> Result<Kept<T>, AppError> {
        let mut given = lock(&self.0.given);
        let known = given.iter().position(|given| given.name == name);
        let known = known.map(|index| given.swap_remove(index).fd);
        drop(given);
        Ok(Kept::open(name, known, init)?)
    }

    /// Runs `tick` each `period`, the first time after one, never two at once, and never after the
    /// end of this generation (SIGTERM). Within a tokio runtime.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// let app = gapless::app::App::new()?;
    /// let (tell, mut told) = tokio::sync::mpsc::channel(1);
    /// app.interval(Duration::from_millis(1), move || {
    ///     let tell = tell.clone();
    ///     async move { drop(tell.try_send("tick")) }
    /// });
    /// assert_eq!(told.recv().await, Some("tick"));
    /// # Ok::<(), gapless::app::AppError>(()) }).unwrap();
    /// ```
    pub fn interval<F>(&self, period: Duration, mut tick: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ending = self.0.ending.subscribe();
        let first = Instant::now().checked_add(period);
        let timer = async move {
            let Some(first) = first else { return };
            let period = period.max(Duration::from_millis(1));
            let mut interval = tokio::time::interval_at(first, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = ended(&mut ending) => return,
                    _ = interval.tick() => tick().await,
                }
            }
        };
        lock(&self.0.timers).spawn(timer);
    }

    /// Runs `hook` once when this generation ends, because another one is there or the service
    /// stops: after the last request and the last timer, before the process exits. In their order.
    pub fn on_reload<F>(&self, hook: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        lock(&self.0.hooks).push(Box::new(|| Box::pin(hook())));
    }

    /// Returns when this generation is told to end: for whatever waits by itself, a stream of events
    /// for example.
    pub async fn ending(&self) {
        ended(&mut self.0.ending.subscribe()).await;
    }

    /// Says READY=1 (and WATCHDOG=1, if that is wanted), serves HTTP/1.1 until SIGTERM or SIGINT,
    /// finishes what is under way, and runs the hooks.
    ///
    /// # Errors
    /// [`AppError::System`] before the first request; [`AppError::Cut`] at the end.
    pub async fn serve<S, B>(&self, listener: Listener, service: S) -> Result<(), AppError>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let hear = |kind| signal(kind).map_err(|error| AppError::System("hear signals", error));
        let mut terminate = hear(SignalKind::terminate())?;
        let mut interrupt = hear(SignalKind::interrupt())?;
        let service = Arc::new(service);
        let mut connections = JoinSet::new();
        // Until the end, also while requests are finished; ends with this function.
        let mut heart = JoinSet::new();
        if let Some(interval) = notify::watchdog_interval() {
            heart.spawn(beat(interval / 3));
        }
        notify::ready().map_err(|error| AppError::System("say READY=1", error))?;
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    let (service, ending) = (Arc::clone(&service), self.0.ending.subscribe());
                    match accepted {
                        Ok(stream) => drop(connections.spawn(converse(stream, service, ending))),
                        Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                    }
                }
            }
        }
        drop(listener);
        self.end(connections).await
    }

    /// All that is under way, then the hooks, within the wait limit.
    async fn end(&self, mut under_way: JoinSet<()>) -> Result<(), AppError> {
        // Who does not hear it sees the end of the process soon.
        drop(notify::stopping());
        self.0.ending.send_replace(true);
        let (began, limit) = (Instant::now(), *lock(&self.0.wait));
        let mut timers = std::mem::take(&mut *lock(&self.0.timers));
        let all = async {
            while under_way.join_next().await.is_some() {}
            while timers.join_next().await.is_some() {}
        };
        let is_done = tokio::time::timeout(limit, all).await.is_ok();
        let left = under_way.len().saturating_add(timers.len());
        under_way.shutdown().await;
        timers.shutdown().await;
        let limit_of_hooks = limit.saturating_sub(began.elapsed()).max(HOOKS_AT_LEAST);
        let hooks = std::mem::take(&mut *lock(&self.0.hooks));
        let hooks = async {
            for hook in hooks {
                hook().await;
            }
        };
        let are_hooks_done = tokio::time::timeout(limit_of_hooks, hooks).await.is_ok();
        match (is_done, are_hooks_done) {
            (true, true) => Ok(()),
            (false, _) => Err(AppError::Cut(left, limit)),
            (true, false) => Err(AppError::Hooks(limit_of_hooks)),
        }
    }
}

/// One connection, to its end or, when the generation ends, to that of its request.
async fn converse<S, B>(stream: Stream, service: Arc<S>, mut ending: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // An error is the client's, or that of the service, which knows of it.
    tokio::select! {
        result = connection.as_mut() => return drop(result),
        () = ended(&mut ending) => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

async fn beat(period: Duration) {
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
    loop {
        interval.tick().await;
        // Not heard is as good as not said: gapless replaces a silent worker.
        drop(notify::watchdog());
    }
}

async fn ended(ending: &mut watch::Receiver<bool>) {
    drop(ending.wait_for(|is_ending| *is_ending).await);
}

/// What a panic of the app left is whole: every lock is held for one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn count(counter: &Arc<AtomicU32>) -> impl FnMut() -> std::future::Ready<()> + Send + 'static {
        let counter = Arc::clone(counter);
        move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_never_fires_after_the_end_and_each_hook_runs_once() {
        let app = App::with(Vec::new());
        let (ticks, hooks) = (Arc::default(), Arc::default());
        app.interval(Duration::from_secs(1), count(&ticks));
        app.on_reload(count(&hooks));
        app.on_reload(count(&hooks));
        tokio::time::sleep(Duration::from_millis(3500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 3);
        let ending = app.clone();
        let told = tokio::spawn(async move { ending.ending().await });
        // Still at work when the next tick would be due.
        let mut under_way = JoinSet::new();
        under_way.spawn(tokio::time::sleep(Duration::from_secs(5)));
        app.end(under_way).await.unwrap();
        told.await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        app.end(JoinSet::new()).await.unwrap();
        assert_eq!(ticks.load(Ordering::Relaxed), 3);
        assert_eq!(hooks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_cut_and_told_and_hooks_run_all_the_same() {
        let app = App::with(Vec::new()).wait(Duration::from_secs(2));
        let hooks = Arc::default();
        app.on_reload(count(&hooks));
        let mut under_way = JoinSet::new();
        under_way.spawn(std::future::pending());
        let began = Instant::now();
        let cut = app.end(under_way).await.unwrap_err();
        assert!(matches!(cut, AppError::Cut(1, _)), "{cut}");
        assert_eq!(began.elapsed().as_secs(), 2);
        assert_eq!(hooks.load(Ordering::Relaxed), 1);
        app.on_reload(std::future::pending);
        let late = app.end(JoinSet::new()).await.unwrap_err();
        assert!(matches!(late, AppError::Hooks(_)), "{late}");
    }
}
