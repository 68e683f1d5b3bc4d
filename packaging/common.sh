# For deb.sh and rpm.sh, in the root of the repository: which version, of when, and with what it is built.
version=${GAPLESS_VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)}
# The time of the commit; without git, of the last change to the changelog.
if [[ -z ${SOURCE_DATE_EPOCH:-} ]]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
fi
export SOURCE_DATE_EPOCH
# Times and order of files depend on nothing else of the machine.
export TZ=UTC LC_ALL=C.UTF-8
umask 022

# need PACKAGE... -- COMMAND...: installs the packages when one of the commands is missing.
need() {
    local packages=() missing=()
    while [[ $1 != -- ]]; do packages+=("$1") && shift; done
    shift
    for command in "$@"; do
        command -v "$command" >/dev/null || missing+=("$command")
    done
    [[ ${#missing[@]} != 0 ]] || return 0
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}; on Debian or Ubuntu: apt-get install ${packages[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}
