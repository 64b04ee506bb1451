"""Which weight of an engine is which parameter of the PyTorch module, and how it was changed on the way."""

from collections.abc import Mapping

import onnx_ir as ir

__all__ = ["FORMAT_VERSION", "refit_map"]

FORMAT_VERSION = 1

_PARAMETER = "diffoundry.weight"
"""Metadata that the exporter leaves on an initializer: the name of the parameter."""

_TRANSPOSED = ".T"
"""What the exporter adds to the name of a weight that it stores the other way round."""

_FLOATS = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def refit_map(model: ir.Model) -> dict[str, Mapping[str, str]]:
    """How to change an engine's weights when the checkpoint's have changed, as a LoRA does.

    Args:
        model: The graph that the engine is built from.

    Returns:
        Weight of the engine to "parameter" (name in the torch module's state dict), "transform" ("none", or
        "transpose": swap both axes) and "dtype" to convert to afterwards. Quantized weights are not among them.
    """
    weights: dict[str, Mapping[str, str]] = {}
    for name, value in model.graph.initializers.items():
        parameter = value.metadata_props.get(_PARAMETER)
        if parameter is not None and value.dtype in _FLOATS and value.uses():
            transposed = name.removesuffix("_half").endswith(_TRANSPOSED)
            weights[name] = {
                "parameter": parameter,
                "transform": "transpose" if transposed else "none",
                "dtype": _FLOATS[value.dtype],
            }
    return weights
