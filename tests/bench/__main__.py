"""The benchmarks: python3 tests/bench cost | gap | scale. See tests/bench/NOTES.md for how they measure."""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

import cost
import gap
import results
import scale
from peers import KINDS, Programs, need

MODES = {"cost": cost, "gap": gap, "scale": scale}
PEERS = {"cost": "nginx,haproxy,gapless", "gap": "nginx,haproxy,caddy,gapless", "scale": "gapless"}
# Rounds, and the seconds of each.
FULL = {"cost": (5, 2.0), "gap": (3, 8.0), "scale": (5, 1.0)}
SHORT = {"cost": (1, 0.1), "gap": (1, 1.5), "scale": (1, 0.1)}
# For 20,000 connections.
DESCRIPTORS = 65_536
# What a test sees when a peer can be neither found nor installed.
EXIT_MISSING = 3


class Options:
    def __init__(self, arguments):
        self.short = arguments.short
        rounds, seconds = (SHORT if self.short else FULL)[arguments.mode]
        self.rounds = arguments.rounds or rounds
        self.seconds = arguments.seconds or seconds
        self.chosen = arguments.cases.split(",") if arguments.cases else None
        self.peers = (arguments.peers or PEERS[arguments.mode]).split(",")
        self.programs = Programs(arguments.programs)

    def wants(self, case):
        return self.chosen is None or case in self.chosen

    def versions(self):
        return {peer: KINDS[peer].version(self.programs) for peer in self.peers}


def parse():
    parser = argparse.ArgumentParser(prog="python3 tests/bench", description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--rounds", type=int, help="of each case and server, in turn; default 5, of a gap 3")
    parser.add_argument("--seconds", type=float, help="of each round; default 2, of a gap 8")
    parser.add_argument("--cases", help="only these, with commas")
    parser.add_argument("--peers", help="servers, with commas; gapless is one")
    parser.add_argument("--short", action="store_true", help="only that it works: the numbers mean nothing")
    parser.add_argument("--json", metavar="FILE", help="all numbers")
    parser.add_argument("--programs", metavar="DIR", default=os.environ.get("CARGO_TARGET_DIR", "target") + "/release", help="where gapless and its examples were built")
    return parser.parse_args()


def raise_descriptors():
    """For everybody who is started from here; root may, others have what they have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), max(hard, DESCRIPTORS)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def installed_bytes(program, stripped):
    """As the packages install it, which put the symbols apart."""
    subprocess.run(["strip", "-o", stripped, program], check=True)
    return os.path.getsize(stripped)


def main():
    arguments = parse()
    raise_descriptors()
    mode, options = MODES[arguments.mode], Options(arguments)
    unknown = set(options.chosen or []) - set(mode.all_cases()) | set(options.peers) - KINDS.keys()
    if unknown:
        sys.exit(f"bench: no such case or server: {', '.join(sorted(unknown))}; cases: {', '.join(mode.all_cases())}; servers: {', '.join(KINDS)}")
    try:
        need(options.peers)
    except LookupError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(EXIT_MISSING)
    began = time.monotonic()
    found = {"conditions": results.conditions(options)}
    # Short, because the paths of sockets end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gb-") as scratch:
        # nginx's workers write their temporary files as another user.
        os.chmod(scratch, 0o755)
        found["binary_bytes"] = installed_bytes(options.programs.gapless, f"{scratch}/stripped")
        found |= mode.run(options, scratch)
    found["conditions"]["took_s"] = round(time.monotonic() - began)
    found["conditions"]["load_average_after"] = [round(each, 1) for each in os.getloadavg()]
    print()
    print("\n".join(mode.show(found)))
    if arguments.json:
        results.write(arguments.json, found)


main()
