"""Measures how the openvino target scales: static against dynamic sizes, threads, batch and pixels, one UNet call each.

python benchmarks/bench_openvino_scaling.py BUNDLE [--precision bf16] [--sizes 256 512 768] [--batches 1 2 4]
    [--threads 1 2] [--calls 3] [--json FILE] [--merge FILE ...] [--svg docs/images/openvino-scaling.svg]

BUNDLE has an openvino engine for any size (exported without --buckets). Seconds are the medians of `--calls` calls
after a first one. Every engine is opened in a process of its own. If the machine is available for
short times only, measure one size per run and --merge the files.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

from lib.baselines import unet_feeds
from lib.interleaved import BenchmarkRow, machine, run_in_turns

KINDS = ("static", "dynamic")


def main() -> None:
    """Measure the requested rows, add those of other runs, print and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 768])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--merge", type=Path, nargs="*", default=[])
    parser.add_argument("--svg", type=Path)
    asked = parser.parse_args()
    rows = [row for file in asked.merge for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    rows += _measure(asked) if asked.bundle else []
    rows.sort(key=lambda row: (row["size"], row["batch"], row["threads"], row["kind"]))
    _print(rows)
    if asked.json:
        report = {"machine": machine(), "precision": asked.precision, "rows": rows}
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if asked.svg:
        _draw(rows, asked.svg)


def open_engine(
    bundle: str, precision: str, size: int, batch: int, threads: int, kind: str
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Open one engine, for one size or for any."""
    from dataclasses import replace

    from diffoundry.runtime.bundle.bundle import Bundle
    from diffoundry.runtime.engines.protocol import EngineOptions
    from diffoundry.targets.openvino.run.engine import OpenVinoEngine

    opened = Bundle(bundle)
    spec = next(s for s in opened.engines("unet") if (s.target, s.precision) == ("openvino", precision))
    buckets = {"buckets": [[size, size]]} if kind == "static" else {}
    options = {name: value for name, value in spec.options.items() if name != "buckets"} | buckets
    path = [opened.file(file) for file in spec.files][0]  # noqa: RUF015  # all are checked, the first is opened
    engine = OpenVinoEngine(path, replace(spec, options=options), EngineOptions(device="cpu", threads=threads))
    feeds = unet_feeds(opened.config("unet"), size, batch)
    return lambda: engine.run(feeds)["out_sample"].std().item(), engine.metadata


def _measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for size, batch, threads in product(asked.sizes, asked.batches, asked.threads):
        work = {"size": size, "batch": batch, "threads": threads}
        candidates = [
            BenchmarkRow(
                name=kind,
                opener="bench_openvino_scaling:open_engine",
                options={"bundle": str(asked.bundle), "precision": asked.precision, "kind": kind, **work},
            )
            for kind in KINDS
        ]
        results = run_in_turns(candidates, asked.calls, lambda line: print(line, file=sys.stderr))
        for kind, result in results.items():
            seconds = {"seconds": result.median, "first": result.first, "load": result.load}
            rows.append({**work, "kind": kind, **seconds, "peak_rss": result.peak_rss})
    return rows


def _print(rows: Iterable[dict[str, Any]]) -> None:
    print("| pixels | batch | threads | static s | dynamic s | dynamic / static | peak RSS GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    cells: dict[tuple[int, int, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["size"], row["batch"], row["threads"]), {})[row["kind"]] = row
    for (size, batch, threads), pair in cells.items():
        static, dynamic = (pair[kind]["seconds"] for kind in KINDS)
        peak = " / ".join(f"{pair[kind]['peak_rss'] / 1e9:.1f}" for kind in KINDS)
        print(f"| {size} | {batch} | {threads} | {static:.3f} | {dynamic:.3f} | {dynamic / static:.2f} | {peak} |")


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds per image over pixels, one panel per number of threads."""
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "diffoundry"  # the same file for the same numbers
    threads = sorted({row["threads"] for row in rows})
    figure, panels = plt.subplots(1, len(threads), figsize=(4.5 * len(threads), 3.6), sharey=True, squeeze=False)
    for panel, count in zip(panels[0], threads, strict=True):
        for color, batch in enumerate(sorted({row["batch"] for row in rows})):
            for kind, style in zip(KINDS, ("-", "--"), strict=True):
                line = [r for r in rows if (r["threads"], r["batch"], r["kind"]) == (count, batch, kind)]
                points = [(row["size"], row["seconds"] / batch) for row in line]
                panel.plot(
                    *zip(*points, strict=True), style, color=f"C{color}", marker="o", label=f"batch {batch}, {kind}"
                )
        panel.set(title=f"{count} thread{'s' if count > 1 else ''}", xlabel="pixels a side", yscale="log")
        panel.set_xticks(sorted({row["size"] for row in rows}))
        panel.grid(visible=True, alpha=0.3)
    panels[0][0].set_ylabel("seconds a row of the batch")
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
