//! Who listens on an address: a socket unit of ours, by its files; or a process, by /proc.

use super::Address;
use crate::cli::instance::InstanceName;
use crate::systemd::unit;
use std::collections::BTreeSet;
use std::path::Path;

/// LISTEN in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The unit of another instance that listens there, or will with the next boot.
pub fn unit_at(address: &Address, name: &InstanceName, root: &Path) -> Option<String> {
    let units: BTreeSet<_> = unit::entries(root).filter_map(|it| socket(&it)).collect();
    units.into_iter().find(|it| {
        let is_own = *it == name.socket_unit();
        let streams = unit::listen_streams(root, it);
        let mut addresses = streams.iter().filter_map(|it| it.parse::<Address>().ok());
        !is_own && unit::is_enabled_socket(root, it) && addresses.any(|it| it.meets(address))
    })
}

/// `gapless@shop.socket.d` and `gapless.socket` name units; the template is none.
fn socket(entry: &str) -> Option<String> {
    let unit = entry.strip_suffix(".d").unwrap_or(entry);
    let is_ours = unit.starts_with("gapless") && unit.ends_with(".socket");
    (is_ours && !unit.ends_with("@.socket")).then(|| unit.to_owned())
}

/// In words; only root can look into the processes of others.
pub fn of(address: &Address) -> String {
    let inodes = inodes(address);
    let owner = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| has_any(*pid, &inodes));
    match owner {
        Some(1) => "systemd, for a socket unit (systemctl list-sockets shows which one)".to_owned(),
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("pid {pid} ({})", crate::cli::output::printable(&name))
        }
        None => "another process".to_owned(),
    }
}

fn inodes(address: &Address) -> BTreeSet<String> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/net/{name}"));
    if let Some((_, port)) = address.ip_and_port() {
        let tables = [table("tcp"), table("tcp6")].into_iter().flatten();
        let found = tables.flat_map(|text| tcp(&text, port));
        return found.collect();
    }
    let text = table("unix").unwrap_or_default();
    let path = String::from_utf8_lossy(address.path_bytes()).into_owned();
    let of = text
        .lines()
        .filter(|line| line.ends_with(&format!(" {path}")));
    let inode = |line: &str| line.split_whitespace().nth(6).map(str::to_owned);
    of.filter_map(inode).collect()
}

/// Inodes of those that listen on a port, on whichever address: one of them is in the way.
fn tcp(table: &str, port: u16) -> Vec<String> {
    let wanted = format!("{port:04X}");
    let inode = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = columns.as_slice() else {
            return None;
        };
        let is_it = *state == LISTENING && local.rsplit(':').next() == Some(&wanted);
        is_it.then(|| (*inode).to_owned())
    };
    table.lines().filter_map(inode).collect()
}

fn has_any(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
    fds.into_iter().flatten().flatten().any(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let inode = target
            .to_str()
            .and_then(|it| it.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    })
}
