"""Measures how long a step of Euler ancestral keeps the loop waiting: noise drawn ahead, in turn, and by diffusers.

python benchmarks/bench_noise_ahead.py [--engine MILLISECONDS]

The engine is a pause, which leaves the processor to the thread that draws as a GPU does. Times are of the wall, so that
waiting for the thread counts; medians over steps of all runs, in turns. Ratios are diffusers' time over ours.
"""

import argparse
import statistics
import time
from typing import Any

import diffusers
import numpy as np
import torch

from diffoundry.runtime.random import TorchCpuGenerator
from diffoundry.runtime.random.ahead import AheadGenerator
from diffoundry.runtime.schedulers import EulerAncestralDiscreteScheduler

STEPS, RUNS = 20, 5


def waits(scheduler: Any, sample: Any, output: Any, generator: Any, pause: float) -> list[float]:
    """Return the seconds of every step of a run."""
    scheduler.set_timesteps(STEPS)
    seconds = []
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(sample, timestep)
        time.sleep(pause)
        started = time.perf_counter()
        sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
        seconds.append(time.perf_counter() - started)
    return seconds[2:]  # noise is drawn ahead from the third on


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=float, default=20.0)
    pause = parser.parse_args().engine / 1000
    torch.set_num_threads(1)
    ours, theirs = EulerAncestralDiscreteScheduler(), diffusers.EulerAncestralDiscreteScheduler()
    print("| latents | drawn ahead, ms | in turn, ms | diffusers, ms | ahead, ratio | in turn, ratio |")
    print("|---|---|---|---|---|---|")
    for shape in ((1, 4, 64, 64), (1, 4, 128, 128), (1, 16, 128, 128)):
        array = np.ones(shape, np.float32)
        tensor = torch.from_numpy(array)
        rows: list[list[float]] = [[], [], []]
        for _ in range(RUNS):
            rows[0] += waits(ours, array, array, AheadGenerator(TorchCpuGenerator(0)), pause)
            rows[1] += waits(ours, array, array, TorchCpuGenerator(0), pause)
            rows[2] += waits(theirs, tensor, tensor, torch.Generator().manual_seed(0), pause)
        ahead, plain, other = (statistics.median(row) * 1000 for row in rows)
        figures = f"{ahead:.2f} | {plain:.2f} | {other:.2f} | {other / ahead:.1f} | {other / plain:.1f}"
        print(f"| {shape} | {figures} |")


if __name__ == "__main__":
    main()
