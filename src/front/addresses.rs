//! How many connections each client address has, in all lanes together.
//!
//! Beside the [shares](super::share) the one thing that lanes share, and only with
//! `connections_per_address_max`: a limit for each lane would refuse a client whose connections the
//! kernel happened to give to one lane. It is touched when a connection comes and when it goes, not by
//! requests.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who counts as one client: an IPv4 address, or the /64 that one site of IPv6 has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Site {
    V4(u32),
    V6([u16; 4]),
}

impl Site {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [one, two, three, four, ..] = ip.segments();
                Self::V6([one, two, three, four])
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Addresses {
    max: Option<NonZeroU32>,
    counts: Mutex<HashMap<Site, u32>>,
}

impl Addresses {
    pub(super) fn new(max: Option<NonZeroU32>) -> Arc<Self> {
        Arc::new(Self {
            max,
            counts: Mutex::default(),
        })
    }

    /// A place for one more connection from there, or none when all are taken.
    pub(super) fn seat(self: &Arc<Self>, ip: IpAddr) -> Option<Seat> {
        match self.max {
            None => Some(Seat(None)),
            Some(max) => self.take(ip, max.get()),
        }
    }

    /// A place in any case, for a connection that is here already.
    pub(super) fn seat_for_inherited(self: &Arc<Self>, ip: IpAddr) -> Seat {
        let seat = self.max.and_then(|_| self.take(ip, u32::MAX));
        seat.unwrap_or(Seat(None))
    }

    fn take(self: &Arc<Self>, ip: IpAddr, max: u32) -> Option<Seat> {
        let site = Site::of(ip);
        let mut counts = self.counts();
        let count = counts.entry(site).or_default();
        if *count >= max {
            return None;
        }
        *count = count.saturating_add(1);
        drop(counts);
        Some(Seat(Some((Arc::clone(self), site))))
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Site, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of an address, until it drops.
#[derive(Debug, Default)]
pub(super) struct Seat(Option<(Arc<Addresses>, Site)>);

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((addresses, site)) = self.0.take() else {
            return;
        };
        let mut counts = addresses.counts();
        if let Some(count) = counts.get_mut(&site) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let addresses = Addresses::new(NonZeroU32::new(2));
        let one = addresses.seat(ip("192.0.2.7")).unwrap();
        let two = addresses.seat(ip("192.0.2.7")).unwrap();
        assert!(addresses.seat(ip("192.0.2.7")).is_none());
        assert!(addresses.seat(ip("::ffff:192.0.2.7")).is_none());
        assert!(addresses.seat(ip("192.0.2.8")).is_some());
        drop(one);
        let again = addresses.seat(ip("192.0.2.7"));
        assert!(again.is_some());
        drop((again, two));
        assert!(addresses.counts().is_empty());
    }

    #[test]
    fn a_site_of_ipv6_counts_as_one_address() {
        let addresses = Addresses::new(NonZeroU32::new(1));
        let _one = addresses.seat(ip("2001:db8:0:1::1")).unwrap();
        assert!(addresses.seat(ip("2001:db8:0:1:ffff::2")).is_none());
        assert!(addresses.seat(ip("2001:db8:0:2::1")).is_some());
        // No address of the other family has the same number.
        assert!(addresses.seat(ip("0.0.0.1")).is_some());
        assert!(addresses.seat(ip("::1")).is_some());
    }

    #[test]
    fn what_was_inherited_is_counted_and_never_refused() {
        let addresses = Addresses::new(NonZeroU32::new(1));
        let _one = addresses.seat_for_inherited(ip("192.0.2.7"));
        let two = addresses.seat_for_inherited(ip("192.0.2.7"));
        drop(two);
        assert!(addresses.seat(ip("192.0.2.7")).is_none());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let addresses = Addresses::new(None);
        let _many: Vec<Seat> = (0..10).filter_map(|_| addresses.seat(ip("::1"))).collect();
        assert!(addresses.counts().is_empty());
    }
}
