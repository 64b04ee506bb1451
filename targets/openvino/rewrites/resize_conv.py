"""Computes a nearest-neighbour upsampling and the convolution after it on the small feature map."""

from collections.abc import Collection
from functools import partial

import numpy as np
import numpy.typing as npt

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, nodes_of, replace, sole_user
from diffoundry.targets.openvino.streamed_constants import derived_constant

__all__ = ["merge_upsampling"]

FloatArray = npt.NDArray[np.float32]

_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns of the output, even or odd."""

_DECONVOLUTION_BELOW = 640
"""Channels. Below them one transposed convolution is as fast as four convolutions, and needs less memory."""


def merge_upsampling(model: ov.Model, doubling: Collection[str]) -> int:
    """Convolve before doubling, and return how many pairs were merged.

    Given:
        u = Interpolate<nearest, x 2>(x)
        y = Convolution<pads = 1>(u, W)               # W: (outputs, inputs, 3, 3)
    Result, with many channels:
        y = DepthToSpace(Concat(Convolution(x, W00), ..., Convolution(x, W11)))      # Wij: (outputs, inputs, 2, 2)
    Result, with few:
        y = ConvolutionBackpropData<strides = 2>(x, V)                     # V: (inputs, outputs, 4, 4)

    Of the nine pixels under the kernel only four differ: two rows and two columns of u are copies of one of x, which
    ones depends on whether the output's row and column are even. Their weights are summed: 4/9 of the multiplications.

    Args:
        model: Changed in place.
        doubling: Friendly names of the Interpolates that double height and width, whatever they are given.
    """
    count = 0
    for node in nodes_of(model, "Interpolate"):
        if _is_nearest(node) and node.get_friendly_name() in doubling:
            convolution = sole_user(node.output(0), "Convolution")
            weight = None if convolution is None else _kernel(convolution)
            if convolution is not None and weight is not None:
                replace(convolution.output(0), _merged(node.input_value(0), weight, convolution.get_friendly_name()))
                count += 1
    return count


def _is_nearest(interpolate: ov.Node) -> bool:
    found = interpolate.get_attributes()
    modes = found["mode"], found["coordinate_transformation_mode"], found["nearest_mode"]
    return modes == ("nearest", "asymmetric", "floor") and not any(found["pads_begin"]) and not any(found["pads_end"])


def _kernel(convolution: ov.Node) -> FloatArray | None:
    """The weight of a 3 x 3 convolution with stride 1 and one pixel of padding, or None."""
    weight, found = constant(convolution.input_value(1)), convolution.get_attributes()
    if weight is None or weight.dtype != np.float32 or weight.shape[2:] != (3, 3) or found["auto_pad"] != "explicit":
        return None
    plain = all(list(found[name]) == [1, 1] for name in ("strides", "dilations", "pads_begin", "pads_end"))
    return np.asarray(weight, np.float32) if plain else None


def _merged(x: ov.Output, weight: FloatArray, name: str) -> ov.Output:
    if weight.shape[0] < _DECONVOLUTION_BELOW:
        kernel = derived_constant([weight], _transposed_kernel, f"{name}/weight")
        return ops.convolution_backprop_data(
            x, kernel, [2, 2], pads_begin=[1, 1], pads_end=[1, 1], dilations=[1, 1]
        ).output(0)
    parts = []
    for i, j in _PHASES:
        kernel = derived_constant([weight], partial(_kernel_of_phase, i=i, j=j), f"{name}/weight{i}{j}")
        parts.append(ops.convolution(x, kernel, [1, 1], [1 - i, 1 - j], [i, j], [1, 1]))
    return ops.depth_to_space(ops.concat(parts, 1), "blocks_first", 2).output(0)


def _transposed_kernel(weight: FloatArray) -> FloatArray:
    """V: output row 2 r + i takes row r - 1 + i + t of x by V's row 3 - i - 2 t."""
    whole = np.zeros((weight.shape[1], weight.shape[0], 4, 4), np.float32)
    for i, j in _PHASES:
        whole[:, :, 3 - i :: -2, 3 - j :: -2] = _kernel_of_phase(weight, i, j).transpose(1, 0, 2, 3)
    return whole


def _kernel_of_phase(weight: FloatArray, i: int, j: int) -> FloatArray:
    """Wij."""
    return _summed(_summed(weight, 2, i), 3, j)


def _summed(weight: FloatArray, axis: int, phase: int) -> FloatArray:
    """Three weights along `axis` to the two that an even (0) or odd (1) output row sees."""
    first, middle, last = np.split(weight, 3, axis)
    pair = [first, middle + last] if phase == 0 else [first + middle, last]
    return np.concatenate(pair, axis)
