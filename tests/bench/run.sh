#!/bin/bash
# CPU per proxied request, gapless beside nginx: user and system time of the proxy's own processes
# from /proc/PID/stat, divided by the requests that were answered. Both proxy the same app on a
# loopback port, one after the other, under the same load (wrk where installed, else the strict
# client), several rounds in turn, because a machine has its moods. CPU time and not throughput:
# load, app and proxy share the cores.
#
# Usage: run.sh [SECONDS per round] [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-5}
rounds=${2:-3}
release=${CARGO_TARGET_DIR:-target}/release
gapless=$(readlink -f "$release/gapless")
probe=$(readlink -f "$release/examples/probe-app")
client=$(readlink -f "$release/examples/strict-client")
work=$(mktemp -d)
ticks=$(getconf CLK_TCK)
app_port=38741
proxy_port=38742
started=()

stop_all() {
    local pid
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    started=()
}
trap 'stop_all; rm -rf "$work"' EXIT

need_nginx() {
    command -v nginx >/dev/null && return
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "bench: nginx is missing; apt-get install nginx-light" >&2
        exit 1
    fi
    echo "bench: installing nginx-light with apt-get" >&2
    apt-get update -qq
    # Only the program: the service would take port 80.
    ln -sf /dev/null /etc/systemd/system/nginx.service
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
    rm -f /etc/systemd/system/nginx.service
}

# Waits until something answers on the port.
wait_port() {
    local deadline=$((SECONDS + 20))
    until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
        if ((SECONDS > deadline)); then
            echo "bench: nothing listens on port $1" >&2
            cat "$work"/*.log >&2
            exit 1
        fi
        sleep 0.05
    done
}

start_nginx() {
    PORT=$app_port "$probe" 2>"$work/app.log" &
    started+=($!)
    cat >"$work/nginx.conf" <<CONF
daemon off;
worker_processes auto;
pid $work/nginx.pid;
error_log $work/nginx.log warn;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi;
    keepalive_requests 100000000;
    upstream app { server 127.0.0.1:$app_port; keepalive 256; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:$proxy_port;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto \$scheme;
            proxy_set_header X-Forwarded-Host \$host;
        }
    }
}
CONF
    nginx -e "$work/nginx.log" -c "$work/nginx.conf" &
    proxy=$!
    started+=("$proxy")
}

start_gapless() {
    PROBE_LISTEN=port "$gapless" run --app bench --host 127.0.0.1 --port "$proxy_port" -- "$probe" \
        >"$work/gapless.log" 2>&1 &
    proxy=$!
    started+=("$proxy")
}

# The proxy's own processes: the first and its descendants, but not the app.
processes() {
    local pid exe
    for pid in $1 $(descendants "$1"); do
        exe=$(readlink "/proc/$pid/exe") || continue
        [[ $exe == "$probe" ]] || echo "$pid"
    done
}

descendants() {
    local child
    for child in $(cat "/proc/$1"/task/*/children 2>/dev/null); do
        echo "$child"
        descendants "$child"
    done
}

# Fields 14 and 15: user and system time, in ticks; the name (field 2) may contain anything.
cpu_ticks() {
    local pid total=0 stat
    for pid in $(processes "$1"); do
        stat=$(cat "/proc/$pid/stat") || continue
        # shellcheck disable=SC2086 # the fields are wanted apart
        set -- ${stat##*) }
        total=$((total + ${12} + ${13}))
    done
    echo "$total"
}

# Prints the number of requests answered.
load() {
    if command -v wrk >/dev/null; then
        wrk -t1 -c32 -d"$1" "http://127.0.0.1:$proxy_port/echo?bytes=1000" |
            awk '/requests in/ { print $1 }'
        return
    fi
    "$client" "127.0.0.1:$proxy_port" --clients 32 --idle 0 --kinds get --think-ms 0 --seconds "$1" |
        sed -n 's/.*"ok":\([0-9]*\),"lost":0,.*/\1/p'
}

# One round; prints nanoseconds of CPU per request.
measure() {
    "start_$1"
    wait_port "$proxy_port"
    load 1 >/dev/null
    local before after requests
    before=$(cpu_ticks "$proxy")
    requests=$(load "$seconds")
    after=$(cpu_ticks "$proxy")
    if [[ -z $requests ]]; then
        echo "bench: requests were lost through $1" >&2
        cat "$work"/*.log >&2
        exit 1
    fi
    spent=$(((after - before) * (1000000000 / ticks) / requests))
    printf '%-8s %9d requests %7d ms CPU %7.1f us a request\n' "$1" "$requests" \
        $(((after - before) * 1000 / ticks)) "$(awk "BEGIN { print $spent / 1000 }")"
    stop_all
}

need_nginx
nginx_all=() gapless_all=()
for ((round = 0; round < rounds; round++)); do
    measure nginx
    nginx_all+=("$spent")
    measure gapless
    gapless_all+=("$spent")
done
middle() { printf '%s\n' "$@" | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
awk -v g="$(middle "${gapless_all[@]}")" -v n="$(middle "${nginx_all[@]}")" 'BEGIN {
    printf "\ngapless / nginx, medians: %.1f us / %.1f us = %.2f\n", g / 1000, n / 1000, g / n }'
