"""Finds the upsamplings that double the feature maps at every size that the engine takes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.bundle.symbolic_sizes import resolve
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.nodes import constant, sizes

__all__ = ["doubling"]

_TRIED = 16
"""Consecutive sizes: how feature maps are rounded repeats after as many as the network halves them, at most 2 ** 4."""


def doubling(
    model: ov.Model,
    inputs: Sequence[TensorSpec],
    dims: Mapping[str, DimSpec],
    buckets: Sequence[tuple[int, int]] = (),
) -> frozenset[str]:
    """The friendly names of the Interpolates that double height and width, whatever size a user asks for.

    An upsampling by a constant factor of 2 does. One to the size of a skip connection does at multiples of 64 pixels,
    say: such ones are tried out on a copy of the model.

    Args:
        model: As imported.
        inputs: Of the model, with symbolic sizes.
        dims: Allowed values of "batch", "height" and "width" (pixels).
        buckets: The only (height, width) in pixels that are asked for; none when all of `dims` are.
    """
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "Interpolate"]
    always = {node.get_friendly_name() for node in nodes if _by_two(node)}
    tried = {node.get_friendly_name() for node in nodes} - always
    if not tried or "height" not in dims or "width" not in dims:
        return frozenset(always)
    copy = model.clone()
    for height, width in buckets or _allowed(dims):
        given = {"batch": dims["batch"].min, "height": height, "width": width}
        tried &= _doubled(copy, inputs, given)
        if not tried:
            break
    return frozenset(always | tried)


def _by_two(interpolate: ov.Node) -> bool:
    scales = constant(interpolate.input_value(1))
    by_scales = interpolate.get_attributes()["shape_calculation_mode"] == "scales"
    return by_scales and scales is not None and scales.reshape(-1).tolist() in ([1, 1, 2, 2], [2, 2])


def _allowed(dims: Mapping[str, DimSpec]) -> Iterator[tuple[int, int]]:
    """Pairs of sizes that cover every way of rounding a height and every way of rounding a width."""
    for count in range(_TRIED):
        pair = [dim.min + count * dim.multiple_of for dim in (dims["height"], dims["width"])]
        height, width = (
            min(size, dim.max or size) for size, dim in zip(pair, (dims["height"], dims["width"]), strict=True)
        )
        yield height, width


def _doubled(model: ov.Model, inputs: Iterable[TensorSpec], given: Mapping[str, int]) -> set[str]:
    """The Interpolates that double at one size; all sizes of the model are known afterwards."""
    shapes = {}
    for spec in inputs:
        others = {size: 1 for size in spec.shape if isinstance(size, str) and parse_size(size).symbol not in given}
        shapes[spec.name] = list(resolve(spec.shape, {**others, **given}) or ())
    model.reshape(shapes)
    found = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Interpolate":
            before, after = sizes(node.input_value(0)), sizes(node.output(0))
            if all(size is not None for size in before) and after == (
                *before[:2],
                *(2 * (size or 0) for size in before[2:]),
            ):
                found.add(node.get_friendly_name())
    return found
