use super::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::os::unix::net::UnixStream;

fn memfd() -> OwnedFd {
    memfd_create("deposit", MemfdFlags::CLOEXEC).unwrap()
}

fn owner(generation: u64, worker: u32) -> Owner {
    Owner {
        generation: GenerationId(generation),
        worker,
    }
}

fn live(generation: u64) -> Deposits {
    let deposits = Deposits::default();
    deposits.settle(GenerationId(generation));
    deposits
}

fn names(deposits: &Deposits, owner: Owner) -> String {
    let of_owner = deposits.of(owner).unwrap().into_iter();
    let names: Vec<_> = of_owner.map(|(name, _)| name).collect();
    assert_eq!(names, deposits.names(owner));
    names.join(" ")
}

#[test]
fn each_worker_gets_its_own_back_in_their_order() {
    let deposits = live(1);
    let (zero, one) = (owner(1, 0), owner(1, 1));
    for (owner, name) in [(zero, "b"), (one, "other"), (zero, "a"), (zero, "a")] {
        deposits.put(owner, name, true, memfd()).unwrap();
    }
    assert_eq!(names(&deposits, zero), "b a a");
    assert_eq!(names(&deposits, one), "other");
    deposits.remove(zero, "a").unwrap();
    deposits.remove(zero, "other").unwrap();
    assert_eq!(names(&deposits, zero), "b");
    assert_eq!(names(&deposits, owner(2, 1)), "other");
    deposits.forget();
    assert_eq!(names(&deposits, one), "");
}

#[test]
fn a_generation_that_fails_changes_nothing_for_the_live_one() {
    let deposits = live(1);
    let (old, new) = (owner(1, 0), owner(2, 0));
    deposits.put(old, "state", true, memfd()).unwrap();
    deposits.put(old, "door", true, memfd()).unwrap();
    deposits.remove(new, "state").unwrap();
    deposits.put(new, "state-2", true, memfd()).unwrap();
    assert_eq!(names(&deposits, new), "door state-2");
    assert_eq!(names(&deposits, old), "state door");
    deposits.abandon(GenerationId(2));
    assert_eq!(names(&deposits, old), "state door");
    assert_eq!(names(&deposits, owner(3, 0)), "state door");
}

#[test]
fn one_that_failed_and_is_not_gone_yet_changes_nothing_for_the_next() {
    let deposits = live(1);
    let failed = owner(2, 0);
    deposits.put(owner(1, 0), "state", true, memfd()).unwrap();
    deposits.remove(failed, "state").unwrap();
    deposits.put(failed, "other", true, memfd()).unwrap();
    deposits.settle(GenerationId(3));
    assert_eq!(names(&deposits, owner(3, 0)), "state");
    deposits.put(failed, "late", true, memfd()).unwrap_err();
    deposits.abandon(GenerationId(2));
    assert_eq!(names(&deposits, owner(4, 0)), "state");
}

#[test]
fn a_generation_that_is_live_leaves_what_it_said_and_the_one_before_says_nothing_more() {
    let deposits = live(1);
    let (old, new) = (owner(1, 0), owner(2, 0));
    let state = memfd();
    let again = state.try_clone().unwrap();
    deposits.put(old, "state", true, state).unwrap();
    deposits.put(old, "door", true, memfd()).unwrap();
    deposits.remove(new, "state").unwrap();
    deposits.remove(new, "door").unwrap();
    deposits.put(new, "more", true, memfd()).unwrap();
    // Stored again: it is to stay.
    deposits.put(new, "state", true, again).unwrap();
    deposits.settle(GenerationId(2));
    deposits.abandon(GenerationId(1));
    assert_eq!(names(&deposits, owner(3, 0)), "state more");
    let refused = deposits.remove(old, "state").unwrap_err();
    assert!(matches!(refused, DepositError::Superseded(by) if by == GenerationId(2)));
    let refused = deposits.put(old, "late", true, memfd()).unwrap_err();
    assert!(matches!(refused, DepositError::Superseded(_)), "{refused}");
    assert_eq!(names(&deposits, new), "state more");
}

#[test]
fn the_next_keeper_knows_what_a_generation_on_its_way_wants() {
    let before = live(1);
    before.put(owner(1, 0), "state", true, memfd()).unwrap();
    before.put(owner(2, 0), "new", false, memfd()).unwrap();
    before.put(owner(3, 0), "unknown", true, memfd()).unwrap();
    before.remove(owner(2, 0), "state").unwrap();
    let remembered = serde_json::to_string(&before.remember()).unwrap();
    let kept = || -> Vec<(String, OwnedFd)> {
        let all = before.all.borrow();
        let copy = |it: &Deposit| (it.stored_name(), it.fd.try_clone().unwrap());
        all.iter().rev().map(copy).collect()
    };
    let next = Deposits::default();
    next.adopt(kept(), Some(&serde_json::from_str(&remembered).unwrap()));
    next.abandon_unknown(|id| id.0 < 3);
    assert_eq!(next.all.borrow().len(), 2);
    assert_eq!(names(&next, owner(1, 0)), "state");
    assert_eq!(names(&next, owner(2, 0)), "new");
    next.settle(GenerationId(2));
    assert_eq!(names(&next, owner(4, 0)), "new");
    let without_state = Deposits::default();
    without_state.adopt(kept(), None);
    without_state.abandon_unknown(|_| false);
    assert_eq!(names(&without_state, owner(1, 0)), "state new unknown");
}

#[test]
fn what_is_written_in_a_stored_name_is_read_from_it() {
    for (name, is_polled) in [("state", true), ("a-b - c", false)] {
        let deposit = Deposit {
            owner: owner(9, 7),
            number: 12,
            name: name.to_owned(),
            is_polled,
            removed_by: None,
            fd: memfd(),
        };
        let read = Deposit::parse(&deposit.stored_name(), memfd()).unwrap();
        assert_eq!((read.owner, read.number), (owner(9, 7), 12));
        assert_eq!((read.name.as_str(), read.is_polled), (name, is_polled));
    }
    for wrong in [
        "gapless-app-",
        "gapless-app-g1-1-2-x-n",
        "gapless-app-g1-1-2-p-",
        "other",
    ] {
        assert!(Deposit::parse(wrong, memfd()).is_none(), "{wrong}");
    }
}

#[test]
fn a_connection_that_hung_up_is_dropped_unless_nobody_is_to_look() {
    let (deposits, zero) = (live(1), owner(1, 0));
    let (polled, end) = UnixStream::pair().unwrap();
    let (unpolled, other_end) = UnixStream::pair().unwrap();
    deposits.put(zero, "polled", true, polled.into()).unwrap();
    deposits
        .put(zero, "unpolled", false, unpolled.into())
        .unwrap();
    deposits.put(zero, "memory", true, memfd()).unwrap();
    assert_eq!(names(&deposits, zero), "polled unpolled memory");
    drop((end, other_end));
    assert_eq!(names(&deposits, zero), "unpolled memory");
}

#[test]
fn limits_and_bad_names_are_refused_with_a_reason() {
    let deposits = live(1);
    let put = |worker, name: &str| deposits.put(owner(1, worker), name, true, memfd());
    for name in ["", "a:b", "wörker", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
        let refused = put(0, name).unwrap_err();
        assert!(matches!(refused, DepositError::Name(_)), "{refused}");
    }
    for worker in 0..4 {
        for _ in 0..PER_WORKER_MAX {
            put(worker, "x").unwrap();
        }
        let refused = put(worker, "x").unwrap_err();
        assert!(matches!(refused, DepositError::Worker), "{refused}");
    }
    let refused = put(4, "x").unwrap_err();
    assert!(matches!(refused, DepositError::Full), "{refused}");
}

#[test]
fn one_file_is_kept_once() {
    let (deposits, zero) = (live(1), owner(1, 0));
    let fd = memfd();
    for _ in 0..2 {
        deposits
            .put(zero, "state", true, fd.try_clone().unwrap())
            .unwrap();
    }
    assert_eq!(names(&deposits, zero), "state");
    let refused = deposits.put(zero, "other", true, fd).unwrap_err();
    assert!(matches!(refused, DepositError::Twice(as_what) if as_what == "state"));
}
