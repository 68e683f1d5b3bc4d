//! Addresses that no socket unit names any more.
//!
//! A kept socket whose address systemd does not pass again is one that an administrator took out of
//! the unit. Connections in its queue are clients who believe to be connected: they are served. So new
//! ones are kept out first, by the kernel; then a front empties the queue, and then it is closed.

use super::{Listener, Listeners, filter};
use crate::systemd::given;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// Parts the kept sockets. With nothing given there is nobody who could name one: all stay open.
pub(super) fn apart(kept: Vec<Listener>, given: &[OwnedFd], other: &[Listener]) -> Listeners {
    if given.is_empty() {
        return Listeners {
            open: kept,
            closing: Vec::new(),
        };
    }
    let addresses = given.iter().filter_map(|fd| given::socket_address(fd).ok());
    let addresses: BTreeSet<_> = addresses.collect();
    let of_clients: BTreeSet<_> = given.iter().filter_map(cookie).collect();
    let renamed: BTreeSet<_> = other.iter().filter_map(|it| cookie(&it.fd)).collect();
    let mut parted = Listeners::default();
    for listener in kept {
        let cookie = cookie(&listener.fd);
        let is = |known: &BTreeSet<u64>| cookie.is_some_and(|it| known.contains(&it));
        // A path leads to the newest socket only; at an address the oldest gets the connections.
        let is_named = addresses.contains(&listener.address)
            && (is_inet(&listener.address) || is(&of_clients));
        if is_named {
            parted.open.push(listener);
        } else if !is(&renamed) {
            refuse_new(&listener);
            parted.closing.push(listener);
        }
    }
    parted
}

fn cookie(fd: &OwnedFd) -> Option<u64> {
    given::socket_cookie(fd).ok()
}

fn is_inet(address: &str) -> bool {
    !address.starts_with(['/', '@'])
}

/// Who is in the queue stays there. For a path the kernel has nothing that refuses and lets others
/// accept; but it leads to a newer socket already, or is about to go.
fn refuse_new(Listener { address, fd, .. }: &Listener) {
    let done = if is_inet(address) {
        filter::refuse_new(fd)
    } else {
        Ok(())
    };
    match done {
        Ok(()) => tracing::info!(
            address,
            "{address} is closed as soon as its queue is empty: no socket unit names it any more"
        ),
        Err(error) => tracing::warn!(
            address, %error,
            "{address} is closed, because no socket unit names it any more; who connects just now may be reset: {error}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    fn listener(fd: OwnedFd) -> Listener {
        let address = given::socket_address(&fd).unwrap();
        Listener {
            name: super::super::HTTP.into(),
            address,
            fd,
        }
    }

    fn bound() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn addresses(listeners: &[Listener]) -> Vec<&str> {
        listeners.iter().map(|it| it.address.as_str()).collect()
    }

    #[test]
    fn what_is_not_given_again_closes_and_the_rest_stays() {
        let (stays, goes) = (bound(), bound());
        let (stays_at, goes_at) = (
            given::socket_address(&stays).unwrap(),
            given::socket_address(&goes).unwrap(),
        );
        let given = vec![stays.try_clone().unwrap()];
        let parted = apart(vec![listener(stays), listener(goes)], &given, &[]);
        assert_eq!(addresses(&parted.open), [stays_at]);
        assert_eq!(addresses(&parted.closing), [goes_at]);
    }

    #[test]
    fn all_stay_where_nothing_is_given() {
        let parted = apart(vec![listener(bound())], &[], &[]);
        assert_eq!((parted.open.len(), parted.closing.len()), (1, 0));
    }

    #[test]
    fn one_that_is_for_load_balancers_now_is_let_go_and_serves_them() {
        let (stays, renamed) = (bound(), bound());
        let other = [listener(renamed.try_clone().unwrap())];
        let given = vec![stays.try_clone().unwrap()];
        let parted = apart(vec![listener(stays), listener(renamed)], &given, &other);
        assert_eq!((parted.open.len(), parted.closing.len()), (1, 0));
        std::net::TcpStream::connect(&other[0].address).unwrap();
    }

    #[test]
    fn of_two_sockets_at_a_path_the_older_closes() {
        let directory =
            std::env::temp_dir().join(format!("gapless-closing-{}", std::process::id()));
        let older = UnixListener::bind(&directory).unwrap();
        std::fs::remove_file(&directory).unwrap();
        let newer = OwnedFd::from(UnixListener::bind(&directory).unwrap());
        std::fs::remove_file(&directory).unwrap();
        let given = vec![newer.try_clone().unwrap()];
        let parted = apart(vec![listener(older.into()), listener(newer)], &given, &[]);
        assert_eq!((parted.open.len(), parted.closing.len()), (1, 1));
        assert_eq!(cookie(&parted.open[0].fd), cookie(&given[0]));
    }
}
