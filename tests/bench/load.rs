//! The load that every server is measured with: as cheap as it can be, with a fixed rate where
//! latencies are compared, and counting what is lost. What must not be lost at all is the strict
//! client's (tests/load); this one checks status and lengths.
//!
//! Opens its connections, has one answer on each, prints `ready`, waits for a line on stdin, does its
//! work, and prints one line of JSON ([`tally::Report`]). So whoever measures knows when it begins.

#[path = "load/connection.rs"]
mod connection;
#[path = "load/tally.rs"]
mod tally;

use clap::Parser;
use connection::{Asking, Broken, Connection};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tally::Tally;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// What a client does with each of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Asks for an answer of `--bytes`, again and again
    Get,
    /// Sends a body of `--bytes`
    Post,
    /// Asks once on each connection, which says that it is the last time
    Fresh,
    /// Sends a WebSocket frame of `--bytes` and has it back
    Echo,
}

/// What is asked of whom, how often.
#[derive(Debug, Parser)]
pub struct Arguments {
    address: SocketAddr,
    #[arg(long, value_enum, default_value = "get")]
    kind: Kind,
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// So many requests a second, whatever becomes of them; without it, each connection asks as
    /// soon as it has its answer
    #[arg(long)]
    rate: Option<f64>,
    /// Each connection asks once, then it is over
    #[arg(long)]
    once: bool,
    /// An answer that is not whole by then is lost
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

/// What all clients share.
struct Load {
    arguments: Arguments,
    asking: Asking,
    tally: RefCell<Tally>,
    /// Connections of an open loop that nobody uses now.
    free: RefCell<VecDeque<Connection>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    let load = Rc::new(Load {
        asking: Asking::new(arguments.address, arguments.kind, arguments.bytes),
        arguments,
        tally: RefCell::new(Tally::new()),
        free: RefCell::default(),
    });
    let report = LocalSet::new().run_until(run(load)).await?;
    print(&serde_json::to_string(&report)?)
}

fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn run(load: Rc<Load>) -> io::Result<tally::Report> {
    let connections = open_all(&load).await?;
    print("ready")?;
    // Blocks everything, and nothing is to happen before it.
    io::stdin().read_line(&mut String::new())?;
    let began = Instant::now();
    load.tally.borrow_mut().begin();
    if let Some(rate) = load.arguments.rate {
        load.free.borrow_mut().extend(connections);
        at_a_rate(&load, rate).await?;
    } else {
        let mut clients = JoinSet::new();
        for connection in connections {
            clients.spawn_local(again_and_again(Rc::clone(&load), connection, began));
        }
        while let Some(ended) = clients.join_next().await {
            ended.map_err(io::Error::other)?;
        }
    }
    Ok(load.tally.borrow().report())
}

/// All connections, each of which had an answer; a few open at a time.
async fn open_all(load: &Rc<Load>) -> io::Result<Vec<Connection>> {
    let few = Rc::new(Semaphore::new(64));
    let mut opening = JoinSet::new();
    for _ in 0..load.arguments.connections {
        let (load, few) = (Rc::clone(load), Rc::clone(&few));
        opening.spawn_local(async move {
            let _turn = few.acquire().await;
            let mut connection = Connection::open(&load.asking).await?;
            if load.arguments.kind != Kind::Fresh {
                connection.exchange(&load.asking).await?;
            }
            Ok::<_, Broken>(connection)
        });
    }
    let mut all = Vec::new();
    while let Some(opened) = opening.join_next().await {
        let opened = opened.map_err(io::Error::other)?;
        all.push(opened.map_err(io::Error::other)?);
    }
    Ok(all)
}

/// Asks once, on a new connection where this one is closed; the connection when it is good for more.
async fn ask(load: &Load, connection: Option<Connection>, since: Instant) -> Option<Connection> {
    let limit = Duration::from_secs(load.arguments.timeout);
    let exchange = async {
        let mut connection = match connection {
            Some(open) if open.is_open() => open,
            old => {
                load.tally.borrow_mut().reopened += u64::from(old.is_some());
                Connection::open(&load.asking).await?
            }
        };
        let closes = connection.exchange(&load.asking).await?;
        Ok::<_, Broken>((!closes).then_some(connection))
    };
    let outcome = timeout(limit, exchange).await;
    let mut tally = load.tally.borrow_mut();
    match outcome.unwrap_or(Err(Broken::TimedOut)) {
        Ok(connection) => {
            tally.answered(since);
            connection
        }
        Err(why) => {
            tally.lost(&why);
            None
        }
    }
}

async fn again_and_again(load: Rc<Load>, first: Connection, began: Instant) {
    let end = began + Duration::from_secs_f64(load.arguments.seconds);
    let mut connection = Some(first);
    while load.arguments.once || Instant::now() < end {
        let lost = load.tally.borrow().lost_in_all();
        connection = ask(&load, connection, Instant::now()).await;
        if load.arguments.once {
            break;
        }
        if load.tally.borrow().lost_in_all() > lost {
            // Nobody may answer for a while; asking on would only count that many times.
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What is due is asked, however many wait for their answers: a stall is felt by all who come in it.
async fn at_a_rate(load: &Rc<Load>, rate: f64) -> io::Result<()> {
    let began = Instant::now();
    let step = Duration::from_secs_f64(1.0 / rate);
    let end = began + Duration::from_secs_f64(load.arguments.seconds);
    let mut due = began;
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = JoinSet::new();
    while due < end {
        ticks.tick().await;
        while due < end && due <= Instant::now() {
            asked.spawn_local(ask_in_turn(Rc::clone(load), due));
            due += step;
        }
        while asked.try_join_next().is_some() {}
    }
    while let Some(ended) = asked.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

/// On the connection that is free for longest; who finds none opens another.
async fn ask_in_turn(load: Rc<Load>, due: Instant) {
    let connection = load.free.borrow_mut().pop_front();
    if let Some(connection) = ask(&load, connection, due).await {
        load.free.borrow_mut().push_back(connection);
    }
}
