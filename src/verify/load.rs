//! The clients: some ask again and again over the same connection, some connect for each request, and
//! some are silent until a phase ends and ask then.

use super::connection::{Address, Broken, Connection, Idle};
use super::random::Random;
use super::rest::{self, Judged, Method, Rest, Target, Tokens};
use super::tally::{Closed, Loss, Lost, Phase, Tally};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// An answer that is not whole by then is lost.
const LATE: Duration = Duration::from_secs(30);
/// The longest pause between two requests of a client.
const THINK_MAX: Duration = Duration::from_millis(100);
/// After a loss at least this: who is refused would ask thousands of times a second.
const AFTER_LOSS: Duration = Duration::from_millis(20);
/// Requests, one by one, by which the app is known before the load begins.
const ASKED_FIRST: usize = 3;
/// One of so many requests is a POST, where there are any.
const POST_EVERY: u64 = 10;

/// What to ask, of whom.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it listens.
    pub address: Address,
    /// The Host: of every request.
    pub host: String,
    /// What is asked for, in turn.
    pub gets: Vec<String>,
    /// What one of ten requests is a POST to.
    pub post: Option<String>,
    /// Clients, each with one connection.
    pub connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Busy,
    New,
    Idle,
}

impl Kind {
    /// Of four, one is silent; of eight, one connects anew. A single one asks.
    fn of(client: usize) -> Self {
        match client % 8 {
            2 | 6 => Self::Idle,
            4 => Self::New,
            _ => Self::Busy,
        }
    }
}

/// What all clients share.
struct Shared {
    wanted: Wanted,
    targets: Vec<Target>,
    began: Instant,
    tokens: RefCell<Tokens>,
    rest: RefCell<Rest>,
    tally: RefCell<Tally>,
    /// Changes with every phase; closed at the end.
    phase: RefCell<Option<watch::Sender<usize>>>,
}

/// A load that runs in a [`tokio::task::LocalSet`].
pub struct Load {
    shared: Rc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    /// Asks every target a few times, one by one, so that it is known how the app answers; then begins.
    ///
    /// # Errors
    /// The target that the app does not answer at rest, and why.
    pub async fn begin(wanted: Wanted, run: u32) -> Result<Self, (Target, Broken)> {
        let mut targets: Vec<_> = wanted
            .gets
            .iter()
            .map(|path| target(Method::Get, path))
            .collect();
        targets.extend(wanted.post.iter().map(|path| target(Method::Post, path)));
        let (phase, _) = watch::channel(0);
        let shared = Rc::new(Shared {
            targets: targets.clone(),
            began: Instant::now(),
            tokens: RefCell::new(Tokens::new(run)),
            rest: RefCell::new(Rest::new(targets.len())),
            tally: RefCell::new(Tally::default()),
            phase: RefCell::new(Some(phase)),
            wanted,
        });
        for (number, target) in targets.iter().enumerate() {
            let learned = shared.learn(number).await;
            learned.map_err(|broken| (target.clone(), broken))?;
        }
        let load = Self {
            shared,
            clients: JoinSet::new(),
        };
        Ok(load)
    }

    /// A phase ends, if there was one, and this one begins; the first starts the clients.
    pub fn enter(&mut self, name: &str, is_rest: bool) {
        let shared = &self.shared;
        let phase = Phase::new(name, is_rest, shared.targets.len());
        shared.tally.borrow_mut().phases.push(phase);
        if let Some(sender) = &*shared.phase.borrow() {
            sender.send_modify(|phase| *phase += 1);
        }
        if self.clients.is_empty() {
            for client in 0..self.shared.wanted.connections {
                let client = Client::new(Rc::clone(&self.shared), client);
                self.clients.spawn_local(client.run());
            }
        }
    }

    /// Lets every client finish what it asked, and every silent one ask once.
    pub async fn finish(&mut self) {
        drop(self.shared.phase.borrow_mut().take());
        while self.clients.join_next().await.is_some() {}
    }

    /// Looks at the phases so far; the last one is under way until the load is finished.
    pub fn phases<T>(&self, look: impl FnOnce(&mut [Phase]) -> T) -> T {
        look(&mut self.shared.tally.borrow_mut().phases)
    }

    /// When a rest after something is over: how many answers meanwhile were another page than before
    /// and after. They are counted there as lost.
    pub fn look_back(&self) -> u64 {
        self.shared.tally.borrow_mut().look_back()
    }

    /// The first few.
    pub fn losses(&self) -> Vec<Loss> {
        self.shared.tally.borrow().losses.clone()
    }
}

fn target(method: Method, path: &str) -> Target {
    Target {
        method,
        path: path.to_owned(),
    }
}

impl Shared {
    async fn learn(&self, target: usize) -> Result<(), Broken> {
        let mut connection: Option<Connection> = None;
        for _ in 0..ASKED_FIRST {
            let mut open = match connection.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            let (token, answered) = self.exchange(&mut open, target).await;
            let answer = answered?;
            let tokens = self.tokens.borrow();
            let judged = self
                .rest
                .borrow_mut()
                .judge(target, &answer, (&tokens, &token), true);
            if let Judged::Bad(_, why) = judged {
                return Err(Broken::Wrong(why));
            }
            connection = (!answer.head.closes()).then_some(open);
        }
        Ok(())
    }

    async fn open(&self) -> Result<Connection, Broken> {
        let opened = timeout(LATE, Connection::open(&self.wanted.address)).await;
        opened.unwrap_or(Err(Broken::TimedOut(LATE)))
    }

    /// Asks once, with a token of its own.
    async fn exchange(
        &self,
        connection: &mut Connection,
        target: usize,
    ) -> (String, Result<super::Answer, Broken>) {
        let token = self.tokens.borrow_mut().next();
        let request = self
            .targets
            .get(target)
            .map(|target| target.request(&self.wanted.host, &token));
        connection.bytes_seen = 0;
        let asked = async {
            connection
                .send(request.unwrap_or_default().as_bytes())
                .await?;
            connection.answer().await
        };
        let answered = timeout(LATE, asked).await;
        (token, answered.unwrap_or(Err(Broken::TimedOut(LATE))))
    }

    fn with_phase(&self, count: impl FnOnce(&mut Phase)) {
        if let Some(phase) = self.tally.borrow_mut().now() {
            count(phase);
        }
    }

    fn lost(&self, target: usize, kind: Lost, why: String) {
        let mut tally = self.tally.borrow_mut();
        let Some(phase) = tally.now() else { return };
        *phase.lost.entry(kind).or_default() += 1;
        let loss = Loss {
            at_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            phase: phase.name.clone(),
            kind,
            target: self
                .targets
                .get(target)
                .map(ToString::to_string)
                .unwrap_or_default(),
            why,
        };
        tally.tell(loss);
    }

    fn closed(&self, how: Closed) {
        self.with_phase(|phase| *phase.closed.entry(how).or_default() += 1);
    }
}

struct Client {
    shared: Rc<Shared>,
    kind: Kind,
    random: Random,
    asked: u64,
    connection: Option<Connection>,
    /// Of the request before; the next one comes later.
    has_lost: bool,
}

impl Client {
    fn new(shared: Rc<Shared>, number: usize) -> Self {
        let seed = u64::try_from(number).unwrap_or(0);
        Self {
            shared,
            kind: Kind::of(number),
            random: Random::new(seed.wrapping_add(1)),
            // So that clients do not all ask for the same at once.
            asked: seed,
            connection: None,
            has_lost: false,
        }
    }

    async fn run(mut self) {
        let subscribed = self
            .shared
            .phase
            .borrow()
            .as_ref()
            .map(watch::Sender::subscribe);
        let Some(mut phase) = subscribed else { return };
        loop {
            self.ask().await;
            let is_over = match self.kind {
                Kind::Busy | Kind::New => {
                    let pause = self.random.duration(THINK_MAX);
                    let pause = if self.has_lost {
                        pause.max(AFTER_LOSS)
                    } else {
                        pause
                    };
                    self.watch(pause).await;
                    phase.has_changed().is_err()
                }
                Kind::Idle => self.wait_for_another(&mut phase).await,
            };
            if is_over {
                // The silent ones have not shown yet that they can still ask.
                if self.kind == Kind::Idle {
                    self.ask().await;
                }
                return;
            }
        }
    }

    /// Silent until the phase ends; true when the load does.
    async fn wait_for_another(&mut self, phase: &mut watch::Receiver<usize>) -> bool {
        let hour = Duration::from_hours(1);
        let Some(connection) = &mut self.connection else {
            return phase.changed().await.is_err();
        };
        let (idle, is_over) = tokio::select! {
            changed = phase.changed() => (Idle::Quiet, changed.is_err()),
            idle = connection.idle(hour) => (idle, false),
        };
        self.note(&idle);
        is_over
    }

    /// A pause, in which nothing may come.
    async fn watch(&mut self, pause: Duration) {
        match &mut self.connection {
            Some(connection) => {
                let idle = connection.idle(pause).await;
                self.note(&idle);
            }
            None => tokio::time::sleep(pause).await,
        }
    }

    fn note(&mut self, idle: &Idle) {
        match idle {
            Idle::Quiet => return,
            Idle::Eof => self.shared.closed(Closed::WhileIdle),
            Idle::Reset => self.shared.closed(Closed::ResetWhileIdle),
            Idle::Spoke => {
                let why = "bytes that nobody asked for".to_owned();
                self.shared.lost(usize::MAX, Lost::Crossed, why);
            }
        }
        self.connection = None;
    }

    fn next_target(&mut self) -> usize {
        self.asked += 1;
        let gets = self.shared.wanted.gets.len();
        if self.shared.wanted.post.is_some() && self.random.below(POST_EVERY) == 0 {
            return gets;
        }
        let turn = usize::try_from(self.asked).unwrap_or(0);
        turn.checked_rem(gets).unwrap_or(0)
    }

    async fn ask(&mut self) {
        let target = self.next_target();
        let began = Instant::now();
        self.has_lost = true;
        let opened = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.shared.open().await,
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(broken) => {
                self.shared.with_phase(|phase| phase.sent += 1);
                let why = broken.to_string();
                return self.shared.lost(target, rest::lost(&broken, 0), why);
            }
        };
        let (token, answered) = self.shared.exchange(&mut connection, target).await;
        self.shared.with_phase(|phase| phase.sent += 1);
        let answer = match answered {
            Ok(answer) => answer,
            Err(broken) => {
                let seen = connection.bytes_seen;
                let why = format!("{broken}, after {seen} bytes of the answer");
                return self.shared.lost(target, rest::lost(&broken, seen), why);
            }
        };
        self.answered(target, &answer, &token, began);
        if answer.head.closes() {
            self.shared.closed(Closed::Announced);
        } else if self.kind != Kind::New {
            self.connection = Some(connection);
        }
    }

    fn answered(&mut self, target: usize, answer: &super::Answer, token: &str, began: Instant) {
        // Only the first rest shows what the app does when nothing happened to it.
        let is_rest = self.shared.tally.borrow().phases.len() <= 1;
        let tokens = self.shared.tokens.borrow();
        let mut rest = self.shared.rest.borrow_mut();
        let judged = rest.judge(target, answer, (&tokens, token), is_rest);
        let wait = answer.began.saturating_duration_since(began);
        match judged {
            Judged::Good(face) => {
                self.has_lost = false;
                self.shared.with_phase(|phase| {
                    phase.waited(target, wait);
                    if let (Some(face), Some(faces)) = (face, phase.faces.get_mut(target)) {
                        faces.add(face);
                    }
                });
            }
            Judged::Failed(status) => {
                self.shared
                    .with_phase(|phase| *phase.failed.entry(status).or_default() += 1);
            }
            Judged::Bad(Lost::ServerError, _)
                if self.is_not_repeatable(target, answer.head.status) =>
            {
                self.shared.with_phase(|phase| phase.not_repeatable += 1);
            }
            Judged::Bad(kind, why) => self.shared.lost(target, kind, why),
        }
    }

    /// A worker was killed that had begun a POST: HTTP forbids to send that again.
    fn is_not_repeatable(&self, target: usize, status: u16) -> bool {
        let method = self.shared.targets.get(target).map(|target| target.method);
        let mut tally = self.shared.tally.borrow_mut();
        let is_kill = tally.now().is_some_and(|phase| phase.name == "kill");
        is_kill && method == Some(Method::Post) && status == 502
    }
}
