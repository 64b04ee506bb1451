"""Maps the weights of an engine to parameters of the PyTorch module, with transposition and place in the file."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.targets.adapter_graph import layer_weights, layers_of
from diffoundry.targets.tensorrt.base_weights import BaseWeight

__all__ = ["locate", "refit_map", "refittable_layers"]

_PARAMETER = "diffoundry.weight"
"""Metadata that the exporter leaves on an initializer: the name of the parameter."""

_TRANSPOSED = ".T"
"""Suffix that the exporter adds to the name of a transposed weight."""

_FLOATS = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def refit_map(model: ir.Model) -> dict[str, BaseWeight]:
    """Map an engine's weights to the checkpoint's, so that a LoRA can change them.

    Args:
        model: The graph that the engine is built from.

    Returns:
        Weight of the engine to what it is. Quantized weights are not among them.
    """
    weights: dict[str, BaseWeight] = {}
    for name, value in model.graph.initializers.items():
        parameter = value.metadata_props.get(_PARAMETER)
        if parameter is not None and value.dtype in _FLOATS and value.uses():
            transposed = name.removesuffix("_half").endswith(_TRANSPOSED)
            weights[name] = BaseWeight(
                parameter=parameter,
                transform="transpose" if transposed else "none",
                dtype=_FLOATS[value.dtype],
            )
    return weights


def locate(model: ir.Model, weights: Mapping[str, BaseWeight]) -> dict[str, BaseWeight]:
    """Add the layer of each weight and its place in the data file; all weights are external data."""
    layers = {name: (layer, turned) for layer, (name, turned) in layer_weights(model.graph).items()}
    found = {}
    for name, weight in weights.items():
        tensor = model.graph.initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor), name
        layer, turned = layers.get(name, (None, weight.transform == "transpose"))
        found[name] = replace(
            weight,
            layer=layer,
            transform="transpose" if turned else "none",
            file=str(tensor.location),
            offset=tensor.offset or 0,
            shape=tuple(tensor.shape.numpy()),
        )
    return found


def refittable_layers(model: ir.Model, weights: Mapping[str, BaseWeight]) -> AdapterSpec:
    """Describe the layers that new weights can adapt. Tables of tokens cannot grow. The caller names the files."""
    named = {layer for layer, (name, _) in layer_weights(model.graph).items() if name in weights}
    spec = layers_of(model.graph)
    return AdapterSpec(files=(), layers={layer: shape for layer, shape in spec.layers.items() if layer in named})
