//! Leases under swaps.

use super::*;
use crate::link::Endpoint;
use proptest::prelude::*;

fn backend(slot: u32, life: u64) -> Backend {
    let endpoint = Endpoint::Unix(format!("/w{slot}").into());
    Backend {
        slot: Slot(slot),
        endpoint,
        life,
        pid: 1,
    }
}

fn live_cell(seq: u64, generation: u64, backends: &[Backend]) -> CellOrder {
    let generation = GenerationId(generation);
    CellOrder {
        seq,
        target: Target::Live {
            generation,
            backends: backends.to_vec(),
        },
        is_bare: false,
    }
}

fn leased(claim: Claim) -> Lease {
    match claim {
        Claim::Leased(lease) => lease,
        Claim::Wait | Claim::Refused | Claim::Bare => panic!("no lease"),
    }
}

fn new() -> Rc<Live> {
    Live::new(0, Rc::new(Notify::new()))
}

#[test]
fn before_the_first_cell_requests_wait() {
    assert!(matches!(new().claim(&[]), Claim::Wait));
}

#[test]
fn refuse_refuses_and_hold_holds() {
    let live = new();
    live.serve(&CellOrder {
        seq: 1,
        target: Target::Refuse,
        is_bare: false,
    });
    assert!(matches!(live.claim(&[]), Claim::Refused));
    live.serve(&CellOrder {
        seq: 2,
        target: Target::Hold,
        is_bare: false,
    });
    assert!(matches!(live.claim(&[]), Claim::Wait));
    live.serve(&live_cell(3, 1, &[]));
    assert!(matches!(live.claim(&[]), Claim::Wait));
}

#[test]
fn the_backend_with_the_fewest_requests_is_chosen() {
    let live = new();
    live.serve(&live_cell(1, 1, &[backend(0, 1), backend(1, 1)]));
    let one = leased(live.claim(&[]));
    let two = leased(live.claim(&[]));
    assert_ne!(one.pool().life(), two.pool().life());
    let free = one.pool().life();
    drop(one);
    assert_eq!(leased(live.claim(&[])).pool().life(), free);
}

#[test]
fn equals_take_turns() {
    let live = new();
    live.serve(&live_cell(1, 1, &[backend(0, 1), backend(1, 1)]));
    let one = leased(live.claim(&[])).pool().life();
    let two = leased(live.claim(&[])).pool().life();
    assert_ne!(one, two);
}

#[test]
fn what_was_tried_in_vain_is_avoided() {
    let live = new();
    live.serve(&live_cell(1, 1, &[backend(0, 1), backend(1, 1)]));
    let other = leased(live.claim(&[(Slot(0), 1)]));
    assert_eq!(other.pool().life(), (Slot(1), 1));
    assert!(matches!(
        live.claim(&[(Slot(0), 1), (Slot(1), 1)]),
        Claim::Wait
    ));
}

#[test]
fn a_respawned_worker_is_new_and_the_others_are_kept() {
    let live = new();
    live.serve(&live_cell(1, 1, &[backend(0, 1), backend(1, 1)]));
    let kept = leased(live.claim(&[(Slot(0), 1)]));
    live.serve(&live_cell(2, 1, &[backend(0, 2), backend(1, 1)]));
    let same = leased(live.claim(&[(Slot(0), 2)]));
    assert!(Rc::ptr_eq(kept.pool(), same.pool()));
    assert_eq!(same.pool().in_flight(), 2);
}

#[tokio::test]
async fn the_last_lease_of_an_old_generation_is_told() {
    let drained = Rc::new(Notify::new());
    let live = Live::new(0, Rc::clone(&drained));
    live.serve(&live_cell(1, 1, &[backend(0, 1)]));
    let lease = leased(live.claim(&[]));
    live.serve(&live_cell(2, 2, &[backend(0, 1)]));
    assert_eq!(live.leases()[&GenerationId(1)], 1);
    drop(lease);
    drained.notified().await;
    assert!(live.leases().is_empty());
}

#[test]
fn a_cut_ends_old_leases_and_no_later_one() {
    let live = new();
    live.serve(&live_cell(1, 1, &[backend(0, 1)]));
    let old = leased(live.claim(&[]));
    assert_eq!(live.cut(GenerationId(1)), 1);
    let new = leased(live.claim(&[]));
    assert!(old.is_cut() && old.cut_mark().is_cut());
    assert!(!new.is_cut());
    assert_eq!(live.cut(GenerationId(9)), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Serve(u64),
    Hold,
    Claim,
    Drop(usize),
    Cut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..5_u64).prop_map(Step::Serve),
        Just(Step::Hold),
        Just(Step::Claim),
        Just(Step::Claim),
        any::<usize>().prop_map(Step::Drop),
        (1..5_u64).prop_map(Step::Cut),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn leases_are_counted_exactly_and_only_on_the_live_generation(steps in steps()) {
        let live = new();
        let mut held: Vec<Lease> = Vec::new();
        let mut current = None;
        for (seq, step) in (1..).zip(steps) {
            match step {
                Step::Serve(id) => {
                    live.serve(&live_cell(seq, id, &[backend(0, id), backend(1, id)]));
                    current = Some(GenerationId(id));
                }
                Step::Hold => {
                    live.serve(&CellOrder { seq, target: Target::Hold, is_bare: false });
                    current = None;
                }
                Step::Claim => match (live.claim(&[]), current) {
                    (Claim::Leased(lease), Some(id)) => {
                        prop_assert_eq!(lease.generation(), id);
                        held.push(lease);
                    }
                    (Claim::Wait, None) => {}
                    (other, _) => prop_assert!(false, "{other:?}"),
                },
                Step::Drop(which) if !held.is_empty() => {
                    drop(held.swap_remove(which % held.len()));
                }
                Step::Drop(_) => {}
                Step::Cut(id) => {
                    live.cut(GenerationId(id));
                }
            }
            let mut counts = BTreeMap::new();
            for lease in &held {
                *counts.entry(lease.generation()).or_insert(0) += 1;
            }
            prop_assert_eq!(live.leases(), counts);
        }
    }
}
