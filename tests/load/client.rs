//! The strict client: asks an app that speaks as `probe-app` does, over keep-alive connections of
//! every kind, and counts what is lost. It never retries and never forgives.
//!
//! Prints `ready` when every connection is open and every client had its first answer, and at the
//! end one line of JSON ([`tally::Report`]). Ends on SIGTERM, SIGINT, `--seconds`, or, with
//! `--until-stdin-closes`, with its parent: every client finishes what it asked, and every idle
//! connection asks once.
//!
//! *Lost*: a request without its whole, right answer, whatever the reason. *Closed*: a connection
//! that the server closed while it was idle, or announced to close by `Connection: close`; nothing
//! is lost by that, but a server that should close nothing is seen.

mod connection;
#[path = "../apps/digest.rs"]
mod digest;
mod kinds;
mod tally;

use clap::Parser;
use gapless::verify::{Address, Broken, Connection, Idle, Random};
use kinds::{Asker, Kind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;
use tally::Tally;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// `127.0.0.1:8888` or `unix:/path`
    address: String,
    /// Clients, spread evenly over the kinds
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections that stay idle and ask once at the end; every second one asks first, too
    #[arg(long, default_value_t = 500)]
    idle: usize,
    /// So many of them ask at the same time at the end
    #[arg(long, default_value_t = 65_536)]
    asking: usize,
    /// Ends after so many seconds at the latest
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "get,post16k,slow,dribble-up,dribble-down,pipelined,new"
    )]
    kinds: Vec<Kind>,
    /// The longest pause between two requests of a client
    #[arg(long, default_value_t = 300)]
    think_ms: u64,
    /// The longest a slow request takes
    #[arg(long, default_value_t = 2000)]
    slow_ms: u64,
    /// An answer that is not whole by then is lost
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The app is no probe-app: `/` and `/slow?ms=...` answer with a page that ends with a version
    #[arg(long)]
    plain: bool,
    /// End when stdin does, so as not to outlive the test
    #[arg(long)]
    until_stdin_closes: bool,
}

/// What all clients share.
struct Load {
    arguments: Arguments,
    address: Address,
    tally: RefCell<Tally>,
    stop: CancellationToken,
    /// A permit for each client that is up.
    up: Semaphore,
    /// The idle ones connect a few at a time.
    connecting: Semaphore,
    /// And ask, where all at once would be more than the machine can do.
    asking: Semaphore,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    raise_limit()?;
    let load = Rc::new(Load {
        address: Address(arguments.address.clone()),
        tally: RefCell::new(Tally::new()),
        stop: CancellationToken::new(),
        up: Semaphore::new(0),
        connecting: Semaphore::new(50),
        asking: Semaphore::new(arguments.asking),
        arguments,
    });
    LocalSet::new().run_until(run(Rc::clone(&load))).await?;
    let Some(load) = Rc::into_inner(load) else {
        return Err(io::Error::other("invariant: every client has ended"));
    };
    let report = serde_json::to_string(&load.tally.into_inner().report())?;
    print(&report)
}

/// As many descriptors as the hard limit has: thousands may be idle.
fn raise_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn run(load: Rc<Load>) -> io::Result<()> {
    let mut clients = JoinSet::new();
    let kinds = load.arguments.kinds.clone();
    let busy = load.arguments.clients;
    for (client, kind) in (0..busy).zip(kinds.into_iter().cycle()) {
        clients.spawn_local(converse(Rc::clone(&load), asker(&load, kind, client)));
    }
    for client in busy..busy + load.arguments.idle {
        clients.spawn_local(wait_idle(
            Rc::clone(&load),
            asker(&load, Kind::Idle, client),
        ));
    }
    let all = u32::try_from(busy + load.arguments.idle).map_err(io::Error::other)?;
    let end = end(&load.arguments)?;
    tokio::pin!(end);
    tokio::select! {
        // Only closing the semaphore fails this, and nobody does.
        Ok(_) = load.up.acquire_many(all) => {
            print("ready")?;
            end.await;
        }
        () = &mut end => {}
    }
    load.stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Turns up when the load is to end.
fn end(arguments: &Arguments) -> io::Result<impl Future<Output = ()> + use<>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let limit = Duration::from_secs(arguments.seconds);
    // As a pipe, not tokio's stdin: that one reads in a thread which would outlive the end.
    let mut stdin = if arguments.until_stdin_closes {
        Some(Receiver::from_owned_fd(
            io::stdin().as_fd().try_clone_to_owned()?,
        )?)
    } else {
        None
    };
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
            () = tokio::time::sleep(limit) => {}
            () = ended(stdin.as_mut()) => {}
        }
    })
}

/// Turns up with the end of `stdin`; never where there is none.
async fn ended(stdin: Option<&mut Receiver>) {
    let mut ignored = Vec::new();
    match stdin {
        // An error ends it just as well.
        Some(stdin) => drop(stdin.read_to_end(&mut ignored).await),
        None => std::future::pending().await,
    }
}

fn asker(load: &Load, kind: Kind, client: usize) -> Asker {
    let salt = u64::try_from(client).unwrap_or_default();
    let random = Random::new(
        load.arguments
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(salt),
    );
    Asker::new(
        kind,
        client,
        random,
        Duration::from_millis(load.arguments.slow_ms),
        load.arguments.plain,
    )
}

/// A busy client: asks, checks, thinks, until the end.
async fn converse(load: Rc<Load>, mut asker: Asker) {
    let mut connection = None;
    let mut is_up = false;
    while !load.stop.is_cancelled() {
        connection = ask(&load, &mut asker, connection).await;
        if asker.kind == Kind::New {
            connection = None;
        }
        if !is_up {
            is_up = true;
            load.up.add_permits(1);
        }
        connection = think(&load, &mut asker, connection).await;
    }
}

/// Opens a connection where there is none, asks once, and gives the connection back if it is good
/// for more.
async fn ask(load: &Load, asker: &mut Asker, old: Option<Connection>) -> Option<Connection> {
    let limit = Duration::from_secs(load.arguments.timeout);
    let began = Instant::now();
    let (mut connection, fresh) = match old {
        Some(connection) => (connection, Duration::ZERO),
        None => (open(load, asker.kind, limit).await?, began.elapsed()),
    };
    let outcome = timeout(limit, asker.ask(&mut connection)).await;
    let mut tally = load.tally.borrow_mut();
    match outcome.unwrap_or(Err(Broken::TimedOut(limit))) {
        Ok(all) => {
            let closes = all.iter().any(|done| done.checked.closes);
            for done in all {
                let (took, late) = (fresh + done.took, fresh + done.late);
                tally.ok(
                    asker.kind,
                    done.checked.version,
                    done.checked.pid,
                    took,
                    late,
                );
            }
            if closes {
                tally.closed("connection-close");
            }
            (!closes).then_some(connection)
        }
        Err(why) => {
            let life = (connection.opened, connection.answers);
            tally.lost(asker.kind, &why, connection.bytes_seen, life);
            None
        }
    }
}

async fn open(load: &Load, kind: Kind, limit: Duration) -> Option<Connection> {
    load.tally.borrow_mut().connects += 1;
    let opened = timeout(limit, Connection::open(&load.address)).await;
    match opened.unwrap_or(Err(Broken::TimedOut(limit))) {
        Ok(connection) => Some(connection),
        Err(why) => {
            load.tally
                .borrow_mut()
                .lost(kind, &why, 0, (Instant::now(), 0));
            None
        }
    }
}

/// A pause of any length up to the longest, a third of them none at all; never none after a loss.
async fn think(load: &Load, asker: &mut Asker, old: Option<Connection>) -> Option<Connection> {
    let mut pause = asker
        .random
        .duration(Duration::from_millis(load.arguments.think_ms));
    let Some(mut connection) = old else {
        tokio::time::sleep(pause.max(Duration::from_millis(5))).await;
        return None;
    };
    if asker.random.below(3) == 0 {
        pause = Duration::ZERO;
    }
    let idle = tokio::select! {
        idle = connection.idle(pause) => idle,
        () = load.stop.cancelled() => Idle::Quiet,
    };
    note_idle(load, asker.kind, &connection, &idle);
    (idle == Idle::Quiet).then_some(connection)
}

fn note_idle(load: &Load, kind: Kind, connection: &Connection, idle: &Idle) {
    let mut tally = load.tally.borrow_mut();
    match idle {
        Idle::Quiet => {}
        Idle::Eof => tally.closed("eof-while-idle"),
        Idle::Reset => tally.closed("reset-while-idle"),
        Idle::Spoke => {
            let why = Broken::Wrong("bytes that nobody asked for".into());
            tally.lost(kind, &why, 0, (connection.opened, connection.answers));
        }
    }
    if kind == Kind::Idle && *idle != Idle::Quiet {
        tally.idle.closed += 1;
    }
}

/// An idle client: connects, is silent until the end, asks once.
async fn wait_idle(load: Rc<Load>, mut asker: Asker) {
    let limit = Duration::from_secs(load.arguments.timeout);
    let mut connection = {
        let _turn = load.connecting.acquire().await;
        let opened = open(&load, asker.kind, limit).await;
        match opened {
            // Every second one has had an answer before it falls silent.
            Some(connection) if asker.client.is_multiple_of(2) => {
                ask(&load, &mut asker, Some(connection)).await
            }
            opened => opened,
        }
    };
    load.up.add_permits(1);
    if let Some(mut open) = connection.take() {
        load.tally.borrow_mut().idle.opened += 1;
        let hour = Duration::from_hours(1);
        let idle = tokio::select! {
            biased;
            idle = open.idle(hour) => idle,
            () = load.stop.cancelled() => Idle::Quiet,
        };
        note_idle(&load, asker.kind, &open, &idle);
        let _turn = load.asking.acquire().await;
        if idle == Idle::Quiet && ask(&load, &mut asker, Some(open)).await.is_some() {
            load.tally.borrow_mut().idle.answered += 1;
        }
    }
}
