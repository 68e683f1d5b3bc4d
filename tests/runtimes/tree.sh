#!/bin/bash
# Builds the tree that `make test-apps` runs in: the trixie of bases.sh with the runtimes of `packages`
# in it. Cached; built anew only when that list, this file or the tree below changes. Needs a network
# then, about 400 MB, and root. Prints the cache directory.
#
# Usage: tree.sh
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
cache=$("$here/../world/bases.sh" trixie)
base=$cache/base/trixie
tree=$cache/base/trixie-apps

say() { echo "runtimes: $*" >&2; }

recipe=$(cat "$0" "$here/packages" "$base.stamp" | sha256sum | cut -d' ' -f1)
exec 9>"$tree.lock"
flock 9
if [[ -d $tree && $(cat "$tree.stamp" 2>/dev/null) == "$recipe" ]]; then
    echo "$cache"
    exit
fi

# npm is to trust whom this machine trusts: its proxy may answer for everybody else.
certificates=/etc/ssl/certs/ca-certificates.crt
trust=()
if [[ -r $certificates ]]; then
    trust=("--bind-ro=$certificates:/run/certificates" --setenv=NODE_EXTRA_CA_CERTS=/run/certificates)
fi

# Runs inside, on the network of this machine. A container, and not chroot(8), because a JDK asks
# /proc while it is installed, and no daemon may be left running.
inside() {
    systemd-nspawn --quiet --register=no --keep-unit --resolv-conf=copy-host --directory="$tree.new" \
        --pipe --setenv=DEBIAN_FRONTEND=noninteractive "${trust[@]}" sh -eu -c "$1" </dev/null >>"$tree.log" 2>&1
}

build() {
    local packages npm
    packages=$(grep -v -e '^#' -e '^npm:' "$here/packages" | xargs)
    npm=$(sed -n 's/^npm://p' "$here/packages" | xargs)
    cp -a --reflink=auto "$base" "$tree.new"
    printf '#!/bin/sh\nexit 101\n' >"$tree.new/usr/sbin/policy-rc.d"
    chmod 0755 "$tree.new/usr/sbin/policy-rc.d"
    # The base tree has no manuals and no place for them, which the alternatives of a JDK insist on.
    mkdir -p "$tree.new/usr/share/man/man1"
    inside 'apt-get update -q'
    inside "apt-get install -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io $packages"
    inside "npm install --global --no-fund --no-audit $npm"
    # The standard library, compiled once instead of in each test.
    inside 'cd /tmp && HOME=/root go build net/http'
    rm -rf "$tree.new"/usr/sbin/policy-rc.d "$tree.new"/var/cache/apt/* "$tree.new"/var/lib/apt/lists/* \
        "$tree.new"/root/.npm
}

say "building the tree of the runtimes, once (some minutes)"
rm -rf "$tree.new" "$tree" "$tree.stamp"
: >"$tree.log"
set -E
trap 'say "it failed; the end of $tree.log:"; tail -n 20 "$tree.log" >&2' ERR
build
mv "$tree.new" "$tree"
echo "$recipe" >"$tree.stamp"
say "it is ready: $(du -sm "$tree" | cut -f1) MB"
echo "$cache"
