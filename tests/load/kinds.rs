//! The kinds of clients: how each asks, and when it must have its answer.

use crate::connection::{Checked, Expected, check, check_plain};
use crate::digest;
use gapless::verify::{Answer, Broken, Connection, Random};
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A small request, a small answer.
    Get,
    /// 16 KB up.
    Post16k,
    /// An answer that takes its time.
    Slow,
    /// A body, and now and then a head, that comes in pieces.
    DribbleUp,
    /// An answer that comes in pieces.
    DribbleDown,
    /// Two requests in one write.
    Pipelined,
    /// A connection for each request.
    New,
    /// Silent until the end; not for `--kinds`.
    #[value(skip)]
    Idle,
}

/// A good exchange.
pub struct Done {
    pub checked: Checked,
    pub took: Duration,
    /// How much later than necessary the answer began.
    pub late: Duration,
}

/// What one client asks with.
pub struct Asker {
    pub kind: Kind,
    pub client: usize,
    pub random: Random,
    pub slow_max: Duration,
    /// The app proves nothing but its version: `/`, and `/slow?ms=…`.
    pub is_plain: bool,
    asked: u64,
}

impl Asker {
    pub fn new(
        kind: Kind,
        client: usize,
        random: Random,
        slow_max: Duration,
        is_plain: bool,
    ) -> Self {
        Self {
            kind,
            client,
            random,
            slow_max,
            is_plain,
            asked: 0,
        }
    }

    fn next_id(&mut self) -> String {
        self.asked += 1;
        format!("c{}-{}", self.client, self.asked)
    }

    /// Asks once (a pair when pipelined) and checks what comes back.
    pub async fn ask(&mut self, connection: &mut Connection) -> Result<Vec<Done>, Broken> {
        match self.kind {
            Kind::Get | Kind::New | Kind::Idle => {
                let bytes = self.random.below(4096);
                let path = self.page(&format!("/echo?bytes={bytes}"));
                self.get(connection, &path, Duration::ZERO).await
            }
            Kind::Slow => {
                let wait = self.random.duration(self.slow_max);
                self.get(connection, &format!("/slow?ms={}", wait.as_millis()), wait)
                    .await
            }
            Kind::DribbleDown => {
                let (ms, chunks) = (self.random.below(2000), 2 + self.random.below(20));
                // Its first piece, and with it the head, may come after the first pause.
                let first = Duration::from_millis(ms / chunks);
                self.get(
                    connection,
                    &format!("/dribble?ms={ms}&chunks={chunks}"),
                    first,
                )
                .await
            }
            Kind::Post16k => self.post(connection).await,
            Kind::DribbleUp => self.dribble(connection).await,
            Kind::Pipelined => self.pair(connection).await,
        }
    }

    async fn get(
        &mut self,
        connection: &mut Connection,
        path: &str,
        wait: Duration,
    ) -> Result<Vec<Done>, Broken> {
        let id = self.next_id();
        let began = Instant::now();
        connection
            .send(head("GET", path, &id, "").as_bytes())
            .await?;
        let answer = connection.answer().await?;
        Ok(vec![self.done(
            &answer,
            &id,
            (digest::OFFSET, 0),
            began,
            wait,
        )?])
    }

    /// Where a plain app has all that it has.
    fn page(&self, path: &str) -> String {
        if self.is_plain { "/" } else { path }.to_owned()
    }

    async fn post(&mut self, connection: &mut Connection) -> Result<Vec<Done>, Broken> {
        let (id, body) = (self.next_id(), self.random.bytes(16_384));
        let mut request = head("POST", "/echo", &id, "Content-Length: 16384\r\n").into_bytes();
        request.extend_from_slice(&body);
        let began = Instant::now();
        connection.send(&request).await?;
        let answer = connection.answer().await?;
        let sent = (digest::add(digest::OFFSET, &body), body.len());
        Ok(vec![self.done(
            &answer,
            &id,
            sent,
            began,
            Duration::ZERO,
        )?])
    }

    /// In 4 to 12 pieces over at most a second, half of them chunked; every fourth head in two.
    async fn dribble(&mut self, connection: &mut Connection) -> Result<Vec<Done>, Broken> {
        let id = self.next_id();
        let pieces = 4 + self.random.below(9);
        let is_chunked = self.random.below(2) == 0;
        let pause = Duration::from_millis(self.random.below(1000) / pieces);
        let length = if is_chunked {
            "Transfer-Encoding: chunked\r\n".to_owned()
        } else {
            format!("Content-Length: {}\r\n", pieces * 1000)
        };
        let head = head("POST", "/echo", &id, &length);
        let half = if self.random.below(4) == 0 {
            head.len() / 2
        } else {
            head.len()
        };
        let (first, second) = head.split_at(half);
        connection.send(first.as_bytes()).await?;
        if !second.is_empty() {
            sleep(pause).await;
            connection.send(second.as_bytes()).await?;
        }
        let mut sent = (digest::OFFSET, 0);
        for _ in 0..pieces {
            sleep(pause).await;
            let piece = self.random.bytes(1000);
            sent = (digest::add(sent.0, &piece), sent.1 + piece.len());
            if is_chunked {
                let framed = [b"3e8\r\n", piece.as_slice(), b"\r\n"].concat();
                connection.send(&framed).await?;
            } else {
                connection.send(&piece).await?;
            }
        }
        if is_chunked {
            connection.send(b"0\r\n\r\n").await?;
        }
        let began = Instant::now();
        let answer = connection.answer().await?;
        Ok(vec![self.done(
            &answer,
            &id,
            sent,
            began,
            Duration::ZERO,
        )?])
    }

    async fn pair(&mut self, connection: &mut Connection) -> Result<Vec<Done>, Broken> {
        let ids = [self.next_id(), self.next_id()];
        let page = self.page("/echo?bytes=200");
        let both = ids.each_ref().map(|id| head("GET", &page, id, "")).concat();
        let began = Instant::now();
        connection.send(both.as_bytes()).await?;
        let mut all = Vec::new();
        for id in &ids {
            let answer = connection.answer().await?;
            all.push(self.done(&answer, id, (digest::OFFSET, 0), began, Duration::ZERO)?);
        }
        Ok(all)
    }

    fn done(
        &self,
        answer: &Answer,
        id: &str,
        sent: (u64, usize),
        began: Instant,
        wait: Duration,
    ) -> Result<Done, Broken> {
        let checked = if self.is_plain {
            check_plain(answer)?
        } else {
            check(answer, &Expected { id, sent })?
        };
        let late = answer
            .began
            .saturating_duration_since(began)
            .saturating_sub(wait);
        Ok(Done {
            checked,
            took: began.elapsed(),
            late,
        })
    }
}

fn head(method: &str, path: &str, id: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: load.test\r\nX-Client-Id: {id}\r\n{more}\r\n")
}
