"""Measures a whole image (text, steps, VAE) against OpenVINO GenAI on the same bundle, interleaved.

python benchmarks/bench_image.py BUNDLE [--precision bf16] [--size 512] [--steps 20] [--rounds 3] [--apart]
    [--json FILE]

Both begin with the same noise and find the bundle's files in the page cache. Load is the time to open
everything that text to image needs; the first image comes without a warm-up.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lib.interleaved import BenchmarkRow, Result, machine, run_in_turns

from diffoundry.runtime.bundle.checksums import sha256_of

OURS, THEIRS = "diffoundry", "OpenVINO GenAI"


def main() -> None:
    """Run both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument(
        "--apart", action="store_true", help="Keep one of them in memory at a time and load it again each round."
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    request = {
        "prompt": "red apple",
        "steps": asked.steps,
        "size": asked.size,
        "guidance_scale": asked.guidance_scale,
        "seed": 0,
    }
    common = {"bundle": str(asked.bundle), "request": request, "precision": asked.precision}
    rows = [
        BenchmarkRow(name=OURS, opener="lib.baselines:our_image", options={"target": "openvino", **common}),
        BenchmarkRow(name=THEIRS, opener="lib.baselines:genai_image", options=common),
    ]
    for file in asked.bundle.rglob("*.bin"):  # otherwise the first candidate would read them from the disk
        sha256_of(file)
    results = run_in_turns(rows, asked.rounds, lambda line: print(line, file=sys.stderr), together=not asked.apart)
    report = {"machine": machine(), **request, "precision": asked.precision, "rows": _rows(results)}
    _print(report)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _rows(results: dict[str, Result]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, result in results.items():
        if result.fault is not None:
            rows[name] = {"fault": result.fault}
            continue
        rows[name] = {
            "load": result.load,
            "first": result.first,
            "seconds": result.median,
            "unet": result.value["unet"],
            "peak_rss": result.peak_rss,
            **result.facts,
        }
    if all("fault" not in row for row in rows.values()):
        ours, theirs = (results[name].value["image"].astype(np.float64) for name in (OURS, THEIRS))
        error = float(np.mean(np.square(ours - theirs)))
        rows["psnr"] = 10 * np.log10(255**2 / error) if error else float("inf")
        rows["ratios"] = {
            key: rows[THEIRS][key] / rows[OURS][key] for key in ("load", "first", "seconds", "unet", "peak_rss")
        }
    return rows


def _print(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['precision']}, {report['size']} pixels, {report['steps']} steps")
    rows = report["rows"]
    print(f"{'':<18}{'load s':>9}{'first s':>9}{'warm s':>9}{'UNet s':>9}{'peak GB':>9}")
    for name in (OURS, THEIRS):
        row = rows[name]
        if "fault" in row:
            print(f"{name:<18} {row['fault']}")
            continue
        cells = "".join(f"{row[key]:>9.3f}" for key in ("load", "first", "seconds", "unet"))
        print(f"{name:<18}{cells}{row['peak_rss'] / 1e9:>9.2f}")
    if "ratios" in rows:
        print(f"{'theirs / ours':<18}" + "".join(f"{ratio:>9.2f}" for ratio in rows["ratios"].values()))
        print(f"the two images: {rows['psnr']:.1f} dB")


if __name__ == "__main__":
    main()
