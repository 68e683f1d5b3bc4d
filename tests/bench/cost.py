"""make bench: what a request costs, beside nginx and HAProxy."""

import resource

from load import Load, measure, settled_memory
from peers import KINDS
from results import count, median_of, ratio_lines, table

# What is asked, over how many connections; CASES[...]["workers"] apps are behind the server.
CASES = {
    "get-64-c1": {"bytes": 64, "connections": 1},
    "get-64-c64": {"bytes": 64, "connections": 64},
    "get-64-c512": {"bytes": 64, "connections": 512},
    "get-64-c64-2000/s": {"bytes": 64, "connections": 64, "rate": 2000},
    "get-10k-c64": {"bytes": 10_000, "connections": 64},
    "get-1m-c16": {"bytes": 1_000_000, "connections": 16},
    "post-16k-c64": {"kind": "post", "bytes": 16_000, "connections": 64},
    "post-10m-c4": {"kind": "post", "bytes": 10_000_000, "connections": 4},
    "fresh-64-c32": {"kind": "fresh", "bytes": 64, "connections": 32},
    "echo-64-c64": {"kind": "echo", "bytes": 64, "connections": 64},
    "two-workers-c64": {"bytes": 64, "connections": 64, "workers": 2},
    "eight-workers-c64": {"bytes": 64, "connections": 64, "workers": 8},
}
# With 10,000, the default of connections_max, gapless begins to close those that are idle for longest.
IDLE = 9_000
START, MEMORY = "start-up", "idle-memory"


def all_cases():
    return [*CASES, MEMORY, START]


def start_servers(options, workers, scratch):
    servers = {}
    for name in options.peers:
        servers[name] = KINDS[name](options.programs, f"{scratch}/{name}-{workers}", workers)
        servers[name].start()
    return servers


def stop_servers(servers):
    for server in servers.values():
        server.stop()


def run(options, scratch):
    """{case: {server: {what: median}}}"""
    found = {}
    for workers in (1, 2, 8):
        cases = {name: case for name, case in CASES.items() if case.get("workers", 1) == workers and options.wants(name)}
        if not cases:
            continue
        servers = start_servers(options, workers, scratch)
        try:
            for name, case in cases.items():
                found[name] = in_rounds(options, servers, name, case)
        finally:
            stop_servers(servers)
    if options.wants(MEMORY):
        found[MEMORY] = idle_memory(options, scratch)
    if options.wants(START):
        found[START] = start_up(options, scratch)
    return {"cases": found}


def in_rounds(options, servers, name, case):
    """In turn, because a machine has its moods, and each round begins with another server."""
    asked = {key: value for key, value in case.items() if key != "workers"} | {"seconds": options.seconds}
    order = [peer for peer, server in servers.items() if case.get("kind") not in server.lacks]
    rounds = {peer: [] for peer in order}
    for number in range(options.rounds):
        for peer in order[number % len(order) :] + order[: number % len(order)]:
            rounds[peer].append(measure(servers[peer], **asked))
    found = {peer: median_of(each) for peer, each in rounds.items()}
    print(f"bench: {name}: " + ", ".join(f"{peer} {one['cpu_us']:.1f} us" for peer, one in found.items()), flush=True)
    return found


def idle_count(options, wanted=IDLE):
    """Both ends need descriptors, and a server two for each connection at the worst."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 200 if options.short else min(wanted, hard * 9 // 20)


def idle_memory(options, scratch):
    """Of connections that had one answer each and then say nothing."""
    found, idle = {}, idle_count(options)
    for name in options.peers:
        server = KINDS[name](options.programs, f"{scratch}/{name}-idle")
        server.start()
        try:
            few = measure(server, connections=64, once=True)
            rest = server.memory_kb()
            before = settled_memory(server)
            load = Load(server, connections=idle, once=True)
            after = settled_memory(server)
            load.go()
            report = load.report()
            found[name] = {
                "bytes_each": (after - before) * 1024 / idle,
                "connections": idle,
                "rest_rss_kb": rest[0],
                "rest_pss_kb": rest[1],
                "requests": report["requests"] + few["requests"],
                "lost": report["lost"] + few["lost"],
            }
        finally:
            server.stop()
    return found


def start_up(options, scratch):
    """To READY=1 for gapless, whose app starts meanwhile; to the first connection for others, whose app
    runs already. `settle` is what the configuration says a new generation must live before it serves."""
    found = {}
    for name in options.peers:
        variants = {name: {}} if name != "gapless" else {"gapless": {}, "gapless, settle 0": {"keys": 'settle = "0s"'}}
        for shown, keys in variants.items():
            rounds = []
            for number in range(options.rounds):
                server = KINDS[name](options.programs, f"{scratch}/{shown.replace(', ', '-').replace(' ', '')}-start{number}", **keys)
                seconds = server.start()
                try:
                    rss, pss = server.memory_kb()
                    asked = measure(server, connections=1, once=True)
                    rounds.append({"start_ms": seconds * 1000, "rss_kb": rss, "pss_kb": pss, "requests": asked["requests"], "lost": asked["lost"]})
                finally:
                    server.stop()
            found[shown] = median_of(rounds)
    return found


def show(results):
    """The one table, and the ratios last."""
    cases = {name: case for name, case in results["cases"].items() if name in CASES}
    heads = ["case", "server", "CPU us", "per s", "p50 us", "p99 us", "p99.9 us", "MiB", "lost"]
    rows = []
    for name, servers in cases.items():
        for peer, one in servers.items():
            rows.append([name, peer, f"{one['cpu_us']:.1f}", count(one["per_second"]), count(one["p50_us"]), count(one["p99_us"]),
                         count(one["p999_us"]), f"{one['pss_kb'] / 1024:.1f}", count(one["lost"])])
    lines = table(heads, rows)
    if MEMORY in results["cases"]:
        rows = [[peer, count(one["connections"]), count(one["bytes_each"]), f"{one['rest_pss_kb'] / 1024:.1f}", f"{one['rest_rss_kb'] / 1024:.1f}"]
                for peer, one in results["cases"][MEMORY].items()]
        lines += ["", *table(["memory", "idle connections", "bytes each", "without them MiB", "resident MiB"], rows)]
    if START in results["cases"]:
        rows = [[peer, f"{one['start_ms']:.0f}", f"{one['pss_kb'] / 1024:.1f}", f"{one['rss_kb'] / 1024:.1f}"] for peer, one in results["cases"][START].items()]
        lines += ["", *table(["start", "ms", "MiB", "resident MiB"], rows)]
    if "binary_bytes" in results:
        lines += ["", f"binary: {results['binary_bytes'] / 1e6:.1f} MB"]
    return lines + ["", *ratio_lines(cases, "cpu_us", "CPU of a request"), "", *ratio_lines(cases, "p99_us", "p99")]
