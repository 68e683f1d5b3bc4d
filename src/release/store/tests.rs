use super::*;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of its own, gone with the value.
pub(in crate::release) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gapless-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn id(text: &str) -> ReleaseId {
    text.parse().unwrap()
}

fn manifest(name: &str, staged: u64) -> Manifest {
    Manifest {
        id: id(name),
        digest: "sha256:0".into(),
        staged_unix_seconds: staged,
        by: "admin".into(),
        from: "-".into(),
        kind: "tar".into(),
        files: 1,
        bytes: 2,
        command: None,
        detected: None,
        state: State::Staged,
        taken_back: None,
    }
}

/// A store of its own.
fn store() -> (Scratch, Store) {
    let scratch = Scratch::new();
    let store = Store::new(&scratch.0, "shop");
    store.create().unwrap();
    (scratch, store)
}

fn add(store: &Store, name: &str, staged: u64) {
    let staging = store.begin(&id(name)).unwrap();
    std::fs::write(staging.join("app"), name).unwrap();
    store.publish(&manifest(name, staged)).unwrap();
}

fn make_live(store: &Store, name: &str, now: u64) {
    store.prepare(&id(name)).unwrap();
    store.make_current(&id(name)).unwrap();
    store.mark(&id(name), State::Healthy(now)).unwrap();
}

fn names(store: &Store) -> Vec<String> {
    let all = store.list().unwrap();
    all.into_iter().map(|(id, _)| id.to_string()).collect()
}

#[test]
fn what_is_staged_is_no_release_before_it_is_published() {
    let (_scratch, store) = store();
    let staging = store.begin(&id("a")).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(
        store.manifest(&id("a")),
        Err(StoreError::Missing(_))
    ));
    std::fs::write(staging.join("app"), "a").unwrap();
    store.publish(&manifest("a", 1)).unwrap();
    assert_eq!(
        std::fs::read_to_string(store.directory(&id("a")).join("app")).unwrap(),
        "a"
    );
    assert_eq!(store.manifest(&id("a")).unwrap(), Some(manifest("a", 1)));
    assert!(matches!(store.begin(&id("a")), Err(StoreError::Exists(_))));
}

#[test]
fn current_and_previous_follow_what_was_live() {
    let (_scratch, store) = store();
    assert_eq!(
        (store.current().unwrap(), store.previous().unwrap()),
        (None, None)
    );
    for (name, now) in [("a", 1), ("b", 2)] {
        add(&store, name, now);
        make_live(&store, name, now);
    }
    assert_eq!(store.current().unwrap(), Some(id("b")));
    assert_eq!(store.previous().unwrap(), Some(id("a")));
    // Once more the same: what was before stays.
    make_live(&store, "b", 3);
    assert_eq!(store.previous().unwrap(), Some(id("a")));
    let state = store.manifest(&id("b")).unwrap().unwrap().state;
    assert_eq!(state, State::Healthy(2));
}

#[test]
fn a_link_that_names_no_release_is_an_error_and_is_replaced() {
    let (_scratch, store) = store();
    for target in ["/etc", "releases/gone", "releases/../incoming"] {
        symlink(target, store.root().join("current")).unwrap();
        assert!(
            matches!(store.current(), Err(StoreError::Stray { .. })),
            "{target}"
        );
        std::fs::remove_file(store.root().join("current")).unwrap();
    }
    symlink("releases/gone", store.root().join("current")).unwrap();
    add(&store, "a", 1);
    make_live(&store, "a", 1);
    assert_eq!(store.current().unwrap(), Some(id("a")));
}

#[test]
fn what_failed_goes_first_and_what_is_in_use_never() {
    let (_scratch, store) = store();
    for (name, now) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        add(&store, name, now);
        make_live(&store, name, now);
    }
    add(&store, "bad", 5);
    store
        .mark(&id("bad"), State::Failed("it died".into()))
        .unwrap();
    add(&store, "e", 6);
    make_live(&store, "e", 6);
    let busy = BTreeSet::from([id("a")]);
    assert_eq!(store.prune(4, &busy).unwrap(), [id("bad"), id("b")]);
    assert_eq!(names(&store), ["e", "d", "c", "a"]);
    assert_eq!(
        store.prune(1, &busy).unwrap(),
        [id("c")],
        "d is previous, a runs"
    );
    assert!(!store.root().join("releases/c.json").exists());
}

#[test]
fn the_newest_comes_first_also_within_a_second() {
    let (_scratch, store) = store();
    for number in [9, 10, 11] {
        add(&store, &format!("20261121-{number}"), 7);
    }
    assert_eq!(names(&store), ["20261121-11", "20261121-10", "20261121-9"]);
}

/// What a process that was killed between any two system calls can leave behind.
#[test]
fn whatever_is_left_behind_the_next_deploy_goes_on() {
    let (_scratch, store) = store();
    add(&store, "a", 1);
    make_live(&store, "a", 1);
    let root = store.root().to_owned();
    let left: [&dyn Fn(); 7] = [
        &|| std::fs::create_dir(root.join("incoming/b")).unwrap(),
        &|| std::fs::write(root.join("incoming/b.json"), "{").unwrap(),
        &|| std::fs::write(root.join("releases/b.json"), "{").unwrap(),
        &|| symlink("releases/b", root.join("incoming/current")).unwrap(),
        &|| symlink("releases/b", root.join("incoming/previous")).unwrap(),
        &|| std::fs::create_dir_all(root.join("incoming/old.gone/x")).unwrap(),
        &|| std::fs::write(root.join("lock"), "pid 1").unwrap(),
    ];
    for (number, leave) in left.into_iter().enumerate() {
        leave();
        assert_eq!(store.current().unwrap(), Some(id("a")));
        assert_eq!(names(&store).last().unwrap(), "a");
        let _lock = store.lock("pid 2").unwrap();
        let name = format!("n{number}");
        add(&store, &name, 2);
        let incoming = std::fs::read_dir(root.join("incoming")).unwrap();
        assert_eq!(incoming.count(), 0, "{number}");
    }
    assert!(!root.join("releases/b.json").exists());
}

#[test]
fn a_manifest_that_cannot_be_read_hides_no_release() {
    let (_scratch, store) = store();
    add(&store, "a", 1);
    std::fs::write(store.root().join("releases/a.json"), "{").unwrap();
    assert_eq!(names(&store), ["a"]);
    assert!(matches!(
        store.manifest(&id("a")),
        Err(StoreError::Malformed { .. })
    ));
}

#[test]
fn what_was_taken_back_is_not_gone_back_to_and_goes_first() {
    let (_scratch, store) = store();
    for (name, now) in [("a", 1), ("b", 2)] {
        add(&store, name, now);
        make_live(&store, name, now);
    }
    let before = store.previous().unwrap();
    add(&store, "bad", 3);
    make_live(&store, "bad", 3);
    store.go_back(&id("b"), before.as_ref()).unwrap();
    store.mark_taken_back(&id("bad"), "it failed more").unwrap();
    assert_eq!(store.current().unwrap(), Some(id("b")));
    assert_eq!(store.previous().unwrap(), Some(id("a")));
    let bad = store.manifest(&id("bad")).unwrap().unwrap();
    assert_eq!((bad.word(), bad.is_good()), ("taken back", false));
    // Whoever brings it live again wants it.
    make_live(&store, "bad", 4);
    let bad = store.manifest(&id("bad")).unwrap().unwrap();
    assert_eq!(bad.state, State::Healthy(3));
    assert!(bad.is_good());
    store.go_back(&id("b"), None).unwrap();
    store.mark_taken_back(&id("bad"), "again").unwrap();
    assert_eq!(store.previous().unwrap(), None);
    assert_eq!(store.prune(2, &BTreeSet::new()).unwrap(), [id("bad")]);
}

#[test]
fn a_deploy_that_was_killed_before_it_said_so_was_healthy_all_the_same() {
    let (_scratch, store) = store();
    add(&store, "a", 1);
    store.make_current(&id("a")).unwrap();
    assert_eq!(
        store.manifest(&id("a")).unwrap().unwrap().state,
        State::Staged
    );
    store.remember(7).unwrap();
    store.remember(8).unwrap();
    assert_eq!(
        store.manifest(&id("a")).unwrap().unwrap().state,
        State::Healthy(7)
    );
}

#[test]
fn a_manifest_of_an_older_gapless_is_understood_and_one_of_ours_by_it() {
    let text = serde_json::to_string(&manifest("a", 1)).unwrap();
    assert!(!text.contains("taken_back"), "{text}");
    assert_eq!(
        serde_json::from_str::<Manifest>(&text).unwrap(),
        manifest("a", 1)
    );
}

#[test]
fn an_announcement_counts_until_it_is_withdrawn_and_not_when_a_killed_deploy_left_it() {
    let (_scratch, store) = store();
    assert!(!store.is_announced());
    store.announce().unwrap();
    assert!(store.is_announced());
    let file = std::fs::File::open(store.root().join("starting")).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
    file.set_modified(long_ago).unwrap();
    assert!(!store.is_announced());
    store.announce().unwrap();
    assert!(store.is_announced());
    store.withdraw().unwrap();
    store.withdraw().unwrap();
    assert!(!store.is_announced());
}
