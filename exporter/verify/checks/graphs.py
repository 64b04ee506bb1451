"""Compares the graphs of a bundle with the checkpoint's modules: named weights, epsilons of normalizations, sizes."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from diffoundry.exporter.component import Component
from diffoundry.exporter.steps.graph_names import SIZES
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.models.weight_tables import TABLES

__all__ = ["check_graphs", "check_sizes"]

_NORMALIZATIONS = frozenset(
    ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization", "SkipLayerNormalization")
)

_TRANSPOSED = ".T"
"""Ending of a weight that a pass has transposed; see `exporter.passes.transpose_weights`."""

_ROUNDING = 1e-6
"""Largest difference of a weight from the checkpoint's, over the largest weight of its tensor: a LoRA that was fused in
another order of sums. Weights that nothing was fused into are equal."""

_SHOWN = 3
"""Differences that a message lists."""


def check_graphs(bundle: Bundle, component: Component, module: torch.nn.Module) -> Iterator[Check]:
    """Compare every ONNX graph of a component with its module: portable graph, engines, adaptable graphs.

    Small errors of single weights and epsilons are below the gates of a component's outputs.

    Args:
        bundle: The bundle; nothing is compared without a manifest.
        component: The checkpoint's component.
        module: Its module in fp32.
    """
    if bundle.manifest is None or component.name not in bundle.components:
        return
    spec = bundle.manifest.components[component.name]
    portable = spec.graph[0]
    graphs = dict.fromkeys((portable, *(file for file in spec.all_files if file.endswith(".onnx"))))
    weights, epsilons = module.state_dict(), _epsilons(module)
    for file in graphs:
        graph = ir.load(bundle.file(file))
        changed = _wrong_weights(bundle, component.name, graph, weights, whole=file == portable)
        faults = [*changed, *_wrong_epsilons(graph, epsilons)]
        yield holds("graph", file, "weights, attributes", _joined(faults))
    if component.tables:
        file = f"{component.name}/{TABLES}"
        yield holds("graph", file, "weights", _joined(_wrong_tables(bundle, file, component.tables, weights)))


def check_sizes(bundle: Bundle) -> Check | None:
    """Compare the sizes of the recipe with those that the portable graphs were written for; None without a record.

    Graphs of diffoundry 0.1 have no record.

    Args:
        bundle: The bundle.
    """
    if bundle.manifest is None:
        return None
    recipe = {name: to_json(dim) for name, dim in bundle.manifest.recipe.dims.items()}
    faults, recorded = [], False
    for name, spec in bundle.manifest.components.items():
        model = onnx.load(bundle.file(spec.graph[0]), load_external_data=False)
        written = {prop.key: prop.value for prop in model.metadata_props}.get(SIZES)
        if written is None:
            continue
        recorded = True
        sizes = json.loads(written)
        faults += [
            f"{dim} of the recipe is {_size(recipe.get(dim))}, {name} was exported for {_size(sizes.get(dim))}"
            for dim in dict.fromkeys((*sizes, *recipe))
            if sizes.get(dim) != recipe.get(dim)
        ]
    return holds("bundle", "recipe", "sizes", _joined(faults)) if recorded else None


def _size(dim: Mapping[str, Any] | None) -> str:
    return "missing" if dim is None else DimSpec(**dim).describe()


def _joined(faults: list[str]) -> str | None:
    if not faults:
        return None
    return "; ".join(faults[:_SHOWN]) + (f"; {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")


def _wrong_weights(
    bundle: Bundle, component: str, graph: ir.Model, weights: Mapping[str, torch.Tensor], *, whole: bool
) -> list[str]:
    """Compare the initializers that are named after weights; constants of the trace have other names.

    A graph that is no whole copy of the weights may have some in another type or shape, which are left out.
    """
    faults = []
    for name, value in graph.graph.initializers.items():
        weight = weights.get(name.removesuffix(_TRANSPOSED))
        if weight is None or value.const_value is None:
            continue
        expected = weight.detach().numpy()
        ours = _array(bundle, component, value.const_value)
        if not whole and (ours.dtype != np.float32 or ours.shape not in (expected.shape, expected.T.shape)):
            continue
        fault = _difference(ours, expected.T if name.endswith(_TRANSPOSED) else expected)
        if fault:
            faults.append(f"{name}: {fault}")
    return faults


def _wrong_tables(bundle: Bundle, file: str, names: Sequence[str], weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Compare the weights that the runtime reads itself."""
    tables = Safetensors(bundle.file(file))
    faults = []
    for name in names:
        fault = _difference(tables.read(name), weights[name].numpy()) if name in tables else "missing"
        if fault:
            faults.append(f"{name}: {fault}")
    return faults


def _array(bundle: Bundle, component: str, tensor: ir.TensorProtocol) -> NDArray[Any]:
    """Read a tensor. External data are files of the bundle, which may be links into a hub's cache."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    path = bundle.file(f"{component}/{Path(tensor.location).as_posix()}")
    size = math.prod(tensor.shape.numpy())
    values: NDArray[Any] = np.fromfile(path, tensor.dtype.numpy(), count=size, offset=tensor.offset or 0)
    return values.reshape(tensor.shape.numpy())


def _difference(ours: NDArray[np.generic], expected: NDArray[np.generic]) -> str | None:
    if ours.shape != expected.shape:
        return f"shape {ours.shape}, expected {expected.shape}"
    if np.array_equal(ours, expected):
        return None
    error = np.abs(ours.astype(np.float64) - expected.astype(np.float64))
    allowed = _ROUNDING * float(np.abs(expected.astype(np.float64)).max())
    wrong = int(np.count_nonzero(~(error <= allowed)))  # NaN is wrong
    return f"{wrong} of {ours.size} weights differ, by up to {float(error.max()):.3g}" if wrong else None


def _epsilons(module: torch.nn.Module) -> dict[str, float]:
    """Collect the epsilon of each normalization of a module by its path."""
    found = {}
    for path, child in module.named_modules():
        for attribute in ("eps", "variance_epsilon"):
            value = getattr(child, attribute, None)
            if isinstance(value, float):
                found[path] = value
    return found


def _wrong_epsilons(graph: ir.Model, expected: Mapping[str, float]) -> list[str]:
    """Compare the epsilon of each normalization node; nodes are named after their module."""
    faults = []
    for node in graph.graph.all_nodes():
        name = node.name or ""
        wanted = expected.get(name.partition("/")[0])
        epsilon = None if wanted is None else _epsilon(node)
        if wanted is not None and epsilon is not None and np.float32(epsilon) != np.float32(wanted):
            faults.append(f"{name}: epsilon {epsilon:.6g}, expected {wanted:.6g}")
    return faults


def _epsilon(node: ir.Node) -> float | None:
    """Return the epsilon of a normalization, also of one written out as `Sqrt(Add(variance, epsilon))`; else None."""
    if node.op_type in _NORMALIZATIONS:
        return node.attributes.get_float("epsilon", 1e-5)
    added = node.inputs[0].producer() if node.op_type == "Sqrt" and node.inputs[0] is not None else None
    if added is None or added.op_type != "Add" or added.inputs[1] is None:
        return None
    constant = added.inputs[1].const_value
    return None if constant is None or constant.size != 1 else float(constant.numpy().item())
