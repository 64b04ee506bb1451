"""Measures the cost of a ControlNet per step, and of its unused inputs.

python benchmarks/bench_controlnet.py PLAIN GUIDED [--target T] [--precision P] [--height H --width W] [--threads N]
    [--rounds 20]

PLAIN is a bundle of a checkpoint, GUIDED a bundle of the same checkpoint with ControlNets. Rows: seconds of a guided
step (two rows), median over interleaved rounds in one process, and the ratio to PLAIN. "left out" runs in a pipeline
that no image ever guided, "zeros" in one that also runs the last row, whose image is grey. PLAIN may be a bundle of
another checkpoint of the same architecture, or GUIDED itself: then its row is the same as "left out".
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from PIL import Image

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.bench.machine import machine_facts


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path)
    parser.add_argument("guided", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--precision")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    options = EngineOptions(threads=asked.threads)
    plain, unguided, guided = (
        load(path, target=asked.target, precision=asked.precision, options=options)
        for path in (asked.plain, asked.guided, asked.guided)
    )
    height, width = asked.height or plain.default_size[0], asked.width or plain.default_size[1]
    grey = [Image.new("RGB", (width, height), "grey")] * len(guided.controlnets.names)
    size = {"height": height, "width": width}
    rows: dict[str, tuple[Any, dict[str, Any]]] = {
        "without inputs": (plain, size),
        "left out": (unguided, size),
        "zeros": (guided, size),
        "with ControlNets": (guided, {"control_image": grey[0] if len(grey) == 1 else grey}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(-1, asked.rounds):
        for name, (pipe, arguments) in rows.items():
            run = pipe.start("a", num_inference_steps=3, output_type="latent", seed=0, **arguments)
            steps = iter(run)
            next(steps)
            start = time.perf_counter()
            next(steps)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    first = statistics.median(seconds["without inputs"])
    choice = guided.session.choice("unet")
    print(f"{machine_facts().cpu}; {choice.spec.target} {choice.spec.precision}, {width} x {height}" if choice else "")
    print(f"{'':<18}{'ms a step':>10}{'of plain':>10}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<18}{median * 1e3:>10.2f}{median / first:>10.3f}")


if __name__ == "__main__":
    main()
