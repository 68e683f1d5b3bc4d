#!/bin/bash
# Builds the rpm, and the one with the debug symbols, of the release binary that is there (make build)
# into dist/. The same sources give the same bytes.
#
# GAPLESS_VERSION= stands in for the version of Cargo.toml, GAPLESS_DIST= for dist. Arguments are
# for rpmbuild.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

. packaging/common.sh
need rpm binutils -- rpmbuild objcopy
dist=$(mkdir -p "${GAPLESS_DIST:-dist}" && readlink -f "${GAPLESS_DIST:-dist}")
work=$(mktemp -d "${TMPDIR:-/tmp}/gapless-rpm.XXXXXX")
trap 'rm -rf "$work"' EXIT

if ! rpmbuild -bb --define "_topdir $work" --define "upstream $version" \
    --define "repository $PWD" "$@" packaging/gapless.spec >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
for rpm in "$work"/RPMS/*/*.rpm; do
    mv "$rpm" "$dist/"
    echo "$dist/$(basename "$rpm")"
done
