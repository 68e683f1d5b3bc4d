//! The hostile crowd: opens so many connections of each kind, does with them what hostile clients
//! do, and holds what the server lets it hold until it is killed. Prints `ready` when every
//! connection was opened and has said its first words.
//!
//! Each kind comes from an address of its own, so that the ports of one suffice.

#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a tool of the tests"
)]

use clap::Parser;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

/// Between two bytes of a trickle: less than any timeout.
const TRICKLE: Duration = Duration::from_millis(1500);

/// Handshakes under way: less than the queue of the listener holds.
const CONNECTING_MAX: usize = 256;

#[derive(Debug, Parser)]
struct Arguments {
    /// Of the server
    address: SocketAddr,
    /// Connections of each kind
    #[arg(long, default_value_t = 2000)]
    each: usize,
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "slow-head,slow-body,slow-reader,idle,half-closed,connect-only,pipeliner"
    )]
    kinds: Vec<Kind>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// A head that gets longer by a byte now and then.
    SlowHead,
    /// The same of a body.
    SlowBody,
    /// A large answer, of which it takes a byte now and then.
    SlowReader,
    /// One request, and nothing more.
    Idle,
    /// Shuts down its side when it has asked.
    HalfClosed,
    /// Says nothing at all.
    ConnectOnly,
    /// Asks as long as it can, and takes no answer.
    Pipeliner,
}

impl Kind {
    async fn open(self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // What it does not take must wait at the server, not in our kernel.
        socket.set_recv_buffer_size(4096)?;
        socket.bind((Ipv4Addr::new(127, 0, 1, self.host()), 0).into())?;
        let mut stream = socket.connect(to).await?;
        stream.write_all(self.first_words()).await?;
        if let Kind::HalfClosed = self {
            stream.shutdown().await?;
        }
        Ok(stream)
    }

    /// Of its address.
    fn host(self) -> u8 {
        match self {
            Kind::SlowHead => 1,
            Kind::SlowBody => 2,
            Kind::SlowReader => 3,
            Kind::Idle => 4,
            Kind::HalfClosed => 5,
            Kind::ConnectOnly => 6,
            Kind::Pipeliner => 7,
        }
    }

    fn first_words(self) -> &'static [u8] {
        match self {
            Kind::SlowHead => b"GET / HTTP/1.1\r\nHost: t\r\nX: ",
            Kind::SlowBody => b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n",
            Kind::SlowReader => b"GET /?bytes=200000 HTTP/1.1\r\nHost: t\r\n\r\n",
            Kind::Idle => b"GET / HTTP/1.1\r\nHost: t\r\n\r\n",
            Kind::HalfClosed => b"GET /slow?ms=2000 HTTP/1.1\r\nHost: t\r\n\r\n",
            Kind::ConnectOnly => b"",
            Kind::Pipeliner => b"GET /?bytes=20000 HTTP/1.1\r\nHost: t\r\n\r\n",
        }
    }

    /// Until the server ends it.
    async fn hold(self, mut stream: TcpStream) -> io::Result<()> {
        let mut bytes = [0; 512];
        match self {
            Kind::SlowHead | Kind::SlowBody => loop {
                tokio::time::sleep(TRICKLE).await;
                stream.write_all(b"x").await?;
            },
            Kind::SlowReader => loop {
                tokio::time::sleep(TRICKLE).await;
                if stream.read(&mut bytes[..1]).await? == 0 {
                    return Ok(());
                }
            },
            Kind::Pipeliner => {
                for _ in 0..10_000 {
                    stream.write_all(self.first_words()).await?;
                }
                std::future::pending().await
            }
            Kind::Idle | Kind::HalfClosed | Kind::ConnectOnly => {
                while stream.read(&mut bytes).await? > 0 {}
                Ok(())
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::parse();
    let places = Rc::new(Semaphore::new(CONNECTING_MAX));
    let crowd = LocalSet::new();
    let mut opening = JoinSet::new();
    for _ in 0..arguments.each {
        for kind in &arguments.kinds {
            let (kind, to, places) = (*kind, arguments.address, Rc::clone(&places));
            opening.spawn_local_on(
                async move {
                    let place = places.acquire().await.expect("it is never closed");
                    let opened = kind.open(to).await;
                    drop(place);
                    // Refused or ended: that is the server's good right.
                    tokio::task::spawn_local(async move {
                        if let Ok(stream) = opened {
                            drop(kind.hold(stream).await);
                        }
                    });
                },
                &crowd,
            );
        }
    }
    crowd
        .run_until(async {
            while opening.join_next().await.is_some() {}
            println!("ready");
            std::future::pending::<()>().await;
        })
        .await;
}
