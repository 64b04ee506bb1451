"""Computes 3 x 3 convolutions by the minimal filtering of Winograd, as matrix products."""

import logging
from collections.abc import Iterable
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.graph_edit import new_initializer, replace
from diffoundry.targets.weight_data import read_weight

__all__ = ["WinogradConvolution", "transforms"]

logger = logging.getLogger(__name__)

_TILE = 4
"""m of F(m x m, 3 x 3): 36 products instead of 144 for 16 outputs. F(2 x 2) moves more memory and gains half."""

_PATCH = _TILE + 2

_POINTS = tuple(Fraction(point) for point in ("0", "5/8", "-5/8", "3/2", "-3/2"))
"""Evaluation points of the polynomials, besides infinity. The usual 0, 1, -1, 2, -2 err 2.4 times as much; these were
the best of all 0, a, -a, b, -b in sixteenths (Barabasz et al. 2018, https://arxiv.org/abs/1803.10986, search alike)."""

_SMALLEST_CHANNELS = 256
"""Break-even is at 64 to 96 channels, 128 gain a quarter, 256 half."""

_SMALLEST_AREA = 32 * 32
"""Pixels. Below this the weights, four times as large, are read for too few tiles."""

_LARGEST_PATCHES = 256 << 20
"""Bytes. Above this the transformed map of one image, 2.25 times the map, would be most of the engine's memory: the
last convolutions of a VAE."""

_SIZE = {"height": 512, "width": 512}
"""Pixels of the image by which layers are judged where the graph leaves its size free."""

_PADS = [1, 1, 1, 1]

_PAIRS = 1 << 18
"""Pairs of channels whose weights are transformed at once."""


class WinogradConvolution(ir.passes.InPlacePass):
    """Writes large 3 x 3 convolutions as transform, matrix products and inverse transform.

    Given:
        %y = Conv<pads=[1, 1, 1, 1]>(%x, %w, %b)           # %x: (N, C, H, W), %w: (K, C, 3, 3), float32
    Result:
        %v = Conv<group=C, strides=[4, 4], pads=[1, 1, 4, 4]>(%x, B)   # (N, 36 C, H/4, W/4): B' d B of every patch
        %v = Transpose(Reshape(%v, (N, C, 36, T)), [0, 2, 1, 3])        # (N, 36, C, T), T = H/4 * W/4
        %m = MatMul(%u, %v)                                             # %u: (36, K, C), G w G' made at build time
        %o = MatMul(A, Reshape(%m, (N, 36, K * T)))                     # (N, 16, K * T): A' m A
        %y = DepthToSpace<blocksize=4>(Reshape(%o, (N, 16 K, H/4, W/4)))
        %y = Add(Slice(%y, (H, W)), %b)                                 # the Slice only where 4 may not divide H or W

    Lavin and Gray 2015, https://arxiv.org/abs/1509.09308, section 4.1: F(4 x 4, 3 x 3).
    On a CPU, where ONNX Runtime's convolution already runs at the machine's peak, only fewer products are faster: 0.42
    of the time at 640 channels of 32 x 32 and 0.48 at 320 channels of 64 x 64. It costs four times the weights of these
    layers, in memory and on disk, and an error of 7e-7 instead of 2e-7 of the output.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every convolution that is large enough."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Conv" and node.domain == "":
                reason = _refusal(node)
                if reason is None:
                    _rewrite(node, model.graph)
                    modified = True
                else:
                    logger.debug("%s stays: %s", node.name, reason)
        return ir.passes.PassResult(model, modified)


def _refusal(node: ir.Node) -> str | None:
    """Why `node` stays a convolution, or None."""
    weight, output = node.inputs[1], node.outputs[0]
    if weight is None or weight.dtype != ir.DataType.FLOAT or not weight.is_initializer() or weight.shape is None:
        return "its weight is no float32 initializer"
    if tuple(weight.shape[2:]) != (3, 3) or node.attributes.get_int("group", 1) != 1:
        return "it is not 3 x 3 over all channels"
    if any(list(node.attributes.get_ints(name, [1, 1])) != [1, 1] for name in ("strides", "dilations")) or (
        list(node.attributes.get_ints("pads", [])) != _PADS
    ):
        return "it has strides, dilations or no padding of 1"
    channels = sorted(size for size in weight.shape[:2] if isinstance(size, int))
    if channels[0] < _SMALLEST_CHANNELS:
        return f"{channels[0]} channels are too few"
    sizes = None if output.shape is None else output.shape.evaluate(_SIZE)
    height, width = (None, None) if sizes is None else sizes[2:]
    if not isinstance(height, int) or not isinstance(width, int) or height * width < _SMALLEST_AREA:
        return f"its map of {height} x {width} is too small or unknown"
    if channels[-1] * height * width * 4 * (_PATCH / _TILE) ** 2 > _LARGEST_PATCHES:
        return f"its map of {height} x {width} is too large"
    return None


def _rewrite(node: ir.Node, graph: ir.Graph) -> None:
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    assert weight.const_value is not None
    outputs, channels = weight.const_value.shape.numpy()[:2]
    builder = tape.Tape()

    def shaped(value: ir.Value, *parts: ir.Value | tuple[int, ...]) -> ir.Value:
        constants = [
            part if isinstance(part, ir.Value) else new_initializer(graph, f"shape_{part}", np.array(part, np.int64))
            for part in parts
        ]
        target = constants[0] if len(constants) == 1 else builder.op("Concat", constants, {"axis": 0})
        return builder.op("Reshape", [value, target])

    patches = _PATCH * _PATCH
    kernel = new_initializer(graph, f"winograd_input_{channels}", _input_kernel(channels))
    geometry = {"group": channels, "kernel_shape": [_PATCH] * 2, "strides": [_TILE] * 2, "pads": [1, 1, _TILE, _TILE]}
    v = builder.op("Conv", [x, kernel], geometry)
    tiles = builder.op("Shape", [v], {"start": 2, "end": 4})
    v = builder.op("Transpose", [shaped(v, (0, channels, patches, -1))], {"perm": [0, 2, 1, 3]})
    u = new_initializer(graph, f"{weight.name}.winograd", _weight(weight.const_value, f"{weight.name}.winograd"))
    u.metadata_props.update(weight.metadata_props)
    m = builder.op("MatMul", [u, v])
    inverse = new_initializer(graph, "winograd_output", np.kron(transforms()[2], transforms()[2]).astype(np.float32))
    o = builder.op("MatMul", [inverse, shaped(m, (0, patches, -1))])
    y = builder.op("DepthToSpace", [shaped(o, (0, _TILE * _TILE * outputs), tiles)], {"blocksize": _TILE})
    if not _divides(node.outputs[0]):
        bounds = [new_initializer(graph, f"shape_{axes}", np.array(axes, np.int64)) for axes in ((0, 0), (2, 3))]
        y = builder.op("Slice", [y, bounds[0], builder.op("Shape", [x], {"start": 2, "end": 4}), bounds[1]])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        y = builder.op("Add", [y, shaped(bias, (outputs, 1, 1))])
    replace(node.outputs[0], y, builder.nodes)


def _divides(value: ir.Value) -> bool:
    """Return True if height and width are known to be multiples of the tile."""
    assert value.shape is not None
    return all(isinstance(size, int) and size % _TILE == 0 for size in value.shape[2:])


@cache
def transforms() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """B' (6, 6), G (6, 3) and A' (4, 6) of F(4, 3): A' ((G g) * (B' d)) filters 6 numbers d with 3 numbers g.

    Toom and Cook's construction with the points `_POINTS` and infinity: with N_j the product of p_j - p_k over k != j,
    row j of G is (1, p_j, p_j^2) / N_j, column j of A' is (1, p_j, ..., p_j^3), and row j of B' holds the coefficients
    of the product of x - p_k over k != j; infinity takes the leading coefficients and the product over all k.
    """
    count = len(_POINTS)
    others = [[q for q in _POINTS if q != p] for p in _POINTS]
    norms = [_product(p - q for q in rest) for p, rest in zip(_POINTS, others, strict=True)]
    g = [[p**k / norm for k in range(3)] for p, norm in zip(_POINTS, norms, strict=True)] + [[0, 0, 1]]
    a = [[p**i for p in _POINTS] + [int(i == _TILE - 1)] for i in range(_TILE)]
    b = [[*_polynomial(rest), Fraction(0)] for rest in others] + [_polynomial(list(_POINTS))]
    assert count == _PATCH - 1
    bt, gm, at = (np.array([[float(x) for x in row] for row in matrix]) for matrix in (b, g, a))
    return bt, gm, at


def _product(numbers: Iterable[Fraction]) -> Fraction:
    result = Fraction(1)
    for number in numbers:
        result *= number
    return result


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the product of x - root, constant term first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _input_kernel(channels: int) -> ir.TensorProtocol:
    """B' d B of a patch d as a convolution of each channel with 36 kernels: (36 channels, 1, 6, 6)."""
    bt = transforms()[0]
    kernels = np.einsum("pi,qj->pqij", bt, bt).reshape(-1, 1, _PATCH, _PATCH).astype(np.float32)
    return ir.tensor(np.tile(kernels, (channels, 1, 1, 1)), name=f"winograd_input_{channels}")


def _weight(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """G w G' for every pair of channels, (36, K, C), made when it is written."""
    outputs, channels = tensor.shape.numpy()[:2]

    def make() -> ir.TensorProtocol:
        g = transforms()[1]
        pairs = np.kron(g, g)  # (36, 9)
        weight = read_weight(tensor).reshape(outputs * channels, 9)
        made = np.empty((_PATCH * _PATCH, len(weight)), np.float32)
        for start in range(0, len(weight), _PAIRS):
            made[:, start : start + _PAIRS] = pairs @ weight[start : start + _PAIRS].astype(np.float64).T
        return ir.tensor(made.reshape(-1, outputs, channels), name=name)

    shape = ir.Shape([_PATCH * _PATCH, outputs, channels])
    return ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=shape, name=name)
