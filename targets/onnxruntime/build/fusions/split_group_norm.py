"""Splits group normalisation into operators that keep its variance, and that ONNX Runtime's CPU has kernels for."""

import logging
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from diffoundry.targets.graph_edit import new_initializer, replace, static

__all__ = ["SplitGroupNorm"]

logger = logging.getLogger(__name__)

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class SplitGroupNorm(ir.passes.InPlacePass):
    """Replaces GroupNormalization by operators in float32 that normalise the difference to each group's first element.

    Given:
        %y = GroupNormalization<num_groups=32>(%x, %scale, %bias)
    Result:
        %r = Reshape(%x, [0, 32, -1])
        %c = Sub(%r, Slice(%r, [0], [1], axes=[2]))
        %n = Reshape(InstanceNormalization(%c, ones, zeros), Shape(%x))
        %y = BatchNormalization<epsilon=0>(%n, %scale, %bias, zeros, ones)

    The difference leaves mean and variance of the rest as they are. It is 0 in a constant group, whose result is then
    exactly its bias: the rounded mean of equal numbers is not that number, and 1 / sqrt(epsilon) makes much of it.

    ONNX Runtime has no kernel for GroupNormalization and computes its definition, in eleven passes over the tensor and
    with the variance as E(x^2) - E(x)^2, which is negative for some constant groups and gives NaN.
    BatchNormalization of mean 0 and variance 1 is the scale and bias in one pass. Together with the SiLU that follows
    it takes half of the definition's time at (2, 320, 64, 64). Half precision is cast to float32 and back.

    ONNX Runtime's InstanceNormalization adds up a group number by number. Over a million numbers, as a VAE has at 512 x
    512, it is off by 1e-5 of RMS, eight times as much over four million. By rows, sums are those of a row's numbers
    and then those of all rows, which is off by 3e-7 and takes half as long again. A UNet in pixels is off by 2.7e-6 at
    256 x 256 and by 2e-5 at 512 x 512, by rows by 7e-7 at both.

    Attributes:
        kernels: True if InstanceNormalization and BatchNormalization are quick, as on the CPU. Otherwise both are
            written out: they were never measured on CUDA.
        by_rows: True to sum images by rows, for networks with large groups.
    """

    kernels: bool = True
    by_rows: bool = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every GroupNormalization of floats."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "GroupNormalization" and node.domain == "":
                reason = self._rewrite(node, model.graph)
                if reason is not None:
                    logger.debug("%s stays: %s", node.name, reason)
                modified |= reason is None
        return ir.passes.PassResult(model, modified)

    def _rewrite(self, node: ir.Node, graph: ir.Graph) -> str | None:
        """Rewrite `node`, or say why not."""
        x, scale, bias = node.inputs
        channels, groups = static(x, 1), node.attributes.get_int("num_groups", 0)
        if x is None or x.dtype not in _FLOATS:
            return "it is not a float of 16 or 32 bits"
        if channels is None or static(scale, 0) != channels:
            return "its scale is not one number a channel"
        builder = tape.Tape()
        half = x.dtype != ir.DataType.FLOAT
        wide, scale, bias = (_cast(builder, value, ir.DataType.FLOAT) if half else value for value in node.inputs)
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        if self.by_rows and len(x.shape or ()) == 4:
            normal = _normalize_by_rows(builder, graph, wide, groups, epsilon)
        elif self.kernels:
            centred = _centre(builder, graph, wide, groups)
            normal = _normalize(builder, graph, centred, groups, epsilon)
        else:
            centred = _centre(builder, graph, wide, groups)
            normal = _normalize_written_out(builder, graph, centred, epsilon)
        normal = builder.op("Reshape", [normal, builder.op("Shape", [x])])
        if self.kernels:
            statistics = [_filled(graph, number, channels) for number in (0, 1)]
            result = builder.op("BatchNormalization", [normal, scale, bias, *statistics], {"epsilon": 0.0})
        else:
            sizes = _vector(graph, np.int64, -1, *[1] * (len(x.shape or ()) - 2))
            factor, summand = (builder.op("Reshape", [value, sizes]) for value in (scale, bias))
            result = builder.op("Add", [builder.op("Mul", [normal, factor]), summand])
        replace(node.outputs[0], _cast(builder, result, x.dtype) if half else result, builder.nodes)
        return None


def _centre(builder: tape.Tape, graph: ir.Graph, x: ir.Value | None, groups: int) -> ir.Value:
    """Return the difference to each group's first element, of shape (N, groups, numbers)."""
    grouped = builder.op("Reshape", [x, _vector(graph, np.int64, 0, groups, -1)])
    place = [_vector(graph, np.int64, index) for index in (0, 1, 2)]
    return builder.op("Sub", [grouped, builder.op("Slice", [grouped, *place])])


def _normalize_by_rows(
    builder: tape.Tape, graph: ir.Graph, x: ir.Value | None, groups: int, epsilon: float
) -> ir.Value:
    """Normalise (N, groups, rows, width) with the means of rows, and then the mean of those."""
    width = builder.op("Shape", [x], {"start": 3})
    rows = builder.op("Concat", [_vector(graph, np.int64, 0, groups, -1), width], {"axis": 0})
    grouped = builder.op("Reshape", [x, rows])
    place = [_vector(graph, np.int64, *ends) for ends in ((0, 0), (1, 1), (2, 3))]
    centred = builder.op("Sub", [grouped, builder.op("Slice", [grouped, *place])])
    inner, outer = (_vector(graph, np.int64, axis) for axis in (3, 2))
    mean = builder.op("ReduceMean", [builder.op("ReduceMean", [centred, inner]), outer])
    rest = builder.op("Sub", [centred, mean])
    squares = builder.op("ReduceMean", [builder.op("ReduceSumSquare", [rest, inner]), outer])
    variance = builder.op("Div", [squares, _cast(builder, width, ir.DataType.FLOAT)])
    shifted = builder.op("Add", [variance, _vector(graph, np.float32, epsilon)])
    return builder.op("Mul", [rest, builder.op("Reciprocal", [builder.op("Sqrt", [shifted])])])


def _normalize(builder: tape.Tape, graph: ir.Graph, x: ir.Value, groups: int, epsilon: float) -> ir.Value:
    ones_and_zeros = [_filled(graph, number, groups) for number in (1, 0)]
    return builder.op("InstanceNormalization", [x, *ones_and_zeros], {"epsilon": epsilon})


def _normalize_written_out(builder: tape.Tape, graph: ir.Graph, x: ir.Value, epsilon: float) -> ir.Value:
    """Return (x - E(x)) / sqrt(E((x - E(x))^2) + epsilon)."""
    axis = _vector(graph, np.int64, 2)
    rest = builder.op("Sub", [x, builder.op("ReduceMean", [x, axis])])
    variance = builder.op("ReduceMean", [builder.op("Mul", [rest, rest]), axis])
    shifted = builder.op("Add", [variance, _vector(graph, np.float32, epsilon)])
    return builder.op("Div", [rest, builder.op("Sqrt", [shifted])])


def _cast(builder: tape.Tape, value: ir.Value | None, to: ir.DataType) -> ir.Value:
    return builder.op("Cast", [value], {"to": to})


def _filled(graph: ir.Graph, number: float, size: int) -> ir.Value:
    return new_initializer(graph, f"{'ones' if number else 'zeros'}_{size}", np.full(size, number, np.float32))


def _vector(graph: ir.Graph, dtype: type, *numbers: float) -> ir.Value:
    name = "_".join(str(number) for number in numbers)
    return new_initializer(graph, f"{dtype.__name__}_{name}", np.array(numbers, dtype))
