"""Converts the portable graph to the format that a target needs for a precision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.calibration.ranges import read_ranges
from diffoundry.exporter.passes.half_precision import HalfPrecision, KeepList
from diffoundry.exporter.passes.low_rank import LowRank
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize, Range
from diffoundry.exporter.passes.smooth_quant import SmoothQuant, smoothing_factors
from diffoundry.runtime.bundle.quantization import ComponentChoice, ComponentRanges, QuantizationChoice, TensorRanges
from diffoundry.runtime.errors import InputError
from diffoundry.targets.base import PrecisionFormat

__all__ = ["DTYPES", "convert", "every_node", "make_graph"]

DTYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""Types of `PrecisionFormat.floats`."""


def make_graph(
    model: ir.Model, form: PrecisionFormat, choice: QuantizationChoice | None, bundle: Path, component: str
) -> ir.Model:
    """Convert a component's portable graph to a precision format, in place.

    Args:
        model: The fp32 graph as `optimize` left it.
        form: Precision format that the target wants.
        choice: Choice of calibration for the precision; components missing in it stay in float. None quantizes every
            quantizable weight, which needs no ranges as long as activations stay in float.
        bundle: Folder with the ranges, `calibration/<component>.json`.
        component: Component of the graph.

    Returns:
        The same graph.

    Raises:
        InputError: Activations are to be quantized and nothing was calibrated.
        ConfigError: The choice belongs to another graph, or a range is missing.
        BundleError: The ranges are damaged.
    """
    if choice is not None:
        mine = choice.components.get(component, ComponentChoice())
    elif form.activations is None:
        mine = every_node(model.graph)
    else:
        raise InputError(
            f"component {component!r}: got no calibration for the graph form {form.label}, expected one because its "
            f"activations are quantized; export with --precision so that it is calibrated"
        )
    ranges = read_ranges(bundle, component) if form.quantized else ComponentRanges(tensors={})
    return convert(model, form, mine, ranges)


def every_node(graph: ir.Graph) -> ComponentChoice:
    """Choose every node of a graph whose weights can be quantized."""
    return ComponentChoice(quantized=tuple(site.name for site in quantizable(graph)))


def convert(model: ir.Model, form: PrecisionFormat, choice: ComponentChoice, ranges: ComponentRanges) -> ir.Model:
    """Convert a graph to a precision format, in place, and return it. Equal arguments give equal graphs, bit for bit.

    Args:
        model: The fp32 graph as `optimize` left it.
        form: Precision format of the result.
        choice: Nodes to quantize, and options.
        ranges: Ranges of the graph's tensors.
    """
    if form.quantized and choice.quantized:
        _quantize(model, form, choice, ranges)
    if form.floats != "fp32":
        keep = KeepList(nodes=frozenset(choice.float32))
        HalfPrecision(dtype=DTYPES[form.floats], keep=keep)(model)
    return model


def _quantize(model: ir.Model, form: PrecisionFormat, choice: ComponentChoice, ranges: ComponentRanges) -> None:
    tensors = dict(ranges.tensors)
    if choice.smooth:
        largest = {
            name: np.maximum(np.abs(tensor.channel_low), np.abs(tensor.channel_high))
            for name, tensor in tensors.items()
            if tensor.channel_low
        }
        factors = smoothing_factors(model.graph, choice.smooth, largest)
        SmoothQuant(factors=factors)(model)
        tensors |= {name: _smoothed(tensors[name], s) for name, s in factors.items()}
    power = {name: np.array(tensor.channel_power) for name, tensor in tensors.items() if tensor.channel_power}
    if choice.low_rank:
        LowRank(ranks=choice.low_rank, power=power)(model)
    Quantize(
        nodes=frozenset(choice.quantized),
        weights=str(form.weights),
        activations=form.activations,
        ranges={name: _limits(tensor, choice.observer, form) for name, tensor in tensors.items()},
        outputs=form.outputs,
        block=form.block,
        fallback=frozenset(choice.fallback),
        power=power,
        floats=DTYPES[form.floats],
    )(model)
    common.RemoveUnusedNodesPass()(model)  # with the float weights that nothing reads any more


def _limits(tensor: TensorRanges, observer: str, form: PrecisionFormat) -> Range:
    """Limits that an observer chose for a tensor; a tensor that was changed since has only its extremes."""
    cuts = tensor.cuts.get(observer, {}).get(str(form.activations))
    return (tensor.low, tensor.high) if cuts is None else (cuts[0], cuts[1])


def _smoothed(tensor: TensorRanges, factors: np.ndarray) -> TensorRanges:
    """Compute the ranges of a tensor after its channels were divided by factors."""
    low, high = np.array(tensor.channel_low) / factors, np.array(tensor.channel_high) / factors
    power = np.array(tensor.channel_power) / np.square(factors) if tensor.channel_power else np.empty(0)
    return replace(tensor, low=float(low.min()), high=float(high.max()), cuts={}, channel_power=tuple(power.tolist()))
