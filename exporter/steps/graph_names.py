"""Names the parts of a traced graph: inputs, outputs, dimensions, weights, and the module of each node."""

import ast
import re
from collections.abc import Mapping

import onnx_ir as ir

from diffoundry.exporter.component import Component, fixed_size
from diffoundry.runtime.bundle.specs import TensorSpec

__all__ = ["MODULE_KEY", "SIZES", "WEIGHT_KEY", "name_dims", "name_outputs", "name_weights", "tidy"]

WEIGHT_KEY = "diffoundry.weight"
"""Metadata of an initializer: the weight's name in the torch module."""

SIZES = "diffoundry.sizes"
"""Metadata of a portable graph: the dims of its bundle's recipe, as JSON, so that an edited recipe is found."""

MODULE_KEY = "diffoundry.module"
"""Metadata of a node: path of the torch module that it computes a part of, such as "down_blocks.0.resnets.1.conv1"."""

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_SYMBOL = re.compile(r"\b[su]\d+\b")


def name_dims(graph: ir.Model, component: Component, fixed: Mapping[str, int]) -> None:
    """Name inputs and outputs as the component does, and every dimension in the symbols of the inputs.

    Torch calls a free dimension s53 or the like, and one that follows from it (s53 - 1)//2 + 1. The symbols become
    those of the inputs, in parentheses where they are part of a formula, since "height/8" is one itself.
    """
    symbols: dict[str, str] = {}
    for value, spec in zip(graph.graph.inputs, component.inputs, strict=True):
        assert value.shape is not None
        for traced, dim in zip(value.shape, spec.shape, strict=True):
            if isinstance(traced, ir.SymbolicDim):
                symbols[str(traced.value)] = str(dim)
    for node in graph.graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_rename(dim, symbols) for dim in value.shape])
    for value, spec in zip(graph.graph.inputs, component.inputs, strict=True):
        value.name = spec.name
        value.shape = _shape(spec, fixed)
    name_outputs(graph, component, fixed)


def name_outputs(graph: ir.Model, component: Component, fixed: Mapping[str, int]) -> None:
    """Name outputs and their dimensions as the component does. Repeat it after passes, which may replace outputs."""
    for value, spec in zip(graph.graph.outputs, component.outputs, strict=True):
        value.name = spec.name
        value.shape = _shape(spec, fixed)


def _rename(dim: int | ir.SymbolicDim, symbols: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    if dim.value in symbols:
        return symbols[dim.value]
    if not all(symbol in symbols for symbol in _SYMBOL.findall(dim.value)):
        return None
    return _SYMBOL.sub(lambda found: _atom(symbols[found[0]]), dim.value)


def _atom(symbol: str) -> str:
    return f"({symbol})" if not symbol.isidentifier() else symbol


def _shape(spec: TensorSpec, fixed: Mapping[str, int]) -> ir.Shape:
    return ir.Shape([fixed_size(dim, fixed) or dim for dim in spec.shape])


def name_weights(graph: ir.Model, names: Mapping[int, str]) -> None:
    """Name initializers after the weights that they hold.

    Args:
        graph: Its initializers still hold torch tensors.
        names: Address of a weight's data to its name.
    """
    for value in list(graph.graph.initializers.values()):
        tensor = value.const_value
        name = names.get(tensor.raw.data_ptr()) if isinstance(tensor, ir.Tensor) else None
        if name is not None:
            value.name = name
            value.metadata_props[WEIGHT_KEY] = name


def tidy(graph: ir.Model, name: str, prefix: str) -> None:
    """Replace torch's metadata, which names folders of this machine, with the path of each node's module.

    Args:
        graph: Changed in place.
        name: The graph's name from now on.
        prefix: Prefix of the wrapper before the paths of the checkpoint's module.
    """
    graph.graph.name = name
    graph.graph.metadata_props.clear()
    graph.metadata_props.clear()
    for owner in (*graph.graph.inputs, *graph.graph.initializers.values()):
        _forget(owner.metadata_props)
    for node in graph.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "[]"))
        _forget(node.metadata_props)
        for value in node.outputs:
            _forget(value.metadata_props)
        node.doc_string = None
        if len(scopes) > 1 and scopes[-2].startswith(prefix):
            node.metadata_props[MODULE_KEY] = scopes[-2].removeprefix(prefix)


def _forget(metadata: dict[str, str]) -> None:
    for key in [key for key in metadata if not key.startswith("diffoundry.")]:
        del metadata[key]
