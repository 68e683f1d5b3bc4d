//! The plan against a world that does whatever it likes.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn terms(release: u64) -> Terms {
    Terms {
        release,
        workers: 2,
        fixed_port: None,
        boot: Duration::from_mins(1),
        settle: Duration::from_secs(1),
        drain: Duration::from_secs(15),
        stop: Duration::from_secs(10),
        burst: 3,
        interval: Duration::from_secs(10),
        delay_min: Duration::from_millis(100),
        delay_max: Duration::from_secs(30),
        is_trial: false,
    }
}

fn trial(release: u64) -> Terms {
    Terms {
        is_trial: true,
        ..terms(release)
    }
}

fn fixed(release: u64) -> Terms {
    Terms {
        workers: 1,
        fixed_port: Some(3000),
        ..terms(release)
    }
}

/// Carries out effects on processes that exist only here, and checks each one.
struct World {
    plan: Plan,
    now: Moment,
    running: BTreeSet<(GenerationId, Slot)>,
    gone: BTreeSet<GenerationId>,
    decided: Vec<(GenerationId, Decision)>,
    begun: Vec<GenerationId>,
    log: Vec<Effect>,
    is_finished: bool,
}

impl World {
    fn new() -> Self {
        Self {
            plan: Plan::new(1, 42),
            now: Moment::new(Duration::from_secs(100)),
            running: BTreeSet::new(),
            gone: BTreeSet::new(),
            decided: Vec::new(),
            begun: Vec::new(),
            log: Vec::new(),
            is_finished: false,
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let was_stopping = self.plan.is_stopping();
        let effects = self.plan.step(self.now, event);
        for effect in &effects {
            self.carry_out(effect, was_stopping);
        }
        self.check();
        self.log.extend(effects.iter().cloned());
        effects
    }

    fn carry_out(&mut self, effect: &Effect, was_stopping: bool) {
        match *effect {
            Effect::Begun(id) => {
                assert!(
                    self.begun.last().is_none_or(|last| *last < id),
                    "ids only count up"
                );
                self.begun.push(id);
            }
            Effect::Spawn(id, slot) => {
                assert!(!was_stopping, "nothing starts while gapless stops");
                assert!(self.running.insert((id, slot)), "{id} {slot} runs already");
                let phase = self.plan.generation(id).unwrap().phase;
                assert!(
                    matches!(phase, Phase::Starting | Phase::Live),
                    "a worker for {id} in {phase:?}"
                );
            }
            Effect::Gone(id, _) => {
                assert!(
                    !self.running.iter().any(|(of, _)| *of == id),
                    "{id} gone with processes"
                );
                self.gone.insert(id);
            }
            Effect::Decided(id, decision) => self.decided.push((id, decision)),
            Effect::Finished => self.is_finished = true,
            Effect::Terminate(_)
            | Effect::Kill(_)
            | Effect::EndWorker(..)
            | Effect::KillWorker(..)
            | Effect::Vacated(..)
            | Effect::Cut(_)
            | Effect::DrainFronts
            | Effect::EndFronts => {}
        }
    }

    fn check(&self) {
        let count = |phase: fn(Phase) -> bool| {
            self.plan
                .generations()
                .filter(|generation| phase(generation.phase))
                .count()
        };
        assert!(count(|p| p == Phase::Live) <= 1, "at most one live");
        assert!(count(Phase::is_coming) <= 1, "at most one coming");
        assert!(
            count(Phase::is_draining) <= DRAINING_MAX,
            "at most two draining"
        );
        if let Aim::Live(id) = self.plan.aim() {
            assert_eq!(
                self.plan.live().map(|live| live.id),
                Some(id),
                "the live one is in the cell"
            );
        }
        for generation in self.plan.generations() {
            check_places(generation, self.plan.is_stopping());
            for (slot, state) in generation.slots() {
                let key = (generation.id, slot);
                assert_eq!(
                    state.has_process(),
                    self.running.contains(&key),
                    "{key:?} {state:?}"
                );
            }
        }
        if let Some(deadline) = self.plan.deadline() {
            assert!(
                deadline > self.now,
                "a deadline that is past would spin: {:?}",
                self.plan
            );
        }
    }

    fn feel(&mut self, id: GenerationId, slot: u32, pulse: Pulse) -> Vec<Effect> {
        self.step(Event::WorkerPulse(id, Slot(slot), pulse))
    }

    fn serving(&self) -> Vec<u32> {
        let live = self.plan.live().unwrap();
        live.serving().into_iter().map(|slot| slot.0).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while let Some(deadline) = self.plan.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            effects.extend(self.step(Event::Tick));
        }
        self.now = end;
        effects
    }

    fn exit(&mut self, id: GenerationId, slot: u32) -> Vec<Effect> {
        self.running.remove(&(id, Slot(slot)));
        self.step(Event::WorkerExited(id, Slot(slot)))
    }

    fn all_ready(&mut self, id: GenerationId) {
        for slot in 0..self.plan.generation(id).unwrap().terms.workers {
            self.step(Event::WorkerReady(id, Slot(slot)));
        }
    }

    /// A live generation of the terms.
    fn live(terms: Terms) -> (Self, GenerationId) {
        let mut world = Self::new();
        let id = world.go_live(terms);
        (world, id)
    }

    fn go_live(&mut self, terms: Terms) -> GenerationId {
        self.step(Event::Begin(terms));
        let id = *self.begun.last().unwrap();
        self.all_ready(id);
        self.pass(Duration::from_secs(1));
        assert_eq!(self.plan.aim(), Aim::Live(id));
        id
    }
}

/// A worker is never given up, has at most one substitute, and one substitute boots at a time.
fn check_places(generation: &Generation, is_stopping: bool) {
    let state = |slot| generation.slot(slot).copied().unwrap_or(SlotState::Empty);
    let pairs: Vec<_> = (0..generation.terms.workers)
        .map(|n| (state(Slot(n)), state(generation.twin(Slot(n)))))
        .collect();
    for slot in generation.serving() {
        assert!(state(slot).is_ready(), "{slot} serves: {generation:?}");
    }
    if generation.phase != Phase::Live || is_stopping {
        return;
    }
    for (one, other) in &pairs {
        let goes_on = |it: &&SlotState| it.is_ready() || it.is_coming();
        // Its exit brings the next.
        let is_leaving = |it: &&SlotState| matches!(it, SlotState::Leaving { .. });
        assert!(
            [one, other].iter().any(|it| goes_on(it) || is_leaving(it)),
            "a worker is given up: {generation:?}"
        );
        assert!(
            !(one.is_coming() && other.is_coming()),
            "two successors: {generation:?}"
        );
    }
    let is_replaced = |(one, other): &&(SlotState, SlotState)| {
        one.is_ready() && other.is_coming() || one.is_coming() && other.is_ready()
    };
    assert!(
        pairs.iter().filter(is_replaced).count() <= 1,
        "two substitutes at a time: {generation:?}"
    );
}

#[test]
fn a_generation_is_swapped_in_only_when_all_its_workers_were_ready_for_a_while() {
    let mut world = World::new();
    world.step(Event::Begin(terms(1)));
    let id = GenerationId(1);
    world.step(Event::WorkerReady(id, Slot(0)));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.plan.aim(), Aim::Hold);
    world.step(Event::WorkerReady(id, Slot(1)));
    assert_eq!(world.plan.aim(), Aim::Hold);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.plan.aim(), Aim::Live(id));
    assert_eq!(world.decided, [(id, Decision::Live)]);
}

#[test]
fn a_worker_that_dies_right_after_it_was_ready_never_serves() {
    let (mut world, old) = World::live(terms(1));
    world.step(Event::Begin(terms(2)));
    let new = GenerationId(2);
    world.all_ready(new);
    world.pass(Duration::from_millis(900));
    world.exit(new, 1);
    assert_eq!(
        world.decided.last(),
        Some(&(new, Decision::Failed(Why::StartFailed)))
    );
    assert_eq!(world.plan.aim(), Aim::Live(old));
    world.exit(new, 0);
    assert!(world.gone.contains(&new));
}

#[test]
fn a_superseded_generation_ends_with_its_last_lease() {
    let (mut world, old) = World::live(terms(1));
    let new = world.go_live(terms(2));
    let effects = world.step(Event::Drained(old));
    assert_eq!(effects, [Effect::Terminate(old)]);
    world.exit(old, 0);
    assert_eq!(world.exit(old, 1), [Effect::Gone(old, Why::Drained)]);
    assert_eq!(world.plan.aim(), Aim::Live(new));
}

#[test]
fn a_drain_is_cut_at_its_limit_and_killed_at_the_stop_limit() {
    let (mut world, old) = World::live(terms(1));
    world.go_live(terms(2));
    assert_eq!(world.pass(Duration::from_secs(15)), [Effect::Cut(old)]);
    assert_eq!(world.step(Event::Drained(old)), [Effect::Terminate(old)]);
    assert_eq!(world.pass(Duration::from_secs(10)), [Effect::Kill(old)]);
    world.exit(old, 0);
    assert_eq!(world.exit(old, 1), [Effect::Gone(old, Why::CutOff)]);
}

#[test]
fn the_newest_begin_wins_and_its_predecessor_points_to_it() {
    let (mut world, _) = World::live(terms(1));
    world.step(Event::Begin(terms(2)));
    world.step(Event::Begin(terms(3)));
    assert_eq!(
        world.decided.last(),
        Some(&(GenerationId(2), Decision::Superseded(GenerationId(3))))
    );
    world.all_ready(GenerationId(3));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.plan.aim(), Aim::Live(GenerationId(3)));
}

#[test]
fn a_swap_waits_for_a_drain_rather_than_make_a_third() {
    let (mut world, first) = World::live(terms(1));
    world.go_live(terms(2));
    let third = world.go_live(terms(3));
    world.step(Event::Begin(terms(4)));
    let fourth = GenerationId(4);
    world.all_ready(fourth);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.plan.aim(), Aim::Live(third));
    world.step(Event::Drained(first));
    assert_eq!(world.plan.aim(), Aim::Live(fourth));
}

#[test]
fn a_swap_that_waits_for_a_drain_waits_no_longer_than_its_limit() {
    let (mut world, _) = World::live(terms(1));
    world.go_live(terms(2));
    world.go_live(terms(3));
    world.step(Event::Begin(terms(4)));
    world.all_ready(GenerationId(4));
    world.pass(Duration::from_secs(16));
    assert_eq!(world.plan.aim(), Aim::Live(GenerationId(4)));
}

#[test]
fn a_worker_that_had_lived_is_respawned_at_once() {
    let (mut world, id) = World::live(terms(1));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.exit(id, 0), [Effect::Spawn(id, Slot(0))]);
}

#[test]
fn workers_that_die_young_are_respawned_later_each_time_and_requests_are_refused_at_last() {
    let (mut world, id) = World::live(Terms {
        workers: 1,
        ..terms(1)
    });
    let mut waits = Vec::new();
    for _ in 0..6 {
        world.exit(id, 0);
        let before = world.now;
        let due = world.plan.deadline().unwrap();
        waits.push(due - before);
        world.pass(due - before);
    }
    assert!(
        waits.windows(2).skip(1).all(|pair| pair[0] < pair[1]),
        "{waits:?}"
    );
    assert_eq!(world.plan.aim(), Aim::Refuse);
    assert!(world.plan.is_degraded() && world.plan.is_repeating(id));
    world.step(Event::WorkerReady(id, Slot(0)));
    assert_eq!(world.plan.aim(), Aim::Refuse, "it has to settle first");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.plan.aim(), Aim::Live(id));
    assert!(world.plan.is_degraded(), "one good second proves nothing");
    world.pass(Duration::from_secs(9));
    assert!(!world.plan.is_degraded());
    assert_eq!(world.exit(id, 0), [Effect::Spawn(id, Slot(0))]);
}

#[test]
fn a_crash_loop_with_slow_boots_is_degraded_too() {
    let (mut world, id) = World::live(Terms {
        workers: 1,
        ..terms(1)
    });
    for _ in 0..5 {
        world.exit(id, 0);
        world.pass(Duration::from_secs(40));
    }
    assert!(world.plan.is_degraded());
}

#[test]
fn all_workers_killed_at_once_is_no_crash_loop() {
    let (mut world, id) = World::live(Terms {
        workers: 8,
        ..terms(1)
    });
    world.pass(Duration::from_secs(5));
    for slot in 0..8 {
        assert_eq!(world.exit(id, slot), [Effect::Spawn(id, Slot(slot))]);
    }
    assert_eq!(world.plan.aim(), Aim::Live(id));
    assert!(!world.plan.is_degraded());
}

const UNWELL: Pulse = Pulse::Unwell { is_used: false };

#[test]
fn a_hung_worker_is_ended_when_its_substitute_is_ready_and_no_front_sends_to_it() {
    let (mut world, id) = World::live(terms(1));
    world.pass(Duration::from_mins(1));
    assert_eq!(world.feel(id, 0, Pulse::Suspected), []);
    assert_eq!(world.serving(), [1], "a suspected one is avoided");
    assert_eq!(world.feel(id, 0, UNWELL), [Effect::Spawn(id, Slot(2))]);
    let live = world.plan.live().unwrap();
    assert!(matches!(
        live.hung_beside(Slot(2)),
        Some(Pulse::Unwell { .. })
    ));
    assert_eq!(world.step(Event::WorkerReady(id, Slot(2))), []);
    assert_eq!(world.serving(), [1, 2]);
    let effects = world.step(Event::LeftCell(id, Slot(0)));
    assert_eq!(effects, [Effect::EndWorker(id, Slot(0))]);
    let effects = world.pass(Duration::from_secs(10));
    assert_eq!(effects, [Effect::KillWorker(id, Slot(0))]);
    assert_eq!(world.exit(id, 0), [Effect::Vacated(id, Slot(0))]);
    // The next time it goes back.
    world.pass(Duration::from_mins(1));
    let effects = world.feel(id, 2, Pulse::Silent);
    assert_eq!(effects, [Effect::Spawn(id, Slot(0))]);
}

#[test]
fn requests_wait_for_the_substitute_of_the_only_worker_when_it_is_silent() {
    let (mut world, id) = World::live(Terms {
        workers: 1,
        ..terms(1)
    });
    world.pass(Duration::from_mins(1));
    world.feel(id, 0, Pulse::Silent);
    assert_eq!(world.plan.aim(), Aim::Live(id));
    assert!(world.serving().is_empty());
    world.step(Event::WorkerReady(id, Slot(1)));
    assert_eq!(world.serving(), [1]);
    // It hears nothing: a second is enough.
    let effects = world.pass(Duration::from_secs(3));
    let (end, kill) = (
        Effect::EndWorker(id, Slot(0)),
        Effect::KillWorker(id, Slot(0)),
    );
    assert_eq!(effects, [end, kill]);
}

#[test]
fn when_the_substitute_fails_too_the_unwell_worker_serves_on_and_tries_grow_rare() {
    let (mut world, id) = World::live(terms(1));
    world.pass(Duration::from_mins(1));
    world.feel(id, 0, UNWELL);
    world.feel(id, 1, UNWELL);
    assert!(world.serving().is_empty());
    world.exit(id, 2);
    assert_eq!(world.serving(), [0]);
    let mut spawns = 0;
    for _ in 0..600 {
        let effects = world.pass(Duration::from_secs(1));
        spawns += effects.len();
        if world.running.contains(&(id, Slot(2))) {
            world.exit(id, 2);
        }
    }
    assert!((20..40).contains(&spawns), "{spawns} in ten minutes");
    assert!(world.running.contains(&(id, Slot(0))) && world.running.contains(&(id, Slot(1))));
    assert_eq!(world.plan.aim(), Aim::Live(id));
    assert!(world.plan.is_degraded());
    // The database is back.
    world.feel(id, 0, Pulse::Well);
    world.feel(id, 1, Pulse::Well);
    assert_eq!(world.pass(Duration::from_mins(2)), []);
    assert_eq!(world.serving(), [0, 1]);
    assert!(!world.plan.is_degraded());
}

#[test]
fn all_hung_at_once_are_replaced_one_after_the_other() {
    let (mut world, id) = World::live(terms(1));
    world.pass(Duration::from_mins(1));
    assert_eq!(
        world.feel(id, 0, Pulse::Silent),
        [Effect::Spawn(id, Slot(2))]
    );
    assert_eq!(world.feel(id, 1, Pulse::Silent), []);
    let effects = world.step(Event::WorkerReady(id, Slot(2)));
    assert_eq!(effects, [Effect::Spawn(id, Slot(3))]);
    world.step(Event::WorkerReady(id, Slot(3)));
    assert_eq!(world.serving(), [2, 3]);
}

#[test]
fn a_hung_worker_that_dies_by_itself_is_not_respawned_beside_its_substitute() {
    let (mut world, id) = World::live(terms(1));
    world.pass(Duration::from_mins(1));
    world.feel(id, 0, Pulse::Silent);
    assert_eq!(world.exit(id, 0), [Effect::Vacated(id, Slot(0))]);
    world.exit(id, 2);
    world.pass(Duration::from_secs(1));
    assert!(world.running.contains(&(id, Slot(2))), "{:?}", world.plan);
}

#[test]
fn with_a_fixed_port_a_hung_worker_ends_before_the_next_starts() {
    let (mut world, id) = World::live(fixed(1));
    world.pass(Duration::from_mins(1));
    assert_eq!(world.feel(id, 0, UNWELL), []);
    assert!(world.serving().is_empty());
    let effects = world.step(Event::LeftCell(id, Slot(0)));
    assert_eq!(effects, [Effect::EndWorker(id, Slot(0))]);
    assert_eq!(world.exit(id, 0), [Effect::Spawn(id, Slot(0))]);
}

#[test]
fn a_worker_that_hangs_before_the_swap_fails_the_start() {
    let (mut world, old) = World::live(terms(1));
    world.step(Event::Begin(terms(2)));
    let new = GenerationId(2);
    world.all_ready(new);
    let effects = world.feel(new, 0, UNWELL);
    assert_eq!(effects, [Effect::KillWorker(new, Slot(0))]);
    world.exit(new, 0);
    assert_eq!(world.plan.aim(), Aim::Live(old));
}

#[test]
fn a_first_start_that_fails_is_tried_again_by_itself() {
    let mut world = World::new();
    world.step(Event::Begin(terms(1)));
    world.exit(GenerationId(1), 0);
    world.exit(GenerationId(1), 1);
    assert!(world.plan.retry_at().is_some());
    world.pass(Duration::from_secs(1));
    world.all_ready(GenerationId(2));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.plan.aim(), Aim::Live(GenerationId(2)));
}

#[test]
fn a_start_that_is_never_ready_times_out_unless_it_asks_for_time() {
    let (mut world, _) = World::live(terms(1));
    world.step(Event::Begin(terms(2)));
    let new = GenerationId(2);
    world.step(Event::WorkerReady(new, Slot(0)));
    world.pass(Duration::from_secs(50));
    world.step(Event::BootExtended(new, Slot(1), Duration::from_secs(30)));
    world.pass(Duration::from_secs(29));
    assert!(
        world
            .plan
            .generation(new)
            .is_some_and(|g| g.phase == Phase::Starting)
    );
    world.pass(Duration::from_secs(1));
    assert_eq!(
        world.decided.last(),
        Some(&(new, Decision::Failed(Why::StartTimedOut)))
    );
}

#[test]
fn with_a_fixed_port_the_old_stops_before_the_new_starts() {
    let (mut world, old) = World::live(fixed(1));
    let effects = world.step(Event::Begin(fixed(2)));
    assert_eq!(effects, [Effect::Begun(GenerationId(2))]);
    assert_eq!(world.plan.aim(), Aim::Hold);
    world.step(Event::Drained(old));
    let effects = world.exit(old, 0);
    assert_eq!(
        effects,
        [
            Effect::Gone(old, Why::Drained),
            Effect::Spawn(GenerationId(2), Slot(0))
        ]
    );
}

#[test]
fn with_a_fixed_port_a_failed_start_brings_the_old_release_back() {
    let (mut world, old) = World::live(fixed(1));
    world.step(Event::Begin(fixed(2)));
    world.step(Event::Drained(old));
    world.exit(old, 0);
    world.exit(GenerationId(2), 0);
    let again = world.plan.generation(GenerationId(3)).unwrap();
    assert_eq!(again.terms.release, 1);
    world.all_ready(GenerationId(3));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.plan.aim(), Aim::Live(GenerationId(3)));
}

#[test]
fn a_trial_that_fails_is_not_tried_again() {
    let mut world = World::new();
    world.step(Event::Begin(trial(1)));
    world.exit(GenerationId(1), 0);
    world.exit(GenerationId(1), 1);
    assert!(world.plan.is_idle());
    assert_eq!(world.plan.deadline(), None);
}

#[test]
fn a_trial_that_fails_where_nothing_serves_gives_back_what_was_tried_before() {
    for has_failed in [true, false] {
        let mut world = World::new();
        world.step(Event::Begin(terms(1)));
        if has_failed {
            world.exit(GenerationId(1), 0);
            world.exit(GenerationId(1), 1);
        }
        world.step(Event::Begin(trial(2)));
        world.exit(GenerationId(1), 0);
        world.exit(GenerationId(1), 1);
        world.exit(GenerationId(2), 0);
        world.exit(GenerationId(2), 1);
        let again = world.plan.coming().unwrap();
        assert_eq!((again.terms.release, again.terms.is_trial), (1, false));
    }
}

#[test]
fn what_is_live_is_no_trial_any_more() {
    let (world, id) = World::live(trial(1));
    assert!(!world.plan.generation(id).unwrap().terms.is_trial);
}

#[test]
fn a_stop_waits_for_the_fronts_then_ends_the_workers() {
    let (mut world, id) = World::live(terms(1));
    assert_eq!(world.step(Event::Stop), [Effect::DrainFronts]);
    assert_eq!(world.step(Event::FrontsGone), [Effect::Terminate(id)]);
    assert_eq!(world.plan.aim(), Aim::Refuse);
    world.exit(id, 0);
    world.exit(id, 1);
    assert!(world.is_finished);
}

#[test]
fn a_stop_cuts_what_runs_past_the_limit() {
    let (mut world, id) = World::live(terms(1));
    world.step(Event::Stop);
    let effects = world.pass(Duration::from_secs(16));
    assert_eq!(
        effects,
        [Effect::Cut(id), Effect::EndFronts, Effect::Terminate(id)]
    );
}

#[test]
fn a_second_stop_ends_everything_at_once() {
    let (mut world, id) = World::live(terms(1));
    world.step(Event::Stop);
    let effects = world.step(Event::StopNow);
    assert!(effects.contains(&Effect::Kill(id)));
    assert!(effects.contains(&Effect::EndFronts));
}

#[test]
fn the_plan_survives_being_written_down() {
    let (mut world, _) = World::live(terms(1));
    world.step(Event::Begin(terms(2)));
    let text = serde_json::to_string(&world.plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), world.plan);
}

/// One thing that the world does, chosen by numbers that shrink well.
#[derive(Clone, Debug)]
enum Whim {
    Begin((bool, bool)),
    Await(u64),
    Postpone(u64),
    Ready(usize),
    Exit(usize),
    Feel(usize, Pulse),
    LeftCell(usize),
    Extend(usize),
    Drained(usize),
    Pass(u64),
    Stop,
    StopNow,
    FrontsGone,
}

fn whim() -> impl Strategy<Value = Whim> {
    prop_oneof![
        4 => any::<(bool, bool)>().prop_map(Whim::Begin),
        1 => (0_u64..70_000).prop_map(Whim::Await),
        1 => (0_u64..70_000).prop_map(Whim::Postpone),
        12 => any::<usize>().prop_map(Whim::Ready),
        6 => any::<usize>().prop_map(Whim::Exit),
        4 => (any::<usize>(), pulse()).prop_map(|(n, pulse)| Whim::Feel(n, pulse)),
        2 => any::<usize>().prop_map(Whim::LeftCell),
        1 => any::<usize>().prop_map(Whim::Extend),
        4 => any::<usize>().prop_map(Whim::Drained),
        8 => (0_u64..70_000).prop_map(Whim::Pass),
        4 => (0_u64..1_500).prop_map(Whim::Pass),
    ]
}

fn pulse() -> impl Strategy<Value = Pulse> {
    prop_oneof![
        2 => Just(Pulse::Well),
        1 => Just(Pulse::Suspected),
        2 => any::<bool>().prop_map(|is_used| Pulse::Unwell { is_used }),
        2 => Just(Pulse::Silent),
    ]
}

fn ending() -> impl Strategy<Value = Whim> {
    prop_oneof![
        2 => Just(Whim::Stop),
        1 => Just(Whim::StopNow),
        2 => Just(Whim::FrontsGone),
        4 => any::<usize>().prop_map(Whim::Exit),
        2 => any::<usize>().prop_map(Whim::Ready),
        2 => any::<(bool, bool)>().prop_map(Whim::Begin),
        4 => (0_u64..20_000).prop_map(Whim::Pass),
    ]
}

impl World {
    fn nth_running(&self, n: usize) -> Option<(GenerationId, Slot)> {
        self.running
            .iter()
            .nth(n.checked_rem(self.running.len())?)
            .copied()
    }

    fn follow(&mut self, whim: &Whim) {
        match *whim {
            Whim::Begin((is_fixed, is_trial)) => {
                let terms = if is_fixed { fixed(1) } else { terms(2) };
                let terms = Terms { is_trial, ..terms };
                self.step(Event::Begin(terms));
            }
            Whim::Await(millis) => {
                self.step(Event::Await(terms(3), Duration::from_millis(millis)));
            }
            Whim::Postpone(millis) => {
                self.step(Event::Postpone(Duration::from_millis(millis)));
            }
            Whim::Ready(n) => {
                if let Some((id, slot)) = self.nth_running(n) {
                    self.step(Event::WorkerReady(id, slot));
                }
            }
            Whim::Exit(n) => {
                if let Some((id, slot)) = self.nth_running(n) {
                    self.exit(id, slot.0);
                }
            }
            Whim::Feel(n, pulse) => {
                if let Some((id, slot)) = self.nth_running(n) {
                    self.feel(id, slot.0, pulse);
                }
            }
            Whim::LeftCell(n) => {
                if let Some((id, slot)) = self.nth_running(n) {
                    self.step(Event::LeftCell(id, slot));
                }
            }
            Whim::Extend(n) => {
                if let Some((id, slot)) = self.nth_running(n) {
                    self.step(Event::BootExtended(id, slot, Duration::from_secs(5)));
                }
            }
            Whim::Drained(n) => {
                let draining: Vec<_> = self
                    .plan
                    .generations()
                    .filter(|g| g.phase.is_draining())
                    .map(|g| g.id)
                    .collect();
                if let Some(id) = n.checked_rem(draining.len()).map(|n| draining[n]) {
                    self.step(Event::Drained(id));
                }
            }
            Whim::Pass(millis) => {
                self.pass(Duration::from_millis(millis));
            }
            Whim::Stop => {
                self.step(Event::Stop);
            }
            Whim::StopNow => {
                self.step(Event::StopNow);
            }
            Whim::FrontsGone => {
                self.step(Event::FrontsGone);
            }
        }
    }
}

/// Some 300 events a case.
fn cases() -> u32 {
    if std::env::var_os("GAPLESS_LONG").is_some() {
        20_000
    } else {
        500
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn the_invariants_hold_whatever_the_world_does(
        whims in prop::collection::vec(whim(), 0..600),
        end in prop::collection::vec(ending(), 0..30),
    ) {
        let mut world = World::new();
        for whim in whims.iter().chain(&end) {
            world.follow(whim);
        }
        // From any state, a stop comes to its end, and a begin before it is decided.
        world.step(Event::Stop);
        world.step(Event::FrontsGone);
        world.pass(Duration::from_mins(1));
        let rest: Vec<_> = world.running.iter().copied().collect();
        for (id, slot) in rest {
            world.exit(id, slot.0);
        }
        prop_assert!(world.is_finished);
        for id in &world.begun {
            prop_assert!(world.gone.contains(id), "{id} was never gone");
            prop_assert!(world.decided.iter().any(|(of, _)| of == id), "{id} was never decided");
        }
    }
}

#[test]
fn what_waits_for_a_deploy_begins_when_that_fails_or_does_not_come_and_else_never() {
    let awaiting = || {
        let mut world = World::new();
        let effects = world.step(Event::Await(terms(1), Duration::from_mins(1)));
        assert_eq!((effects, world.plan.aim()), (Vec::new(), Aim::Hold));
        world
    };
    let begun = |world: &World| world.plan.coming().map(|coming| coming.terms.release);

    let mut world = awaiting();
    world.step(Event::Begin(trial(2)));
    assert_eq!(begun(&world), Some(2));
    world.all_ready(GenerationId(1));
    world.pass(Duration::from_mins(5));
    assert_eq!(world.plan.aim(), Aim::Live(GenerationId(1)));
    assert_eq!(world.begun.len(), 1, "the old one never began");

    let mut world = awaiting();
    world.step(Event::Begin(trial(2)));
    world.exit(GenerationId(1), 0);
    world.exit(GenerationId(1), 1);
    assert_eq!(begun(&world), Some(1), "it failed");

    let mut world = awaiting();
    world.step(Event::Postpone(Duration::from_mins(10)));
    world.pass(Duration::from_secs(599));
    assert_eq!(begun(&world), None, "its release command runs");
    world.step(Event::Postpone(Duration::ZERO));
    assert_eq!(begun(&world), Some(1), "it was refused");

    let mut world = awaiting();
    world.pass(Duration::from_mins(1));
    assert_eq!(begun(&world), Some(1), "it did not come");
}

#[test]
fn what_failed_is_tried_again_at_its_own_time_whoever_deploys_meanwhile() {
    let mut world = World::new();
    world.step(Event::Begin(terms(1)));
    world.exit(GenerationId(1), 0);
    world.exit(GenerationId(1), 1);
    let at = world.plan.retry_at();
    world.step(Event::Postpone(Duration::from_mins(10)));
    assert_eq!(world.plan.retry_at(), at);
}
