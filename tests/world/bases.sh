#!/bin/bash
# Builds the base trees that the containers of ring 3 stand on: a minimal Debian with systemd 252
# (bookworm) and one with systemd 257 (trixie). Cached; a tree is built anew only when this file
# changes. Needs root and mmdebstrap. Prints the cache directory.
#
# Usage: bases.sh [SUITE...]
set -euo pipefail

cache=${GAPLESS_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gapless-tests}
recipe=$(sha256sum "$(readlink -f "$0")" | cut -d' ' -f1)
packages=systemd,systemd-sysv,dbus,iproute2,procps,python3-minimal,libpython3-stdlib,nodejs

say() { echo "bases: $*" >&2; }

# The mirror that this host itself uses for Debian; empty lets mmdebstrap take its own default,
# as it must on Ubuntu.
mirror() {
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(CODENAME)' 'Created-By: Packages' |
        awk '$2 == "Debian" && $3 !~ /-/ { print $1; exit }'
}

# What the tests want in every box, put into the tree once.
furnish() {
    local tree=$1
    # A fixed id: an empty one makes every boot a "first boot", with presets and its own delays.
    echo 6a1e55000000400080000000000000aa >"$tree/etc/machine-id"
    # Persistent, so that the journal tells the whole story over a reboot.
    mkdir -p "$tree/var/log/journal"
    # Nothing may wake up in the middle of a measurement.
    local unit
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
        e2scrub_all.timer systemd-tmpfiles-clean.timer getty.target console-getty.service; do
        ln -sf /dev/null "$tree/etc/systemd/system/$unit"
    done
    rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/*
}

build() {
    local suite=$1 tree=$cache/base/$1 uri
    exec 9>"$cache/base/$suite.lock"
    flock 9
    if [[ -d $tree && $(cat "$tree.stamp" 2>/dev/null) == "$recipe" ]]; then
        return
    fi
    say "building $suite, once (a minute or two)"
    rm -rf "$tree.new" "$tree" "$tree.stamp"
    uri=$(mirror)
    if ! mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --format=directory \
        "$suite" "$tree.new" ${uri:+"$uri"} >"$tree.log" 2>&1; then
        say "$suite failed; the end of $tree.log:"
        tail -n 20 "$tree.log" >&2
        return 1
    fi
    furnish "$tree.new"
    mv "$tree.new" "$tree"
    echo "$recipe" >"$tree.stamp"
    say "$suite is ready: $(du -sm "$tree" | cut -f1) MB"
}

mkdir -p "$cache/base"
chmod 0755 "$cache"
jobs=()
for suite in "${@:-bookworm trixie}"; do
    for one in $suite; do
        build "$one" &
        jobs+=($!)
    done
done
failed=0
for job in "${jobs[@]}"; do wait "$job" || failed=1; done
echo "$cache"
exit $failed
