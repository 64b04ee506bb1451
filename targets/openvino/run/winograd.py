"""Computes 3 x 3 convolutions in float32 by Winograd's minimal filtering; applied on load for a CPU, never stored."""

from functools import cache

import numpy as np
import numpy.typing as npt

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import constant, new_constant, replace, sizes

__all__ = ["has_candidates", "transforms", "use_winograd"]

FloatArray = npt.NDArray[np.float32]

_TILE = 4
"""m of F(m x m, 3 x 3): 36 products instead of 144 for 16 outputs."""

_PATCH = _TILE + 2

_POINTS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
"""Evaluation points of the polynomials, besides infinity. The usual 0, 1, -1, 2, -2 err 2.4 times as much."""

_SMALLEST_CHANNELS = 256
"""At 128 it is no faster."""

_SMALLEST_AREA = 32 * 32
"""Pixels. Below, the weights, four times as large, are read for too few tiles."""

_LARGEST_PATCHES = 256 << 20
"""Bytes. Above this the transformed map of one image, 2.25 times the map, would be most of the engine's memory."""


def use_winograd(model: ov.Model, judged: ov.Model) -> int:
    """Write large 3 x 3 convolutions as transform, products and inverse transform; returns how many.

    Given:
        y = Convolution<pads = 1>(x, W)               # x: (N, C, H, W), W: (K, C, 3, 3), float32
    Result:
        v = Convolution<strides = 4>(Reshape(x, (N C, 1, H, W)), B)        # (N C, 36, H/4, W/4): B' d B of every patch
        v = Transpose(Reshape(v, (N, C, 36, T)), [0, 2, 1, 3])             # T = H/4 * W/4
        m = MatMul(U, v)                                                   # U: (36, K, C): G w G' of every kernel
        o = MatMul(A, Reshape(m, (N, 36, K T)))                            # (N, 16, K T): A' m A
        y = DepthToSpace<4>(Reshape(o, (N, 16 K, H/4, W/4)))               # cut to (H, W) where 4 may not divide them

    Lavin and Gray 2015, https://arxiv.org/abs/1509.09308, section 4.1: F(4 x 4, 3 x 3). The plugin's convolution in
    float32 runs at the peak of AVX-512; only fewer products are faster: 0.48 of the time at 640 channels of 32 x 32,
    0.64 at 320 channels of 64 x 64. The weights of these layers are four times as large in memory.

    Args:
        model: Changed in place.
        judged: The same model with sizes for which it is to be fast.
    """
    maps = {
        node.get_friendly_name(): sizes(node.output(0))
        for node in judged.get_ops()
        if node.get_type_name() == "Convolution"
    }
    count = 0
    for node in model.get_ordered_ops():
        weight = _kernel(node) if node.get_type_name() == "Convolution" else None
        if weight is not None and _is_large(weight, maps[node.get_friendly_name()]):
            replace(node.output(0), _filtered(node.input_value(0), weight, node.get_friendly_name()))
            count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def has_candidates(model: ov.Model) -> bool:
    """Return whether any convolution is large enough, at some size of its input."""
    kernels = (_kernel(node) for node in model.get_ops() if node.get_type_name() == "Convolution")
    return any(weight is not None and min(weight.shape[:2]) >= _SMALLEST_CHANNELS for weight in kernels)


def _kernel(convolution: ov.Node) -> FloatArray | None:
    """The weight of a 3 x 3 convolution with stride 1 and one pixel of padding, or None."""
    weight, found = constant(convolution.input_value(1)), convolution.get_attributes()
    if weight is None or weight.dtype != np.float32 or weight.shape[2:] != (3, 3) or found["auto_pad"] != "explicit":
        return None
    plain = all(list(found[name]) == [1, 1] for name in ("strides", "dilations", "pads_begin", "pads_end"))
    return np.asarray(weight, np.float32) if plain else None


def _is_large(weight: FloatArray, output: tuple[int | None, ...]) -> bool:
    height, width = output[2:]
    if height is None or width is None or height * width < _SMALLEST_AREA:
        return False
    patches = max(weight.shape[:2]) * height * width * 4 * (_PATCH / _TILE) ** 2
    return bool(min(weight.shape[:2]) >= _SMALLEST_CHANNELS and patches <= _LARGEST_PATCHES)


def _filtered(x: ov.Output, weight: FloatArray, name: str) -> ov.Output:
    bt, g, at = transforms()
    outputs, channels = weight.shape[:2]
    area = _sizes_at(x, 2, 3)
    single = ops.reshape(x, ops.concat([_numbers(-1, 1), area], 0), False)
    kernel = np.einsum("pi,qj->pqij", bt, bt).reshape(-1, 1, _PATCH, _PATCH)
    v = ops.convolution(single, _floats(kernel, f"{name}/patches"), [_TILE] * 2, [1, 1], [_TILE] * 2, [1, 1])
    tiles = _sizes_at(v.output(0), 2, 3)
    flat = ops.concat([_numbers(-1, channels, _PATCH**2), ops.reduce_prod(tiles, _numbers(0), True)], 0)
    v = ops.transpose(ops.reshape(v, flat, False), _numbers(0, 2, 1, 3))
    u = (np.kron(g, g) @ weight.reshape(-1, 9).T.astype(np.float64)).reshape(-1, outputs, channels)
    m = ops.reshape(ops.matmul(_floats(u, f"{name}/weight"), v, False, False), _numbers(0, _PATCH**2, -1), True)
    o = ops.matmul(_floats(np.kron(at, at), f"{name}/inverse"), m, False, False)
    blocks = ops.reshape(o, ops.concat([_numbers(0, _TILE**2 * outputs), tiles], 0), True)
    y = ops.depth_to_space(blocks, "blocks_first", _TILE)
    if any(size is None or size % _TILE for size in sizes(x)[2:]):
        y = ops.slice(y, _numbers(0, 0), area, _numbers(1, 1), _numbers(2, 3))
    return y.output(0)


def _sizes_at(value: ov.Output, *axes: int) -> ov.Node:
    return ops.gather(ops.shape_of(value), _numbers(*axes), np.array(0))


def _numbers(*numbers: int) -> ov.Node:
    return ops.constant(np.array(numbers, np.int64))


def _floats(array: npt.NDArray[np.floating], name: str) -> ov.Output:
    return new_constant(array.astype(np.float32), name)


@cache
def transforms() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """B' (6, 6), G (6, 3) and A' (4, 6) of F(4, 3): A' ((G g) * (B' d)) filters 6 numbers d with 3 numbers g.

    Toom and Cook's construction with the points p_j of `_POINTS` and infinity: row j of G is (1, p_j, p_j^2) divided by
    the product of p_j - p_k over k != j, column j of A' is (1, p_j, ..., p_j^3), row j of B' holds the coefficients of
    the product of x - p_k over k != j. Infinity takes the leading coefficients, and the product over all k.
    """
    others = [[q for q in _POINTS if q != p] for p in _POINTS]
    g = [[p**k / np.prod(np.subtract(p, rest)) for k in range(3)] for p, rest in zip(_POINTS, others, strict=True)]
    a = [[p**i for p in _POINTS] + [float(i == _TILE - 1)] for i in range(_TILE)]
    b = [[*np.poly(rest)[::-1], 0.0] for rest in others]
    return np.array([*b, np.poly(_POINTS)[::-1]]), np.array([*g, [0.0, 0.0, 1.0]]), np.array(a)
