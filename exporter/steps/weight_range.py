"""Finds the weights of a graph that fp16 or bf16 cannot hold, so that their cut is not silent."""

import numpy as np
import onnx_ir as ir

from diffoundry.exporter.passes.half_precision import LARGEST
from diffoundry.exporter.steps.graph_names import WEIGHT_KEY
from diffoundry.targets.weight_data import read_weight

__all__ = ["describe_cut", "weights_beyond"]

_LISTED = 3


def weights_beyond(model: ir.Model, dtype: ir.DataType) -> tuple[str, ...]:
    """Return the names of finite weights beyond a type's largest number; constants such as masks do not count."""
    found = []
    for value in model.graph.initializers.values():
        name = value.metadata_props.get(WEIGHT_KEY)
        if name is None or value.dtype != ir.DataType.FLOAT or value.const_value is None:
            continue
        array = read_weight(value.const_value)
        with np.errstate(invalid="ignore"):
            peak = max(array.max(initial=0.0), -array.min(initial=0.0))
        if np.isfinite(peak) and peak > LARGEST[dtype]:
            found.append(name)
    return tuple(found)


def describe_cut(names: tuple[str, ...], dtype: ir.DataType) -> str:
    """Describe weights that were cut: "2 beyond 65504: a, b"."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} beyond {LARGEST[dtype]:g}: {', '.join(names[:_LISTED])}{more}"
