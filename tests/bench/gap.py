"""make bench-gap: what clients feel of a reload, an upgrade, a restart and a crash, at a fixed rate."""

import os
import signal
import time

from load import Load
from peers import KINDS
from processes import Watch
from results import count, median_of, table

RATE, CONNECTIONS, WORKERS = 2000, 64, 2
CALM = "calm"
# What happens twice in each run, and to whom.
OWN = ["upgrade", "restart", "keeper-killed", "worker-killed"]


def all_cases():
    return [CALM, "reload", *OWN]


def kill_worker(server):
    """Until there is another one."""
    before = server.app_pids()
    os.kill(before[0], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        now = server.app_pids()
        if before[0] not in now and len(now) == len(before):
            return
        time.sleep(0.01)
    raise TimeoutError("no worker instead of the one that was killed")


def acts(server):
    """{case: what is done}"""
    found = {CALM: None, "reload": server.reload}
    if server.name == "gapless":
        service = server.service
        found |= {
            "upgrade": lambda: service.cli("upgrade"),
            "restart": service.restart,
            "keeper-killed": service.crash,
            "worker-killed": lambda: kill_worker(server),
        }
    return found


def run(options, scratch):
    servers = {}
    for name in options.peers:
        keys = {"keys": 'settle = "50ms"'} if options.short and name == "gapless" else {}
        servers[name] = KINDS[name](options.programs, f"{scratch}/{name}", WORKERS, **keys)
        servers[name].start()
    try:
        found = {case: of_case(options, servers, case) for case in all_cases() if options.wants(case)}
    finally:
        for server in servers.values():
            server.stop()
    return {"cases": {case: servers for case, servers in found.items() if servers}, "rate": RATE, "connections": CONNECTIONS}


def of_case(options, servers, case):
    taking_part = {name: server for name, server in servers.items() if case in acts(server)}
    rounds = {name: [] for name in taking_part}
    for _ in range(options.rounds):
        for name, server in taking_part.items():
            rounds[name].append(one_run(options, server, acts(server)[case]))
    found = {name: median_of(each) for name, each in rounds.items()}
    print(f"bench: {case}: " + ", ".join(f"{name} {one['lost']} lost, {one['max_us'] / 1000:.0f} ms at most" for name, one in found.items()), flush=True)
    return found


def one_run(options, server, act):
    rate = 200 if options.short else RATE
    load = Load(server, connections=CONNECTIONS, rate=rate, seconds=options.seconds, bytes=64)
    watch = Watch(server.pids)
    watch.start()
    began = time.monotonic()
    load.go()
    took = []
    # At 1/5 and 3/5, and later where the first took too long.
    for moment in (0.2, 0.6) if act else ():
        time.sleep(max(0, began + moment * options.seconds - time.monotonic()))
        before = time.monotonic()
        act()
        took.append(time.monotonic() - before)
    report = load.report()
    if report["lost"]:
        print(f"bench: {server.name} lost {report['lost']}: {report['losses']}", flush=True)
    used = watch.end()
    if server.name == "gapless":
        server.service.wait_calm()
    chosen = {key: report[key] for key in ("requests", "lost", "reopened", "p50_us", "p99_us", "p999_us", "max_us", "stall_us")}
    return chosen | used | {"took_ms": 1000 * max(took, default=0)}


def show(results):
    heads = ["what happens twice", "server", "requests", "lost", "p50 us", "p99.9 us", "longest ms", "no answer for ms", "CPU ms", "spike %", "peak MiB", "reopened"]
    rows = [[case, name, count(one["requests"]), count(one["lost"]), count(one["p50_us"]), count(one["p999_us"]), f"{one['max_us'] / 1000:.1f}",
             f"{one['stall_us'] / 1000:.1f}", count(one["cpu_ms"]), count(one["cpu_spike_percent"]), f"{one['memory_peak_kb'] / 1024:.1f}", count(one["reopened"])]
            for case, servers in results["cases"].items() for name, one in servers.items()]
    lines = table(heads, rows)
    calm = results["cases"].get(CALM, {})
    rows = [[case, name, f"{one['p999_us'] / calm[name]['p999_us']:.2f}"] for case, servers in results["cases"].items() if case != CALM
            for name, one in servers.items() if name in calm and calm[name]["p999_us"]]
    return lines + ["", *table(["p99.9 over calm", "server", "ratio"], rows)] if rows else lines
