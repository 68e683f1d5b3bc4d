#!/bin/bash
# Runs as a unit in the virtual machine; what it finds out goes to the serial console, one line each.
group=/sys/fs/cgroup/system.slice/gapless.service

tell() { echo "TRIAL $*"; }
ask() { python3 -c 'import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8888" + sys.argv[1], timeout=60).read().decode().strip())' "$1" 2>/dev/null; }
said() { journalctl --unit gapless --output cat --no-pager; }
# Waits, half a minute and more, until the journal has a line like this.
until_said() {
    for _ in $(seq 150); do
        if said | grep -q "$1"; then return 0; fi
        sleep 0.2
    done
    tell "never said: $1"
    said
}
workers() { for pid in $(cat "$group/$1/cgroup.procs"); do
    if grep -qa app.py "/proc/$pid/cmdline"; then echo "$pid"; fi
done | sort -n | tr '\n' ' '; }

tell "systemd $(systemctl --version | head -1 | cut -d' ' -f2)"
ip link set lo up 2>/dev/null
systemctl start gapless.socket
systemctl start gapless.service
tell "status before: $(systemctl show --property StatusText --value gapless)"
until_said 'are not in force.*DelegateSubgroup=keeper' && tell "unlimited told: $(said | grep -c 'are not in force')"

mkdir -p /etc/systemd/system/gapless.service.d
printf '[Service]\nDelegateSubgroup=keeper\n' >/etc/systemd/system/gapless.service.d/limits.conf
systemctl daemon-reload
systemctl restart gapless.service
until_said 'g2 is live'
tell "status after: $(systemctl show --property StatusText --value gapless)"
tell "keeper $(cut -d: -f3 "/proc/$(systemctl show --property MainPID --value gapless)/cgroup")"
tell "g2: memory.max $(cat $group/g2/memory.max) pids.max $(cat $group/g2/pids.max) cpu.max $(cat $group/g2/cpu.max)"

before=$(workers g2)
keeper=$(systemctl show --property MainPID --value gapless)
front=$(cat $group/f*/cgroup.procs 2>/dev/null | head -1)
ask /leak
until_said 'out of memory'
until_said 'is started again: oom'
tell "named: $(said | grep 'out of memory' | head -1)"
tell "an answer: $([ -n "$(ask /)" ] && echo yes)"
after=$(workers g2)
kept=0
for pid in $before; do if grep -qw "$pid" <<<"$after"; then kept=$((kept + 1)); fi; done
tell "workers: $(wc -w <<<"$before") before, $kept of them kept, $(wc -w <<<"$after") after"
tell "kept: keeper $([ "$keeper" = "$(systemctl show --property MainPID --value gapless)" ] && echo yes), front $([ -d "/proc/$front" ] && echo yes)"
tell "metric: $(python3 - <<'P'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/gapless-control/gapless.sock")
s.sendall(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")
text = b""
while piece := s.recv(65536):
    text += piece
print(*(line for line in text.decode().splitlines() if 'reason="oom"' in line))
P
)"
tell "forked: $(ask /fork | cut -d" " -f2)"

kill -KILL "$keeper"
until_said 'g2 w0 adopted'
tell "adopted, status $(systemctl show --property StatusText --value gapless)"
systemctl reload gapless
tell "reloaded: $?, memory.max $(cat $group/g3/memory.max)"
systemctl restart gapless
tell "restarted: $?, memory.max $(cat $group/g4/memory.max)"
# Those of g3 are there as long as they finish.
for scope in /sys/fs/cgroup/system.slice/gapless-survivors*/g*; do
    tell "survivors: memory.max $(cat "$scope/memory.max") pids.max $(cat "$scope/pids.max")"
done
systemctl stop gapless.socket gapless.service
tell "left: $(ls -d $group 2>/dev/null | wc -l)"
said
tell end
