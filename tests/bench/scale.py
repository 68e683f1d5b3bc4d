"""make bench-scale: does a request or a swap cost more when there is more of something?

Each instance is measured in turn with a second one that has none of it, because a machine has its moods;
what counts is the ratio."""

import statistics
import time

from cost import idle_count
from load import Load, measure, settled_memory
from peers import Gapless
from results import count, median_of, table

KEYS = 'settle = "10ms"'
# Each lane has its share of held_max, and lanes do not get the same number of connections.
MORE = "[http]\nheld_max = 10000\nconnections_max = 25000"
SWAPS = 3
POINTS = {
    "idle": [0, 2500, 5000, 10_000, 20_000],
    "workers": [1, 2, 8, 32],
    "held": [100, 1000, 4000],
    "reloads": [0, 10, 100, 1000],
}
SHORT = {"idle": [0, 200], "workers": [1, 4], "held": [20], "reloads": [0, 3]}


def all_cases():
    return list(POINTS)


def run(options, scratch):
    how = {"idle": idle, "workers": workers, "held": held, "reloads": reloads}
    found = {}
    for case, points in (SHORT if options.short else POINTS).items():
        if options.wants(case):
            found |= how[case](options, f"{scratch}/{case}", points)
    return {"cases": found}


class Pair:
    """The one that grows and the one that does not."""

    def __init__(self, options, scratch, workers=1):
        self.options = options
        self.grown = Gapless(options.programs, f"{scratch}-grown", workers, KEYS, MORE)
        self.plain = Gapless(options.programs, f"{scratch}-plain", 1, KEYS, MORE)

    def __enter__(self):
        self.grown.start()
        self.plain.start()
        return self

    def __exit__(self, *error):
        self.grown.stop()
        self.plain.stop()

    def compare(self, name):
        """{server: medians}; ratio is that of the rounds, each with its neighbour."""
        rounds = {"grown": [], "plain": []}
        for number in range(self.options.rounds):
            order = ["grown", "plain"] if number % 2 else ["plain", "grown"]
            for which in order:
                rounds[which].append(measure(getattr(self, which), connections=64, seconds=self.options.seconds))
        grown = median_of(rounds["grown"])
        grown["ratio"] = statistics.median(one["cpu_us"] / other["cpu_us"] for one, other in zip(rounds["grown"], rounds["plain"]) if other["cpu_us"])
        grown |= swaps(self.grown, 1 if self.options.short else SWAPS)
        print(f"bench: {name}: {grown['cpu_us']:.1f} us a request, {grown['ratio']:.3f} of the other; a swap {grown['swap_cpu_ms']:.1f} ms", flush=True)
        return {name: {"gapless": grown}}


def swaps(server, times):
    """What a reload costs gapless itself, and how long it takes."""
    cpu, took = [], []
    for _ in range(times):
        meter = server.meter()
        before, began = meter.ns(), time.monotonic()
        server.reload()
        took.append(1000 * (time.monotonic() - began))
        server.service.wait_calm()
        cpu.append((meter.ns() - before) / 1e6)
    return {"swap_cpu_ms": statistics.median(cpu), "swap_ms": statistics.median(took)}


def idle(options, scratch, points):
    found = {}
    most = idle_count(options, max(points))
    points = sorted({min(point, most) for point in points})
    with Pair(options, scratch) as pair:
        loads, connected = [], 0
        try:
            for point in points:
                if point > connected:
                    loads.append(Load(pair.grown, connections=point - connected, once=True))
                    connected = point
                    # That they come, and go to rest, is not what is asked.
                    settled_memory(pair.grown)
                found |= pair.compare(f"idle-{point}")
        finally:
            for load in loads:
                load.leave()
    return found


def workers(options, scratch, points):
    found = {}
    for point in points:
        with Pair(options, f"{scratch}-{point}", point) as pair:
            found |= pair.compare(f"workers-{point}")
    return found


def reloads(options, scratch, points):
    found, done = {}, 0
    with Pair(options, scratch) as pair:
        for point in points:
            while done < point:
                pair.grown.reload()
                pair.grown.service.wait_calm()
                done += 1
            found |= pair.compare(f"reloads-{point}")
            done += 1 if options.short else SWAPS
    return found


def held(options, scratch, points):
    """What a request costs that waits until gapless resume, beside the same that does not."""
    found = {}
    with Pair(options, scratch) as pair:
        service = pair.grown.service
        for point in points:
            rounds = []
            for _ in range(options.rounds):
                plain = measure(pair.plain, connections=point, once=True)
                load = Load(pair.grown, connections=point, once=True)
                service.cli("hold", "--for", "60s")
                meter = pair.grown.meter()
                before = meter.ns()
                load.go()
                service.wait_status("held", lambda status: sum(front["held"] for front in status["fronts"]) == point)
                service.cli("resume")
                report = load.report()
                cost = (meter.ns() - before) / 1000 / point
                rounds.append({"cpu_us": cost, "ratio": cost / max(plain["cpu_us"], 0.001), "pss_kb": pair.grown.memory_kb()[1],
                               "requests": report["requests"], "lost": report["lost"]})
            found[f"held-{point}"] = {"gapless": median_of(rounds)}
    return found


def show(results):
    heads = ["so much of it", "CPU us", "over none", "swap CPU ms", "swap ms", "MiB", "lost"]
    rows = []
    for case, servers in results["cases"].items():
        one = servers["gapless"]
        swap = [f"{one['swap_cpu_ms']:.1f}", f"{one['swap_ms']:.0f}"] if "swap_ms" in one else ["-", "-"]
        rows.append([case, f"{one['cpu_us']:.1f}", f"{one['ratio']:.3f}", *swap, f"{one['pss_kb'] / 1024:.1f}", count(one["lost"])])
    return table(heads, rows)
