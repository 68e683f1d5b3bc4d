#!/bin/bash
# Builds the fuzz targets and lets each run for some seconds (the first argument) from its corpus.
# What it finds is left in target/fuzz/found; a fix brings it into tests/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-10}
# To libFuzzer, 0 means for ever.
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "make fuzz: SECONDS is \"$seconds\", it must be a whole number from 1" >&2
    exit 2
fi
built=$(realpath -m ../../target/fuzz)
host=$(rustc -vV | sed -n 's/^host: //p')

# libFuzzer is C++.
if ! command -v c++ >/dev/null; then
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        echo "make fuzz: installing g++ with apt-get" >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ >/dev/null
    else
        echo "make fuzz: no C++ compiler; on Debian or Ubuntu: apt-get install g++" >&2
        exit 1
    fi
fi

# What cargo-fuzz sets, without the sanitizers that only a nightly compiler has. With --target,
# build scripts and macros are left as they are.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 $coverage" \
    cargo build --locked --release --target "$host" --target-dir "$built"

mkdir -p "$built/found"
for source in targets/*.rs; do
    target=$(basename "$source" .rs)
    mkdir -p "$built/corpus/$target"
    echo "make fuzz: $target, $seconds s"
    # New inputs go to the first directory, never into the repository.
    log="$built/$target.log"
    if ! "$built/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -max_len=4096 -artifact_prefix="$built/found/$target-" \
        "$built/corpus/$target" "corpus/$target" 2>"$log"; then
        tail -n 40 "$log" >&2
        echo "make fuzz: $target failed; its input is in $built/found" >&2
        exit 1
    fi
    grep -E '^(Done|#[0-9]+.DONE)' "$log"
done
