"""Measures a bundle exported with --partition beside the same bundle without: seconds, memory, and equal latents.

python benchmarks/bench_partition.py WHOLE PARTS [--target T] [--precision P] [--steps 10] [--rounds 5] [--threads N]
                                                 [--height H --width W]

WHOLE and PARTS are bundles of one checkpoint. Seconds are processor seconds of the loop of one image with guidance,
medians in turns in one process. Memory is what two steps of it add to a process of its own: as it is, with the text
encoders, and with low memory, where these and the parts before the step are closed by then. A bundle without a text
encoder gets random embeddings.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.bench.machine import machine_facts
from diffoundry.runtime.models.roles import DENOISER

_USUAL, _LOW = "usual", "low"


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
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--memory-of", choices=(_USUAL, _LOW), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of:
        print(_memory_here(asked))
        return
    bundles = {"whole": asked.whole, "parts": asked.parts}
    memory = {name: [_memory(path, kind) for kind in (_USUAL, _LOW)] for name, path in bundles.items()}
    pipes = {name: _open(path, asked) for name, path in bundles.items()}
    latents = {name: _loop(pipe, asked, asked.steps)[1] for name, pipe in pipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(asked.rounds):
        for name, pipe in pipes.items():
            seconds[name].append(_loop(pipe, asked, asked.steps)[0])
    print(f"{machine_facts()}; {asked.steps} steps, {asked.rounds} rounds")
    for name, values in seconds.items():
        usual, low = memory[name]
        print(f"{name:<8}{statistics.median(values):8.3f} s{usual / 1e6:10.1f} MB{low / 1e6:10.1f} MB with low memory")
    ratios = [parts / whole for whole, parts in zip(seconds["whole"], seconds["parts"], strict=True)]
    print(f"parts take {statistics.median(ratios):.3f} of the time of the whole network")
    print(f"largest difference of a latent: {np.abs(latents['whole'] - latents['parts']).max():.3g}")


def _open(path: Path, asked: argparse.Namespace, **options: Any) -> Any:
    return load(
        path, target=asked.target, precision=asked.precision, options=EngineOptions(threads=asked.threads), **options
    )


def _loop(pipe: Any, asked: argparse.Namespace, steps: int) -> tuple[float, Any]:
    """Run a loop; return its processor seconds, and the latents of all steps."""
    run = pipe.start(**_arguments(pipe, asked, steps), seed=0)
    start = time.process_time()
    latents = [step.latents for step in run]
    return time.process_time() - start, np.stack(latents)


def _arguments(pipe: Any, asked: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Return the arguments of a call: with a prompt, or with embeddings as the denoiser takes them."""
    height, width = asked.height or pipe.default_size[0], asked.width or pipe.default_size[1]
    given: dict[str, Any] = pipe.measure_arguments(steps, 4.0, height, width)
    if "prompt" not in pipe.argument_names:
        return {**given, **pipe.varied_arguments([0])}
    if pipe.text_encoders:
        return {**given, "prompt": "a red apple"}
    inputs = {spec.name: spec.shape for spec in pipe.session.declared_inputs(pipe.session.bundle.component(DENOISER))}
    tokens, width = inputs["encoder_hidden_states"][1:]
    random = np.random.default_rng(0)
    for prefix in ("", "negative_"):
        shape = (1, tokens if isinstance(tokens, int) else 77, width)
        given[f"{prefix}prompt_embeds"] = random.standard_normal(shape, dtype=np.float32)
        if f"{prefix}prompt_attention_mask" in pipe.argument_names:
            given[f"{prefix}prompt_attention_mask"] = np.ones(shape[:2], np.float32)
    return {name: value for name, value in given.items() if name in pipe.argument_names}


def _memory(path: Path, kind: str) -> int:
    """Measure in a process of its own, with the arguments of this one."""
    rest = sys.argv[3:] if not sys.argv[1].startswith("-") else sys.argv[1:]
    command = [sys.executable, __file__, str(path), str(path), *rest, "--memory-of", kind]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _memory_here(asked: argparse.Namespace) -> int:
    pipe = _open(asked.whole, asked, low_memory=asked.memory_of == _LOW)
    pipe.session.check_request()
    empty = _resident()
    for _ in pipe.start(**_arguments(pipe, asked, 2), seed=0):
        pass
    return _resident() - empty


def _resident() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
