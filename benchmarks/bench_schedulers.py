"""Microseconds per `step` of every scheduler against diffusers on the CPU, in turns in one process.

python benchmarks/bench_schedulers.py [--json FILE] [--only NAME ...]

Both follow a whole run of 20 steps on latents of (1, 4, 64, 64); a step is `scale_model_input` and `step`. Noise is
handed to both ready-made, because drawing torch's numbers is the generator's work; the last column says what a step
costs with torch's own numbers drawn on both sides. Ratios are diffusers' time over ours: above 1 ours is faster.
"""

import argparse
import inspect
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch

from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.schedulers import scheduler_class, scheduler_names

SHAPE = (1, 4, 64, 64)
STEPS, ROUNDS, WARMUPS = 20, 15, 3

CONFIGS: dict[str, dict[str, Any]] = {
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": True},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
}
"""Options other than the defaults, where the defaults are not what people run."""


class _Stored:
    """A generator whose numbers were drawn before."""

    def __init__(self, noise: np.ndarray) -> None:
        self._noise = noise

    def randn(self, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:  # noqa: ARG002
        return self._noise


def _loop(scheduler: Any, sample: Any, output: Any, extra: dict[str, Any]) -> float:
    """Seconds per step of one run."""
    scheduler.set_timesteps(STEPS)
    timesteps = list(scheduler.timesteps)
    scale = getattr(scheduler, "scale_model_input", lambda unscaled, _timestep: unscaled)  # flow matching has none
    start = time.perf_counter()
    for timestep in timesteps:
        scale(sample, timestep)
        sample = scheduler.step(output, timestep, sample, **extra)[0]
    return (time.perf_counter() - start) / len(timesteps)


def _accepts(scheduler: Any, name: str) -> bool:
    return name in inspect.signature(scheduler.step).parameters


def measure(name: str) -> dict[str, float]:
    """Medians of both, in microseconds, and their ratios."""
    config = CONFIGS.get(name, {})
    ours, theirs = scheduler_class(name)(**config), getattr(diffusers, name)(**config)
    rng = np.random.default_rng(0)
    sample, output, noise = (rng.standard_normal(SHAPE, dtype=np.float32) for _ in range(3))
    stochastic = _accepts(ours, "generator")
    module = sys.modules[type(theirs).__module__]
    stored = torch.from_numpy(noise)

    def run_ours(generator: Any) -> float:
        return _loop(ours, sample, output, {"generator": generator} if stochastic else {})

    def run_theirs(generator: Any) -> float:
        extra = {"generator": generator} if stochastic and _accepts(theirs, "generator") else {}
        return _loop(theirs, torch.from_numpy(sample), torch.from_numpy(output), extra)

    def run_theirs_stored() -> float:
        if not hasattr(module, "randn_tensor"):
            return run_theirs(None)
        with patch.object(module, "randn_tensor", lambda *_args, **_kwargs: stored):
            return run_theirs(None)

    mine, other = _in_turns(lambda: run_ours(_Stored(noise)), run_theirs_stored)
    row = {"ours_us": mine * 1e6, "diffusers_us": other * 1e6, "ratio": other / mine}
    if stochastic:
        mine, other = _in_turns(
            lambda: run_ours(TorchCpuGenerator(0)), lambda: run_theirs(torch.Generator().manual_seed(0))
        )
        row["ratio_with_drawing"] = other / mine
    return row


def _in_turns(first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    pairs = [(first(), second()) for _ in range(WARMUPS + ROUNDS)][WARMUPS:]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def main() -> None:
    """Measure, print a table, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = {}
    print(f"{'scheduler':<38}{'ours us':>9}{'diffusers us':>14}{'ratio':>8}{'with drawing':>14}")
    for name in arguments.only or scheduler_names():
        try:
            row = measure(name)
        except Exception as error:  # noqa: BLE001  # a class with another interface is named, not hidden
            print(f"{name:<38} not measured: {type(error).__name__}: {str(error)[:70]}")
            continue
        rows[name] = row
        drawing = f"{row['ratio_with_drawing']:.2f}" if "ratio_with_drawing" in row else ""
        print(f"{name:<38}{row['ours_us']:>9.1f}{row['diffusers_us']:>14.1f}{row['ratio']:>8.2f}{drawing:>14}")
    if rows:
        ratios = [row["ratio"] for row in rows.values()]
        print(
            f"median ratio {statistics.median(ratios):.2f}, smallest {min(ratios):.2f}, over {len(ratios)} schedulers"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
