#!/bin/sh
# Makes the tree of the image: gapless as make build has built it, the libraries that it needs, a
# user, /tmp for its control socket. For Containerfile, and for its test.
#
# Usage: tree.sh DIRECTORY
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."

tree=$1
install -D -s -m 0755 target/release/gapless "$tree/usr/bin/gapless"
ldd target/release/gapless | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$tree$library"
done
mkdir -p "$tree/app" "$tree/etc"
install -d -m 1777 "$tree/tmp"
echo 'app:x:65532:65532:app:/app:/usr/bin/gapless' >"$tree/etc/passwd"
echo 'app:x:65532:' >"$tree/etc/group"
