#!/bin/bash
# Boots a virtual machine, emulated, with systemd 257 and gapless, runs /root/trial in it and prints
# its serial console. A machine of its own, because the host may have bound the memory controller to
# cgroup v1, and its limits bind whatever runs in a container. The whole system is the initramfs;
# nothing of the host is changed.
#
# Usage: boot.sh GAPLESS CACHE DIRECTORY MEBIBYTES: the binary, the cache of tests/world/bases.sh, a
# directory for what is made on the way, and the memory of the machine. What is in DIRECTORY/root comes
# into the machine, /root/trial with it. Needs root, qemu-system-x86_64 and dpkg-deb
set -euo pipefail

gapless=$1 cache=$2 directory=$3 memory=$4
here=$(dirname "$(readlink -f "$0")")
repository=$(readlink -f "$here/../../..")

# Debian's kernel for virtual machines, of the suite that this host itself uses; unpacked, not installed.
kernel() {
    local package
    if ! compgen -G "$cache/kernel/boot/vmlinuz-*" >/dev/null; then
        package=$(apt-cache depends --important linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2 }')
        mkdir -p "$cache/kernel"
        (cd "$directory" && apt-get -q download "$package" >&2 && dpkg-deb -x linux-image-*.deb "$cache/kernel")
    fi
    compgen -G "$cache/kernel/boot/vmlinuz-*"
}

put() { install -D -m "$1" "$2" "$directory/root$3"; }

furnish() {
    local unit
    put 755 "$gapless" /usr/bin/gapless
    for unit in gapless.service gapless.socket gapless-control.socket gapless-tmp.service; do
        put 644 "$repository/units/$unit" /usr/lib/systemd/system/$unit
    done
    put 644 "$repository/units/gapless.sysusers" /usr/lib/sysusers.d/gapless.conf
    put 644 "$repository/units/gapless.tmpfiles" /usr/lib/tmpfiles.d/gapless.conf
    put 644 "$here/trial.target" /etc/systemd/system/trial.target
    put 644 "$here/trial.service" /etc/systemd/system/trial.service
}

kernel=$(kernel)
furnish
python3 "$here/archive.py" "$directory/system.cpio" "$cache/base/trixie" "$directory/root"
# Udev has no device to wait for here.
exec qemu-system-x86_64 -accel tcg -cpu max -m "$memory" -smp 2 -nographic -no-reboot -net none \
    -kernel "$kernel" -initrd "$directory/system.cpio" \
    -append "console=ttyS0 panic=-1 rdinit=/lib/systemd/systemd systemd.unit=trial.target quiet \
systemd.show_status=false systemd.mask=systemd-udevd.service systemd.mask=systemd-udev-trigger.service" \
    </dev/null
