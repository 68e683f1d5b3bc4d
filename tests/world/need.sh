#!/bin/bash
# Brings what the tests need beyond Rust, as far as it can, and says loudly what it cannot bring and
# how to get it. With CI=true whatever is missing is a failure.
set -euo pipefail

packages=(systemd-container mmdebstrap debian-archive-keyring util-linux iproute2 procps python3 nodejs
    debhelper dpkg-dev lintian rpm rpmlint binutils mandoc guile-3.0 zsh fish)

# What the tests call, not what happens to be packaged: node may well come from elsewhere.
commands=(systemd-nspawn mmdebstrap nsenter setpriv ip ps python3 node dh dpkg-deb lintian
    rpmbuild rpmlint objcopy mandoc guile zsh fish)

# Limits of memory are tried in a virtual machine, of the one kind that tests/world/vm/boot.sh knows.
if [[ $(uname -m) == x86_64 ]]; then
    packages+=(qemu-system-x86)
    commands+=(qemu-system-x86_64)
fi

say() { printf 'make test: %s\n' "$*" >&2; }

lack() {
    printf '\n*** %s\n*** %s\n\n' "$1" "$2" >&2
    [[ ${CI:-} != true ]] || exit 1
}

missing() {
    local command
    for command in "${commands[@]}"; do
        command -v "$command" >/dev/null || printf '%s ' "$command"
    done
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || printf 'debian-archive-keyring '
}

if [[ $(id -u) != 0 ]]; then
    lack "NOT root: the tests in containers (ring 3) will be SKIPPED" \
        "run 'sudo make test', or as root, to have all of them"
    exit 0
fi
if [[ -n $(missing) ]] && command -v apt-get >/dev/null; then
    say "missing: $(missing)- installing with apt-get: ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Only what is missing: nodejs would fight with one that is installed from elsewhere.
    wanted=()
    for package in "${packages[@]}"; do
        [[ $package == nodejs ]] && command -v node >/dev/null && continue
        wanted+=("$package")
    done
    apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
fi
if [[ -n $(missing) ]]; then
    lack "missing: $(missing)- the tests that need it will be SKIPPED" \
        "on Debian or Ubuntu: apt-get install ${packages[*]}"
    exit 0
fi
if ! "$(dirname "$0")/bases.sh" >/dev/null; then
    lack "no base trees for containers: the tests in containers (ring 3) will FAIL" \
        "see the messages above; the mirror is the one that apt uses on this machine"
fi
