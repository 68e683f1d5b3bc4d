"""What processes use, from /proc: CPU time in nanoseconds, memory, and which processes are meant."""

import os
import threading
import time

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def read(path):
    """Empty for a process that has ended."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def cpu_ns(pid):
    """User and system time of all threads. schedstat knows nanoseconds, stat only ticks."""
    total = 0
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    for task in tasks:
        spent = read(f"/proc/{pid}/task/{task}/schedstat").split()
        if not spent:
            return ticks(pid) * TICK_NS
        total += int(spent[0])
    return total


def ticks(pid):
    # Fields 14 and 15; the name (field 2) may contain anything.
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def memory_kb(pid):
    """(resident, proportional): the second counts a page that processes share once."""
    rss = pss = 0
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Rss:"):
            rss = int(line.split()[1])
        elif line.startswith(b"Pss:"):
            pss = int(line.split()[1])
    return rss, pss


def resident_kb(pid):
    """The same, and cheap."""
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // 1024 if fields else 0


def descendants(pid):
    """The process and all below it."""
    found = [pid]
    for one in found:
        for task in os.listdir(f"/proc/{one}/task") if os.path.isdir(f"/proc/{one}/task") else []:
            found += [int(child) for child in read(f"/proc/{one}/task/{task}/children").split()]
    return found


class Marked:
    """All processes with a certain variable in their environment, whoever is their parent."""

    def __init__(self, mark):
        self.mark = mark.encode()
        self.known = {}

    def find(self):
        here = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self.known = {pid: is_ours for pid, is_ours in self.known.items() if pid in here}
        for pid in here - self.known.keys():
            environment = read(f"/proc/{pid}/environ")
            # What is between fork and exec has none yet.
            if environment:
                self.known[pid] = self.mark in environment.split(b"\0")
        return [pid for pid, is_ours in self.known.items() if is_ours]


class Meter:
    """CPU time of a server's own processes. What one had used when it was last seen stays counted."""

    def __init__(self, pids):
        self.pids = pids
        self.spent = {}

    def ns(self):
        for pid in self.pids():
            self.spent[pid] = max(self.spent.get(pid, 0), cpu_ns(pid))
        return sum(self.spent.values())


class Watch(threading.Thread):
    """Looks every 50 ms: the highest CPU use in any 100 ms, in percent of a core, and most memory."""

    STEP = 0.05

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids = pids
        self.meter = Meter(pids)
        self.over = threading.Event()
        self.spike_percent = 0.0
        self.peak_kb = 0
        self.used_ns = 0

    def run(self):
        first = self.meter.ns()
        seen = [(time.monotonic_ns(), first)]
        while not self.over.wait(self.STEP):
            now = (time.monotonic_ns(), self.meter.ns())
            self.used_ns = now[1] - first
            seen.append(now)
            before = next((old for old in reversed(seen) if now[0] - old[0] >= 100_000_000), None)
            if before:
                self.spike_percent = max(self.spike_percent, 100 * (now[1] - before[1]) / (now[0] - before[0]))
            seen = seen[-8:]
            self.peak_kb = max(self.peak_kb, sum(resident_kb(pid) for pid in self.pids()))

    def end(self):
        self.over.set()
        self.join()
        return {
            "cpu_ms": round(self.used_ns / 1e6),
            "cpu_spike_percent": round(self.spike_percent),
            "memory_peak_kb": self.peak_kb,
        }
