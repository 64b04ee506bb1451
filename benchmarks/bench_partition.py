"""Measures a bundle exported with --partition beside the same bundle without: seconds, memory, and equal latents.

python benchmarks/bench_partition.py WHOLE PARTS [--target T] [--precision P] [--steps 10] [--rounds 5] [--threads N]

WHOLE and PARTS are bundles of one checkpoint. Seconds are medians of the loop of one image, in turns in one process.
Memory is what each of them adds to a process of its own in the loop: as it is, and with low memory, where the parts
before the step are closed by then.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.bench.machine import machine_facts

_MEMORY = """
import os, sys
from diffoundry.runtime import EngineOptions, load
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
pipe = load(sys.argv[1], target=sys.argv[2] or None, precision=sys.argv[3] or None, low_memory=bool(sys.argv[4]))
pipe.session.check_request()
empty = resident()
for _ in pipe.start(**pipe.setting_arguments(4, 4.0), seed=0): pass
print(resident() - empty)
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whole", type=Path)
    parser.add_argument("parts", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--precision")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    bundles = {"whole": asked.whole, "parts": asked.parts}
    memory = {name: _memory(path, asked) for name, path in bundles.items()}
    options = EngineOptions(threads=asked.threads)
    pipes = {
        name: load(path, target=asked.target, precision=asked.precision, options=options)
        for name, path in bundles.items()
    }
    latents = {name: _loop(pipe, asked.steps)[1] for name, pipe in pipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(asked.rounds):
        for name, pipe in pipes.items():
            seconds[name].append(_loop(pipe, asked.steps)[0])
    print(f"{machine_facts()}; {asked.steps} steps, {asked.rounds} rounds")
    for name, values in seconds.items():
        usual, low = memory[name]
        print(f"{name:<8}{statistics.median(values):8.3f} s{usual / 1e6:10.1f} MB{low / 1e6:10.1f} MB with low memory")
    ratios = [parts / whole for whole, parts in zip(seconds["whole"], seconds["parts"], strict=True)]
    print(f"parts take {statistics.median(ratios):.3f} of the time of the whole network")
    print(f"largest difference of a latent: {np.abs(latents['whole'] - latents['parts']).max():.3g}")


def _loop(pipe: Any, steps: int) -> tuple[float, Any]:
    start = time.perf_counter()
    latents = [step.latents for step in pipe.start(**pipe.setting_arguments(steps, 4.0), seed=0)]
    return time.perf_counter() - start, np.stack(latents)


def _memory(path: Path, asked: argparse.Namespace) -> tuple[int, int]:
    command = [sys.executable, "-c", _MEMORY, str(path), asked.target or "", asked.precision or ""]
    usual, low = (
        int(subprocess.run([*command, word], check=True, capture_output=True, text=True).stdout) for word in ("", "low")
    )
    return usual, low


if __name__ == "__main__":
    main()
