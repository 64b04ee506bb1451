"""Measures microseconds per `step` of every scheduler against diffusers on the CPU, interleaved in one process.

python benchmarks/bench_schedulers.py [--json FILE] [--only NAME ...]

Both follow a whole run of 20 steps, without model, on latents of (1, 4, 64, 64); VQ-Diffusion on 1024 tokens of 2887
classes, consistency decoders for the 2 steps that they have. A step is what a pipeline does between two calls of the
model. Time is that of the processor in this thread, which is the only one, so that other work on the machine does
not count on either side; medians over rounds. Ratios are diffusers' time over ours: above 1 ours is faster.

"Noise given": all normals of a step were drawn before, on both sides. "Noise drawn": both draw torch's
numbers, the same ones, in the step; schedulers that draw none have no figure there. DIFFOUNDRY_NATIVE_RANDOM
names the folder of the native random numbers, or is "off".
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch
from diffusers import schedulers as reference
from lib.scheduler_loops import OPTIONS, Inputs, loop_of, plan

from diffoundry.runtime.random import TorchCpuGenerator, describe_random_numbers
from diffoundry.runtime.schedulers import scheduler_class, scheduler_names

ROUNDS, WARMUPS, SECONDS = 21, 3, 3.0
"""Rounds of each measurement, and seconds after which it ends with fewer."""

BROWNIAN = {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"}
"""Schedulers that take the generator's seed and draw from their own Brownian paths."""


class _Stored:
    """A generator that returns stored numbers."""

    seed = 0

    def __init__(self, noise: np.ndarray) -> None:
        self._noise = noise

    def randn(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # noqa: ARG002
        # VQ-Diffusion's last step has one class fewer
        return self._noise[:, : shape[1]]

    rand = randn


class _StoredPath:
    """A Brownian path that returns stored increments."""

    def __init__(self, noise: Any) -> None:
        self._noise = noise

    def __call__(self, *_: Any) -> Any:
        return self._noise


@contextmanager
def _noise_given(ours: Any, theirs: Any, mine: Any, other: Any) -> Iterator[None]:
    """Stop all draws in the context: diffusers' functions return `other`, Brownian paths return `mine` and `other`."""
    modules = sys.modules[type(ours).__module__], sys.modules[type(theirs).__module__]
    with ExitStack() as stack:
        for module, name, stored in (
            (modules[1], "randn_tensor", lambda *_, **__: other),
            (modules[1], "BrownianTreeNoiseSampler", lambda *_, **__: _StoredPath(other)),
            (modules[0], "BrownianNoise", lambda *_, **__: _StoredPath(mine)),
        ):
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, stored))
        if "VQ" in type(ours).__name__:
            stack.enter_context(patch.object(torch, "rand", lambda shape, **_: other[:, : shape[1]]))
        yield


def _takes_generator(scheduler: Any) -> bool:
    steps = ("step", "step_pred", "add_noise_to_input")
    return any(
        "generator" in signature(getattr(scheduler, name)).parameters for name in steps if name in dir(scheduler)
    )


def measure(name: str) -> dict[str, float]:
    """Measure the medians of both, in microseconds, and their ratios."""
    options = OPTIONS.get(name, {})
    ours, theirs = scheduler_class(name)(**options), getattr(reference, name)(**options)
    mine, other = Inputs(name, lambda array: array), Inputs(name, torch.from_numpy)

    def runner(scheduler: Any, inputs: Inputs, generator: Callable[[], Any]) -> Callable[[], float]:
        loop, takes = loop_of(name), _takes_generator(scheduler)

        def run() -> float:
            plan(name, scheduler)
            extra = {"generator": generator()} if takes else {}
            start = time.thread_time()
            steps = loop(scheduler, inputs, extra)
            return (time.thread_time() - start) / steps

        return run

    with _noise_given(ours, theirs, mine.noise, other.noise):
        stored = _Stored(mine.noise)
        row = _in_turns(runner(ours, mine, lambda: stored), runner(theirs, other, lambda: None))
    source = torch.Generator().manual_seed(0)
    run_theirs = runner(theirs, other, lambda: source.manual_seed(0))
    run_theirs()
    drew = not torch.equal(source.get_state(), torch.Generator().manual_seed(0).get_state())
    if drew or name in BROWNIAN:
        drawn = _in_turns(runner(ours, mine, lambda: TorchCpuGenerator(0)), run_theirs)
        row |= {f"{key}_drawn": value for key, value in drawn.items()}
    return row


def _in_turns(ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, float]:
    pairs, end = [], time.perf_counter() + SECONDS
    while len(pairs) < WARMUPS + ROUNDS and (len(pairs) <= WARMUPS + 2 or time.perf_counter() < end):
        pairs.append((ours(), theirs()))
    mine, other = (statistics.median(column) for column in zip(*pairs[WARMUPS:], strict=True))
    return {"ours_us": mine * 1e6, "diffusers_us": other * 1e6, "ratio": other / mine}


def machine() -> str:
    """Describe the processor and the libraries."""
    facts = Path("/proc/cpuinfo")
    text = facts.read_text() if facts.exists() else ""
    model = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), platform.machine())
    amx = "with AMX" if "amx_tile" in text else "without AMX"
    return (
        f"{model} {amx}, one thread; torch {torch.__version__}, NumPy {np.__version__}, diffusers "
        f"{diffusers.__version__}; random numbers: {describe_random_numbers().split(' (')[0]}"
    )


def _cells(row: dict[str, float], suffix: str) -> str:
    if f"ratio{suffix}" not in row:
        return " | | |"
    ours, theirs, ratio = (row[f"{key}{suffix}"] for key in ("ours_us", "diffusers_us", "ratio"))
    return f" {ours:.1f} | {theirs:.1f} | {ratio:.1f} |"


def _summary(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield medians and extremes; with noise drawn, schedulers that draw none count with their only figure."""
    for what, key in (("noise given", "ratio"), ("noise drawn", "ratio_drawn")):
        ratios = {name: row.get(key, row["ratio"]) for name, row in rows.items()}
        least = min(ratios, key=lambda name: ratios[name])
        yield (
            f"{what}: median {statistics.median(ratios.values()):.2f}, smallest {ratios[least]:.2f} ({least}), "
            f"geometric mean {math.exp(statistics.fmean(map(math.log, ratios.values()))):.2f}, of {len(ratios)} classes"
        )


def main() -> None:
    """Measure, print a table, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(machine() + "\n")
    print("| scheduler | given: ours, us | diffusers, us | ratio | drawn: ours, us | diffusers, us | ratio |")
    print("|---|---|---|---|---|---|---|")
    rows = {}
    for name in arguments.only or scheduler_names():
        rows[name] = row = measure(name)
        print(f"| {name.removesuffix('Scheduler')} |{_cells(row, '')}{_cells(row, '_drawn')}", flush=True)
    print("\n" + "\n".join(_summary(rows)))
    if arguments.json:
        content = {"machine": machine(), "schedulers": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
