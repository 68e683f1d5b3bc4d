//! Starts, reloads, stops and crashes that begin while another is under way.

use crate::world::service::{SOON, Service};
use crate::world::{eventually, is_long, process, version};
use crate::{QUICK, expect_bounded, the_version};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Of every generation in these tests.
const BOOT_MS: u64 = 250;

/// What happens to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Start,
    Reload,
    Stop,
    /// The keeper is killed, and started again.
    Crash,
    /// The worker that serves is killed.
    Death,
}

use Deed::{Crash, Death, Reload, Start, Stop};

/// A service, and what should have become of it.
struct Scene {
    service: Service,
    deeds: Vec<Deed>,
    newest: u32,
    /// What was heard of the keeper before the newest SIGHUP.
    heard_before: usize,
    /// SIGTERM was sent, so its end is awaited before the next start, as systemd does.
    is_stopped: bool,
}

impl Scene {
    fn new() -> Self {
        let mut service = Service::new("gapless");
        service.listen_tcp("http");
        service.configure_probe(QUICK, "");
        let mut scene = Self {
            service,
            deeds: Vec::new(),
            newest: 0,
            heard_before: 0,
            is_stopped: true,
        };
        scene.next_version();
        scene
    }

    fn next_version(&mut self) {
        self.newest += 1;
        let next = version(&format!("v{}", self.newest)).with("BOOT_MS", &BOOT_MS.to_string());
        self.service.behave(&next);
    }

    /// Begins it; its end is not awaited.
    fn begin(&mut self, deed: Deed) {
        self.deeds.push(deed);
        match deed {
            Start => self.start(),
            Reload if self.is_stopped => {}
            Reload => {
                self.next_version();
                self.heard_before = self.service.heard_so_far();
                self.service.signal(Signal::HUP);
            }
            Stop => {
                if self.service.is_running() {
                    self.service.signal(Signal::TERM);
                }
                self.is_stopped = true;
            }
            Crash => {
                if self.service.is_running() {
                    self.wait_until_obeyed();
                    self.service.signal(Signal::KILL);
                    let has_finished = self.service.wait_end(SOON).success();
                    if !has_finished {
                        self.service.start();
                        self.wait_up();
                    }
                }
            }
            Death => {
                let status = self.service.try_status();
                let all = status.iter().flat_map(|status| &status.generations);
                let mut live = all.filter(|it| it.state == "live");
                if let Some(pid) = live.next().and_then(|live| live.workers[0].pid) {
                    process::end(pid, Signal::KILL);
                }
            }
        }
    }

    fn start(&mut self) {
        if self.service.is_running() {
            if !self.is_stopped {
                return;
            }
            self.service.wait_end(SOON);
        }
        self.expect_nothing_left();
        self.service.start();
        self.is_stopped = false;
        self.wait_up();
    }

    /// It hears signals: before, any would simply end it. systemd sends none before READY=1.
    fn wait_up(&self) {
        let pid = self.service.main_pid();
        self.service.wait_for("a first word", SOON, |heard| {
            let mut all = heard.messages.iter().filter(|it| it.pid == pid);
            all.any(|it| it.get("STATUS").is_some() || it.get("READY").is_some())
                .then_some(())
        });
    }

    /// A SIGHUP that nobody heard yet dies with the keeper. What systemd was told of must not.
    fn wait_until_obeyed(&self) {
        if self.is_stopped || !self.deeds.ends_with(&[Reload, Crash]) {
            return;
        }
        self.service.wait_for("RELOADING=1", SOON, |heard| {
            let mut new = heard.messages[self.heard_before..].iter();
            new.any(|it| it.get("RELOADING") == Some("1")).then_some(())
        });
    }

    /// Looks again and again meanwhile.
    fn watch(&self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.service.try_status() {
                expect_bounded(&status);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// What is newest serves alone; or, stopped, nothing is left.
    fn expect_the_end(&mut self) {
        let what = format!("the end of {:?}", self.deeds);
        let newest = format!("v{}", self.newest);
        eventually(&what, SOON, || {
            if self.is_stopped && !self.service.is_running() {
                return Some(());
            }
            let status = self.service.try_status()?;
            expect_bounded(&status);
            let is_alone = status.generations.len() == 1 && status.fronts.len() == 1;
            // The SIGTERM may have died with the keeper that was to hear it.
            let may_serve = !self.is_stopped || self.deeds.ends_with(&[Stop, Crash]);
            let does_serve = is_alone
                && status.generations[0].state == "live"
                && status.fronts[0].state == "serving";
            let is_newest = may_serve && does_serve && the_version(&self.service) == newest;
            (is_newest && self.service.processes().len() == 3).then_some(())
        });
        self.is_stopped = !self.service.is_running();
        if self.is_stopped {
            self.expect_nothing_left();
        }
    }

    fn expect_nothing_left(&self) {
        eventually("no process is left", SOON, || {
            self.service.processes().is_empty().then_some(())
        });
        // What was said last may still have to be heard.
        eventually(
            &format!("an empty store after {:?}", self.deeds),
            SOON,
            || {
                let stored = self.service.heard(crate::world::service::Heard::stored);
                stored.is_empty().then_some(())
            },
        );
    }
}

/// Moments of what takes a boot and a settle, and a bit.
fn points() -> Vec<Duration> {
    let short: &[u64] = &[5, 150, 330];
    let long: &[u64] = &[5, 50, 100, 150, 200, 250, 280, 310, 340, 370, 400, 450, 600];
    let points = if is_long() { long } else { short };
    points.iter().copied().map(Duration::from_millis).collect()
}

fn play(first: Deed, point: Duration, second: Deed) {
    let mut scene = Scene::new();
    if first != Start {
        scene.begin(Start);
        scene.service.wait_ready();
    }
    scene.begin(first);
    scene.watch(point);
    scene.begin(second);
    scene.expect_the_end();
    if !scene.is_stopped {
        scene.begin(Stop);
        scene.expect_the_end();
    }
}

/// In a few threads at a time: most of it is waiting.
fn play_all(plays: &[(Deed, Duration, Deed)]) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some((first, point, second)) =
                    plays.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    play(*first, *point, *second);
                }
            });
        }
    });
}

#[test]
fn whatever_begins_while_another_is_under_way_ends_as_it_should() {
    let deeds = [Start, Reload, Stop, Crash, Death];
    let mut plays = Vec::new();
    for first in deeds {
        for second in deeds {
            plays.extend(points().into_iter().map(|point| (first, point, second)));
        }
    }
    play_all(&plays);
}

#[test]
fn whatever_happens_in_whatever_order_the_newest_serves_and_nothing_is_left() {
    let seed = u64::from(std::process::id());
    let mut random = Random(seed | 1);
    let mut scene = Scene::new();
    scene.begin(Start);
    for _ in 0..if is_long() { 400 } else { 40 } {
        let deed = [Start, Reload, Reload, Stop, Crash, Death][random.below(6)];
        scene.begin(deed);
        let pause = u64::try_from(random.below(500)).unwrap();
        scene.watch(Duration::from_millis(pause));
    }
    scene.begin(Start);
    scene.begin(Reload);
    scene.expect_the_end();
    scene.begin(Stop);
    scene.expect_the_end();
}

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}
