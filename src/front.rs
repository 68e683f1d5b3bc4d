//! The front: accepts, leases, proxies, drains. It never decides what is live.
