"""Runs the load (bench-load) against a server, and measures the server meanwhile."""

import json
import subprocess
import time


class Load:
    """All its connections are open, and each had an answer; it waits for `go`."""

    def __init__(self, server, **options):
        arguments = []
        for key, value in options.items():
            if value is True:
                arguments.append(f"--{key}")
            elif value is not None:
                arguments += [f"--{key}", str(value)]
        command = [server.programs.load, f"127.0.0.1:{server.port}", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            self.process.wait()
            raise RuntimeError(f"{server.name}: no load: {' '.join(command)}")

    def go(self):
        """It begins."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def report(self):
        line = self.process.stdout.readline()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        return json.loads(line)

    def leave(self):
        """Without the work: closes its connections."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def measure(server, **options):
    """One run: the report of the load, and what the server used for it."""
    load = Load(server, **options)
    meter = server.meter()
    before = meter.ns()
    load.go()
    report = load.report()
    spent = meter.ns() - before
    requests = report["requests"]
    rss, pss = server.memory_kb()
    if report["lost"]:
        print(f"bench: {server.name} lost {report['lost']}: {report['losses']}", flush=True)
    return {
        "cpu_us": spent / 1000 / max(requests, 1),
        "per_second": requests / report["seconds"],
        "p50_us": report["p50_us"],
        "p99_us": report["p99_us"],
        "p999_us": report["p999_us"],
        "rss_kb": rss,
        "pss_kb": pss,
        "requests": requests,
        "lost": report["lost"],
    }


def settled_memory(server, patience=10):
    """Proportional memory when it has stopped to change: what freed memory is given back with is late."""
    last = server.memory_kb()[1]
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = server.memory_kb()[1]
        if abs(now - last) < 32:
            return now
        last = now
    return last
