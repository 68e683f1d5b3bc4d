//! What survives a restart of the unit is held in as the unit is.

use crate::world::container::Container;
use crate::world::{eventually, version};
use crate::{QUICK, SOON, scopes, the_version, wait_settled};

const DROP_IN: &[u8] = b"[Service]\n\
    Slice=caged.slice\n\
    MemoryHigh=900M\n\
    MemoryMax=1G\n\
    MemorySwapMax=0\n\
    TasksMax=321\n\
    CPUQuota=150%\n\
    CPUWeight=77\n\
    IOWeight=66\n\
    IPAddressDeny=192.0.2.0/24 2001:db8::/32\n\
    IPAddressAllow=127.0.0.0/8\n\
    SocketBindDeny=tcp:4444\n\
    RestrictNetworkInterfaces=~dummy7\n\
    DeviceAllow=/dev/full r\n\
    ManagedOOMPreference=avoid\n";

/// By their names in `systemctl show`, each with a value that no scope has of itself.
const PROPERTIES: [&str; 16] = [
    "Slice",
    "MemoryHigh",
    "MemoryMax",
    "MemorySwapMax",
    "TasksMax",
    "CPUQuotaPerSecUSec",
    "CPUWeight",
    "IOWeight",
    "IPAddressDeny",
    "IPAddressAllow",
    "SocketBindDeny",
    "RestrictNetworkInterfaces",
    // Of PrivateDevices= in the shipped unit.
    "DevicePolicy",
    "DeviceAllow",
    "ManagedOOMPreference",
    "Delegate",
];

/// While the new generation boots, the old one serves from the scope.
pub fn survivors_of_a_restart_stay_in_the_cage_of_the_unit(container: &mut Container) {
    let file = "/etc/systemd/system/gapless.service.d/cage.conf";
    container.push(file, DROP_IN, 0o644);
    container.systemctl("daemon-reload");
    container.serve_probe(&version("v1"), QUICK, "");
    wait_settled(container);
    let workers = container.worker_pids();
    let kept =
        |worker: u32| format!("ls /proc/{worker}/root/tmp/kept /proc/{worker}/root/var/tmp/kept");
    container.sh(&kept(workers[0]).replacen("ls", "touch", 1));
    container.behave(&version("v2").with("BOOT_MS", "8000"));
    container.systemctl("restart --no-block gapless.service");
    let scope = eventually("what served is in a scope", SOON, || {
        let scopes = scopes(container);
        scopes.split_whitespace().next().map(str::to_owned)
    });
    assert!(scope.starts_with("gapless-survivors:gapless:"), "{scope}");
    let held_in = show(container, &scope);
    assert_eq!(held_in, show(container, "gapless.service"));
    for told in ["Slice=caged.slice", "MemoryMax=1073741824", "TasksMax=321"] {
        assert!(held_in.iter().any(|line| line == told), "{held_in:?}");
    }
    let groups = container.sh(&format!("cat /proc/{}/cgroup", workers[0]));
    let place = format!("/caged.slice/{scope}/");
    assert!(groups.contains(&place), "no {place} in {groups}");
    assert_eq!(the_version(container), "v1");
    container.sh(&kept(workers[0]));
    eventually("the new version serves", SOON, || {
        (the_version(container) == "v2").then_some(())
    });
    container.sh(&kept(container.worker_pids()[0]));
    let journal = container.journal("-b -u gapless.service");
    assert!(!journal.contains("systemd refuses"), "{journal}");

    container.systemctl("stop gapless.service");
    assert_eq!(the_version(container), "v2", "a request starts it again");
    let gone = container.try_sh(&kept(container.worker_pids()[0]));
    assert_eq!(gone.stdout, "", "{gone}");
}

/// Sorted: systemd shows a list in the order in which it was told, or in the opposite one.
fn show(container: &Container, unit: &str) -> Vec<String> {
    let properties = PROPERTIES.join(",");
    let told = container.systemctl(&format!("show -p {properties} '{unit}'"));
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
