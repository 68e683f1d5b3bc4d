//! The least that a proxy can do with hyper on both sides: measured beside gapless, it tells what is
//! hyper's from what is ours.
//!
//! A lane per core with its own connections to the apps, and X-Forwarded headers, as all have them. No
//! limits, no timeouts, no upgrade, no look at what is sent, no second try: nothing of what a server is
//! for.
//!
//! `bench-bare PORT APP_PORT...`

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue};
use hyper::server::conn::http1::Builder;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::ParseIntError;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::task::spawn_local;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The apps in turn, and the connections of a lane to them that nobody uses.
struct Pool {
    apps: RefCell<VecDeque<SocketAddr>>,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let port = |text: String| Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, text.parse()?)));
    let addresses: Result<VecDeque<_>, ParseIntError> =
        std::env::args().skip(1).map(port).collect();
    let mut apps = addresses?;
    let own = apps.pop_front().ok_or("bench-bare PORT APP_PORT...")?;
    let listener = std::net::TcpListener::bind(own)?;
    listener.set_nonblocking(true)?;
    let lanes = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let start = |_| {
            let listener = listener.try_clone()?;
            let apps = apps.clone();
            Ok(scope.spawn(move || serve(listener, apps)))
        };
        let lanes: io::Result<Vec<_>> = (0..lanes).map(start).collect();
        for lane in lanes? {
            lane.join().map_err(|_panic| "a lane ended")??;
        }
        Ok(())
    })
}

fn serve(listener: std::net::TcpListener, apps: VecDeque<SocketAddr>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let pool = Rc::new(Pool {
            apps: RefCell::new(apps),
            idle: RefCell::default(),
        });
        loop {
            let (socket, peer) = listener.accept().await?;
            socket.set_nodelay(true)?;
            spawn_local(converse(socket, peer, Rc::clone(&pool)));
            tokio::task::yield_now().await;
        }
    })
}

async fn converse(socket: TcpStream, peer: SocketAddr, pool: Rc<Pool>) {
    let Ok(peer) = HeaderValue::try_from(peer.ip().to_string()) else {
        return;
    };
    let service = hyper::service::service_fn(|request| answer(&pool, &peer, request));
    let mut builder = Builder::new();
    builder.header_read_timeout(None);
    // It left, or the app did: `bench-load` counts what that costs.
    drop(
        builder
            .serve_connection(TokioIo::new(socket), service)
            .await,
    );
}

async fn answer(
    pool: &Rc<Pool>,
    peer: &HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Box<dyn Error + Send + Sync>> {
    let headers = request.headers_mut();
    headers.remove(CONNECTION);
    headers.insert(FORWARDED_FOR, peer.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    let mut connection = connect(pool).await?;
    let mut response = connection.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response.map(|body| Answer {
        body,
        connection: Some(connection),
        pool: Rc::clone(pool),
    }))
}

async fn connect(pool: &Pool) -> Result<SendRequest<Incoming>, Box<dyn Error + Send + Sync>> {
    let pop = || pool.idle.borrow_mut().pop();
    let mut pooled = pop();
    while let Some(mut connection) = pooled {
        if connection.ready().await.is_ok() {
            return Ok(connection);
        }
        pooled = pop();
    }
    pool.apps.borrow_mut().rotate_left(1);
    let app = pool.apps.borrow().front().copied().ok_or("no APP_PORT")?;
    let socket = TcpStream::connect(app).await?;
    socket.set_nodelay(true)?;
    let (connection, driver) = handshake(TokioIo::new(socket)).await?;
    spawn_local(driver);
    Ok(connection)
}

/// Gives its connection back when it has passed.
struct Answer {
    body: Incoming,
    connection: Option<SendRequest<Incoming>>,
    pool: Rc<Pool>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|one| !one.is_closed()) {
            self.pool.idle.borrow_mut().push(connection);
        }
    }
}
