"""Measures peak memory of one image, with every component open and with `--low-memory`, in separate processes.

python benchmarks/bench_memory.py BUNDLE [--size 512] [--steps 2] [--precision P] [--json FILE]

The peak is the largest resident memory that the system saw, mapped files included. The images must be the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from lib.interleaved import machine
from PIL import Image


def main() -> None:
    """Generate twice, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(folder, name) for name in ("whole.png", "low.png")]
        rows = {
            "every component open": _generate(asked, images[0]),
            "--low-memory": _generate(asked, images[1], low=True),
        }
        assert np.array_equal(*(np.asarray(Image.open(image)) for image in images)), "the images differ"
    print(f"{machine()}; {asked.bundle.name}, {asked.size} pixels, {asked.steps} steps")
    for name, row in rows.items():
        print(f"{name:<24}{row['peak_rss'] / 1e9:>8.2f} GB{row['seconds']:>8.1f} s")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


def _generate(asked: argparse.Namespace, image: Path, *, low: bool) -> dict[str, Any]:
    command = ["diffoundry", "generate", str(asked.bundle), "a red apple", "--seed", "0", "-o", str(image)]
    command += ["--steps", str(asked.steps), "--height", str(asked.size), "--width", str(asked.size)]
    command += ["--precision", asked.precision] if asked.precision else []
    command += ["--low-memory"] if low else []
    start = time.perf_counter()
    process = subprocess.Popen([str(Path(sys.executable).with_name(command[0])), *command[1:]])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{' '.join(command)} ended with {status}"
    return {"seconds": time.perf_counter() - start, "peak_rss": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    main()
