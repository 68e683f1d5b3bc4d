"""Numbers as text and as JSON."""

import json
import math
import os
import platform
import statistics
import time


def median_of(rounds):
    """The median of each value; losses and requests are added up."""
    sums = ("lost", "requests")
    return {key: (sum if key in sums else statistics.median)(one[key] for one in rounds) for key in rounds[0]}


def count(number):
    return f"{number:,.0f}"


def table(heads, rows):
    """As Markdown, and aligned: text to the left, numbers to the right."""
    widths = [max(len(str(row[column])) for row in [heads, *rows]) for column in range(len(heads))]
    words = [any(not str(row[column]).replace(",", "").replace(".", "").replace("-", "").isdigit() for row in rows) for column in range(len(heads))]

    def line(cells):
        aligned = (str(cell).ljust(width) if is_word else str(cell).rjust(width) for cell, width, is_word in zip(cells, widths, words))
        return "| " + " | ".join(aligned) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if is_word else ":") for width, is_word in zip(widths, words)) + "|"
    return [line(heads), rule, *map(line, rows)]


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def ratios(cases, what, peer):
    """gapless : peer, of each case that both have."""
    both = {name: (servers["gapless"][what], servers[peer][what]) for name, servers in cases.items() if {"gapless", peer} <= servers.keys()}
    return {name: ours / theirs for name, (ours, theirs) in both.items() if ours and theirs}


def ratio_lines(cases, what, title):
    peers = [peer for peer in ("nginx", "haproxy", "bare") if any(peer in servers for servers in cases.values())]
    found = {peer: ratios(cases, what, peer) for peer in peers}
    if not any(found.values()):
        return []
    rows = [[name, *(f"{found[peer][name]:.2f}" if name in found[peer] else "-" for peer in peers)] for name in cases]
    rows.append(["geometric mean", *(f"{geometric_mean(found[peer].values()):.2f}" for peer in peers)])
    return table([f"{title}, gapless over", *peers], rows)


def conditions(options):
    """Of what machine, and how quiet it was."""
    with open("/proc/cpuinfo") as info:
        models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release().partition("-")[0],
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": options.versions(),
    }


def write(path, results):
    """Rounded: what is behind the third digit is not measured."""

    def rounded(value):
        if isinstance(value, dict):
            return {key: rounded(one) for key, one in value.items()}
        if isinstance(value, list):
            return [rounded(one) for one in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    with open(path, "w") as file:
        json.dump(rounded(results), file, indent=1)
        file.write("\n")
