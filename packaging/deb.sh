#!/bin/bash
# Builds the deb, and the one with the debug symbols, of the release binary that is there (make build)
# into dist/. The same sources give the same bytes.
#
# GAPLESS_VERSION= stands in for the version of Cargo.toml, GAPLESS_DIST= for dist.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

. packaging/common.sh
need debhelper dpkg-dev -- dh dpkg-deb
export GAPLESS_REPOSITORY=$PWD
dist=$(mkdir -p "${GAPLESS_DIST:-dist}" && readlink -f "${GAPLESS_DIST:-dist}")
work=$(mktemp -d "${TMPDIR:-/tmp}/gapless-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT

mkdir "$work/gapless"
cp -r packaging/debian "$work/gapless/debian"
cat >"$work/gapless/debian/changelog" <<END
gapless ($version-1) unstable; urgency=medium

  * What is new is in changelog.gz, beside this file.

 -- The gapless authors <gapless@packages.invalid>  $(date -Ru -d "@$SOURCE_DATE_EPOCH")
END
cd "$work/gapless"
# As debian/control says; only dpkg-buildpackage tells it to the tools.
export DEB_RULES_REQUIRES_ROOT=no
if ! debian/rules binary >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
for deb in "$work"/*.deb; do
    mv "$deb" "$dist/"
    echo "$dist/$(basename "$deb")"
done
