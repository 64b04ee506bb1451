"""Chooses between our attention and OpenVINO's, for each size, by a measurement on this machine."""

import hashlib
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime.bench.machine import machine_facts
from diffoundry.runtime.native.kernel import PATH_VARIABLE
from diffoundry.runtime.native.measured import MeasuredChoices, Timing, time_in_turns
from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.run.devices import core
from diffoundry.targets.openvino.run.native_attention import AttentionSize, is_faster_by_rule, native_model

__all__ = ["AttentionChooser", "choices", "measure_attention"]

logger = logging.getLogger(__name__)

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}

_MOST_QUERIES = 1024
"""Cost grows with the queries alone: more of them say nothing new."""

_MOST_KEYS = 4096


@cache
def choices(library: Path) -> MeasuredChoices:
    """Return the measurements of this machine with this release of OpenVINO and these kernels."""
    machine = machine_facts()
    return MeasuredChoices(
        {
            "cpu": machine.cpu,
            "features": list(machine.features),
            "cores": machine.cores,
            "openvino": ov.__version__,
            "kernels": hashlib.sha256(library.read_bytes()).hexdigest()[:16],
            **({PATH_VARIABLE: os.environ[PATH_VARIABLE]} if PATH_VARIABLE in os.environ else {}),
        }
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionChooser:
    """Returns True for the sizes that our kernel computes, in one mode of `runtime.native.measured.MODES`.

    Attributes:
        mode: The mode.
        floats: Type in which the plugin computes.
        threads: Of one call; None for the plugin's own choice.
        library: Our kernel.
        measure: Measures one size.
    """

    mode: str
    floats: str
    threads: int | None
    library: Path
    measure: Callable[[AttentionSize, "AttentionChooser"], Timing]

    def __call__(self, size: AttentionSize) -> bool:
        """Choose; where a length is unknown, by the rule."""
        if self.mode in ("always", "never"):
            return self.mode == "always"
        if self.mode == "fixed" or size.queries is None or size.keys is None:
            return is_faster_by_rule(size, floats=self.floats)
        rounded = replace(size, queries=_rounded(size.queries, _MOST_QUERIES), keys=_rounded(size.keys, _MOST_KEYS))
        threads = self.threads or os.cpu_count() or 1
        name = (
            f"attention {self.floats}, {threads} threads, {rounded.queries} x {rounded.keys}, {size.heads} heads of "
            f"{size.width} and {size.value_width}, without zeros {size.narrow[0]} and {size.narrow[1]}"
        )
        try:
            return choices(self.library).decide(name, lambda: self.measure(rounded, self)).native_wins
        except RuntimeError as error:  # OpenVINO's
            logger.debug("%s: cannot be measured (%s)", name, error)
            return is_faster_by_rule(size, floats=self.floats)


def _rounded(length: int, most: int) -> int:
    """Return the next power of two, so that similar sizes are measured once."""
    return min(1 << math.ceil(math.log2(max(length, 8))), most)


def measure_attention(size: AttentionSize, chooser: AttentionChooser) -> Timing:
    """Measure one attention by our kernel and by OpenVINO's, in turns, on random numbers.

    Args:
        size: With fixed lengths.
        chooser: Floats, threads and library.

    Raises:
        RuntimeError: OpenVINO's.
    """
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[chooser.floats], "PERFORMANCE_HINT": "LATENCY"}
    if chooser.threads is not None:
        config["INFERENCE_NUM_THREADS"] = chooser.threads
    models = (native_model(size, chooser.library, chooser.floats), _engine_model(size))
    native, engine = (_runner(core().compile_model(model, "CPU", config)) for model in models)
    return time_in_turns(native, engine)


def _runner(model: ov.CompiledModel) -> Callable[[], None]:
    noise, request = np.random.default_rng(0), model.create_infer_request()
    for index, taken in enumerate(model.inputs):
        request.set_input_tensor(index, ov.Tensor(noise.standard_normal(list(taken.shape), np.float32)))

    def run() -> None:
        request.infer()

    return run


def _engine_model(size: AttentionSize) -> ov.Model:
    """Return a model of one attention as networks have it, of inputs (1, tokens, heads * width) in float32."""
    inputs = [
        ops.parameter([1, length, size.heads * width], np.float32)
        for length, width in ((size.queries, size.width), (size.keys, size.width), (size.keys, size.value_width))
    ]
    heads = [ops.transpose(ops.reshape(value, [0, 0, size.heads, -1], True), [0, 2, 1, 3]) for value in inputs]
    attended = ops.transpose(ops.scaled_dot_product_attention(*heads, causal=False), [0, 2, 1, 3])
    joined = ops.reshape(attended, [0, 0, size.heads * size.value_width], True)
    return ov.Model([ops.result(joined)], inputs, "engine")
