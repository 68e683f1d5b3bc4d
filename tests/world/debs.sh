#!/bin/bash
# Downloads what a base tree of bases.sh needs for further packages, once, for containers that have
# no network. Prints the directory with the debs. Needs root and bases.sh SUITE before.
#
# Usage: debs.sh SUITE PACKAGE...
set -euo pipefail

cache=${GAPLESS_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gapless-tests}
suite=$1
shift
debs=$cache/debs/$suite-$(IFS=-; echo "$*")
mkdir -p "$debs"
exec 9>"$debs.lock"
flock 9
if [[ -e $debs/complete && $debs/complete -nt $cache/base/$suite.stamp ]]; then
    echo "$debs"
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# From where the tree itself came.
uri=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' \
    "$cache/base/$suite/etc/apt/sources.list")
mkdir -p "$work/lists" "$work/parts"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" \
    >"$work/sources.list"
# As if it were the tree's own apt, which has no network.
options=(-q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts="$work/parts"
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$work/parts"
    -o Dir::State::Lists="$work/lists" -o Dir::State::Status="$cache/base/$suite/var/lib/dpkg/status"
    -o Dir::Cache="$work" -o Dir::Cache::Archives="$debs" -o Debug::NoLocking=true)
rm -f "$debs"/*.deb
apt-get "${options[@]}" update >"$debs.log"
apt-get "${options[@]}" install -y --download-only --no-install-recommends "$@" >>"$debs.log"
touch "$debs/complete"
echo "$debs"
