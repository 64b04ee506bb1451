"""Measures `diffoundry serve`: images a minute, latency, processor time and memory for 1 to 16 clients.

python benchmarks/bench_serving.py BUNDLE [--clients 1,2,4,8,16] [--images 32] [--rounds 3] [--requests 1000]
    [--steps 10] [--size 64x64] [--options "--threads 2"] [--against URL] [--json FILE]

The server is a process of its own on this machine, so the clients take a share of its cores. Each client asks for one
image after another. In every round all numbers of clients take turns; ratios are those to the first number of clients
in the same round, and the median of the rounds is printed. Then the largest number of clients sends --requests
requests in one go: none may fail, and the growth of the server's memory for each is printed. The exit status is 1 if
a request failed. `--against URL` measures another server of OpenAI's images API in turns with ours.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from lib.interleaved import machine
from lib.server_load import Load, growth, measure, resources, started

COLUMNS = ("images/min", "ratio", "p50", "p90", "p99", "CPU s/image", "failures")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--images", type=int, default=32, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000, help="of the long run; 0 skips it")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--options", default="", help="more options of diffoundry serve, such as '--no-batching'")
    parser.add_argument("--against", metavar="URL", help="another server of OpenAI's images API, already running")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    counts = [int(text) for text in chosen.clients.split(",")]
    body = {"prompt": "red apple", "size": chosen.size, "num_inference_steps": chosen.steps}
    other = {"prompt": "red apple", "size": chosen.size, "n": 1}
    with started(chosen.bundle, chosen.options.split()) as url:
        servers = {"diffoundry": (url, body)} | ({"against": (chosen.against, other)} if chosen.against else {})
        loads: dict[tuple[str, int], list[Load]] = {(name, n): [] for name in servers for n in counts}
        for address, asked in servers.values():
            measure(address, max(counts), 2 * max(counts), asked)  # the first calls are slower
        for _ in range(chosen.rounds):
            for clients in counts:
                for name, (address, asked) in servers.items():
                    loads[name, clients].append(measure(address, clients, chosen.images, asked))
        result = {f"{name} {n}": _summarize(loads[name, n], loads[name, counts[0]]) for name, n in loads}
        _print_table(result)
        endurance = _endure(url, max(counts), chosen.requests, body) if chosen.requests else {}
    if chosen.json:
        text = {"machine": machine(), "steps": chosen.steps, "size": chosen.size, "clients": result, "long": endurance}
        chosen.json.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    if any(row["failures"] for row in result.values()) or endurance.get("failures"):
        sys.exit("some requests failed")


def _summarize(loads: list[Load], base: list[Load]) -> dict[str, float]:
    """Return the medians of the rounds, with the ratio to the first number of clients, and the sum of failures."""
    values = [
        (
            one.rate,
            one.rate / first.rate,
            *(one.percentile(p) for p in (50, 90, 99)),
            one.cpu / max(len(one.seconds), 1),
        )
        for one, first in zip(loads, base, strict=True)
    ]
    columns = (median(column) for column in zip(*values, strict=True))
    return dict(zip(COLUMNS, (*columns, sum(len(one.failures) for one in loads)), strict=True))


def _print_table(result: dict[str, dict[str, float]]) -> None:
    print("clients".ljust(16), "  ".join(name.rjust(11) for name in COLUMNS))
    for name, row in result.items():
        print(name.ljust(16), "  ".join(f"{value:11.4g}" for value in row.values()), flush=True)


def _endure(url: str, clients: int, requests: int, body: dict[str, object]) -> dict[str, Any]:
    """Send many requests in one go, and print failures and the memory of the server."""
    before = resources(url)
    load = measure(url, clients, requests, body, watch=max(requests // 50, 1))
    after = resources(url)
    for fault in sorted(set(load.failures)):
        print(f"{load.failures.count(fault)} x {fault}")
    found = {
        "requests": requests, "clients": clients, "failures": len(load.failures), "images/min": load.rate,
        "p50": load.percentile(50), "p99": load.percentile(99), "MB before": before.memory / 1e6,
        "MB after": after.memory / 1e6, "growth in bytes a request": growth(load.memory),
    }  # fmt: skip
    print("  ".join(f"{name}: {value:.5g}" for name, value in found.items()))
    return {**found, "memory": sorted(load.memory)}


if __name__ == "__main__":
    main()
