"""Measures seconds to trace a network with and without the shortcuts of tracing, in turns in one process.

python benchmarks/bench_tracing.py [MODEL] [--random-weights] [--components NAME ...] [--rounds N]

MODEL is a folder, an alias or the embedded model (emoji). Time is the processor's in this process, so that other work
on the machine hardly counts; medians over rounds after one warm-up of each. The ratio is the time without shortcuts
over the time with them. Both give the same graph; `tests/exporter/steps/test_fast_tracing.py` compares them.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.steps import trace as trace_module


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """Trace as torch does: with the arithmetic of every shape, and again for the decomposition."""
    with ExitStack() as stack:
        for name in ("fast_recording", "fast_tracing"):
            stack.enter_context(patch.object(trace_module, name, nullcontext))
        stack.enter_context(patch.object(trace_module, "without_decomposition", lambda _program: nullcontext()))
        yield


def main() -> None:
    """Print a line for each component."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="emoji")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--components", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.model, random_weights=asked.random_weights)
    for name in asked.components or [component.name for component in checkpoint.components]:
        module, component = checkpoint.load(name), checkpoint.component(name)
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for number in range(asked.rounds + 1):
            for word, context in (("with", nullcontext), ("without", without_shortcuts)):
                gc.collect()
                with context():
                    start = time.process_time()
                    trace_module.trace(module, component, opset=OPSET)
                    if number:
                        seconds[word].append(time.process_time() - start)
        ours, plain = (statistics.median(seconds[word]) for word in ("with", "without"))
        print(f"{name}: {ours:.2f} s, without shortcuts {plain:.2f} s: {plain / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
