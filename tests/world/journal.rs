//! Plays journald: takes entries in the native protocol at its socket's place, which only the
//! service that is started with it sees. Needs root, for a mount namespace.

use super::Scratch;
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ends the thread: no entry.
const END: &[u8] = b"\n";

/// For an entry to come, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);

/// One entry: names and values of its fields.
pub type Fields = BTreeMap<String, String>;

#[derive(Default)]
struct Heard {
    entries: Mutex<Vec<Fields>>,
    more: Condvar,
    /// Held while nothing shall be taken.
    taking: Mutex<()>,
}

pub struct Journal {
    scratch: Scratch,
    heard: Arc<Heard>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let socket = UnixDatagram::bind(scratch.0.join("socket")).unwrap();
        let heard = Arc::<Heard>::default();
        let shared = Arc::clone(&heard);
        let thread = std::thread::spawn(move || take_all(&socket, &shared));
        Self {
            scratch,
            heard,
            thread: Some(thread),
        }
    }

    /// Arguments before those of a command that is to log here.
    pub fn wrapper(&self) -> Vec<String> {
        let directory = self.scratch.0.display();
        let script = format!(
            "mkdir -p /run/systemd/journal && mount --bind {directory} /run/systemd/journal && \
             JOURNAL_STREAM=$(stat -L -c %d:%i /dev/stderr) && export JOURNAL_STREAM && exec \"$@\""
        );
        ["unshare", "--mount", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .into()
    }

    /// So long nothing is taken, as by a journald that is busy.
    pub fn pause(&self) -> MutexGuard<'_, ()> {
        self.heard.taking.lock().unwrap()
    }

    pub fn entries(&self) -> Vec<Fields> {
        self.heard.entries.lock().unwrap().clone()
    }

    /// Waits for an entry in which each of `wanted` stands.
    #[track_caller]
    pub fn wait_for(&self, wanted: &[(&str, &str)]) -> Fields {
        let end = Instant::now() + LIMIT;
        let mut entries = self.heard.entries.lock().unwrap();
        loop {
            let is_wanted = |entry: &&Fields| {
                let mut each = wanted.iter();
                each.all(|(key, value)| entry.get(*key).is_some_and(|it| it == value))
            };
            if let Some(entry) = entries.iter().find(is_wanted) {
                return entry.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {wanted:?} among {entries:#?}");
            entries = self.heard.more.wait_timeout(entries, left).unwrap().0;
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let end = UnixDatagram::unbound().unwrap();
        if end.send_to(END, self.scratch.0.join("socket")).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn take_all(socket: &UnixDatagram, heard: &Heard) {
    let mut bytes = vec![0; 1 << 20];
    loop {
        let length = socket.recv(&mut bytes).unwrap();
        if &bytes[..length] == END {
            return;
        }
        drop(heard.taking.lock());
        // Nothing in it is a question whether we listen.
        if length > 0 {
            let entry = parse(&bytes[..length]);
            heard.entries.lock().unwrap().push(entry);
            heard.more.notify_all();
        }
    }
}

/// <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>
fn parse(mut bytes: &[u8]) -> Fields {
    let mut fields = Fields::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        let (name, value) = if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            bytes = rest;
            (&line[..at], &line[at + 1..])
        } else {
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap());
            let (value, rest) = rest.split_at(usize::try_from(length).unwrap());
            assert_eq!(rest.first(), Some(&b'\n'), "a value ends with a line break");
            bytes = &rest[1..];
            (line, value)
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let name = text(name);
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(is_name), "{name:?} is no name of a field");
        assert_eq!(fields.insert(name, text(value)), None, "a field twice");
    }
    assert!(bytes.is_empty(), "an entry is whole");
    fields
}
