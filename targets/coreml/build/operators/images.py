"""Operators on images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.operators.products import windows_of
from diffoundry.targets.coreml.build.translation import Translation, Var, shape_of

__all__ = [
    "average_pool",
    "depth_to_space",
    "depth_to_space_limits",
    "max_pool",
    "pool_limits",
    "resize",
    "resize_limits",
]

_ALIGNS_CORNERS = {"align_corners": True, "half_pixel": False, "pytorch_half_pixel": False}
"""Coordinates of linear interpolation that Core ML has, to its `align_corners`."""


def average_pool(t: Translation, node: ir.Node) -> Var:
    """AveragePool, of one or two spatial axes."""
    return mb.avg_pool(
        x=t.var(node.inputs[0]),
        kernel_sizes=list(node.attributes.get_ints("kernel_shape", ())),
        **windows_of(node),
        exclude_padding_from_average=not node.attributes.get_int("count_include_pad", 0),
    )


def max_pool(t: Translation, node: ir.Node) -> Var:
    """MaxPool, of one or two spatial axes."""
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    return mb.max_pool(x=t.var(node.inputs[0]), kernel_sizes=kernel, **windows_of(node))


def pool_limits(node: ir.Node, _opset: Any) -> str | None:
    """Explicit padding, windows without gaps, whole windows only, no places of maxima."""
    if len(node.outputs) > 1:
        return "gives the places of its maxima, expected the maxima alone"
    if len(shape_of(node.inputs[0])) not in (3, 4):
        return "has three or more spatial axes, expected one or two"
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "leaves the padding to auto_pad, expected explicit pads"
    if node.attributes.get_int("ceil_mode", 0) or any(gap != 1 for gap in node.attributes.get_ints("dilations", ())):
        return "has ceil_mode or dilations, expected neither"
    return None


def depth_to_space(t: Translation, node: ir.Node) -> Var:
    """DepthToSpace in torch's order of channels: torch's `pixel_shuffle`."""
    return mb.pixel_shuffle(x=t.var(node.inputs[0]), upscale_factor=node.attributes.get_int("blocksize", 1))


def depth_to_space_limits(node: ir.Node, _opset: Any) -> str | None:
    """Channels of one pixel after another."""
    mode = node.attributes.get_string("mode", "DCR")
    return None if mode == "CRD" else f"has the mode {mode!r}, expected 'CRD'"


def resize(t: Translation, node: ir.Node) -> Var:
    """Resize: whole factors as upsampling; other nearest pixels as two lookups of rows and columns."""
    x = t.var(node.inputs[0])
    before, after = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    if _is_whole(before, after):
        down, across = (new // old for new, old in zip(after, before, strict=True))
        if node.attributes.get_string("mode", "nearest") == "nearest":
            return mb.upsample_nearest_neighbor(x=x, scale_factor_height=down, scale_factor_width=across)
        aligned = _ALIGNS_CORNERS[node.attributes.get_string("coordinate_transformation_mode", "half_pixel")]
        # Core ML takes float factors for linear interpolation
        factors = {"scale_factor_height": float(down), "scale_factor_width": float(across)}
        return mb.upsample_bilinear(x=x, **factors, align_corners=aligned)
    for axis, (old, new) in enumerate(zip(before, after, strict=True), 2):
        if old != new:
            x = mb.gather(x=x, indices=(np.arange(new) * old // new).astype(np.int32), axis=axis)
    return x


def _is_whole(before: Sequence[int], after: Sequence[int]) -> bool:
    return all(new % old == 0 for new, old in zip(after, before, strict=True))


def resize_limits(node: ir.Node, _opset: Any) -> str | None:
    """Nearest neighbours of the last two axes, as torch takes them, or linear interpolation by whole factors."""
    shapes = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if len(shapes[0]) != 4 or shapes[0][:2] != shapes[1][:2]:
        return "does not resize the last two of four axes"
    if node.attributes.get_string("mode", "nearest") == "linear":
        coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        if coordinates not in _ALIGNS_CORNERS:
            return f"interpolates with the coordinates {coordinates!r}, expected {' or '.join(_ALIGNS_CORNERS)}"
        whole = _is_whole(shapes[0][2:], shapes[1][2:])
        return None if whole else "interpolates by a fraction, expected whole factors"
    modes = {
        "mode": node.attributes.get_string("mode", "nearest"),
        "coordinate_transformation_mode": node.attributes.get_string("coordinate_transformation_mode", "half_pixel"),
        "nearest_mode": node.attributes.get_string("nearest_mode", "round_prefer_floor"),
    }
    expected = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    wrong = [
        f"{name} {modes[name]!r}, expected {wanted!r}" for name, wanted in expected.items() if modes[name] != wanted
    ]
    return f"has the {wrong[0]}" if wrong else None
