//! Where an app listens, as ListenStream= has it, and whether that is free on this machine.
//!
//! An address is tried by bind(2) without SO_REUSEPORT before systemd gets it: our socket units have
//! ReusePort=, so two of them on one port would both start, and the kernel would deal requests to two apps.

mod owner;

pub(super) use owner::unit_at;

use super::instance::InstanceName;
use rustix::fs::{FileType, lstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, ipproto, socket_with, sockopt};
use rustix::net::{SocketAddrAny, SocketFlags};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// sun_path of unix(7), without the byte that ends it.
const UNIX_PATH_MAX: usize = 107;

/// A value of ListenStream= that can be reached: no abstract sockets, no names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Of all addresses, IPv4 and IPv6.
    Port(u16),
    /// Of one address.
    Inet(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// None of the three forms.
    #[error(
        "use a port (8080), an address with one (127.0.0.1:8080, [::1]:8080), or the path of a unix \
         socket (/run/blog.sock)"
    )]
    Unknown,
    /// The kernel would choose, and nobody would know.
    #[error("use a port from 1 to 65535")]
    Port,
    /// ListenStream= takes no names.
    #[error("use the number in place of the name: 127.0.0.1:8080")]
    Name,
    /// IPv6 without brackets.
    #[error("put an IPv6 address into brackets: [::1]:8080")]
    Brackets,
    /// Of IPv6, as in fe80::1%2; % is systemd's for specifiers.
    #[error("use an address without a zone: systemd reads the % as one of its specifiers")]
    Zone,
    /// unix(7)
    #[error("use a path of at most {UNIX_PATH_MAX} bytes, without .. and control characters")]
    Path,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('/') {
            return unix(text);
        }
        let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        if is_number {
            let port = text.parse().map_err(|_| AddressError::Port)?;
            return positive(port).map(Self::Port);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if text.contains('%') {
                return Err(AddressError::Zone);
            }
            return positive(address.port()).map(|_| Self::Inet(address));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(AddressError::Brackets);
        }
        let is_named = text
            .rsplit_once(':')
            .is_some_and(|(host, _)| host.starts_with(|c: char| c.is_ascii_alphabetic()));
        Err(if is_named {
            AddressError::Name
        } else {
            AddressError::Unknown
        })
    }
}

fn positive(port: u16) -> Result<u16, AddressError> {
    (port > 0).then_some(port).ok_or(AddressError::Port)
}

/// % is systemd's for specifiers, and quotes and backslashes are nobody's wish.
fn unix(text: &str) -> Result<Address, AddressError> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !"%\\\"'".contains(c);
    let leaves = Path::new(text)
        .components()
        .any(|it| it.as_os_str() == "..");
    let is_path = text.len() <= UNIX_PATH_MAX && text.chars().all(is_plain) && !leaves;
    let names_something = Path::new(text).file_name().is_some() && !text.ends_with('/');
    if is_path && names_something {
        Ok(Address::Unix(PathBuf::from(text)))
    } else {
        Err(AddressError::Path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "{port}"),
            Self::Inet(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    fn ip_and_port(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Port(port) => Some((Ipv6Addr::UNSPECIFIED.into(), *port)),
            Self::Inet(address) => Some((address.ip(), address.port())),
            Self::Unix(_) => None,
        }
    }

    /// Both cannot be listened on: one is the other, or all addresses of its port.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (Some((ip, port)), Some((other_ip, other_port))) =
            (self.ip_and_port(), other.ip_and_port())
        else {
            return self == other;
        };
        let is_all = |all: IpAddr, one: IpAddr| match all {
            IpAddr::V6(all) => all.is_unspecified(),
            IpAddr::V4(all) => all.is_unspecified() && one.is_ipv4(),
        };
        port == other_port && (ip == other_ip || is_all(ip, other_ip) || is_all(other_ip, ip))
    }

    /// The same place, however it is written.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self.ip_and_port(), other.ip_and_port()) {
            (Some(one), Some(other)) => one == other,
            (_, _) => self == other,
        }
    }
}

/// It cannot be had.
#[derive(Debug, Error)]
pub enum TakenError {
    /// By itself.
    #[error("{one} and {other} are the same place; leave out one of them")]
    Twice {
        /// As it was given.
        one: Address,
        /// As it was given, too.
        other: Address,
    },
    /// By a socket unit of ours, which may not be started yet.
    #[error("{address} is where {unit} listens; choose another --listen")]
    Unit {
        /// Which.
        address: Address,
        /// `gapless@shop.socket`
        unit: String,
    },
    /// By somebody.
    #[error("{address} is in use by {by}; choose another --listen, or end that first")]
    InUse {
        /// Which.
        address: Address,
        /// `pid 7 (nginx)`
        by: String,
    },
    /// Of no interface.
    #[error("no interface of this machine has the address {0}; ip address shows those that it has")]
    NotHere(Address),
    /// systemd would remove it.
    #[error("{} is there already and is no socket; it stays, choose another --listen", .0.display())]
    Occupied(PathBuf),
    /// The kernel has another reason.
    #[error("nobody can listen on {address}")]
    Refused {
        /// Which.
        address: Address,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// That all can be listened on, now and after a reboot. `root` is where units are.
pub(super) fn expect_free(
    addresses: &[Address],
    name: &InstanceName,
    root: &Path,
) -> Result<(), TakenError> {
    for (index, one) in addresses.iter().enumerate() {
        if let Some(other) = addresses.iter().take(index).find(|it| it.meets(one)) {
            let (one, other) = (other.clone(), one.clone());
            return Err(TakenError::Twice { one, other });
        }
        if let Some(unit) = unit_at(one, name, root) {
            let address = one.clone();
            return Err(TakenError::Unit { address, unit });
        }
        expect_bindable(one)?;
    }
    Ok(())
}

/// Without SO_REUSEPORT: two units of ours would share a port, and the kernel would deal requests to
/// two apps.
fn expect_bindable(address: &Address) -> Result<(), TakenError> {
    let bound = match address {
        Address::Unix(path) => return expect_no_listener(path, address),
        Address::Inet(address) => bound(*address),
        Address::Port(port) => match bound((Ipv6Addr::UNSPECIFIED, *port).into()) {
            // No IPv6 on this machine; systemd does the same.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                bound((Ipv4Addr::UNSPECIFIED, *port).into())
            }
            bound => bound,
        },
    };
    let address = address.clone();
    match bound {
        // systemd binds, with rights that whoever only tries may not have.
        Ok(_) | Err(Errno::ACCESS) => Ok(()),
        Err(Errno::ADDRINUSE) => {
            let by = owner::of(&address);
            Err(TakenError::InUse { address, by })
        }
        Err(Errno::ADDRNOTAVAIL) => Err(TakenError::NotHere(address)),
        Err(source) => Err(TakenError::Refused { address, source }),
    }
}

/// Bound, but not listening: no client is accepted for this moment.
fn bound(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = (SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = socket_with(family, kind.0, kind.1, Some(ipproto::TCP))?;
    // As systemd does: connections that ended lately are no obstacle, listeners are.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrAny::from(address))?;
    Ok(socket)
}

fn expect_no_listener(path: &Path, address: &Address) -> Result<(), TakenError> {
    let is_socket = match lstat(path) {
        Ok(found) => FileType::from_raw_mode(found.st_mode) == FileType::Socket,
        Err(_) => return Ok(()),
    };
    if !is_socket {
        return Err(TakenError::Occupied(path.to_owned()));
    }
    if UnixStream::connect(path).is_err() {
        // What a process left that is gone; systemd replaces it.
        return Ok(());
    }
    Err(TakenError::InUse {
        address: address.clone(),
        by: owner::of(address),
    })
}

/// What `systemctl show` and the status say, for people: as it would be written.
pub(super) fn shown(addresses: &[Address]) -> String {
    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

impl Address {
    /// The bytes of a path, as /proc/net/unix has them.
    fn path_bytes(&self) -> &[u8] {
        match self {
            Self::Unix(path) => path.as_os_str().as_bytes(),
            Self::Port(_) | Self::Inet(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    fn read(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn an_address_is_a_port_an_ip_with_one_or_a_path_and_stays_as_it_is_written() {
        for text in [
            "80",
            "8081",
            "127.0.0.1:8081",
            "0.0.0.0:80",
            "[::1]:8081",
            "[::]:80",
            "/run/blog.sock",
            "/srv/blog/x.y/s",
        ] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be() {
        for (text, error) in [
            ("", AddressError::Unknown),
            ("0", AddressError::Port),
            ("65536", AddressError::Port),
            ("127.0.0.1:0", AddressError::Port),
            ("127.0.0.1", AddressError::Unknown),
            ("127.0.0.1:99999", AddressError::Unknown),
            (":8081", AddressError::Unknown),
            ("*:80", AddressError::Unknown),
            ("-80", AddressError::Unknown),
            ("localhost:80", AddressError::Name),
            ("::1", AddressError::Brackets),
            ("[fe80::1%2]:80", AddressError::Zone),
            ("@abstract", AddressError::Unknown),
            ("run/blog.sock", AddressError::Unknown),
            ("/", AddressError::Path),
            ("/run/", AddressError::Path),
            ("/run/../x", AddressError::Path),
            ("/run/a b", AddressError::Path),
            ("/run/%i", AddressError::Path),
            ("/run/x\n[Service]", AddressError::Path),
            ("80\nListenStream=81", AddressError::Unknown),
        ] {
            assert_eq!(read(text), Err(error), "{text:?}");
        }
        let long = format!("/run/{}", "x".repeat(UNIX_PATH_MAX));
        assert_eq!(read(&long), Err(AddressError::Path));
    }

    /// What people write, and what is nearly that.
    fn written() -> impl Strategy<Value = String> {
        let addresses = any::<SocketAddr>().prop_map(|it| it.to_string());
        let paths = "/[ -~é\u{2028}]{0,120}";
        prop_oneof![
            ".*",
            "[0-9]{1,6}",
            addresses,
            "[0-9a-f.:%\\[\\]]{1,30}",
            paths
        ]
    }

    proptest! {
        /// It is written into a unit, on a line of its own, and read there by systemd.
        #[test]
        fn an_address_is_one_plain_word_that_means_the_same_when_it_is_read_again(text in written()) {
            let Ok(address) = read(&text) else { return Ok(()) };
            let shown = address.to_string();
            prop_assert_eq!(read(&shown), Ok(address.clone()));
            prop_assert!(address.meets(&address) && address.is(&address));
            let breaks = |c: char| c.is_whitespace() || c.is_control() || "%\\\"'".contains(c);
            prop_assert!(!shown.is_empty() && !shown.contains(breaks), "{:?}", shown);
        }
    }

    #[test]
    fn addresses_meet_where_one_listener_would_take_the_connections_of_the_other() {
        let meet = |one: &str, other: &str| {
            let (one, other) = (read(one).unwrap(), read(other).unwrap());
            assert_eq!(one.meets(&other), other.meets(&one));
            one.meets(&other)
        };
        assert!(meet("80", "80") && meet("80", "[::]:80") && meet("80", "127.0.0.1:80"));
        assert!(meet("0.0.0.0:80", "127.0.0.1:80") && meet("80", "0.0.0.0:80"));
        assert!(meet("/run/x", "/run/x") && !meet("/run/x", "/run/y"));
        assert!(!meet("80", "81") && !meet("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!meet("0.0.0.0:80", "[::1]:80") && !meet("80", "/run/x"));
        assert!(read("80").unwrap().is(&read("[::]:80").unwrap()));
        assert!(!read("80").unwrap().is(&read("0.0.0.0:80").unwrap()));
    }

    #[test]
    fn a_listener_of_this_process_is_named_also_when_it_shares_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_reuseport(&listener, true).unwrap();
        let taken = Address::Inet(listener.local_addr().unwrap());
        let name = InstanceName::default();
        let free = |address: &Address| {
            let root = Path::new("/nonexistent");
            expect_free(std::slice::from_ref(address), &name, root)
        };
        let error = free(&taken).unwrap_err().to_string();
        let by = format!("{taken} is in use by pid {} (", std::process::id());
        assert!(error.starts_with(&by), "{error}");
        let port = Address::Port(listener.local_addr().unwrap().port());
        assert!(matches!(free(&port), Err(TakenError::InUse { .. })));
        drop(listener);
        free(&taken).unwrap();
        let elsewhere = read("192.0.2.1:9").unwrap();
        assert!(matches!(free(&elsewhere), Err(TakenError::NotHere(_))));
    }

    #[test]
    fn a_path_is_free_unless_something_is_there_that_listens_or_is_no_socket() {
        let name = format!("gapless-address-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let address = Address::Unix(path.clone());
        expect_bindable(&address).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = expect_bindable(&address).unwrap_err().to_string();
        let by = format!("in use by pid {} (", std::process::id());
        assert!(error.contains(&by), "{error}");
        drop(listener);
        expect_bindable(&address).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let error = expect_bindable(&address).unwrap_err();
        assert!(matches!(error, TakenError::Occupied(_)), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
