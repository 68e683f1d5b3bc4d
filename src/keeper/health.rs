//! When a worker is ready: it answers where it was told to listen, and it is really the worker that
//! answers.
//!
//! Never decides how long to wait: the boot limit is the plan's, and whoever gives up drops the
//! future and asks [`LastSeen`] what was seen last.

mod ask;
mod listeners;
mod seen;

pub use seen::{LastSeen, Observation};

use super::cgroup::processes_below;
use super::process;
use crate::config::HealthConfig;
use crate::link::Endpoint;
use ask::NoAnswer;
use listeners::Listener;
use std::collections::HashSet;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// The first pause between two looks; doubled up to `health.interval`, so that a quick app is seen
/// at once and a slow one does not cost a look at /proc every few milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Where a worker may come to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Told by `$PORT`: a socket of its own on loopback.
    Port(u16),
    /// Told by `$GAPLESS_SOCKET`: a stream socket at this path.
    Unix(PathBuf),
    /// Told by LISTEN_FDS: *our* listening socket, bound to this loopback address. It takes every
    /// connection, also when nobody ever accepts.
    Fd(SocketAddr),
}

/// The processes that count as the worker.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    /// The worker: it, what descends from it, and its session.
    pub pid: u32,
    /// All in this cgroup and below, too.
    pub cgroup: Option<&'a Path>,
}

impl Tree<'_> {
    fn pids(&self) -> HashSet<u32> {
        let mut pids: HashSet<u32> = process::descendants(self.pid).into_iter().collect();
        pids.insert(self.pid);
        pids.extend(self.cgroup.map(processes_below).unwrap_or_default());
        pids
    }
}

/// Waits until the worker answers at one of `candidates`, and says where. With `health.path`: by a
/// status within `health.status`, `health.passes` times in a row; without, by accepting a connection
/// as often.
///
/// What is seen meanwhile is put into `seen`. Waits for ever; dropping it is fine at any point.
pub async fn wait_until_answering(
    candidates: &[Candidate],
    health: &HealthConfig,
    worker: Tree<'_>,
    seen: &LastSeen,
) -> Endpoint {
    let look = |(number, candidate)| Box::pin(look_at(candidate, number, health, worker, seen));
    let mut looks: Vec<_> = candidates.iter().enumerate().map(look).collect();
    // The first in their order, where several have an answer.
    poll_fn(|woken| {
        let mut polled = looks.iter_mut().map(|look| look.as_mut().poll(woken));
        polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Beside the others: our own listening socket is asked for the whole of `health.timeout` before it is
/// clear that the app does not use it, and an app that comes to its port meanwhile must not wait for that.
async fn look_at(
    candidate: &Candidate,
    number: usize,
    health: &HealthConfig,
    worker: Tree<'_>,
    seen: &LastSeen,
) -> Endpoint {
    let mut pause = PAUSE_MIN.min(health.interval);
    loop {
        match pass(candidate, health, worker).await {
            Ok(endpoint) => return endpoint,
            Err(observation) => seen.note(number, observation),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(health.interval);
    }
}

/// All passes of one candidate; the first failure ends it.
async fn pass(
    candidate: &Candidate,
    health: &HealthConfig,
    worker: Tree<'_>,
) -> Result<Endpoint, Observation> {
    let mut endpoint = check(candidate, health, worker).await?;
    for _ in 1..health.passes.get() {
        tokio::time::sleep(health.interval).await;
        endpoint = check(candidate, health, worker).await?;
    }
    Ok(endpoint)
}

async fn check(
    candidate: &Candidate,
    health: &HealthConfig,
    worker: Tree<'_>,
) -> Result<Endpoint, Observation> {
    let endpoint = check_owner(candidate, worker)?;
    match (&health.path, candidate) {
        (Some(path), _) => answers(&endpoint, path, health).await?,
        (None, Candidate::Fd(address)) => accepts(*address, health.timeout).await?,
        (None, Candidate::Port(_) | Candidate::Unix(_)) => {
            connects(&endpoint, health.timeout).await?;
        }
    }
    Ok(endpoint)
}

/// Asks a worker that serves already.
///
/// # Errors
/// What was seen instead of a good answer.
pub async fn ask_again(
    endpoint: &Endpoint,
    path: &str,
    health: &HealthConfig,
) -> Result<(), Observation> {
    answers(endpoint, path, health).await
}

/// Where the worker listens beside its candidates: for one that is late.
pub fn elsewhere(candidates: &[Candidate], worker: Tree<'_>) -> Vec<SocketAddr> {
    let is_candidate = |address: SocketAddr| {
        candidates.iter().any(|candidate| match candidate {
            Candidate::Fd(given) => *given == address,
            Candidate::Port(_) | Candidate::Unix(_) => false,
        })
    };
    let mut found = listeners::of_processes(&worker.pids());
    found.retain(|address| !is_candidate(*address));
    found.sort_by_key(|address| (!is_reached_by_loopback(*address), *address));
    found
}

fn is_reached_by_loopback(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

/// Whose it is, before it is asked anything. A unix socket is in our own runtime directory, and a
/// socket that we handed out is ours: only a port can be somebody else's.
fn check_owner(candidate: &Candidate, worker: Tree<'_>) -> Result<Endpoint, Observation> {
    match candidate {
        Candidate::Port(port) => own_listener(*port, worker),
        Candidate::Unix(path) => Ok(Endpoint::Unix(path.clone())),
        Candidate::Fd(address) => Ok(Endpoint::Tcp(*address)),
    }
}

fn own_listener(port: u16, worker: Tree<'_>) -> Result<Endpoint, Observation> {
    let found = listeners::on_loopback(port);
    if found.is_empty() {
        return Err(Observation::Nothing { port });
    }
    let pids = worker.pids();
    let ours = |listener: &&Listener| listeners::is_held_by(listener.inode, &pids);
    // IPv4 first: an app on both is reached the way most others are.
    let mut own: Vec<SocketAddr> = found
        .iter()
        .filter(ours)
        .filter_map(Listener::loopback)
        .collect();
    own.sort();
    if let Some(address) = own.first() {
        return Ok(Endpoint::Tcp(*address));
    }
    let stranger = found.first();
    Err(Observation::Taken {
        port,
        pid: stranger.and_then(|stranger| listeners::holder(stranger.inode)),
        uid: stranger.map(|stranger| stranger.uid),
    })
}

async fn answers(
    endpoint: &Endpoint,
    path: &str,
    health: &HealthConfig,
) -> Result<(), Observation> {
    let at = || seen::show(endpoint);
    let path = || path.to_owned();
    match ask::get(endpoint, &health.host, &path(), health.timeout).await {
        Ok(status) => {
            let (lowest, highest) = health.status;
            if (lowest..=highest).contains(&status.as_u16()) {
                return Ok(());
            }
            let status = status.as_u16();
            Err(Observation::Status {
                at: at(),
                host: health.host.clone(),
                path: path(),
                status,
            })
        }
        Err(NoAnswer::Refused(error)) => Err(refused(endpoint, &error)),
        Err(NoAnswer::Broken(reason)) => Err(Observation::NoHttp {
            at: at(),
            path: path(),
            reason,
        }),
        Err(NoAnswer::Late) => Err(Observation::NoAnswer {
            at: at(),
            path: path(),
            timeout: health.timeout,
        }),
    }
}

async fn connects(endpoint: &Endpoint, timeout: Duration) -> Result<(), Observation> {
    let connected = async {
        match endpoint {
            Endpoint::Tcp(address) => TcpStream::connect(address).await.map(drop),
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(drop),
        }
    };
    match tokio::time::timeout(timeout, connected).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refused(endpoint, &error)),
        Err(_) => Err(refused(endpoint, &io::ErrorKind::TimedOut.into())),
    }
}

/// A connect to our own listener succeeds in the kernel, whoever accepts. But the kernel counts the
/// connections that nobody has accepted yet, in the rx_queue of the LISTEN line; the front sends
/// none before the worker is ready, so when ours is there and the count is zero, the app took it.
async fn accepts(address: SocketAddr, timeout: Duration) -> Result<(), Observation> {
    let taken = async {
        let _probe = TcpStream::connect(address).await?;
        let mut pause = PAUSE_MIN;
        loop {
            let listener = listeners::bound_to(address);
            if listener.is_some_and(|listener| listener.backlog == 0) {
                return Ok::<(), io::Error>(());
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
    };
    match tokio::time::timeout(timeout, taken).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refused(&Endpoint::Tcp(address), &error)),
        Err(_) => Err(Observation::NotAccepted { address }),
    }
}

fn refused(endpoint: &Endpoint, error: &io::Error) -> Observation {
    Observation::Refused {
        at: seen::show(endpoint),
        reason: error.to_string(),
    }
}

/// A loopback port that nobody has at this moment. Somebody may take it before the worker does;
/// that is why its owner is checked.
///
/// # Errors
/// When there is none, or no fd.
pub fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const LIMIT: Duration = Duration::from_secs(20);

    fn health(path: Option<&str>, passes: u32) -> HealthConfig {
        HealthConfig {
            path: path.map(str::to_owned),
            host: "localhost".to_owned(),
            status: (200, 399),
            passes: NonZeroU32::new(passes).unwrap(),
            interval: Duration::from_millis(20),
            every: Duration::from_secs(1),
            fails: NonZeroU32::MIN,
            timeout: Duration::from_millis(300),
        }
    }

    fn ourselves() -> Tree<'static> {
        Tree {
            pid: std::process::id(),
            cgroup: None,
        }
    }

    async fn waited(candidates: &[Candidate], health: &HealthConfig) -> Endpoint {
        let seen = LastSeen::default();
        let wait = wait_until_answering(candidates, health, ourselves(), &seen);
        tokio::time::timeout(LIMIT, wait).await.unwrap()
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_port_of_our_own_process_is_found_whenever_it_comes() {
        let (_listener, address) = listener();
        let nothing = Candidate::Unix("/nowhere/x.sock".into());
        let candidates = [nothing, Candidate::Port(address.port())];
        let found = waited(&candidates, &health(None, 2)).await;
        assert_eq!(found, Endpoint::Tcp(address));
    }

    #[tokio::test]
    async fn a_port_of_a_stranger_is_not_the_workers() {
        let (_listener, address) = listener();
        let stranger = Tree {
            pid: u32::MAX,
            cgroup: None,
        };
        let candidate = Candidate::Port(address.port());
        let seen = check(&candidate, &health(None, 1), stranger)
            .await
            .unwrap_err();
        let expected = format!("taken by pid {}, which is not ours", std::process::id());
        assert!(seen.to_string().contains(&expected), "{seen}");
    }

    #[tokio::test]
    async fn our_own_socket_counts_only_when_somebody_accepts() {
        let (listener, address) = listener();
        let candidate = Candidate::Fd(address);
        let waits = check(&candidate, &health(None, 1), ourselves()).await;
        assert_eq!(waits, Err(Observation::NotAccepted { address }));
        let app = listener.try_clone().unwrap();
        let app = std::thread::spawn(move || {
            // The connection that was given up, then the one that is probed with.
            let _first = app.accept().unwrap();
            let _second = app.accept().unwrap();
        });
        assert_eq!(
            waited(&[candidate], &health(None, 1)).await,
            Endpoint::Tcp(address)
        );
        app.join().unwrap();
    }

    #[tokio::test]
    async fn an_app_that_comes_to_its_port_does_not_wait_for_our_socket_to_be_given_up() {
        let (_nobody_accepts, ours) = listener();
        let port = free_port().unwrap();
        let candidates = [Candidate::Port(port), Candidate::Fd(ours)];
        let patient = HealthConfig {
            timeout: LIMIT * 10,
            ..health(None, 1)
        };
        let seen = LastSeen::default();
        let wait = wait_until_answering(&candidates, &patient, ourselves(), &seen);
        let comes = async {
            while seen.observations().is_empty() {
                tokio::task::yield_now().await;
            }
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap()
        };
        let both = async { tokio::join!(wait, comes) };
        let (found, app) = tokio::time::timeout(LIMIT, both).await.unwrap();
        assert_eq!(found, Endpoint::Tcp(app.local_addr().unwrap()));
    }

    #[tokio::test]
    async fn a_bad_status_is_seen_and_not_enough() {
        use std::io::{Read, Write};
        let (listener, address) = listener();
        let app = std::thread::spawn(move || {
            for status in ["500 Oh", "200 OK", "200 OK"] {
                let (mut peer, _) = listener.accept().unwrap();
                assert!(peer.read(&mut [0; 4096]).unwrap() > 0);
                let close = "Connection: close\r\nContent-Length: 0\r\n\r\n";
                write!(peer, "HTTP/1.1 {status}\r\n{close}").unwrap();
            }
        });
        let seen = LastSeen::default();
        let candidates = [Candidate::Port(address.port())];
        let health = health(Some("/up"), 2);
        let wait = wait_until_answering(&candidates, &health, ourselves(), &seen);
        let found = tokio::time::timeout(LIMIT, wait).await.unwrap();
        assert_eq!(found, Endpoint::Tcp(address));
        assert_eq!(
            seen.to_string(),
            format!("GET /up at {address} answered 500")
        );
        app.join().unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_what_was_seen() {
        let port = free_port().unwrap();
        let seen = LastSeen::default();
        let candidates = [Candidate::Port(port), Candidate::Unix("/nowhere/x".into())];
        let health = health(None, 1);
        let wait = wait_until_answering(&candidates, &health, ourselves(), &seen);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), wait)
                .await
                .is_err()
        );
        let text = seen.to_string();
        assert!(
            text.contains(&format!("nothing listens on port {port}")),
            "{text}"
        );
        assert!(text.contains("/nowhere/x"), "{text}");
    }
}
