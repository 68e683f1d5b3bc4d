//! How a keeper begins: what it needs from the system, what it takes up, what it begins anew.

use super::{
    Images, Keeper, KeeperError, Mode, Options, QUEUE, Readiness, Rounds, Wanted, now, unit,
};
use crate::causes::chain;
use crate::exec::{OWN_IMAGE, relay};
use crate::id::GenerationId;
use crate::keeper::admin;
use crate::keeper::adoption::{self, Kept, Memory, Remembered};
use crate::keeper::cgroup::OwnGroup;
use crate::keeper::changes::Changes;
use crate::keeper::control;
use crate::keeper::control::socket::{self, Door};
use crate::keeper::counter::GenerationCounter;
use crate::keeper::fronts::Fronts;
use crate::keeper::happening::{Happening, Outbox};
use crate::keeper::lifetime::{Lifetime, SaidOnce};
use crate::keeper::listeners::{self, ListenError, Listener, Listeners};
use crate::keeper::output::{Output, Sink};
use crate::keeper::plan::{Event, Plan};
use crate::keeper::reaper;
use crate::keeper::spawn;
use crate::keeper::status::Said;
use crate::keeper::stored;
use crate::keeper::totals::{self, Totals};
use crate::keeper::upgrade::{self, WayBack};
use crate::keeper::yard::Yard;
use crate::steps::{self, Step};
use crate::systemd::given;
use crate::systemd::{journal, message_id};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Who develops an app may look on; who was given the app of a service may not.
fn refuse_tracer(mode: &Mode) -> Result<(), KeeperError> {
    match (spawn::refuse_tracer(), mode) {
        (Ok(()), _) => Ok(()),
        (Err(error), Mode::Systemd) => {
            tracing::error!(%error, "not starting: {error}");
            Err(KeeperError::System("keep its memory to itself", error))
        }
        (Err(error), Mode::Foreground { .. }) => {
            tracing::warn!(%error, "the memory of the keeper is open: {error}");
            Ok(())
        }
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// [`KeeperError`] when it cannot begin; nothing was started then.
pub fn run(options: Options) -> Result<(), KeeperError> {
    std::fs::read_link(OWN_IMAGE).map_err(KeeperError::NoProc)?;
    // Before anything else, while there is one thread: these fds must not leak into children.
    let given = if options.mode == Mode::Systemd || is_next_image() {
        given::take()?
    } else {
        Vec::new()
    };
    let program = upgrade::installed()
        .map_err(|error| KeeperError::System("find its installed binary", error))?;
    let way_back = match WayBack::of(&given, &program) {
        Some(way_back) if way_back.is_of_a_dead_image() => {
            let next = way_back.next(&chain(&KeeperError::Died));
            match relay::become_next(&next).map_err(KeeperError::Exec)? {}
        }
        way_back => way_back,
    };
    // Until they are heard, and never by another thread: see `relay`.
    relay::hold().map_err(|error| KeeperError::System("hold back signals", error))?;
    spawn::harden_self().map_err(|error| KeeperError::System("make itself unreadable", error))?;
    refuse_tracer(&options.mode)?;
    reaper::become_subreaper()
        .map_err(|error| KeeperError::System("become the reaper of its workers", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| KeeperError::System("start its loop", error))?;
    let next = LocalSet::new().block_on(&runtime, async move {
        let (outbox, inbox) = Outbox::new(QUEUE);
        let begun = Keeper::begin(options, program, given, &outbox);
        let mut keeper = match (begun, way_back) {
            // What it holds open ends here.
            (Ok(keeper), _) => keeper,
            (Err(error), Some(way_back)) => return Ok(Some(way_back.next(&chain(&error)))),
            (Err(error), None) => return Err(error),
        };
        keeper.turn(inbox).await;
        keeper.next_image().map_err(KeeperError::Exec)
    })?;
    drop(runtime);
    if let Some(next) = next {
        match relay::become_next(&next).map_err(KeeperError::Exec)? {}
    }
    Ok(())
}

/// In the foreground fds are given only by the image before: whatever else LISTEN_FDS says there was
/// said to somebody else.
fn is_next_image() -> bool {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    names.split(':').any(|name| name == stored::STATE)
}

impl Keeper {
    fn begin(
        options: Options,
        program: PathBuf,
        given: Vec<given::Given>,
        outbox: &Outbox,
    ) -> Result<Self, KeeperError> {
        let mut kept = adoption::sort(given);
        if kept.take(upgrade::IMAGE).is_some() && !kept.has_state() {
            return Err(KeeperError::Unable);
        }
        let unit = unit(&options.name);
        let (control, given) = socket::from_given(kept.sockets());
        let (listeners, admin) = sockets(&options.mode, given, kept.listeners(), &unit)?;
        let Listeners {
            open: listeners,
            closing,
        } = listeners;
        let control = listen_for_commands(&options, &mut kept, control)?;
        let env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let sink = match options.mode {
            Mode::Systemd if journal::is_connected() => Sink::Journal {
                name: options.name.clone(),
            },
            Mode::Systemd | Mode::Foreground { .. } => Sink::Terminal,
        };
        let output = Output::start(sink)?;
        let yard = Yard {
            name: options.name.clone(),
            runtime_directory: options.runtime_directory.clone(),
            env: Rc::new(spawn::app_environment(env.clone())),
            output: Rc::new(output),
            deposits: Rc::default(),
            oom: Rc::default(),
            outbox: outbox.clone(),
            is_foreground: options.mode != Mode::Systemd,
        };
        yard.make_app_directory();
        let (counter, first) = generation_counter(&options);
        let lifetime = options.state_directory.as_deref().map(Lifetime::new);
        let now = now();
        let mut keeper = Self {
            // In a terminal the group is shared with whatever else runs there.
            group: (options.mode == Mode::Systemd)
                .then(OwnGroup::find)
                .flatten(),
            listeners,
            closing,
            env,
            memory: Memory::new(Plan::new(first, seed())),
            crews: BTreeMap::new(),
            fronts: Fronts::new(outbox.clone(), counted_before(lifetime.as_ref())),
            waiters: Vec::new(),
            finishing: Vec::new(),
            errand: None,
            consoles: Vec::new(),
            has_nothing: false,
            untold: VecDeque::new(),
            counter,
            state: None,
            events: VecDeque::new(),
            young_fronts: 0,
            front_due: None,
            readiness: Readiness::Undecided,
            has_heard_reload: false,
            is_reloading: false,
            end: None,
            is_dirty: true,
            stops: 0,
            was_coming: None,
            admin,
            said: Said::default(),
            quieting: Vec::new(),
            counter_said: SaidOnce::default(),
            began: now,
            began_unix_seconds: totals::unix_seconds(),
            rounds: Rounds::new(lifetime, now),
            images: Images::new(program),
            yard,
            options,
        };
        keeper.listen(control, outbox)?;
        keeper.say_that_it_starts();
        let remembered = keeper.open_state(&mut kept);
        let was_released = keeper.adopt(remembered, kept);
        keeper.first_round(was_released);
        Ok(keeper)
    }

    fn say_that_it_starts(&self) {
        let listeners = self.listeners.iter();
        let places: Vec<_> = listeners.map(|it| it.address.as_str()).collect();
        tracing::info!(
            name: message_id::STARTED.name,
            pid = std::process::id(),
            "gapless {} starts, on {}", env!("CARGO_PKG_VERSION"), places.join(", ")
        );
    }

    /// To whoever commands: by the control socket, load balancers' questions, files, signals.
    fn listen(&self, control: Vec<Door>, outbox: &Outbox) -> Result<(), KeeperError> {
        for door in control {
            tokio::task::spawn_local(control::serve(door, outbox.clone()));
        }
        for listener in &self.admin {
            let copy = listener.try_clone();
            let copy =
                copy.map_err(|error| KeeperError::System("serve the admin socket", error))?;
            tokio::task::spawn_local(admin::serve(copy, outbox.clone()));
        }
        if let Mode::Foreground { watch, .. } = &self.options.mode
            && !watch.is_empty()
        {
            Changes::new(watch.clone())?.tell(outbox.clone())?;
        }
        hear_signals(outbox).map_err(|error| KeeperError::System("watch signals", error))
    }

    /// What to begin with: everything anew, a new generation and front beside the adopted ones, or
    /// just what was adopted.
    fn first_round(&mut self, was_released: bool) {
        // What is live was decided long ago, and what comes beside it is a reload. And systemd must
        // know soon: it stops a unit that is still starting without ExecStop=, so the next restart
        // would be a plain stop.
        if self.memory.plan.live().is_some() {
            self.readiness = Readiness::Decided;
        }
        let level = self.memory.log_level.clone();
        self.use_level(&level);
        let has_any =
            self.memory.plan.is_stopping() || self.memory.plan.generations().next().is_some();
        let is_crash = has_any && !was_released;
        self.arrive(is_crash);
        if is_crash {
            // The front that is there accepts from what is to be closed.
            if !self.fronts.has_any_current() || !self.closing.is_empty() {
                self.bear_front();
            }
        } else {
            let config = self.configuration(&Wanted::Current);
            if let Ok(config) = &config {
                self.memory.http = config.http.clone();
                self.use_level(&config.log.level);
                self.memory.access = config.log.access;
            }
            self.bear_front();
            self.begin_first(config);
            steps::reached(Step::GenerationBegun);
        }
        if self.memory.plan.is_stopping() && self.fronts.is_empty() {
            // The last keeper may have died with the word of it.
            self.events.push_back(Event::FrontsGone);
        }
        // Who ended between two images.
        self.reap_orphans();
        self.work();
        self.say_ready_if_decided();
    }

    fn open_state(&mut self, kept: &mut Kept) -> Option<Remembered> {
        let (state, remembered) = adoption::open_state(kept);
        self.state = state;
        remembered
    }
}

/// Those of the image before, so that nobody is refused between the two; those of systemd; or one of our own.
fn listen_for_commands(
    options: &Options,
    kept: &mut Kept,
    given: Vec<OwnedFd>,
) -> Result<Vec<Door>, KeeperError> {
    let mut control: Vec<OwnedFd> = (0..)
        .map_while(|number| kept.take(&stored::of_control(number)))
        .collect();
    if control.is_empty() {
        control = given;
        if let Some(first) = control.first()
            && let Err(error) = socket::leave_link(&options.runtime_directory, first)
        {
            tracing::debug!(%error, "no link to the control socket: {error}");
        }
        if control.is_empty() {
            let present = match options.mode {
                Mode::Systemd => socket::Present::Replaced,
                Mode::Foreground { .. } => socket::Present::Respected,
            };
            control.push(socket::listen(&options.runtime_directory, present)?);
        }
        for (number, fd) in control.iter().enumerate() {
            stored::copy(&stored::of_control(number), fd);
        }
    }
    let doors: io::Result<_> = control.into_iter().map(Door::new).collect();
    doors.map_err(|error| KeeperError::System("use the control socket", error))
}

fn generation_counter(options: &Options) -> (Option<GenerationCounter>, u64) {
    let Some(directory) = &options.state_directory else {
        return (None, 1);
    };
    let counter = GenerationCounter::new(directory);
    let last = counter.read().unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "generation numbers begin anew: {}", chain(&error));
        GenerationId(0)
    });
    (Some(counter), last.0.saturating_add(1))
}

fn counted_before(lifetime: Option<&Lifetime>) -> Totals {
    let before = lifetime.map_or(Ok(None), Lifetime::read);
    let before = before.unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "{}", chain(&error));
        None
    });
    before.unwrap_or_else(Totals::beginning)
}

fn seed() -> u64 {
    u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Where clients connect, and where load balancers ask. What an image before this one bound is bound.
fn sockets(
    mode: &Mode,
    given: Vec<given::Given>,
    kept: Vec<OwnedFd>,
    unit: &str,
) -> Result<(Listeners, Vec<Listener>), ListenError> {
    let (mut admin, given) = listeners::admin(given);
    let listeners = match mode {
        Mode::Systemd => listeners::from_given(given, kept, &admin, unit)?,
        Mode::Foreground {
            host,
            port,
            admin: wanted,
            ..
        } => {
            if let (Some(address), []) = (*wanted, &*admin) {
                admin.push(listeners::bind_admin(address)?);
            }
            if kept.is_empty() {
                Listeners {
                    open: listeners::bind(host, *port)?,
                    closing: Vec::new(),
                }
            } else {
                listeners::from_given(Vec::new(), kept, &[], unit)?
            }
        }
    };
    Ok((listeners, admin))
}

/// SIGHUP reloads; SIGUSR2 upgrades; SIGTERM and SIGINT stop; SIGCHLD reaps; the rest that would end a process is
/// heard and ignored, because a stray signal must not cost a request.
fn hear_signals(outbox: &Outbox) -> io::Result<()> {
    type Heard = Option<fn() -> Happening>;
    let signals: [(SignalKind, Heard); 9] = [
        (SignalKind::hangup(), Some(|| Happening::Reload)),
        (SignalKind::terminate(), Some(|| Happening::Stop)),
        (SignalKind::interrupt(), Some(|| Happening::Stop)),
        (SignalKind::child(), Some(|| Happening::ChildEnded)),
        (SignalKind::user_defined1(), None),
        (SignalKind::user_defined2(), Some(|| Happening::Upgrade)),
        (SignalKind::quit(), None),
        (SignalKind::alarm(), None),
        (SignalKind::pipe(), None),
    ];
    for (kind, heard) in signals {
        let mut stream = signal(kind)?;
        let outbox = outbox.clone();
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() {
                if let Some(happening) = heard {
                    outbox.put(happening()).await;
                } else {
                    tracing::debug!(signal = kind.as_raw_value(), "signal ignored");
                }
            }
        });
    }
    relay::hear()
}
