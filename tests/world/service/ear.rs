//! What systemd hears at the NOTIFY_SOCKET of a service, and what it keeps for it.

use crate::world::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use rustix::process::Signal;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// FileDescriptorStoreMax= of the units.
const STORE_MAX: usize = 512;

/// A notification.
#[derive(Clone, Debug)]
pub struct Message {
    pub at: Instant,
    pub pid: u32,
    pub text: String,
    pub fds: usize,
}

impl Message {
    /// The value of `KEY=` in it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.split_once('=').filter(|(k, _)| *k == key))
            .map(|(_, v)| v)
    }
}

/// One fd of the store.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) fd: Arc<OwnedFd>,
    /// Removed when its other end hangs up (not with FDPOLL=0).
    pub(super) is_polled: bool,
}

/// What was heard from the service so far.
#[derive(Debug, Default)]
pub struct Heard {
    pub messages: Vec<Message>,
    /// From processes other than the main one: NotifyAccess=main ignores them.
    pub ignored: Vec<Message>,
    pub(super) store: Vec<Stored>,
    pub(super) main: u32,
    /// The main process is killed at this message of its own.
    pub(super) ends_at: Option<usize>,
}

impl Heard {
    /// Names in the store, oldest first.
    pub fn stored(&self) -> Vec<String> {
        self.store
            .iter()
            .map(|stored| stored.name.clone())
            .collect()
    }

    fn hear(&mut self, message: Message, mut fds: Vec<OwnedFd>) {
        if message.pid != self.main {
            // Its fds are closed here, as systemd closes them; a barrier ends with that, too.
            self.ignored.push(message);
            return;
        }
        let name = message.get("FDNAME").unwrap_or("stored").to_owned();
        if message.get("FDSTORE") == Some("1") {
            let is_polled = message.get("FDPOLL") != Some("0");
            for fd in fds.drain(..) {
                self.keep(Stored {
                    name: name.clone(),
                    fd: Arc::new(fd),
                    is_polled,
                });
            }
        } else if message.get("FDSTOREREMOVE") == Some("1") {
            self.store.retain(|stored| stored.name != name);
        }
        self.messages.push(message);
        let own = self.messages.iter().filter(|it| it.pid == self.main);
        if self.ends_at == Some(own.count()) {
            self.ends_at = None;
            process::signal(self.main, Signal::KILL);
        }
    }

    fn keep(&mut self, new: Stored) {
        let is_known = self
            .store
            .iter()
            .any(|stored| is_same_file(&stored.fd, &new.fd));
        if !is_known && self.store.len() < STORE_MAX {
            self.store.push(new);
        }
    }
}

/// Only for files that have an inode of their own; two fds of the anonymous one are never the same.
fn is_same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_dev, stat.st_ino, stat.st_mode)
    };
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(one));
    let target = std::fs::read_link(path).unwrap_or_default();
    !target.starts_with("anon_inode:") && identity(one) == identity(other)
}

/// Listens at the NOTIFY_SOCKET in a thread of its own.
pub(super) struct Ear {
    pub(super) heard: Arc<(Mutex<Heard>, Condvar)>,
    pub(super) path: PathBuf,
    /// Closed to end the thread; written to when the store has changed otherwise.
    pub(super) wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    pub(super) fn new(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        sockopt::set_socket_passcred(&socket, true).unwrap();
        let heard = Arc::<(Mutex<Heard>, Condvar)>::default();
        let (wake, woken) = UnixStream::pair().unwrap();
        let shared = Arc::clone(&heard);
        let thread = std::thread::spawn(move || hear_all(&socket, &woken, &shared));
        Self {
            heard,
            path,
            wake: Some(wake),
            thread: Some(thread),
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn hear_all(socket: &UnixDatagram, woken: &UnixStream, heard: &(Mutex<Heard>, Condvar)) {
    loop {
        let polled: Vec<_> = heard
            .0
            .lock()
            .unwrap()
            .store
            .iter()
            .filter(|stored| stored.is_polled)
            .cloned()
            .collect();
        let mut ends = vec![
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(woken, PollFlags::IN),
        ];
        // No event asked for: hang-up and error are always told.
        ends.extend(
            polled
                .iter()
                .map(|stored| PollFd::new(&*stored.fd, PollFlags::empty())),
        );
        poll(&mut ends, None).unwrap();
        let told: Vec<_> = ends.iter().map(PollFd::revents).collect();
        if told[1].contains(PollFlags::HUP) {
            return;
        }
        for (stored, told) in polled.iter().zip(&told[2..]) {
            if told.intersects(PollFlags::HUP | PollFlags::ERR) {
                let store = &mut heard.0.lock().unwrap().store;
                store.retain(|other| !Arc::ptr_eq(&other.fd, &stored.fd));
            }
        }
        if told[0].contains(PollFlags::IN) {
            let (message, fds) = receive(socket);
            heard.0.lock().unwrap().hear(message, fds);
        }
        heard.1.notify_all();
    }
}

fn receive(socket: &UnixDatagram) -> (Message, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 65_536];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    )
    .unwrap();
    let (mut fds, mut pid) = (Vec::new(), 0);
    for part in ancillary.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(all) => fds.extend(all),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                pid = u32::try_from(sender.pid.as_raw_nonzero().get()).unwrap();
            }
            _ => panic!("an ancillary message that nobody asked for"),
        }
    }
    let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
    (
        Message {
            at: Instant::now(),
            pid,
            text,
            fds: fds.len(),
        },
        fds,
    )
}
